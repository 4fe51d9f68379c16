//! Bytes of records to typed, checked, routed rows and dead letters.
//!
//! What comes out depends on the records and on the clocks of the cuts alone, not on when [`Decoder::take`] is called.

mod columns;
pub(crate) mod field_map;
mod file_reader;
mod judge;
mod letters;
mod number;
mod reader;
mod reason;
mod time;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, not};
use pulso_core::ids::{EventTime, Position, SplitId, WallTime};
use pulso_job::{JobSpec, SourceSpec};

use self::columns::Columns;
use self::file_reader::FileReader;
pub(crate) use self::judge::event_times;
use self::judge::{Aside, Judge, Judged, splits};
use self::letters::Records;
use self::reader::{KeyReader, Row, ValueReader};
use self::reason::Fault;
use crate::batch::{META_COLUMNS, Payload};
use crate::error::{DataflowError, Result};
use crate::lookup::Lookup;

/// So many records are typed before their columns are judged together.
const CHUNK_ROWS: usize = 8_192;
const CHUNK_BYTES: usize = 16 << 20;

/// A record as the source delivers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    pub split: SplitId,
    pub position: Position,
    /// Broker timestamp; below 0 where the record has none.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

/// A part of an epoch, ready for the exchange.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded {
    pub payload: Payload,
    /// Per split the greatest event time of the records that are no dead letters.
    pub greatest: BTreeMap<SplitId, EventTime>,
}

/// Longest record of a file: a line, or an element of a document.
pub const MAX_FILE_RECORD: usize = 1 << 20;

/// How the source writes records.
#[derive(Debug)]
enum Values {
    Kafka { values: ValueReader, tombstones: Option<KeyReader> },
    Files(FileReader),
}

/// Decodes the records of one epoch after the other. Clocks never go back: what passed under one passes under all later.
pub struct Decoder {
    values: Values,
    judge: Judge,
    field_names: Vec<String>,
    max_record: usize,
    row: Row,
    records: Records,
    columns: Columns,
    tombstones: Records,
    tombstone_columns: Columns,
    aside: Aside,
    judged: Vec<Judged>,
    bytes: usize,
    /// Of a push; told by the next call that can.
    failure: Option<DataflowError>,
}

impl Decoder {
    /// # Errors
    /// Where the job's check let something pass that cannot be executed.
    pub fn new(job: Arc<JobSpec>) -> Result<Self> {
        let (values, max_record) = match &job.source {
            SourceSpec::Kafka(source) => {
                let tombstones = source.tombstone_key.as_ref().map(|key| KeyReader::new(&job, key)).transpose()?;
                (Values::Kafka { values: ValueReader::new(&job)?, tombstones }, source.max_record)
            }
            SourceSpec::Files(source) => (Values::Files(FileReader::new(&job, source)?), MAX_FILE_RECORD),
        };
        let judge = Judge::new(&job)?;
        let schema = judge.schema();
        Ok(Self {
            values,
            field_names: schema.fields().iter().map(|field| field.name().clone()).collect(),
            max_record,
            row: Row::default(),
            records: Records::default(),
            columns: Columns::new(schema, job.fields.len())?,
            tombstones: Records::default(),
            tombstone_columns: Columns::new(schema, schema.fields().len())?,
            aside: Aside::default(),
            judged: Vec::new(),
            bytes: 0,
            failure: None,
            judge,
        })
    }

    /// Rows of the job's lookups, in file order, for the records of the next epoch on; called between two epochs.
    pub fn set_lookups(&mut self, lookups: impl IntoIterator<Item = Arc<Lookup>>) {
        self.judge.set_lookups(lookups);
    }

    /// Takes a record of the running epoch.
    pub fn push(&mut self, record: RawRecord<'_>) {
        self.bytes += 64 + 2 * (record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len));
        if let Err(error) = self.try_push(record) {
            self.failure.get_or_insert(error);
        }
    }

    /// Records that no call has handed out yet.
    #[must_use]
    pub fn len(&self) -> usize {
        let judged: usize = self.judged.iter().map(|judged| judged.ids.len()).sum();
        let filtered: u64 = self.aside.filtered.values().sum();
        judged + self.records.len() + self.tombstones.len() + self.aside.letters.len() + filtered as usize
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that they take, about: their bytes, raw and typed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything judged so far under `clock`, the last one known. Records whose event time is further ahead of it than
    /// `max_future` stay inside: only the epoch's own clock may refuse them.
    ///
    /// # Errors
    /// [`DataflowError`]s are no record's fault; the decoder is not to be used any further.
    pub fn take(&mut self, clock: WallTime) -> Result<Decoded> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.judge_records()?;
        self.judge_tombstones()?;
        let mut decoded = Decoded::default();
        let rows = self.release(clock, &mut decoded.greatest)?;
        decoded.payload = Payload {
            rows: match rows.as_slice() {
                [] => None,
                [one] => Some(one.clone()),
                all => Some(concat_batches(&all[0].schema(), all)?),
            },
            letters: self.aside.letters.finish()?,
            filtered: std::mem::take(&mut self.aside.filtered),
        };
        self.bytes = self.judged.iter().map(|held| held.rows.get_array_memory_size() + held.records.bytes()).sum();
        Ok(decoded)
    }

    /// The rest of the epoch, judged under its own clock: what is still too far ahead is a dead letter.
    ///
    /// # Errors
    /// As [`Decoder::take`].
    pub fn close(&mut self, clock: WallTime) -> Result<Decoded> {
        let mut decoded = self.take(clock)?;
        let name = self.judge.time().and_then(|time| self.field_names.get(time.column));
        for held in std::mem::take(&mut self.judged) {
            for id in &held.ids {
                let record = held.records.record(*id);
                let key_groups = self.judge.key_groups();
                self.aside.letters.push(&record, key_groups, reason::TOO_FAR_IN_FUTURE, name.map(String::as_str));
            }
        }
        self.aside.filtered_times.clear();
        self.bytes = 0;
        if let Some(late) = self.aside.letters.finish()? {
            let letters = decoded.payload.letters.iter().chain([&late]);
            decoded.payload.letters = Some(concat_batches(&late.schema(), letters)?);
        }
        Ok(decoded)
    }

    fn try_push(&mut self, record: RawRecord<'_>) -> Result<()> {
        match self.read(&record) {
            Ok(text) if record.value.is_some() => {
                self.columns.push(&self.row, text)?;
                self.records.push(&record);
                if self.columns.len() >= CHUNK_ROWS || self.records.bytes() >= CHUNK_BYTES {
                    self.judge_records()?;
                }
            }
            Ok(text) => {
                self.tombstone_columns.push(&self.row, text)?;
                self.tombstones.push(&record);
                if self.tombstone_columns.len() >= CHUNK_ROWS {
                    self.judge_tombstones()?;
                }
            }
            Err(Fault { reason, field }) => {
                let name = field.and_then(|field| self.field_names.get(field));
                self.aside.letters.push(&record, self.judge.key_groups(), reason, name.map(String::as_str));
            }
        }
        Ok(())
    }

    fn read<'a>(&mut self, record: &RawRecord<'a>) -> Result<&'a str, Fault> {
        match (record.value, &mut self.values) {
            (Some(value), _) if value.len() > self.max_record => Err(Fault::record(reason::TOO_LARGE)),
            (Some(value), Values::Kafka { values, .. }) => values.read(value, &mut self.row),
            (Some(value), Values::Files(files)) => files.read(record.key, value, &mut self.row),
            (None, Values::Kafka { tombstones: Some(keys), .. }) => keys.read(record.key, &mut self.row),
            (None, _) => Err(Fault::record(reason::NO_VALUE)),
        }
    }

    fn judge_records(&mut self) -> Result<()> {
        if self.columns.len() > 0 {
            let (batch, records) = (self.columns.finish()?, self.records.hand_over());
            let judged = self.judge.records(batch, records, &mut self.aside)?;
            self.judged.extend((!judged.ids.is_empty()).then_some(judged));
        }
        Ok(())
    }

    fn judge_tombstones(&mut self) -> Result<()> {
        if self.tombstone_columns.len() > 0 {
            let (batch, records) = (self.tombstone_columns.finish()?, std::mem::take(&mut self.tombstones));
            let judged = self.judge.tombstones(batch, records, &mut self.aside)?;
            self.judged.extend((!judged.ids.is_empty()).then_some(judged));
        }
        Ok(())
    }

    /// Hands out the rows that may pass under `clock` and keeps the others.
    fn release(&mut self, clock: WallTime, greatest: &mut BTreeMap<SplitId, EventTime>) -> Result<Vec<RecordBatch>> {
        let judged = std::mem::take(&mut self.judged);
        let Some(time) = self.judge.time() else { return Ok(judged.into_iter().map(|judged| judged.rows).collect()) };
        let (limit, at) = (clock.0.saturating_add(time.max_future), META_COLUMNS + time.column);
        let mut released = Vec::new();
        for Judged { mut rows, mut ids, records } in judged {
            let times = event_times(&rows, at)?;
            let ahead: BooleanArray =
                (0..times.len()).map(|row| Some(times.is_valid(row) && times.value(row) > limit)).collect();
            if ahead.true_count() > 0 {
                let now = filter_record_batch(&rows, &not(&ahead)?)?;
                rows = filter_record_batch(&rows, &ahead)?;
                let mut row = 0..;
                ids.retain(|_| row.next().is_some_and(|row| ahead.value(row)));
                self.judged.push(Judged { rows, ids, records });
                rows = now;
            }
            raise(greatest, &rows, at)?;
            released.extend((rows.num_rows() > 0).then_some(rows));
        }
        self.aside.filtered_times.retain(|(split, time)| {
            let passes = time.0 <= limit;
            if passes {
                let greatest = greatest.entry(*split).or_insert(*time);
                *greatest = (*greatest).max(*time);
            }
            !passes
        });
        Ok(released)
    }
}

fn raise(greatest: &mut BTreeMap<SplitId, EventTime>, rows: &RecordBatch, at: usize) -> Result<()> {
    let times = event_times(rows, at)?;
    // Records come in runs of one split.
    let mut run: Option<(SplitId, EventTime)> = None;
    let mut end = |run: Option<(SplitId, EventTime)>| {
        if let Some((split, time)) = run {
            let greatest = greatest.entry(split).or_insert(time);
            *greatest = (*greatest).max(time);
        }
    };
    for (row, split) in splits(rows)?.values().iter().enumerate().filter(|(row, _)| times.is_valid(*row)) {
        let time = EventTime(times.value(row));
        run = match run {
            Some((SplitId(same), most)) if same == *split => Some((SplitId(same), most.max(time))),
            other => {
                end(other);
                Some((SplitId(*split), time))
            }
        };
    }
    end(run);
    Ok(())
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
