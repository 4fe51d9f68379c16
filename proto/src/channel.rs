//! How every gRPC connection of a cluster is set up, at both ends.

use std::time::Duration;

use tonic::transport::{Endpoint, Server};

/// Of one message, on every service. A payload of one epoch part and a deployment with its replay stay far below.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A peer that says nothing for `KEEP_ALIVE` is asked, and given up when it does not answer within `KEEP_ALIVE_TIMEOUT`.
/// Longer than the session timeout of the coordinator, which goes by heartbeats and is the one to give up a TaskManager:
/// a JobManager that stood still for a while must not lose its sessions, and with them the state of survivors.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Of one stream and of a connection: an epoch's rows must not wait for a window update.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;

/// For a client of `address`, which is HOST:PORT.
pub fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

/// For whoever serves.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(1024)
}
