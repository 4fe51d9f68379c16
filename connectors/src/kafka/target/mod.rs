//! Kafka as a target: messages and the ledger in one transaction. How writers keep each other out: docs/adr/0006.

mod cluster;
mod ledger;
mod messages;
mod producer;
mod session;
mod topics;
mod transaction;
mod writer;

pub use writer::KafkaWriter;
