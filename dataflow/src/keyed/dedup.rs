//! One record after the other against the state of its key: new, duplicate, correction, superseded or delete.
//!
//! With `changed = "update"` the entry of a key depends on the set of its records alone, not on their order: the record of
//! the greatest rank wins. So the final row does not depend on where cuts fell.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::{Array, RecordBatch, TimestampMicrosecondArray};
use hashbrown::HashTable;
use pulso_core::ids::{Epoch, EventTime};
use pulso_core::message::Counters;
use pulso_job::{ColumnIndex, JobSpec, OnChanged, StateId};
use xxhash_rust::xxh3::xxh3_128;

use super::rows::Rows;
use crate::batch::META_COLUMNS;
use crate::decode::event_times;
use crate::entry::Entry;
use crate::error::{DataflowError, Result};
use crate::key::KeyColumns;
use crate::sink::Step;
use crate::state::{DiskState, KeyGroupState, hash_of, key_start};

/// First byte of the keys of dedup entries; other keyed work of a key group takes others.
const DEDUP: u8 = 1;

#[derive(Debug)]
pub(crate) struct Dedup {
    state: StateId,
    key: Vec<ColumnIndex>,
    /// The other fields: what makes two records of one key the same.
    values: Vec<ColumnIndex>,
    time: ColumnIndex,
    /// Microseconds.
    keep_for: i64,
    changed: OnChanged,
}

/// The columns that dedup reads.
pub(crate) struct DedupColumns<'a> {
    key: KeyColumns<'a>,
    values: KeyColumns<'a>,
    times: &'a TimestampMicrosecondArray,
}

/// What the key groups of an epoch have in common.
pub(crate) struct Part<'a> {
    pub(crate) epoch: Epoch,
    pub(crate) watermark: EventTime,
    pub(crate) rows: &'a Rows<'a>,
    pub(crate) columns: DedupColumns<'a>,
}

/// A row that goes to the sinks.
pub(crate) type Emitted = (u32, Step);

/// A key of the epoch.
struct Slot {
    key: Range<usize>,
    hash: u64,
    entry: Option<Entry>,
    changed: bool,
}

/// Working memory, kept from key group to key group.
#[derive(Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    table: HashTable<u32>,
    slot_of: Vec<u32>,
    values: Vec<u8>,
}

impl Dedup {
    pub(crate) fn new(job: &JobSpec) -> Result<Option<Self>> {
        let Some(dedup) = &job.dedup else { return Ok(None) };
        let Some(time) = &job.time else { return Err(DataflowError::Invalid("dedup without [time]".to_owned())) };
        Ok(Some(Self {
            state: dedup.state,
            key: dedup.key.clone(),
            values: (0..job.fields.len()).filter(|field| !dedup.key.contains(field)).collect(),
            time: time.field,
            keep_for: i64::try_from(dedup.keep_for.as_micros()).unwrap_or(i64::MAX),
            changed: dedup.changed,
        }))
    }

    pub(crate) fn columns<'a>(&self, batch: &'a RecordBatch) -> Result<DedupColumns<'a>> {
        let shifted = |columns: &[ColumnIndex]| columns.iter().map(|c| c + META_COLUMNS).collect::<Vec<_>>();
        Ok(DedupColumns {
            key: KeyColumns::new(batch, shifted(&self.key))?,
            values: KeyColumns::new(batch, shifted(&self.values))?,
            times: event_times(batch, self.time + META_COLUMNS)?,
        })
    }

    /// Works through the rows of one key group, given in canonical order.
    pub(crate) fn run(
        &self,
        (state, disk): (&mut KeyGroupState, &dyn DiskState),
        part: &Part<'_>,
        order: &[u32],
        scratch: &mut Scratch,
        emitted: &mut Vec<Emitted>,
    ) -> Result<Counters> {
        let Part { epoch, watermark, rows, columns } = part;
        // The watermark before anything was read stands for "nothing is old".
        let horizon = EventTime(watermark.0.saturating_sub(self.keep_for));
        scratch.find_keys(self.state, columns, order);
        scratch.load(state, disk, horizon)?;
        let mut counters = Counters::default();
        for (row, slot) in order.iter().zip(&scratch.slot_of) {
            let record = self.record(rows, columns, *row, &mut scratch.values);
            let slot = &mut scratch.slots[*slot as usize];
            let (entry, outcome) = self.apply(slot.entry, &record, horizon);
            slot.changed |= entry != slot.entry;
            slot.entry = entry;
            count(&mut counters, outcome);
            if let Outcome::Emit(step) = outcome {
                emitted.push((*row, step));
            }
        }
        for Slot { key, hash, entry, .. } in scratch.slots.iter().filter(|slot| slot.changed) {
            let value = entry.as_ref().map(Entry::encode);
            state.put_hashed(*epoch, *hash, &scratch.bytes[key.clone()], value.as_ref().map(<[u8; 46]>::as_slice));
        }
        Ok(counters)
    }

    fn record(&self, rows: &Rows<'_>, columns: &DedupColumns<'_>, row: u32, scratch: &mut Vec<u8>) -> Entry {
        let at = row as usize;
        let rank = rows.rank(at);
        let deleted = rows.is_delete(at);
        let hash = if deleted {
            0
        } else {
            scratch.clear();
            columns.values.encode(at, scratch);
            xxh3_128(scratch)
        };
        // A tombstone whose key has no event time is as old as its record.
        let event_time = EventTime(if columns.times.is_null(at) {
            rank.timestamp_ms.saturating_mul(1_000)
        } else {
            columns.times.value(at)
        });
        Entry { deleted, hash, rank, event_time }
    }

    /// The entry of a key after a record, and what that makes of the record.
    fn apply(&self, entry: Option<Entry>, record: &Entry, horizon: EventTime) -> (Option<Entry>, Outcome) {
        let Some(known) = entry else {
            // An entry that counts as absent at once need not be written: the watermark never goes back.
            let is_old = record.event_time < horizon;
            let step = match (record.deleted, is_old) {
                (true, _) => Step::Deleted,
                (false, true) => Step::Unknown,
                (false, false) => Step::New,
            };
            return ((!is_old).then_some(*record), Outcome::Emit(step));
        };
        let event_time = known.event_time.max(record.event_time);
        if (known.deleted, known.hash) == (record.deleted, record.hash) {
            return (Some(Entry { event_time, rank: known.rank.max(record.rank), ..known }), Outcome::Duplicate);
        }
        let is_value = !known.deleted && !record.deleted;
        if record.rank < known.rank || (is_value && self.changed == OnChanged::Drop) {
            return (Some(Entry { event_time, ..known }), Outcome::Superseded);
        }
        let step = match (known.deleted, record.deleted) {
            (_, true) => Step::Deleted,
            (true, false) => Step::Again,
            (false, false) => Step::Corrected,
        };
        (Some(Entry { event_time, ..*record }), Outcome::Emit(step))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Emit(Step),
    Duplicate,
    Superseded,
}

fn count(counters: &mut Counters, outcome: Outcome) {
    match outcome {
        Outcome::Duplicate => counters.duplicates += 1,
        Outcome::Superseded => counters.superseded += 1,
        Outcome::Emit(step) => {
            counters.written += 1;
            counters.corrections += u64::from(step == Step::Corrected);
        }
    }
}

impl Scratch {
    /// One slot per key, and per row the slot of its key.
    fn find_keys(&mut self, state: StateId, columns: &DedupColumns<'_>, order: &[u32]) {
        self.bytes.clear();
        self.slots.clear();
        self.table.clear();
        self.slot_of.clear();
        for row in order {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(&key_start(DEDUP, state));
            columns.key.encode(*row as usize, &mut self.bytes);
            let hash = hash_of(&self.bytes[start..]);
            let (bytes, slots) = (&self.bytes, &self.slots);
            let same = |slot: &u32| {
                let slot = &slots[*slot as usize];
                slot.hash == hash && bytes[slot.key.clone()] == bytes[start..]
            };
            if let Some(slot) = self.table.find(hash, same) {
                self.slot_of.push(*slot);
                self.bytes.truncate(start);
                continue;
            }
            // An epoch has fewer records than a u32 counts: rows of a batch are numbered by it.
            let slot = self.slots.len() as u32;
            self.slots.push(Slot { key: start..self.bytes.len(), hash, entry: None, changed: false });
            let slots = &self.slots;
            self.table.insert_unique(hash, slot, |slot| slots[*slot as usize].hash);
            self.slot_of.push(slot);
        }
    }

    /// Fills in what the overlay knows, and asks the disk once for the rest. What is too old counts as absent.
    fn load(&mut self, state: &KeyGroupState, disk: &dyn DiskState, horizon: EventTime) -> Result<()> {
        let mut unknown = Vec::new();
        for (at, slot) in self.slots.iter_mut().enumerate() {
            match state.find(slot.hash, &self.bytes[slot.key.clone()]) {
                Some(value) => slot.entry = value.map(Entry::decode).transpose()?,
                None => unknown.push(at),
            }
        }
        let keys: Vec<&[u8]> = unknown.iter().map(|at| self.key(*at)).collect();
        let values = if keys.is_empty() { Vec::new() } else { disk.multi_get(&keys)? };
        if values.len() != unknown.len() {
            return Err(DataflowError::State(format!("{} values for {} keys", values.len(), unknown.len())));
        }
        for (at, value) in unknown.into_iter().zip(values) {
            self.slots[at].entry = value.as_deref().map(Entry::decode).transpose()?;
        }
        for slot in &mut self.slots {
            slot.entry = slot.entry.filter(|entry| entry.event_time >= horizon);
        }
        Ok(())
    }

    fn key(&self, slot: usize) -> &[u8] {
        &self.bytes[self.slots[slot].key.clone()]
    }
}

/// Counters of rows that no dedup looks at: every record is a row.
pub(crate) fn without(rows: &Rows<'_>, order: &[u32], emitted: &mut Vec<Emitted>) -> Counters {
    let step = |row: &u32| (*row, if rows.is_delete(*row as usize) { Step::Deleted } else { Step::New });
    emitted.extend(order.iter().map(step));
    Counters { written: order.len() as u64, ..Counters::default() }
}

/// Counters of several key groups.
pub(crate) type CountersOf = BTreeMap<pulso_core::ids::KeyGroup, Counters>;
