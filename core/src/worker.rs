//! The TaskManager's decisions: which attempt counts, what is processed when, what may be committed.
//!
//! Rows are opaque: `P` is a payload as it came over the exchange, `O` what processing an epoch made for one target.

mod command;
mod event;

use std::time::Duration;

pub use command::Command;
pub use event::{Event, Outcome, Output, Processed};

/// The bounds of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Output of one transaction, in bytes: several waiting epochs go together up to this.
    pub transaction_bytes: u64,
    /// First pause before a target is tried again; doubles up to 64 times this.
    pub retry_backoff: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { transaction_bytes: 16 << 20, retry_backoff: Duration::from_millis(20) }
    }
}
