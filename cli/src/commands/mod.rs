//! One module a command: its arguments and `run`.

pub(crate) mod cancel;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod describe;
pub(crate) mod dev;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod list;
pub(crate) mod nodes;
pub(crate) mod plan;
pub(crate) mod produce;
pub(crate) mod produce_csv;
pub(crate) mod resume;
pub(crate) mod savepoint;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod submit;
pub(crate) mod test;
pub(crate) mod version;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels `stop` on Ctrl-C, SIGTERM, and when the terminal goes away; calls `again` on every further one.
pub(crate) fn stop_on_signal(stop: &CancellationToken, again: impl Fn() + Send + 'static) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut hangup = match hangup_is_ignored() {
        // `nohup` asks for this; to listen would undo it.
        true => None,
        false => Some(signal(SignalKind::hangup()).context("listening for SIGHUP")?),
    };
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hung_up => {} }
            if stop.is_cancelled() {
                again();
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// Ends the process as a shell expects it after Ctrl-C.
pub(crate) fn exit_at_once() {
    std::process::exit(i32::from(crate::failure::INTERRUPTED));
}

fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Bit 0 is signal 1, SIGHUP.
    mask.is_some_and(|mask| mask & 1 == 1)
}
