//! Sources and targets: what reads splits, and what commits rows together with the ledger.

mod json;
pub mod kafka;
pub mod postgres;
pub mod target;
