//! A job inside of this process: lines of text through the real decoder and keyed stage, rows in tables in memory.
//!
//! No server is asked, so what a database would refuse (a constraint, a trigger) is not seen here.

mod feed;
mod table;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use pulso_core::ids::{Epoch, EventTime, KeyGroup, Stage, WallTime};
use pulso_core::message::Counters;
use pulso_dataflow::decode::Decoder;
use pulso_dataflow::keyed::{KeyedStage, Processed};
use pulso_dataflow::lookup::Lookup;
use pulso_dataflow::state::{DiskState, KeyGroupState, States};
use pulso_dataflow::{DataflowError, Payload, Result};
use pulso_job::JobSpec;
use serde::Serialize;

use self::feed::Feed;
pub use self::table::{Row, Table, TableKind};
pub use self::value::{Column, from_json, order, to_json};

/// Nothing is ever taken back here, so one number does for all epochs, and the state keeps one version of each key.
const EPOCH: Epoch = Epoch(1);

/// A record that did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Index of the line that it came in, from 0.
    pub record: usize,
    pub reason: String,
    pub field: Option<String>,
}

/// What the records came to.
#[derive(Debug)]
pub struct Outcome {
    /// One per sink, in file order.
    pub tables: Vec<Table>,
    /// In the order of the records.
    pub dead_letters: Vec<DeadLetter>,
    pub read: u64,
    pub counters: Counters,
}

/// A job that runs here.
pub struct LocalJob {
    decoder: Decoder,
    feed: Feed,
    /// Each feeds the next.
    stages: Vec<(KeyedStage, MemoryStates)>,
    /// Microseconds that the watermark stays behind the greatest event time.
    delay: i64,
    clock: WallTime,
    /// Of the cut before: what the next epoch is processed under.
    watermark: EventTime,
    tables: Vec<Table>,
    dead_letters: Vec<DeadLetter>,
    lines: u64,
    read: u64,
    counters: Counters,
}

impl LocalJob {
    /// `clock`: event times further ahead of it than `max_future` are dead letters.
    ///
    /// # Errors
    /// Where the job's check let something pass that cannot be executed.
    pub fn new(spec: &Arc<JobSpec>, clock: WallTime) -> Result<Self> {
        let delay = spec.time.as_ref().map_or(0, |time| i64::try_from(time.delay.as_micros()).unwrap_or(i64::MAX));
        let stage = |stage: u8| {
            let groups = (0..spec.key_groups).map(|id| (KeyGroup(id), KeyGroupState::default()));
            Ok((KeyedStage::new(Arc::clone(spec), Stage(stage))?, MemoryStates(groups.collect())))
        };
        Ok(Self {
            decoder: Decoder::new(Arc::clone(spec))?,
            feed: Feed::new(spec),
            stages: (0..spec.stages()).map(stage).collect::<Result<_>>()?,
            delay,
            clock,
            watermark: EventTime::MIN,
            tables: table::tables(spec),
            dead_letters: Vec::new(),
            lines: 0,
            read: 0,
            counters: Counters::default(),
        })
    }

    /// Rows of the job's lookups, in file order, before anything is pushed.
    pub fn set_lookups(&mut self, lookups: impl IntoIterator<Item = Arc<Lookup>>) {
        self.decoder.set_lookups(lookups);
    }

    /// What is pushed from here on is of another file: of CSV its first line is the header.
    pub fn next_file(&mut self) {
        self.feed.next_file();
    }

    /// Takes what a line holds into the running epoch: of a topic the value of a record, or `tombstone KEY` for one without;
    /// of files a document, a line, or (the first line of a CSV file) the header.
    pub fn push(&mut self, line: &[u8]) {
        self.read += self.feed.push(line, self.lines, &mut self.decoder);
        self.lines += 1;
    }

    /// Cuts: what was pushed is processed, and the watermark moves on.
    ///
    /// # Errors
    /// No record's fault; the job is not to be used any further.
    pub fn cut(&mut self) -> Result<()> {
        let decoded = self.decoder.close(self.clock)?;
        let reached = decoded.greatest.values().map(|time| EventTime(time.0.saturating_sub(self.delay))).max();
        self.process(decoded.payload)?;
        self.watermark = reached.map_or(self.watermark, |reached| reached.max(self.watermark));
        Ok(())
    }

    /// The last cut, and one without input behind it, under which windows close that the last records have ended.
    ///
    /// # Errors
    /// As [`LocalJob::cut`].
    pub fn finish(mut self) -> Result<Outcome> {
        self.cut()?;
        self.process(Payload::default())?;
        self.dead_letters.sort_by_key(|letter| letter.record);
        for table in &mut self.tables {
            table.sort();
        }
        let Self { tables, dead_letters, read, counters, .. } = self;
        Ok(Outcome { tables, dead_letters, read, counters })
    }

    fn process(&mut self, mut payload: Payload) -> Result<()> {
        let (skip, muted) = (BTreeSet::new(), BTreeMap::new());
        for (stage, states) in &mut self.stages {
            let done: Processed = stage.process(states, EPOCH, self.watermark, vec![payload], &skip, &muted)?;
            payload = done.forward;
            done.counters.values().for_each(|counters| self.counters.add(counters));
            for (rows, _) in done.outputs.into_values() {
                for rows in &rows.sinks {
                    if let Some(table) = self.tables.get_mut(rows.sink) {
                        table.apply(rows)?;
                    }
                }
                if let Some(letters) = &rows.letters {
                    self.dead_letters.extend(dead_letters(letters)?);
                }
            }
        }
        Ok(())
    }
}

fn dead_letters(batch: &RecordBatch) -> Result<Vec<DeadLetter>> {
    let missing = |name: &str| DataflowError::Invalid(format!("dead letters without column {name}"));
    let text = |name: &str| {
        batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()).ok_or_else(|| missing(name))
    };
    let (reasons, fields) = (text("reason")?, text("field")?);
    let positions = batch
        .column_by_name(pulso_dataflow::batch::POSITION)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .ok_or_else(|| missing(pulso_dataflow::batch::POSITION))?;
    let letter = |row: usize| DeadLetter {
        record: usize::try_from(positions.value(row)).unwrap_or(usize::MAX),
        reason: reasons.value(row).to_owned(),
        field: fields.is_valid(row).then(|| fields.value(row).to_owned()),
    };
    Ok((0..batch.num_rows()).map(letter).collect())
}

/// State without a disk behind it.
struct MemoryStates(BTreeMap<KeyGroup, KeyGroupState>);

struct NoDisk;

impl DiskState for NoDisk {
    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        Ok(vec![None; keys.len()])
    }
}

impl States for MemoryStates {
    fn hosted(&self) -> Vec<KeyGroup> {
        self.0.keys().copied().collect()
    }

    fn state(&mut self, key_group: KeyGroup) -> Option<(&mut KeyGroupState, &dyn DiskState)> {
        Some((self.0.get_mut(&key_group)?, &NoDisk as &dyn DiskState))
    }
}

#[cfg(test)]
mod tests;
