//! What a host does with an epoch of its key groups: dedup against their state, then the rows for every target.
//!
//! A pure function of the state, the rows, and the watermark; no clock, and the order in which payloads came means nothing.

mod dedup;
mod forward;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, new_empty_array};
use arrow::compute::{filter_record_batch, take, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use pulso_core::ids::{Epoch, EventTime, KeyGroup, Stage};
use pulso_core::message::Counters;
use pulso_job::{JobSpec, RowsFrom, TargetIndex};

use self::dedup::{CountersOf, Dedup, Part, Scratch};
use self::forward::Forward;
use self::rows::{Rows, gather, sorted, without};
use crate::aggregate::{Aggregate, Aggregated, Input, Now};
use crate::batch::{META_COLUMNS, Payload, SinkRows, TargetRows, column, key_groups};
use crate::error::{DataflowError, Result};
use crate::key::all_nullable;
use crate::sink::{SinkPlan, Step};
use crate::state::States;

/// The keyed work of one stage of a job.
///
/// The first stage takes what sources send; aggregates that group by other columns than the routing key get their rows from
/// it, over an exchange of their own, in the second.
#[derive(Debug)]
pub struct KeyedStage {
    dedup: Option<Dedup>,
    aggregates: Vec<(usize, Aggregate)>,
    /// Of the first stage: what goes on to the second.
    forward: Vec<Forward>,
    is_first: bool,
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
    /// Rows for the second stage.
    pub forward: Payload,
}

/// Rows that go to the sinks of one feed, in the order in which they hold.
struct Emitted {
    from: RowsFrom,
    batch: RecordBatch,
    steps: Vec<Step>,
    key_groups: Vec<KeyGroup>,
}

/// Records of an epoch, as their stage sees them.
struct Records {
    /// The job's columns.
    batch: RecordBatch,
    steps: Vec<Step>,
    key_groups: Vec<KeyGroup>,
    /// Their broker timestamps, if the second stage gets them.
    timestamps: ArrayRef,
    samples_ms: Vec<i64>,
}

impl KeyedStage {
    /// # Errors
    /// Where the job's check let something pass that cannot be executed.
    pub fn new(job: Arc<JobSpec>, stage: Stage) -> Result<Self> {
        let is_first = stage == Stage(0);
        let schema = all_nullable(&job.schema());
        let all = || job.aggregates.iter().enumerate();
        let aggregates = all().filter(|(_, spec)| spec.own_stage != is_first);
        let aggregates: Vec<(usize, Aggregate)> =
            aggregates.map(|(at, spec)| Ok((at, Aggregate::new(&job, spec)?))).collect::<Result<_>>()?;
        let feeds = |from: RowsFrom| match from {
            RowsFrom::Records => is_first,
            RowsFrom::Late => !aggregates.is_empty(),
            RowsFrom::Aggregate(index) => aggregates.iter().any(|(at, _)| *at == index),
        };
        let forward = all().filter(|(_, spec)| spec.own_stage && is_first);
        Ok(Self {
            dedup: Dedup::new(&job)?.filter(|_| is_first),
            sinks: SinkPlan::of(&job, feeds)?,
            forward: forward.map(|(at, spec)| Forward::new(&job, at, spec)).collect::<Result<_>>()?,
            aggregates,
            is_first,
            dead_letter: job.dead_letter.target,
            schema,
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
        let now = Now { epoch, watermark };
        if self.is_first {
            self.records(states, now, rows, skip, muted, &mut processed)?;
        } else {
            self.forwarded(states, now, rows, skip, muted, &mut processed)?;
        }
        self.write_letters(letters, muted, &mut processed)?;
        Ok(processed)
    }

    /// What sources sent.
    fn records(
        &self,
        states: &mut dyn States,
        now: Now,
        rows: Option<RecordBatch>,
        skip: &BTreeSet<KeyGroup>,
        muted: &BTreeMap<TargetIndex, BTreeSet<KeyGroup>>,
        processed: &mut Processed,
    ) -> Result<()> {
        let records = match rows {
            Some(rows) => self.apply(states, now, &rows, &mut processed.counters)?,
            // Windows close without rows too.
            None if self.aggregates.is_empty() => return Ok(()),
            None => Records::none(&self.schema),
        };
        let mut feeds = Vec::new();
        let hosted = self.closing(states, skip);
        for (index, aggregate) in &self.aggregates {
            feeds.extend(run((*index, aggregate), states, now, &hosted, &records, &mut processed.counters)?);
        }
        processed.forward = Payload { rows: forward::all(&self.forward, &records)?, ..Payload::default() };
        let Records { batch, steps, key_groups, samples_ms, .. } = records;
        feeds.push(Emitted { from: RowsFrom::Records, batch, steps, key_groups });
        self.write(&feeds, &samples_ms, muted, processed)
    }

    /// What the first stage sent.
    fn forwarded(
        &self,
        states: &mut dyn States,
        now: Now,
        rows: Option<RecordBatch>,
        skip: &BTreeSet<KeyGroup>,
        muted: &BTreeMap<TargetIndex, BTreeSet<KeyGroup>>,
        processed: &mut Processed,
    ) -> Result<()> {
        let hosted = self.closing(states, skip);
        let (mut feeds, mut samples_ms) = (Vec::new(), Vec::new());
        for (index, aggregate) in &self.aggregates {
            let records = match &rows {
                Some(rows) => forward::received(rows, *index, &self.schema)?,
                None => Records::none(&self.schema),
            };
            feeds.extend(run((*index, aggregate), states, now, &hosted, &records, &mut processed.counters)?);
            samples_ms.extend(records.samples_ms);
        }
        self.write(&feeds, &samples_ms, muted, processed)
    }

    /// Key groups in which windows may close.
    fn closing(&self, states: &dyn States, skip: &BTreeSet<KeyGroup>) -> Vec<KeyGroup> {
        if self.aggregates.is_empty() {
            return Vec::new();
        }
        states.hosted().into_iter().filter(|id| !skip.contains(id)).collect()
    }

    /// The rows in the order in which they hold, and what each did to its key.
    fn apply(
        &self,
        states: &mut dyn States,
        Now { epoch, watermark }: Now,
        batch: &RecordBatch,
        counters: &mut CountersOf,
    ) -> Result<Records> {
        let rows = Rows::new(batch)?;
        let mut indices = Vec::with_capacity(batch.num_rows());
        let (mut steps, mut owners) = (Vec::with_capacity(batch.num_rows()), Vec::with_capacity(batch.num_rows()));
        let part = |dedup: &Dedup| -> Result<Part<'_>> {
            Ok(Part { epoch, watermark, rows: &rows, columns: dedup.columns(batch)? })
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
        let indices = UInt32Array::from(indices);
        let job = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns()[META_COLUMNS..].to_vec())?;
        Ok(Records {
            batch: take_record_batch(&job, &indices)?,
            steps,
            key_groups: owners,
            timestamps: match self.forward.as_slice() {
                [] => new_empty_array(&DataType::Int64),
                _ => take(batch.column(column::TIMESTAMP), &indices, None)?,
            },
            samples_ms: rows.samples(),
        })
    }

    fn write(
        &self,
        feeds: &[Emitted],
        samples_ms: &[i64],
        muted: &BTreeMap<TargetIndex, BTreeSet<KeyGroup>>,
        processed: &mut Processed,
    ) -> Result<()> {
        let targets: BTreeSet<TargetIndex> = self.sinks.iter().map(|sink| sink.target).collect();
        for target in targets {
            let mut output = TargetRows { samples_ms: samples_ms.to_vec(), ..TargetRows::default() };
            for sink in self.sinks.iter().filter(|sink| sink.target == target) {
                let mine = feeds.iter().filter(|feed| feed.from == sink.from && !feed.steps.is_empty());
                for Emitted { batch, steps, key_groups, .. } in mine {
                    output.sinks.extend(sink.rows(batch, steps, key_groups)?);
                }
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

/// Rows of the aggregate's result, and the records that came too late for it: they are counted.
fn run(
    (index, aggregate): (usize, &Aggregate),
    states: &mut dyn States,
    now: Now,
    hosted: &[KeyGroup],
    records: &Records,
    counters: &mut CountersOf,
) -> Result<[Emitted; 2]> {
    let Records { batch, steps, key_groups, .. } = records;
    let aggregated = aggregate.run(states, now, hosted, &Input { batch, steps, key_groups })?;
    let Aggregated { batch: result, steps: changes, key_groups: owners, late } = aggregated;
    let result = Emitted { from: RowsFrom::Aggregate(index), batch: result, steps: changes, key_groups: owners };
    let of = |row: &u32| *row as usize;
    late.iter().for_each(|row| counters.entry(key_groups[of(row)]).or_default().late += 1);
    let late = Emitted {
        from: RowsFrom::Late,
        steps: late.iter().map(|row| steps[of(row)]).collect(),
        key_groups: late.iter().map(|row| key_groups[of(row)]).collect(),
        batch: take_record_batch(batch, &UInt32Array::from(late))?,
    };
    Ok([result, late])
}

impl Records {
    fn none(schema: &SchemaRef) -> Self {
        Self {
            batch: RecordBatch::new_empty(Arc::clone(schema)),
            steps: Vec::new(),
            key_groups: Vec::new(),
            timestamps: new_empty_array(&DataType::Int64),
            samples_ms: Vec::new(),
        }
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
