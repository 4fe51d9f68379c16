//! PostgreSQL as a target: rows by binary COPY, and the ledger that makes them exactly once, in one transaction.

mod ahead;
mod connect;
mod copy;
mod create;
mod encode;
mod error;
mod inspect;
mod ledger;
mod letters;
pub(crate) mod lookup;
mod numeric;
mod panel;
mod quote;
mod table;
mod tables;
mod tls;
mod transaction;
mod write;
mod writer;

pub use inspect::inspect_database;
pub(crate) use panel::ask;
pub use writer::PostgresWriter;
