//! Poolers that share sessions between statements are refused: behind one, nothing that the ledger names is ours.

use std::sync::Arc;

use pulso_connectors::target::TargetError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::support::{Database, Writer, key_value, upsert};

/// One server session for all clients: each gets it for as long as its message and the answer take, as from a pooler
/// with one free connection.
async fn pooler(server: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shared = Arc::new(Mutex::new((TcpStream::connect(("127.0.0.1", server)).await.unwrap(), Vec::new())));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut startup = vec![0; 4096];
                let n = client.read(&mut startup).await.unwrap();
                let mut answer = vec![0; 64 * 1024];
                {
                    let (server, greeting) = &mut *shared.lock().await;
                    if greeting.is_empty() {
                        server.write_all(&startup[..n]).await.unwrap();
                        let n = until_ready(server, &mut answer).await;
                        greeting.extend_from_slice(&answer[..n]);
                    }
                    client.write_all(greeting).await.unwrap();
                }
                let mut message = vec![0; 64 * 1024];
                while let Ok(n @ 1..) = client.read(&mut message).await {
                    // A client that says goodbye leaves the session to the others.
                    if message[0] == b'X' {
                        return;
                    }
                    let (server, _) = &mut *shared.lock().await;
                    server.write_all(&message[..n]).await.unwrap();
                    let n = until_ready(server, &mut answer).await;
                    client.write_all(&answer[..n]).await.unwrap();
                }
            });
        }
    });
    port
}

/// Reads up to ReadyForQuery of an idle session.
async fn until_ready(server: &mut TcpStream, answer: &mut [u8]) -> usize {
    let mut length = 0;
    loop {
        length += server.read(&mut answer[length..]).await.unwrap();
        if answer[..length].ends_with(b"Z\0\0\0\x05I") {
            return length;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_of_transactions_is_refused() {
    let database = Database::create().await;
    let port = pooler(database.port).await;
    let mut writer = Writer::of(&key_value(&database.url_by(port), upsert()), &[0]);
    match writer.take_over(1, true).await {
        Err(TargetError::Fatal { reason }) => assert!(reason.contains("pool_mode"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(database.text("select count(*) from pg_namespace where nspname = 'pulso'").await, "0");
}
