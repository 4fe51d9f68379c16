//! The processing of the simulated job: key -> newest by (timestamp, split, position), as a pure function.

use std::collections::BTreeMap;

use pulso_core::ids::{Epoch, EventTime, KeyGroup, KeyGroupId, Position, SplitId, Stage, TargetId};
use pulso_core::key_group;
use pulso_core::message::Counters;

/// A record on its way over the exchange.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) split: SplitId,
    pub(crate) position: Position,
    pub(crate) timestamp_ms: i64,
    pub(crate) key_group: KeyGroupId,
    /// Absent: the record could not be read and becomes a dead letter.
    pub(crate) content: Option<Content>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Content {
    pub(crate) key: u32,
    pub(crate) value: u32,
    pub(crate) event_time: EventTime,
}

/// State of one key: who won, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Winner {
    pub(crate) rank: (i64, SplitId, Position),
    pub(crate) value: u32,
}

pub(crate) type State = BTreeMap<u32, Winner>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Inserted,
    Correction,
    Duplicate,
    Superseded,
    Dead,
}

/// One row as a target gets it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Written {
    pub(crate) key_group: KeyGroupId,
    pub(crate) epoch: Epoch,
    /// From which epoch on the definition holds that it was processed under.
    pub(crate) since: Epoch,
    pub(crate) split: SplitId,
    pub(crate) position: Position,
    pub(crate) fate: Fate,
    /// Behind the watermark under which the epoch was processed: shows a wrong watermark in a replay.
    pub(crate) late: bool,
    /// For the keyed table, where the target has it: key and value.
    pub(crate) upsert: Option<(u32, u32)>,
}

/// The target with the keyed table; every other one has the append table alone.
pub(crate) const KEYED: TargetId = TargetId(0);

/// The stage behind an exchange of its own, where a seed has one.
pub(crate) const SECOND: Stage = Stage(1);
/// Keys of the second stage: records of many keys of the first meet in each.
const SECOND_KEYS: u32 = 7;

pub(crate) fn id(group: KeyGroup) -> KeyGroupId {
    KeyGroupId { stage: Stage(0), group }
}

/// What the first stage sends to the second of a record.
pub(crate) fn forwarded(row: &Row, fate: Fate, key_groups: u16) -> Option<Row> {
    let content = row.content.filter(|_| matches!(fate, Fate::Inserted | Fate::Correction))?;
    let key = content.key % SECOND_KEYS;
    let group = key_group::of_key(&key.to_le_bytes(), key_groups);
    Some(Row {
        // Unlike any split of Kafka's, and in the order of those.
        split: SplitId(1_000 + row.split.0),
        key_group: KeyGroupId { stage: SECOND, group },
        content: Some(Content { key, ..content }),
        ..row.clone()
    })
}

/// What one record does, given the winner so far.
pub(crate) fn fate(row: &Row, winner: Option<Winner>) -> (Fate, Option<(u32, Winner)>) {
    let Some(content) = row.content else { return (Fate::Dead, None) };
    let rank = (row.timestamp_ms, row.split, row.position);
    let new = Some((content.key, Winner { rank, value: content.value }));
    match winner {
        None => (Fate::Inserted, new),
        // The winner moves up to its newest copy, so that the final row does not depend on where cuts fell.
        Some(old) if old.value == content.value => (Fate::Duplicate, new.filter(|(_, w)| w.rank > old.rank)),
        Some(old) if rank > old.rank => (Fate::Correction, new),
        Some(_) => (Fate::Superseded, None),
    }
}

pub(crate) fn count(fate: Fate, counters: &mut Counters) {
    match fate {
        Fate::Inserted => counters.written += 1,
        Fate::Correction => {
            counters.written += 1;
            counters.corrections += 1;
        }
        Fate::Duplicate => counters.duplicates += 1,
        Fate::Superseded => counters.superseded += 1,
        Fate::Dead => counters.dead_letters += 1,
    }
}

/// When a record is processed, and under what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub(crate) epoch: Epoch,
    pub(crate) since: Epoch,
    pub(crate) watermark: EventTime,
}

/// What `target` gets of a record: the first one new rows and corrections, others corrections, dead letters and some new
/// rows, so that an epoch may have rows in one target and none in another.
pub(crate) fn written(target: TargetId, at: At, row: &Row, fate: Fate) -> Option<Written> {
    let wanted = match fate {
        Fate::Inserted => target == KEYED || row.content.is_some_and(|c| c.key.is_multiple_of(3)),
        Fate::Correction => true,
        Fate::Dead => target != KEYED || row.position.0 % 2 == 0,
        Fate::Duplicate | Fate::Superseded => false,
    };
    let is_keyed = target == KEYED && row.key_group.stage != SECOND;
    wanted.then(|| Written {
        key_group: row.key_group,
        epoch: at.epoch,
        since: at.since,
        split: row.split,
        position: row.position,
        fate,
        late: row.content.is_some_and(|c| c.event_time < at.watermark),
        upsert: row.content.filter(|_| is_keyed).map(|c| (c.key, c.value)),
    })
}
