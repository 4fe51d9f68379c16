//! A job with two sinks to Kafka, its writers, and what a reader of the topics sees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pulso_connectors::kafka::KafkaWriter;
use pulso_connectors::target::TargetWriter;
use pulso_core::ids::{JobId, TargetId};
use pulso_dataflow::batch::{Change, TargetRows};
use pulso_job::spec::{DeadLettersTo, JobSpec, SinkTo, SourceSpec, TargetKind, TargetSpec, TopicSpec, WriteMode};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

pub(crate) use crate::shared::*;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// `k` text and `v` bigint into `topic` by `k`; dead letters into `topic`-dlq.
pub(crate) fn job(brokers: &str, topic: &str) -> JobSpec {
    let mut spec = key_value("", WriteMode::Append);
    spec.key_groups = 4;
    let SourceSpec::Kafka(source) = &mut spec.source else { panic!("Kafka") };
    (source.brokers, source.topic) = (brokers.to_owned(), "readings".to_owned());
    source.tombstone_key = Some(vec![0]);
    let kind = TargetKind::Kafka { brokers: brokers.to_owned(), security: Vec::new() };
    spec.targets = vec![TargetSpec { name: "kafka".to_owned(), kind }];
    spec.sinks[0].to = SinkTo::Topic(TopicSpec { topic: topic.to_owned(), record_key: vec![0] });
    spec.dead_letter.to = DeadLettersTo::Topic(format!("{topic}-dlq"));
    spec
}

/// A row that is new, under a key of its own.
pub(crate) fn one(value: i64) -> TargetRows {
    kv(&[(&format!("k{value}"), Some(value), Change::Insert)])
}

/// Of a process of its own.
pub(crate) fn writer_of(job: JobId, spec: &JobSpec, groups: &[u16]) -> Writer {
    let writer = KafkaWriter::of_process(Uuid::new_v4(), job, TargetId(0), Arc::new(spec.clone())).unwrap();
    Writer::with(TargetWriter::Kafka(Box::new(writer)), groups)
}

/// Of a message: partition, key, value, headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) partition: i32,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
}

pub(crate) fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

/// Everything that is committed in a topic, by partition and offset. It reads up to where the last open transaction
/// begins, and waits for there to be none.
pub(crate) fn committed(brokers: &str, topic: &str) -> Vec<Seen> {
    let stable: BaseConsumer = client(brokers).set("isolation.level", "read_committed").create().unwrap();
    let all: BaseConsumer = client(brokers).set("isolation.level", "read_uncommitted").create().unwrap();
    let began = Instant::now();
    let metadata = stable.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let partitions = i32::try_from(metadata.topics()[0].partitions().len()).unwrap();
    for partition in 0..partitions {
        let end = |consumer: &BaseConsumer| consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap().1;
        while end(&stable) < end(&all) {
            assert!(began.elapsed() < PATIENCE, "a transaction stays open in {topic}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let mut seen = Vec::new();
    for partition in 0..partitions {
        let consumer: BaseConsumer = client(brokers)
            .set("group.id", "test")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        consumer.assign(&assignment).unwrap();
        loop {
            match consumer.poll(PATIENCE).unwrap() {
                Err(rdkafka::error::KafkaError::PartitionEOF(_)) => break,
                Err(error) => panic!("{error}"),
                Ok(message) => {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let headers = message.headers().map(|all| {
                        all.iter().map(|h| (h.key.to_owned(), h.value.map(text).unwrap_or_default())).collect()
                    });
                    seen.push(Seen {
                        partition,
                        key: message.key().map(text),
                        value: message.payload().map(text),
                        headers: headers.unwrap_or_default(),
                    });
                }
            }
        }
    }
    seen
}

/// Values of `v` that are committed, sorted.
pub(crate) fn values(brokers: &str, topic: &str) -> Vec<i64> {
    let value = |seen: &Seen| {
        let text = seen.value.as_ref().unwrap();
        text.rsplit_once(':').unwrap().1.trim_end_matches('}').parse().unwrap()
    };
    let mut values: Vec<i64> = committed(brokers, topic).iter().map(value).collect();
    values.sort_unstable();
    values
}
