//! MySQL and MariaDB as a target: rows by INSERT, and the ledger that makes them exactly once, in one transaction.

mod address;
mod connect;
mod create;
mod error;
mod inspect;
mod ledger;
mod letters;
mod literal;
pub(crate) mod lookup;
mod panel;
mod quote;
mod statement;
mod table;
mod tables;
mod transaction;
mod types;
mod write;
mod writer;

pub use inspect::inspect_database;
pub(crate) use panel::ask;
pub use writer::MySqlWriter;
