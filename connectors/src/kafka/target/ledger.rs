//! The ledger topic: who writes (partition 0), and what is committed (partition 1).
//!
//! | partition | key | value |
//! | --- | --- | --- |
//! | 0 | `writer/<transactional.id>` | `1 <attempt> <nonce>`; none once it is fenced |
//! | 1 | `mark/<stage>/<key group>` | `1 <epoch> <hash of its cut>` |
//! | 1 | `look/<transactional.id>` | `1 <nonce>`: where a reader may stop; none once it is fenced |
//!
//! The 1 is the version. A record's checksum is Kafka's own, and is checked.

use std::collections::BTreeMap;
use std::time::Duration;

use pulso_core::cut::CutHash;
use pulso_core::ids::{Attempt, Epoch, JobId, KeyGroupId};
use pulso_core::ledger::Mark;
use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::cluster::{Call, Cluster, Isolation, fatal};
use crate::target::TargetError;

pub(super) const WRITERS: i32 = 0;
pub(super) const MARKS: i32 = 1;
const PARTITIONS: i32 = 2;

/// A reader begins at the start, so the topic must stay small: segments of the least size, compacted soon. What deletes
/// and markers leave behind need not outlive any reader by much.
const SETTINGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1048576"),
    ("min.cleanable.dirty.ratio", "0.1"),
    ("delete.retention.ms", "600000"),
];

/// How long a first connection may take.
const CONNECT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

pub(super) fn new_topic(name: &str) -> NewTopic<'_> {
    // The brokers' own number of replicas.
    let new = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(-1));
    SETTINGS.iter().fold(new, |new, (name, value)| new.set(name, value))
}

/// One writer: a process in an attempt. It may have several producers, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WriterId {
    pub(super) attempt: Attempt,
    pub(super) transactional_id: String,
}

impl WriterId {
    pub(super) fn new(job: JobId, target: &str, attempt: Attempt, process: Uuid) -> Self {
        Self { attempt, transactional_id: format!("pulso-{job}-{target}-{attempt}-{process}") }
    }

    pub(super) fn key(&self) -> String {
        format!("writer/{}", self.transactional_id)
    }

    pub(super) fn look_key(&self) -> String {
        format!("look/{}", self.transactional_id)
    }

    /// What this writer says of itself; a nonce tells one time from another.
    pub(super) fn claim(&self, nonce: Uuid) -> String {
        format!("1 {} {nonce}", self.attempt)
    }

    fn read(key: &str, value: &str) -> Option<Self> {
        let transactional_id = key.strip_prefix("writer/")?.to_owned();
        let mut words = value.strip_prefix("1 ")?.split(' ');
        let attempt = Attempt(words.next()?.parse().ok()?);
        Some(Self { attempt, transactional_id })
    }
}

pub(super) fn look(nonce: Uuid) -> String {
    format!("1 {nonce}")
}

pub(super) fn mark_key(key_group: KeyGroupId) -> String {
    format!("mark/{key_group}")
}

pub(super) fn mark_value(mark: Mark) -> String {
    format!("1 {} {:032x}", mark.epoch, mark.hash.0)
}

fn read_mark(key: &str, value: &str) -> Option<(KeyGroupId, Mark)> {
    let key_group = key.strip_prefix("mark/")?.parse().ok()?;
    let (epoch, hash) = value.strip_prefix("1 ")?.split_once(' ')?;
    let hash = CutHash(u128::from_str_radix(hash, 16).ok()?);
    Some((key_group, Mark { epoch: Epoch(epoch.parse().ok()?), hash }))
}

/// The newest value of each key; `None` where it was deleted.
type Records = BTreeMap<String, Option<String>>;

/// Where reading ends: at this record, which the reader has sent itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a str,
}

/// All writers that have made themselves known before `until` and were not fenced since.
pub(super) fn writers(cluster: &Cluster, until: Until<'_>, call: &Call) -> Result<Vec<WriterId>, TargetError> {
    // One that stopped in the middle of making itself known must be seen too.
    let (records, _) = read(cluster, WRITERS, Isolation::Uncommitted, Offset::Beginning, until, call)?;
    let known = records.iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
    known.map(|(key, value)| WriterId::read(key, value).ok_or_else(|| foreign(cluster))).collect()
}

/// Marks from `from` on, and where to go on next time.
pub(super) fn marks(
    cluster: &Cluster,
    from: Offset,
    until: Until<'_>,
    call: &Call,
) -> Result<(BTreeMap<KeyGroupId, Mark>, Offset), TargetError> {
    let (records, next) = read(cluster, MARKS, Isolation::Committed, from, until, call)?;
    let marks = records.iter().filter(|(key, _)| !key.starts_with("look/"));
    let marks = marks.filter_map(|(key, value)| Some((key, value.as_deref()?)));
    let marks = marks.map(|(key, value)| read_mark(key, value).ok_or_else(|| foreign(cluster)));
    Ok((marks.collect::<Result<_, _>>()?, next))
}

fn foreign(cluster: &Cluster) -> TargetError {
    fatal(format!("topic {} holds a record that this Pulso does not know", cluster.ledger()))
}

fn read(
    cluster: &Cluster,
    partition: i32,
    isolation: Isolation,
    from: Offset,
    until: Until<'_>,
    call: &Call,
) -> Result<(Records, Offset), TargetError> {
    let (topic, mut records) = (cluster.ledger(), Records::new());
    let consumer = cluster.consumer(isolation)?;
    let refused = |e| cluster.refused("reading the ledger", &topic, &e);
    // With a connection to who leads the partition, and a number, reading begins at once; else after half a second.
    let (first, _) = consumer.fetch_watermarks(&topic, partition, CONNECT).map_err(refused)?;
    let from = if from == Offset::Beginning { Offset::Offset(first) } else { from };
    let mut assignment = TopicPartitionList::new();
    let assigned = assignment.add_partition_offset(&topic, partition, from).and_then(|()| consumer.assign(&assignment));
    assigned.map_err(refused)?;
    let mut trouble = "what was just written there is not to be seen yet".to_owned();
    // A long ledger is read for as long as more of it comes.
    let mut patience = call.clone();
    while patience.goes_on() {
        let message = match consumer.poll(POLL) {
            None => continue,
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                // Records that were there are gone; the next reader begins at the start.
                let gone = matches!(
                    error.rdkafka_error_code(),
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
                );
                if gone {
                    return Err(TargetError::ConnectionLost { reason: format!("topic {topic} was cut off") });
                }
                if let refused @ TargetError::Fatal { .. } = cluster.refused("reading the ledger", &topic, &error) {
                    return Err(refused);
                }
                trouble = error.to_string();
                continue;
            }
        };
        patience = call.anew();
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| foreign(cluster));
        let key = message.key().map(text).transpose()?.unwrap_or_default();
        let value = message.payload().map(text).transpose()?;
        let found = key == until.key && value.as_deref() == Some(until.value);
        let next = Offset::Offset(message.offset() + 1);
        records.insert(key, value);
        if found {
            return Ok((records, next));
        }
    }
    Err(cluster.unreachable(&format!("reading topic {topic} to its end"), trouble))
}

#[cfg(test)]
mod tests {
    use pulso_core::ids::{KeyGroup, Stage};

    use super::*;

    #[test]
    fn records_read_back() {
        let key_group = KeyGroupId { stage: Stage(1), group: KeyGroup(1_023) };
        for mark in [Mark::NOTHING, Mark { epoch: Epoch(u64::MAX), hash: CutHash(u128::MAX) }] {
            assert_eq!(read_mark(&mark_key(key_group), &mark_value(mark)), Some((key_group, mark)));
        }
        let id = WriterId::new(JobId(Uuid::from_u128(7)), "kafka", Attempt(12), Uuid::from_u128(9));
        assert_eq!(WriterId::read(&id.key(), &id.claim(Uuid::from_u128(3))), Some(id));
    }

    #[test]
    fn other_versions_are_no_guess() {
        assert_eq!(read_mark("mark/0/1", "2 5 00"), None);
        assert_eq!(read_mark("mark/0/1", "1 5"), None);
        assert_eq!(read_mark("mark/0/x", "1 5 00"), None);
        assert_eq!(WriterId::read("writer/a", "2 5 n"), None);
    }
}
