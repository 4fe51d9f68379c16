//! What can be wrong with a topic or its brokers, by what the caller does about it.

use pulso_core::ids::SplitId;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KafkaError {
    /// Worth another try, for as long as it takes.
    #[error("brokers {brokers} do not answer for topic {topic}: {reason}; is the address right, and are they up?")]
    Unreachable { brokers: String, topic: String, reason: String },
    #[error(
        "topic {topic} does not exist on brokers {brokers}; create it, for example: \
         kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 8"
    )]
    MissingTopic { brokers: String, topic: String },
    /// Records were deleted before they were read.
    #[error(
        "topic {topic} partition {split}: the next record to read is {wanted}, but the first one there is {first}; \
         the records between were deleted before they were read. Go on without them: on_data_loss = \"skip\" in [source]"
    )]
    DataLoss { topic: String, split: SplitId, wanted: i64, first: i64 },
    /// The topic is not the one that was read.
    #[error(
        "topic {topic} partition {split}: the next record to read is {wanted}, but the topic ends at {end}; \
         it was deleted and made anew, or truncated. A job submitted under another name reads it from its start"
    )]
    Recreated { topic: String, split: SplitId, wanted: i64, end: i64 },
    #[error("brokers {brokers} refuse topic {topic}: {reason}; the job's user needs READ and DESCRIBE on it")]
    Denied { brokers: String, topic: String, reason: String },
    /// A fetched batch fails its checksum; read again, it may be whole.
    #[error("topic {topic} on brokers {brokers} delivered a damaged batch: {reason}")]
    Damaged { brokers: String, topic: String, reason: String },
    /// A setting that the client does not take.
    #[error("the Kafka client does not start: {reason}")]
    Invalid { reason: String },
}

impl KafkaError {
    /// True where another try is of no use before a person has done something.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Damaged { .. } => false,
            Self::MissingTopic { .. }
            | Self::DataLoss { .. }
            | Self::Recreated { .. }
            | Self::Denied { .. }
            | Self::Invalid { .. } => true,
        }
    }

    /// What a failed request about `topic` means.
    pub(crate) fn of_request(error: &ClientError, brokers: &str, topic: &str) -> Self {
        Self::of_code(error.rdkafka_error_code(), error.to_string(), brokers, topic)
    }

    pub(crate) fn of_code(code: Option<RDKafkaErrorCode>, reason: String, brokers: &str, topic: &str) -> Self {
        let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
        match code {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Self::MissingTopic { brokers, topic }
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Self::Denied { brokers, topic, reason },
            Some(RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::InvalidMessage) => {
                Self::Damaged { brokers, topic, reason }
            }
            _ => Self::Unreachable { brokers, topic, reason },
        }
    }
}
