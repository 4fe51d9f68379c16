//! Sources and targets: what reads splits, and what commits rows together with the ledger.

mod database;
pub mod files;
mod json;
pub mod kafka;
pub mod lookup;
pub mod mysql;
pub mod panel;
pub mod postgres;
pub mod target;
