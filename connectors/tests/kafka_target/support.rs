//! A job with two sinks to Kafka, its writers, and what a reader of the topics sees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use pulso_connectors::kafka::KafkaWriter;
use pulso_connectors::target::TargetError;
use pulso_core::cut::CutHash;
use pulso_core::ids::{Attempt, Epoch, JobId, KeyGroup, KeyGroupId, Stage, TargetId};
use pulso_core::ledger::{GuardRow, Mark, transaction};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, SinkRows, TargetRows};
use pulso_job::spec::{
    DeadLetterSpec, DeadLettersTo, FieldPath, FieldSpec, FieldType, JobSpec, KafkaSourceSpec, OnChange, OnDataLoss,
    PathStart, RowsFrom, SinkColumn, SinkSpec, SinkTo, SinkValue, SourceSpec, StartPosition, TargetKind, TargetSpec,
    TopicSpec,
};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

fn field(name: &str, kind: FieldType) -> FieldSpec {
    FieldSpec {
        name: name.to_owned(),
        kind,
        paths: vec![FieldPath { from: PathStart::Record, keys: vec![name.to_owned()] }],
        required: false,
        min: None,
        max: None,
        one_of: Vec::new(),
        max_bytes: 65_536,
        phi: false,
        unit: None,
    }
}

/// `k` text and `v` bigint into `topic` by `k`; dead letters into `topic`-dlq.
pub(crate) fn job(brokers: &str, topic: &str) -> JobSpec {
    let fields = vec![field("k", FieldType::String), field("v", FieldType::Int64)];
    let columns = fields.iter().enumerate().map(|(i, field)| SinkColumn {
        name: field.name.clone(),
        value: SinkValue::Column(i),
        data_type: field.kind.data_type(),
        nullable: true,
    });
    let sink = SinkSpec {
        target: 0,
        from: RowsFrom::Records,
        condition: None,
        columns: columns.collect(),
        to: SinkTo::Topic(TopicSpec { topic: topic.to_owned(), record_key: vec![0] }),
    };
    JobSpec {
        name: "vitals".to_owned(),
        key_groups: 4,
        source: SourceSpec::Kafka(KafkaSourceSpec {
            brokers: brokers.to_owned(),
            topic: "readings".to_owned(),
            start: StartPosition::Earliest,
            tombstone_key: Some(vec![0]),
            on_data_loss: OnDataLoss::Fail,
            on_change: OnChange::Fail,
            security: Vec::new(),
            max_record: 1 << 20,
        }),
        targets: vec![TargetSpec {
            name: "kafka".to_owned(),
            kind: TargetKind::Kafka { brokers: brokers.to_owned(), security: Vec::new() },
        }],
        fields,
        rules: Vec::new(),
        filter: None,
        lookups: vec![],
        derive: Vec::new(),
        time: None,
        dedup: None,
        aggregates: Vec::new(),
        sinks: vec![sink],
        dead_letter: DeadLetterSpec { target: 0, to: DeadLettersTo::Topic(format!("{topic}-dlq")) },
        panels: Vec::new(),
        routing_key: vec![0],
    }
}

pub(crate) fn kv(of: &[(&str, Option<i64>, Change)]) -> TargetRows {
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(of.iter().map(|row| row.0)));
    let values: ArrayRef = Arc::new(of.iter().map(|row| row.1).collect::<Int64Array>());
    let batch = RecordBatch::try_from_iter_with_nullable([("k", keys, true), ("v", values, true)]).unwrap();
    let key_groups = vec![KeyGroup(0); of.len()].into();
    let changes = of.iter().map(|row| row.2).collect();
    TargetRows { sinks: vec![SinkRows { sink: 0, batch, changes, key_groups }], letters: None, samples_ms: Vec::new() }
}

/// A row that is new, under a key of its own.
pub(crate) fn one(value: i64) -> TargetRows {
    kv(&[(&format!("k{value}"), Some(value), Change::Insert)])
}

fn group(number: u16) -> KeyGroupId {
    KeyGroupId { stage: Stage(0), group: KeyGroup(number) }
}

pub(crate) fn mark(epoch: u64) -> Mark {
    if epoch == 0 { Mark::NOTHING } else { Mark { epoch: Epoch(epoch), hash: CutHash(u128::from(epoch) << 100 | 7) } }
}

/// A TaskManager's writer, with what it has committed.
pub(crate) struct Writer {
    pub(crate) writer: KafkaWriter,
    pub(crate) groups: BTreeSet<KeyGroupId>,
    pub(crate) epoch: u64,
}

/// Rows by number of key group: attempt and mark.
pub(crate) type Found = BTreeMap<u16, Option<(u64, Mark)>>;

impl Writer {
    /// Of a process of its own.
    pub(crate) fn of(job: JobId, spec: &JobSpec, groups: &[u16]) -> Self {
        let writer = KafkaWriter::of_process(Uuid::new_v4(), job, TargetId(0), Arc::new(spec.clone())).unwrap();
        Self { writer, groups: groups.iter().copied().map(group).collect(), epoch: 0 }
    }

    pub(crate) async fn take_over(&mut self, attempt: u64, create: bool) -> Result<Found, TargetError> {
        self.writer.take_over(Attempt(attempt), &self.groups, create).await.map(found)
    }

    pub(crate) async fn register(&mut self, attempt: u64) -> Result<Found, TargetError> {
        self.writer.register(Attempt(attempt), &self.groups).await.map(found)
    }

    pub(crate) async fn read(&mut self) -> Result<Found, TargetError> {
        let groups = self.groups.clone();
        self.writer.read_ledger(&groups).await.map(found)
    }

    /// All its key groups at this attempt and epoch.
    pub(crate) fn all_at(&self, attempt: u64, epoch: u64) -> Found {
        self.groups.iter().map(|id| (id.group.0, Some((attempt, mark(epoch))))).collect()
    }

    /// One transaction of several epochs, guarded by the last one committed here.
    pub(crate) async fn transact(&mut self, outputs: Vec<TargetRows>) -> Result<Outcome, TargetError> {
        let outputs: Vec<(Epoch, TargetRows)> = (self.epoch + 1..).map(Epoch).zip(outputs).collect();
        let last = outputs.last().unwrap().0;
        let guard = self.groups.iter().map(|id| GuardRow { key_group: *id, from: mark(self.epoch), to: mark(last.0) });
        let steps = transaction(guard.collect(), outputs.iter().map(|(epoch, _)| *epoch).collect());
        let outcome = self.writer.transact(&steps, &outputs).await?;
        if outcome == Outcome::Committed {
            self.epoch = last.0;
        }
        Ok(outcome)
    }

    pub(crate) async fn commit(&mut self, outputs: Vec<TargetRows>) {
        assert_eq!(self.transact(outputs).await.unwrap(), Outcome::Committed);
    }
}

fn found(rows: pulso_connectors::target::Rows) -> Found {
    rows.into_iter().map(|(id, row)| (id.group.0, row.map(|row| (row.attempt.0, row.mark)))).collect()
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
