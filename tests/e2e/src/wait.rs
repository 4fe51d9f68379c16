//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until `condition` is true; fails with `what` after `limit`.
pub async fn until(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    until_ok(what, limit, async || if condition().await? { Ok(()) } else { bail!("not yet") }).await
}

/// Waits until `attempt` succeeds; fails with `what` and its last error after `limit`.
pub async fn until_ok<T>(what: &str, limit: Duration, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(e) if begun.elapsed() > limit => bail!("waited {limit:?} for {what}: {e:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
