//! PostgreSQL as a target: rows by binary COPY, and the ledger that makes them exactly once, in one transaction.

mod ahead;
mod connect;
mod copy;
mod create;
mod encode;
mod error;
mod ledger;
mod letters;
mod numeric;
mod quote;
mod reduce;
mod refused;
mod table;
mod tables;
mod tls;
mod transaction;
mod write;
mod writer;

pub use writer::PostgresWriter;
