//! Kafka as a source: partitions assigned by hand, read committed, positions that are the job's own.

mod client;
mod error;
mod inspect;
mod reader;
mod topic;

pub use error::KafkaError;
pub use inspect::{TopicFacts, inspect_topic};
pub use reader::{Flow, KafkaReader, Record};
pub use topic::{KafkaTopic, discover};
