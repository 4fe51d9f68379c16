//! Aggregates over event-time windows: rows of an epoch in, changed rows of the result out.
//!
//! A pure function of the state, the rows and the watermark. Where records can be corrected or deleted, a window keeps
//! what its rows gave to the functions, by the dedup key of each, and is computed anew from that when one changes: taking
//! a value out of a maximum is not possible otherwise.

mod due;
mod fold;
mod plan;
mod session;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use pulso_core::ids::{Epoch, EventTime, KeyGroup};
use pulso_expr::{Aggregation, Expression};
use pulso_job::{AggregateSpec, ColumnIndex, Emit, JobSpec, WindowSpec};
use xxhash_rust::xxh3::xxh3_128;

use self::due::WindowOf;
use self::store::Keys;
pub(crate) use self::store::absent_from;
use crate::decode::event_times;
use crate::error::{DataflowError, Result};
use crate::evaluate::{compile, condition, evaluate};
use crate::key::{self, KeyColumns};
use crate::sink::Step;
use crate::state::States;

/// One `[[aggregate]]`.
pub(crate) struct Aggregate {
    name: String,
    keys: Keys,
    group_by: Vec<ColumnIndex>,
    windows: Windows,
    emit: Emit,
    /// Windows are closed by a timer, and not only forgotten.
    has_timers: bool,
    /// Microseconds.
    lateness: i64,
    condition: Option<Expression>,
    time: ColumnIndex,
    /// Columns that tell records apart, where a record can be corrected or deleted.
    identity: Option<Vec<ColumnIndex>>,
    aggregation: Aggregation,
    arguments: RowConverter,
    states: RowConverter,
    results: RowConverter,
    /// All nullable: of a row that goes away only the group and the window are there.
    result: SchemaRef,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Windows {
    Sliding { size: i64, slide: i64 },
    Sessions { gap: i64 },
}

/// What a row does to its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    /// Another row of the same record may be in there.
    Replace,
    Remove,
}

/// An epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) epoch: Epoch,
    pub(crate) watermark: EventTime,
}

/// Rows of an epoch, in canonical order.
pub(crate) struct Input<'a> {
    /// The job's columns.
    pub(crate) batch: &'a RecordBatch,
    pub(crate) steps: &'a [Step],
    pub(crate) key_groups: &'a [KeyGroup],
}

/// What an aggregate made of an epoch.
#[derive(Debug)]
pub(crate) struct Aggregated {
    /// Rows of the result, in the order in which they hold.
    pub(crate) batch: RecordBatch,
    pub(crate) steps: Vec<Step>,
    pub(crate) key_groups: Vec<KeyGroup>,
    /// Rows of the input that came too late for all their windows.
    pub(crate) late: Vec<u32>,
}

/// A row of the result.
#[derive(Debug)]
struct Shown {
    at: WindowOf,
    end: i64,
    step: Step,
    /// Its place in the results; of none where it goes away.
    result: Option<u32>,
}

/// Rows of the input with what is needed of each.
struct Prepared<'a> {
    key_groups: &'a [KeyGroup],
    times: &'a TimestampMicrosecondArray,
    groups: KeyColumns<'a>,
    /// `None`: the row is nothing to this aggregate.
    ops: Vec<Option<Op>>,
    /// Arguments of the functions. Those of a row that is not added mean nothing.
    values: Vec<ArrayRef>,
    /// The dedup keys of the rows and their arguments as they are kept, where records can be corrected or deleted.
    ids: Vec<u128>,
    arguments: Option<Rows>,
}

impl Aggregate {
    pub(crate) fn new(job: &JobSpec, spec: &AggregateSpec) -> Result<Self> {
        let Some(time) = &job.time else {
            return Err(DataflowError::Invalid("an aggregate without [time]".to_owned()));
        };
        let schema = job.schema();
        let columns: Vec<&str> = spec.columns.iter().map(|column| column.value.sql.as_str()).collect();
        let aggregation = Aggregation::compile(&columns, &schema).map_err(|(at, error)| DataflowError::Expression {
            place: format!("{}.{}", spec.name, spec.columns.get(at).map_or("", |column| &column.name)),
            message: error.to_string(),
        })?;
        let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let identity = job.dedup.as_ref().filter(|_| job.corrects() || job.deletes()).map(|dedup| dedup.key.clone());
        let failed = |e: pulso_expr::ExpressionError| failure(&spec.name, &e);
        Ok(Self {
            keys: Keys(spec.state),
            group_by: spec.group_by.clone(),
            windows: match spec.window {
                WindowSpec::Sliding { size, slide } => Windows::Sliding { size: micros(size), slide: micros(slide) },
                WindowSpec::Session { gap } => Windows::Sessions { gap: micros(gap) },
            },
            emit: spec.emit,
            has_timers: spec.closes(),
            lateness: micros(time.lateness),
            condition: condition_of(spec, &schema)?,
            time: time.field,
            identity,
            arguments: converter(aggregation.argument_types())?,
            states: converter(aggregation.state_types().map_err(failed)?)?,
            results: converter(aggregation.data_types().cloned().collect())?,
            result: key::all_nullable(&spec.result(&schema)),
            name: spec.name.clone(),
            aggregation,
        })
    }

    /// Works through the rows of an epoch, and closes the windows of `hosted` that are due.
    pub(crate) fn run(
        &self,
        states: &mut dyn States,
        now: Now,
        hosted: &[KeyGroup],
        input: &Input<'_>,
    ) -> Result<Aggregated> {
        let mut made = fold::Made::default();
        let rows = self.prepare(input)?;
        let mut late = Vec::new();
        let changing = match self.windows {
            Windows::Sliding { size, slide } => self.sliding(states, now, &rows, (size, slide), &mut late)?,
            Windows::Sessions { gap } => self.sessions(states, now, &rows, gap, &mut late)?,
        };
        self.change(states, now, &rows, changing, &mut made)?;
        // At the end: a delete may cut a session so short that the watermark has passed it, and no other epoch need follow.
        if self.has_timers && now.watermark > EventTime::MIN {
            self.close_due(states, now, hosted, &mut made)?;
        }
        self.aggregated(made, late)
    }

    /// Columns of the job that it reads.
    pub(crate) fn needed(&self) -> BTreeSet<ColumnIndex> {
        let expressions = self.aggregation.arguments().chain(&self.condition);
        let read = expressions.flat_map(|expression| expression.columns().iter().copied());
        let keys = self.group_by.iter().chain(self.identity.iter().flatten()).copied();
        read.chain(keys).chain([self.time]).collect()
    }

    pub(crate) fn into_condition(self) -> Option<Expression> {
        self.condition
    }

    fn prepare<'a>(&self, input: &'a Input<'_>) -> Result<Prepared<'a>> {
        let batch = input.batch;
        let wanted = self.condition.as_ref().map(|wanted| condition(wanted, batch)).transpose()?;
        let op = |(row, step): (usize, &Step)| {
            let wanted = wanted.as_ref().is_none_or(|(mask, _)| mask.value(row));
            match (step, wanted) {
                (Step::New | Step::Again | Step::Unknown, true) => Some(Op::Add),
                (Step::New | Step::Again | Step::Unknown, false) => None,
                (Step::Corrected, true) => Some(Op::Replace),
                (Step::Corrected, false) | (Step::Deleted, _) => Some(Op::Remove),
            }
        };
        let ops: Vec<Option<Op>> = input.steps.iter().enumerate().map(op).collect();
        let values = self.evaluate(batch, &ops)?;
        let kept = self.identity.as_ref().map(|_| self.arguments.convert_columns(&values));
        let mut scratch = Vec::new();
        let ids = match &self.identity {
            Some(identity) => {
                let identity = KeyColumns::new(batch, identity.iter().copied())?;
                let id = |row: usize| {
                    scratch.clear();
                    identity.encode(row, &mut scratch);
                    xxh3_128(&scratch)
                };
                (0..batch.num_rows()).map(id).collect()
            }
            None => Vec::new(),
        };
        Ok(Prepared {
            key_groups: input.key_groups,
            times: event_times(batch, self.time)?,
            groups: KeyColumns::new(batch, self.group_by.iter().copied())?,
            arguments: kept.transpose()?,
            values,
            ops,
            ids,
        })
    }

    /// The arguments of all rows. A source kept out the rows for which one fails, if it counts at all.
    fn evaluate(&self, batch: &RecordBatch, ops: &[Option<Op>]) -> Result<Vec<ArrayRef>> {
        let values = self.aggregation.arguments().map(|argument| {
            let evaluated = evaluate(argument, batch)?;
            if evaluated.failed.iter().any(|row| matches!(ops[*row], Some(Op::Add | Op::Replace))) {
                let message = "fails for a row that passed at the source".to_owned();
                return Err(DataflowError::Expression { place: self.name.clone(), message });
            }
            Ok(evaluated.values)
        });
        values.collect()
    }

    /// Rows of `batch` (columns of the job) for which an expression fails: they are no rows of the job.
    pub(crate) fn failures(&self, batch: &RecordBatch) -> Result<Vec<(usize, String)>> {
        let mut failures = Vec::new();
        let mut counts = vec![true; batch.num_rows()];
        if let Some(wanted) = &self.condition {
            let (mask, failed) = condition(wanted, batch)?;
            counts = (0..batch.num_rows()).map(|row| mask.value(row)).collect();
            failures.extend(failed.into_iter().map(|row| (row, format!("{}.where", self.name))));
        }
        for argument in self.aggregation.arguments() {
            let failed = evaluate(argument, batch)?.failed;
            failures.extend(failed.into_iter().filter(|row| counts[*row]).map(|row| (row, self.name.clone())));
        }
        Ok(failures)
    }

    fn aggregated(&self, made: fold::Made, late: Vec<u32>) -> Result<Aggregated> {
        let fold::Made { shown, results } = made;
        let encoded: Vec<&[u8]> = shown.iter().map(|row| row.at.group.as_slice()).collect();
        let types: Vec<&DataType> =
            self.result.fields().iter().take(self.group_by.len()).map(|field| field.data_type()).collect();
        let mut columns = key::columns(&encoded, &types)?;
        let starts = shown.iter().map(|row| row.at.start);
        let utc = |times: TimestampMicrosecondArray| -> ArrayRef { Arc::new(times.with_timezone("UTC")) };
        columns.push(utc(TimestampMicrosecondArray::from_iter_values(starts)));
        columns.push(utc(TimestampMicrosecondArray::from_iter_values(shown.iter().map(|row| row.end))));
        let places: UInt32Array = shown.iter().map(|row| row.result).collect();
        let first = columns.len();
        for (at, field) in self.result.fields().iter().enumerate().skip(first) {
            columns.push(match results.get(at - first) {
                Some(values) => take(values, &places, None)?,
                None => arrow::array::new_null_array(field.data_type(), shown.len()),
            });
        }
        Ok(Aggregated {
            batch: RecordBatch::try_new(Arc::clone(&self.result), columns)?,
            steps: shown.iter().map(|row| row.step).collect(),
            key_groups: shown.iter().map(|row| row.at.key_group).collect(),
            late,
        })
    }
}

impl std::fmt::Debug for Aggregate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aggregate").field("name", &self.name).field("windows", &self.windows).finish_non_exhaustive()
    }
}

fn condition_of(spec: &AggregateSpec, schema: &SchemaRef) -> Result<Option<Expression>> {
    let condition = spec.condition.as_ref();
    condition.map(|condition| compile(&format!("{}.where", spec.name), &condition.sql, schema)).transpose()
}

fn converter(types: Vec<DataType>) -> Result<RowConverter> {
    Ok(RowConverter::new(types.into_iter().map(SortField::new).collect())?)
}

fn failure(name: &str, error: &pulso_expr::ExpressionError) -> DataflowError {
    DataflowError::Expression { place: format!("aggregate {name}"), message: error.to_string() }
}
