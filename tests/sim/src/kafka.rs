//! Model of Kafka: splits whose records keep their position for ever, with gaps as transaction markers leave them.

use std::collections::BTreeMap;
use std::ops::Range;

use pulso_core::ids::{EventTime, Instant, Position, SplitId};
use pulso_core::key_group;

use crate::chance::Chance;
use crate::dedup::{Content, Row, id};

#[derive(Debug, Clone)]
pub(crate) struct KafkaRecord {
    pub(crate) position: Position,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Kafka {
    pub(crate) splits: BTreeMap<SplitId, Vec<KafkaRecord>>,
    pub(crate) start: BTreeMap<SplitId, Position>,
}

impl Kafka {
    pub(crate) fn add_split(&mut self, chance: &mut Chance) {
        let split = SplitId(u32::try_from(self.splits.len()).unwrap_or(0));
        self.splits.insert(split, Vec::new());
        self.start.insert(split, Position(i64::try_from(chance.below(3)).unwrap_or(0)));
    }

    /// Appends one record to a split drawn at random. Few keys and values, so that duplicates, corrections and superseded
    /// records all come about; any split, so that the copies of a key meet only by their key group.
    pub(crate) fn produce(&mut self, now: Instant, keys: Range<u64>, chance: &mut Chance) {
        let splits: Vec<SplitId> = self.splits.keys().copied().collect();
        let Some(&split) = chance.pick(&splits) else { return };
        let start = self.start.get(&split).map_or(0, |p| p.0);
        let Some(records) = self.splits.get_mut(&split) else { return };
        let gap = if chance.per_mille(30) { 1 + chance.below(4) } else { 0 };
        let position = records.last().map_or(start, |r| r.position.0 + 1) + i64::try_from(gap).unwrap_or(0);
        let millis = now.0 / 1000;
        let timestamp_ms = i64::try_from(millis.saturating_sub(chance.below(300))).unwrap_or(0);
        let key = chance.between(keys);
        let value = if chance.per_mille(20) {
            vec![0xFF]
        } else {
            let event_time = now.0.saturating_sub(chance.below(500_000));
            let mut bytes = event_time.to_le_bytes().to_vec();
            bytes.extend_from_slice(&chance.below(3).to_le_bytes());
            bytes
        };
        let key = u32::try_from(key).unwrap_or(0).to_le_bytes().to_vec();
        records.push(KafkaRecord { position: Position(position), timestamp_ms, key, value });
    }

    pub(crate) fn count(&self) -> u64 {
        self.splits.values().map(|records| records.len() as u64).sum()
    }
}

/// Decodes a record and finds its key group; what cannot be read goes by its split.
pub(crate) fn decode(split: SplitId, record: &KafkaRecord, key_groups: u16) -> Row {
    let row = |key_group, content| Row {
        split,
        position: record.position,
        timestamp_ms: record.timestamp_ms,
        key_group: id(key_group),
        content,
    };
    let content = (|| {
        let key = u32::from_le_bytes(record.key.as_slice().try_into().ok()?);
        let (time, value) = record.value.split_at_checked(8)?;
        let event_time = EventTime(i64::from_le_bytes(time.try_into().ok()?));
        let value = u32::try_from(u64::from_le_bytes(value.try_into().ok()?)).ok()?;
        Some(Content { key, value, event_time })
    })();
    match content {
        Some(content) => row(key_group::of_key(&record.key, key_groups), Some(content)),
        None => row(key_group::of_split(split, key_groups), None),
    }
}
