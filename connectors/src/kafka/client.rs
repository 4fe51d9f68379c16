//! The Kafka client's settings, and what it says of itself while it runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pulso_core::ids::{Position, SplitId};
use pulso_job::spec::KafkaSourceSpec;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use secrecy::{ExposeSecret, SecretString};

use super::error::KafkaError;

/// Bounds of librdkafka's `queued.max.messages.kbytes`.
const BUFFER_KIB: std::ops::RangeInclusive<u64> = 1024..=2_097_151;

pub(super) type Consumer = BaseConsumer<Context>;

/// What callbacks of the client leave for the thread that reads.
pub(super) struct Context {
    topic: String,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// Last error of a connection; gone as soon as a broker is there.
    trouble: Option<String>,
    ends: BTreeMap<SplitId, Position>,
}

impl Context {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        // Nothing in here can be left half done.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.heard().trouble.clone()
    }

    pub(super) fn set_trouble(&self, reason: String) {
        let mut heard = self.heard();
        if heard.trouble.is_none() {
            tracing::warn!(topic = %self.topic, %reason, "kafka: waiting for the brokers");
        }
        heard.trouble = Some(reason);
    }

    pub(super) fn recovered(&self) {
        if self.heard().trouble.take().is_some() {
            tracing::info!(topic = %self.topic, "kafka: the brokers are back");
        }
    }

    pub(super) fn ends(&self) -> BTreeMap<SplitId, Position> {
        self.heard().ends.clone()
    }
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn stats(&self, statistics: Statistics) {
        let ends = statistics.topics.get(&self.topic).into_iter().flat_map(|topic| &topic.partitions);
        // Partition -1 is the client's own; an end below 0 is not known yet.
        let ends = ends.filter_map(|(id, partition)| {
            let end = (partition.hi_offset >= 0).then_some(Position(partition.hi_offset))?;
            Some((SplitId(u32::try_from(*id).ok()?), end))
        });
        self.heard().ends.extend(ends);
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.recovered();
        }
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.set_trouble(format!("{error}: {reason}"));
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: Result<(), ClientError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(topic = %self.topic, %error, "offsets for lag tools were not taken");
        }
    }
}

/// A consumer that assigns by hand; `buffer` bounds the records that it fetches ahead, in bytes.
pub(super) fn consumer(spec: &KafkaSourceSpec, group: &str, buffer: u64) -> Result<Consumer, KafkaError> {
    let kib = (buffer / 1024).clamp(*BUFFER_KIB.start(), *BUFFER_KIB.end());
    let mut config = base(&spec.brokers, &spec.security);
    let settings = [
        // librdkafka wants a group even for partitions assigned by hand; it is never joined.
        ("group.id", group),
        ("client.id", group),
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "false"),
        // A position that is gone is an error, never a silent jump.
        ("auto.offset.reset", "error"),
        ("check.crcs", "true"),
        // Low latency: answers at once when there is something, and never a long pause after a full queue.
        ("fetch.min.bytes", "1"),
        // Bounds nothing but how often an idle client asks again.
        ("fetch.wait.max.ms", "50"),
        ("fetch.queue.backoff.ms", "5"),
        ("fetch.error.backoff.ms", "50"),
        // They pile up where nobody polls, and only who reads records does.
        ("statistics.interval.ms", if buffer > 0 { "1000" } else { "0" }),
    ];
    for (name, value) in settings {
        config.set(name, value);
    }
    config.set("queued.max.messages.kbytes", kib.to_string());
    let context = Context { topic: spec.topic.clone(), heard: Mutex::default() };
    config.create_with_context(context).map_err(|e| KafkaError::Invalid { reason: without_value(e) })
}

/// What every client has.
pub(super) fn base(brokers: &str, security: &[(String, SecretString)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    let settings = [
        ("bootstrap.servers", brokers),
        ("allow.auto.create.topics", "false"),
        ("socket.nagle.disable", "true"),
        ("socket.keepalive.enable", "true"),
        ("reconnect.backoff.ms", "50"),
        ("reconnect.backoff.max.ms", "1000"),
    ];
    for (name, value) in settings {
        config.set(name, value);
    }
    for (name, value) in security {
        config.set(name, value.expose_secret());
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// The client's text repeats the value that it refuses, which may be a secret.
pub(super) fn without_value(error: rdkafka::error::KafkaError) -> String {
    if let rdkafka::error::KafkaError::ClientConfig(_, _, key, _) = error {
        return format!("it refuses the value of `{key}`");
    }
    error.to_string()
}

pub(super) fn partition(split: SplitId) -> i32 {
    i32::try_from(split.0).unwrap_or(i32::MAX)
}
