//! Free ports of 127.0.0.1 that stay free while a server is down.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail};

const FIRST: u16 = 10_240;
/// Where the kernel's ephemeral range begins when it does not say.
const EPHEMERAL: u16 = 32_768;
const TRIES: u64 = 1000;

/// A port below the kernel's ephemeral range: one inside it could be given, while the server restarts, to a client's own
/// connection (to that very port, even), and the server could not come back.
pub(crate) fn free_port() -> Result<u16> {
    let end = ephemeral_begin().max(FIRST + 1);
    let random = RandomState::new();
    for n in 0..TRIES {
        let offset = random.hash_one(n) % u64::from(end - FIRST);
        let port = FIRST + u16::try_from(offset)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 between {FIRST} and {end}");
}

/// Whether something listens on the port.
pub(crate) fn accepts(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

fn ephemeral_begin() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|begin| begin.parse().ok()).unwrap_or(EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound_and_is_not_ephemeral() {
        let port = free_port().unwrap();
        assert!(!accepts(port));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(accepts(port));
        assert!(port < ephemeral_begin());
        drop(listener);
    }
}
