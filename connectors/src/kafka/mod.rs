//! Kafka as a source: partitions assigned by hand, read committed, positions that are the job's own. And as a target.

mod client;
mod error;
mod inspect;
mod reader;
mod target;
mod topic;

pub use error::KafkaError;
pub use inspect::{TopicFacts, inspect_topic};
pub use reader::{Flow, KafkaReader, Record};
pub use target::KafkaWriter;
pub use topic::{KafkaTopic, discover};
