//! Sources and targets: what reads splits, and what commits rows together with the ledger.

pub mod files;
pub mod kafka;
pub mod postgres;
pub mod target;
