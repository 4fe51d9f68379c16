//! A TCP proxy between a job and its database that breaks connections around COMMIT.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// As the simple query protocol sends it, and as the server's answer names it.
const COMMIT: &[u8] = b"COMMIT\0";

pub struct Proxy {
    port: u16,
    cuts: Arc<Cuts>,
}

/// Every so many commits one is cut: the server gets it or does not, in turns; its answer never arrives.
struct Cuts {
    every: u64,
    seen: AtomicU64,
    before: AtomicU64,
    after: AtomicU64,
}

enum Cut {
    None,
    Before,
    After,
}

impl Proxy {
    /// In front of the server on this port; cuts every `every`th COMMIT.
    pub async fn start(server: u16, every: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (seen, before, after) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let cuts = Arc::new(Cuts { every, seen, before, after });
        let shared = Arc::clone(&cuts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let cuts = Arc::clone(&shared);
                // A connection that ends, however it ends, is what this is for.
                tokio::spawn(async move { carry(client, server, &cuts).await.ok() });
            }
        });
        Ok(Self { port, cuts })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many commits did not arrive, and how many were done without the client being told.
    pub fn cuts(&self) -> (u64, u64) {
        (self.cuts.before.load(Ordering::Relaxed), self.cuts.after.load(Ordering::Relaxed))
    }
}

impl Cuts {
    fn of(&self, bytes: &[u8]) -> Cut {
        if !has_commit(bytes) {
            return Cut::None;
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        match (seen.is_multiple_of(self.every), (seen / self.every).is_multiple_of(2)) {
            (false, _) => Cut::None,
            (true, false) => Cut::Before,
            (true, true) => Cut::After,
        }
    }
}

async fn carry(mut client: TcpStream, server: u16, cuts: &Cuts) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let bytes = &up[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                match cuts.of(bytes) {
                    Cut::None => server.write_all(bytes).await?,
                    Cut::Before => {
                        cuts.before.fetch_add(1, Ordering::Relaxed);
                        return Ok(());
                    }
                    Cut::After => {
                        server.write_all(bytes).await?;
                        let answered = server.read(&mut down).await?;
                        if has_commit(&down[..answered]) {
                            cuts.after.fetch_add(1, Ordering::Relaxed);
                        }
                        return Ok(());
                    }
                }
            }
            read = server.read(&mut down) => {
                let bytes = &down[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                client.write_all(bytes).await?;
            }
        }
    }
}

fn has_commit(bytes: &[u8]) -> bool {
    bytes.windows(COMMIT.len()).any(|window| window == COMMIT)
}
