//! A TCP proxy between a writer and the server that fails where a test says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What becomes of the bytes that the client just sent.
pub(crate) enum Action {
    Forward,
    /// Only half of them arrive, and nothing more in either direction until [`Proxy::wake`]: a paused process.
    StallInHalf,
    /// The connection breaks before they arrive.
    CutBefore,
    /// They arrive, the server answers, and then the connection breaks.
    CutAfterAnswer,
}

const SETTLED: Duration = Duration::from_millis(10);

type Rule = Box<dyn FnMut(&[u8]) -> Action + Send>;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    rule: Arc<Mutex<Rule>>,
    stalled: Arc<Notify>,
    wake: Arc<Notify>,
    /// How often a client waited for an answer.
    waits: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Action::Forward)));
        let (stalled, wake) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let waits = Arc::new(AtomicUsize::new(0));
        let shared = (Arc::clone(&rule), Arc::clone(&stalled), Arc::clone(&wake), Arc::clone(&waits));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (rule, stalled, wake, waits) = shared.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    carry(client, server, &rule, (&stalled, &wake), &waits).await.ok();
                });
            }
        });
        Self { port, rule, stalled, wake, waits }
    }

    pub(crate) fn rule(&self, rule: impl FnMut(&[u8]) -> Action + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Waits until a connection stalls.
    pub(crate) async fn stalled(&self) {
        self.stalled.notified().await;
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Answers that clients waited for since the last call.
    pub(crate) fn waits(&self) -> usize {
        self.waits.swap(0, Ordering::Relaxed)
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    rule: &Mutex<Rule>,
    (stalled, wake): (&Notify, &Notify),
    waits: &AtomicUsize,
) -> std::io::Result<()> {
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            n = client.read(&mut up) => {
                let n = n?;
                if n == 0 {
                    return Ok(());
                }
                let bytes = &up[..n];
                let action = rule.lock().unwrap()(bytes);
                match action {
                    Action::Forward => server.write_all(bytes).await?,
                    Action::StallInHalf => {
                        server.write_all(&bytes[..n / 2]).await?;
                        stalled.notify_one();
                        wake.notified().await;
                        server.write_all(&bytes[n / 2..]).await?;
                    }
                    Action::CutBefore => return Ok(()),
                    Action::CutAfterAnswer => {
                        server.write_all(bytes).await?;
                        let answered = server.read(&mut down).await?;
                        assert!(answered > 0);
                        return Ok(());
                    }
                }
            }
            n = server.read(&mut down) => {
                let mut n = n?;
                if n == 0 {
                    return Ok(());
                }
                // What the server has to say to one flight it says at once, and so does the client send one.
                tokio::time::sleep(SETTLED).await;
                while let Ok(more @ 1..) = client.try_read(&mut up) {
                    server.write_all(&up[..more]).await?;
                    tokio::time::sleep(SETTLED).await;
                }
                while let Ok(more @ 1..) = server.try_read(&mut down[n..]) {
                    n += more;
                }
                waits.fetch_add(1, Ordering::Relaxed);
                client.write_all(&down[..n]).await?;
            }
        }
    }
}

pub(crate) fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
