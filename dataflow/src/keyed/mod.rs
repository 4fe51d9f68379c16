//! What a host does with an epoch of its key groups: dedup against their state, then the rows for every target.
//!
//! A pure function of the state, the rows, and the watermark; no clock, and the order in which payloads came means nothing.

mod dedup;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use pulso_core::ids::{Epoch, EventTime, KeyGroup};
use pulso_core::message::Counters;
use pulso_job::{JobSpec, RowsFrom, TargetIndex};

use self::dedup::{CountersOf, Dedup, Part, Scratch};
use self::rows::{Rows, gather, sorted, without};
use crate::batch::{META_COLUMNS, Payload, SinkRows, TargetRows, key_groups};
use crate::error::{DataflowError, Result};
use crate::sink::{SinkPlan, Step};
use crate::state::States;

/// The keyed work of a job.
#[derive(Debug)]
pub struct KeyedStage {
    dedup: Option<Dedup>,
    sinks: Vec<SinkPlan>,
    dead_letter: TargetIndex,
    /// The job's columns, all nullable.
    schema: SchemaRef,
}

/// What an epoch came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Processed {
    /// Targets that get something, and the key groups that have rows or dead letters for each.
    pub outputs: BTreeMap<TargetIndex, (TargetRows, BTreeSet<KeyGroup>)>,
    /// Per target the muted key groups that would have had rows or dead letters: its ledger names this epoch for them.
    pub muted: BTreeMap<TargetIndex, BTreeSet<KeyGroup>>,
    /// Per key group what became of its records; `total()` is their number.
    pub counters: BTreeMap<KeyGroup, Counters>,
}

/// Rows that go to the sinks, in the order in which they hold.
struct Emitted {
    /// The job's columns.
    batch: RecordBatch,
    steps: Vec<Step>,
    key_groups: Vec<KeyGroup>,
    samples_ms: Vec<i64>,
}

impl KeyedStage {
    /// # Errors
    /// Where the job's check let something pass that cannot be executed.
    pub fn new(job: Arc<JobSpec>) -> Result<Self> {
        let nullable = |f: &Arc<Field>| Field::new(f.name(), f.data_type().clone(), true);
        Ok(Self {
            dedup: Dedup::new(&job)?,
            sinks: SinkPlan::of(&job, |from| from == RowsFrom::Records)?,
            dead_letter: job.dead_letter.target,
            schema: Arc::new(Schema::new(job.schema().fields().iter().map(nullable).collect::<Vec<_>>())),
        })
    }

    /// Processes a whole epoch of all key groups that `states` hosts.
    ///
    /// Key groups of `skip` have the epoch already: their records are ignored. Key groups of `muted[target]` have it
    /// committed there: their state changes, but that target gets nothing of them.
    ///
    /// # Errors
    /// [`DataflowError`]s are no record's fault. The state may then hold a part of the epoch: take it back.
    pub fn process(
        &self,
        states: &mut dyn States,
        epoch: Epoch,
        watermark: EventTime,
        payloads: Vec<Payload>,
        skip: &BTreeSet<KeyGroup>,
        muted: &BTreeMap<TargetIndex, BTreeSet<KeyGroup>>,
    ) -> Result<Processed> {
        let mut processed = Processed::default();
        for (key_group, count) in payloads.iter().flat_map(|payload| &payload.filtered) {
            if !skip.contains(key_group) {
                processed.counters.entry(*key_group).or_default().filtered += count;
            }
        }
        let letters = gather(payloads.iter().filter_map(|payload| payload.letters.as_ref()), skip)?;
        if let Some(letters) = &letters {
            for key_group in key_groups(letters)?.values() {
                processed.counters.entry(KeyGroup(*key_group)).or_default().dead_letters += 1;
            }
        }
        let rows = gather(payloads.iter().filter_map(|payload| payload.rows.as_ref()), skip)?;
        drop(payloads);
        if let Some(rows) = rows {
            let emitted = self.emit(states, epoch, watermark, rows, &mut processed.counters)?;
            self.write(&emitted, muted, &mut processed)?;
        }
        self.write_letters(letters, muted, &mut processed)?;
        Ok(processed)
    }

    fn emit(
        &self,
        states: &mut dyn States,
        epoch: Epoch,
        watermark: EventTime,
        batch: RecordBatch,
        counters: &mut CountersOf,
    ) -> Result<Emitted> {
        let rows = Rows::new(&batch)?;
        let mut indices = Vec::with_capacity(batch.num_rows());
        let (mut steps, mut owners) = (Vec::with_capacity(batch.num_rows()), Vec::with_capacity(batch.num_rows()));
        let part = |dedup: &Dedup| -> Result<Part<'_>> {
            Ok(Part { epoch, watermark, rows: &rows, columns: dedup.columns(&batch)? })
        };
        let part = self.dedup.as_ref().map(part).transpose()?;
        let (mut scratch, mut emitted) = (Scratch::default(), Vec::new());
        for (key_group, order) in rows.by_key_group() {
            emitted.clear();
            let counted = match (&self.dedup, &part) {
                (Some(dedup), Some(part)) => {
                    let state = states
                        .state(key_group)
                        .ok_or_else(|| DataflowError::State(format!("key group {key_group} is not hosted here")))?;
                    dedup.run(state, part, &order, &mut scratch, &mut emitted)?
                }
                _ => dedup::without(&rows, &order, &mut emitted),
            };
            counters.entry(key_group).or_default().add(&counted);
            indices.extend(emitted.iter().map(|(row, _)| *row));
            steps.extend(emitted.iter().map(|(_, step)| *step));
            owners.resize(indices.len(), key_group);
        }
        let job = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns()[META_COLUMNS..].to_vec())?;
        let batch = take_record_batch(&job, &UInt32Array::from(indices))?;
        Ok(Emitted { batch, steps, key_groups: owners, samples_ms: rows.samples() })
    }

    fn write(
        &self,
        emitted: &Emitted,
        muted: &BTreeMap<TargetIndex, BTreeSet<KeyGroup>>,
        processed: &mut Processed,
    ) -> Result<()> {
        let targets: BTreeSet<TargetIndex> = self.sinks.iter().map(|sink| sink.target).collect();
        for target in targets {
            let mut output = TargetRows { samples_ms: emitted.samples_ms.clone(), ..TargetRows::default() };
            for sink in self.sinks.iter().filter(|sink| sink.target == target) {
                output.sinks.extend(sink.rows(&emitted.batch, &emitted.steps, &emitted.key_groups)?);
            }
            if let Some(muted) = muted.get(&target) {
                processed.mute(target, output.sinks.iter().flat_map(|sink| sink.key_groups.iter().copied()), muted);
                output.sinks = output.sinks.into_iter().map(|sink| heard(sink, muted)).collect::<Result<_>>()?;
                output.sinks.retain(|sink| !sink.changes.is_empty());
            }
            if !output.is_empty() {
                let with_rows = output.sinks.iter().flat_map(|sink| sink.key_groups.iter().copied()).collect();
                processed.outputs.insert(target, (output, with_rows));
            }
        }
        Ok(())
    }

    fn write_letters(
        &self,
        letters: Option<RecordBatch>,
        muted: &BTreeMap<TargetIndex, BTreeSet<KeyGroup>>,
        processed: &mut Processed,
    ) -> Result<()> {
        let Some(letters) = letters else { return Ok(()) };
        let heard = match muted.get(&self.dead_letter) {
            Some(muted) => {
                processed.mute(self.dead_letter, key_groups(&letters)?.values().iter().map(|k| KeyGroup(*k)), muted);
                without(&letters, muted)?
            }
            None => letters,
        };
        if heard.num_rows() == 0 {
            return Ok(());
        }
        let (output, with_rows) = processed.outputs.entry(self.dead_letter).or_default();
        with_rows.extend(key_groups(&heard)?.values().iter().map(|key_group| KeyGroup(*key_group)));
        output.letters = Some(sorted(&heard)?);
        Ok(())
    }
}

impl Processed {
    fn mute(&mut self, target: TargetIndex, made: impl Iterator<Item = KeyGroup>, muted: &BTreeSet<KeyGroup>) {
        let silent: BTreeSet<KeyGroup> = made.filter(|key_group| muted.contains(key_group)).collect();
        if !silent.is_empty() {
            self.muted.entry(target).or_default().extend(silent);
        }
    }
}

/// The rows of key groups that are not muted.
fn heard(sink: SinkRows, muted: &BTreeSet<KeyGroup>) -> Result<SinkRows> {
    let heard = |key_group: &KeyGroup| !muted.contains(key_group);
    if sink.key_groups.iter().all(heard) {
        return Ok(sink);
    }
    let mask = sink.key_groups.iter().map(|key_group| Some(heard(key_group))).collect();
    let changes = sink.changes.iter().zip(sink.key_groups.iter()).filter(|(_, k)| heard(k)).map(|(c, _)| *c).collect();
    Ok(SinkRows {
        sink: sink.sink,
        batch: filter_record_batch(&sink.batch, &mask)?,
        changes,
        key_groups: sink.key_groups.iter().copied().filter(heard).collect(),
    })
}

#[cfg(test)]
mod tests;
