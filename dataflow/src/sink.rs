//! From what records did to their keys to the rows of one sink: `where`, `delete_when`, column expressions.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use pulso_core::ids::KeyGroup;
use pulso_expr::Expression;
use pulso_job::{JobSpec, RowsFrom, SinkSpec, SinkTo, SinkValue, TargetIndex, WriteMode};

use crate::batch::{Change, SinkRows};
use crate::error::{DataflowError, Result};
use crate::evaluate::{compile, compile_as, condition, evaluate};

/// What a record did to its key, as far as the state knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The first of its key, or there is no dedup.
    New,
    /// The first after a delete.
    Again,
    /// Older than `keep_for`: the state forgot whether there was one.
    Unknown,
    Corrected,
    Deleted,
}

#[derive(Debug)]
pub(crate) struct SinkPlan {
    index: usize,
    pub(crate) target: TargetIndex,
    pub(crate) from: RowsFrom,
    /// For messages.
    place: String,
    condition: Option<Expression>,
    delete_when: Option<Expression>,
    columns: Vec<Column>,
    schema: SchemaRef,
    mode: Mode,
    /// The sink's key is new where the dedup key is.
    knows_new: bool,
}

#[derive(Debug)]
enum Column {
    Job(usize),
    Expression(String, Expression),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Upsert,
    NewestBy,
    KeepFirst,
    Append,
}

impl SinkPlan {
    /// Those sinks whose feed is wanted.
    pub(crate) fn of(job: &JobSpec, wanted: impl Fn(RowsFrom) -> bool) -> Result<Vec<Self>> {
        let sinks = job.sinks.iter().enumerate().filter(|(_, sink)| wanted(sink.from));
        sinks.map(|(index, sink)| Self::new(job, index, sink)).collect()
    }

    fn new(job: &JobSpec, index: usize, sink: &SinkSpec) -> Result<Self> {
        let schema = job.feed_schema(sink.from);
        let (place, table) = match &sink.to {
            SinkTo::Table(table) => (format!("{}.{}", table.name.0, table.name.1), Some(table)),
            SinkTo::Topic(topic) => (format!("topic {}", topic.topic), None),
            SinkTo::Files(_) => (format!("files of {}", job.targets.get(sink.target).map_or("", |t| &t.name)), None),
        };
        let columns = sink.columns.iter().map(|column| match &column.value {
            SinkValue::Column(at) if schema.fields().get(*at).is_some_and(|f| *f.data_type() == column.data_type) => {
                Ok(Column::Job(*at))
            }
            SinkValue::Column(at) => Err(DataflowError::Invalid(format!("column {} of {place}: {at}", column.name))),
            SinkValue::Expression(value) => {
                let place = format!("{place}.{}", column.name);
                let expression = compile_as(&place, &value.sql, &schema, &column.data_type)?;
                Ok(Column::Expression(place, expression))
            }
        });
        let fields: Vec<Field> =
            sink.columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true)).collect();
        let optional = |sql: &Option<pulso_job::SqlExpression>, what: &str| {
            sql.as_ref().map(|sql| compile(&format!("{place}.{what}"), &sql.sql, &schema)).transpose()
        };
        Ok(Self {
            index,
            target: sink.target,
            from: sink.from,
            condition: optional(&sink.condition, "where")?,
            delete_when: optional(table.map_or(&None, |table| &table.delete_when), "delete_when")?,
            columns: columns.collect::<Result<_>>()?,
            schema: Arc::new(Schema::new(fields)),
            mode: match table.map(|table| &table.write) {
                Some(WriteMode::Upsert { newest_by: None, .. }) => Mode::Upsert,
                Some(WriteMode::Upsert { newest_by: Some(_), .. }) => Mode::NewestBy,
                Some(WriteMode::KeepFirst { .. }) => Mode::KeepFirst,
                Some(WriteMode::Append) | None => Mode::Append,
            },
            knows_new: knows_new(job, sink),
            place,
        })
    }

    /// Rows of `batch` (columns of the job) for which an expression of this sink fails, with the place of the expression.
    /// Sources look for them, so that a record that cannot be written is a dead letter before it changes any state.
    pub(crate) fn failures(&self, batch: &RecordBatch) -> Result<Vec<(usize, String)>> {
        let mut failures = Vec::new();
        let mut wanted: Vec<usize> = (0..batch.num_rows()).collect();
        let mut rows = batch.clone();
        if let Some(expression) = &self.condition {
            let (mask, failed) = condition(expression, batch)?;
            failures.extend(failed.into_iter().map(|row| (row, format!("{}.where", self.place))));
            rows = filter_record_batch(batch, &mask)?;
            wanted.retain(|row| mask.value(*row));
        }
        if let Some(expression) = &self.delete_when {
            let (_, failed) = condition(expression, &rows)?;
            failures.extend(failed.into_iter().map(|row| (wanted[row], format!("{}.delete_when", self.place))));
        }
        for column in &self.columns {
            if let Column::Expression(place, expression) = column {
                let failed = evaluate(expression, &rows)?.failed;
                failures.extend(failed.into_iter().map(|row| (wanted[row], place.clone())));
            }
        }
        Ok(failures)
    }

    /// The rows for this sink, in the order given; `batch` has the columns of the job.
    pub(crate) fn rows(
        &self,
        batch: &RecordBatch,
        steps: &[Step],
        key_groups: &[KeyGroup],
    ) -> Result<Option<SinkRows>> {
        let mut changes: Vec<Option<Change>> = steps.iter().map(|step| self.change(*step)).collect();
        if let Some(expression) = &self.condition {
            let (mask, failed) = condition(expression, batch)?;
            self.must_hold(failed.iter().any(|row| steps[*row] != Step::Deleted), "where")?;
            for (row, change) in changes.iter_mut().enumerate() {
                if steps[row] != Step::Deleted && !mask.value(row) {
                    // What was written under the old values must go.
                    let stale = self.mode == Mode::Upsert && steps[row] == Step::Corrected;
                    *change = stale.then_some(Change::Delete);
                }
            }
        }
        let (batch, mut changes, key_groups) = select(batch, &changes, key_groups)?;
        if changes.is_empty() {
            return Ok(None);
        }
        if let Some(expression) = &self.delete_when {
            let (mask, failed) = condition(expression, &batch)?;
            self.must_hold(failed.iter().any(|row| changes[*row] != Change::Delete), "delete_when")?;
            for (row, change) in changes.iter_mut().enumerate() {
                if mask.value(row) {
                    *change = Change::Delete;
                }
            }
        }
        // Neither deletes: so what would be deleted is no row.
        let keeps = matches!(self.mode, Mode::NewestBy | Mode::KeepFirst);
        let left: Vec<Option<Change>> =
            changes.iter().map(|change| (!keeps || *change != Change::Delete).then_some(*change)).collect();
        let (batch, changes, key_groups) = select(&batch, &left, &key_groups)?;
        if changes.is_empty() {
            return Ok(None);
        }
        let columns = self.columns.iter().map(|column| self.column(column, &batch, &changes)).collect::<Result<_>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        Ok(Some(SinkRows { sink: self.index, batch, changes: changes.into(), key_groups: key_groups.into() }))
    }

    fn change(&self, step: Step) -> Option<Change> {
        let new = if self.knows_new { Change::Insert } else { Change::Correction };
        match (self.mode, step) {
            (Mode::Append, Step::New | Step::Again | Step::Unknown) => Some(Change::Insert),
            (Mode::Append | Mode::Upsert | Mode::NewestBy, Step::Corrected) => Some(Change::Correction),
            (Mode::Append | Mode::Upsert, Step::Deleted) => Some(Change::Delete),
            (Mode::Upsert, Step::New | Step::Again) => Some(new),
            (Mode::NewestBy | Mode::KeepFirst, Step::New) => Some(new),
            // What was deleted is still there.
            (Mode::NewestBy | Mode::KeepFirst, Step::Again) => Some(Change::Correction),
            (Mode::Upsert | Mode::NewestBy | Mode::KeepFirst, Step::Unknown) => Some(Change::Correction),
            (Mode::NewestBy, Step::Deleted) | (Mode::KeepFirst, Step::Corrected | Step::Deleted) => None,
        }
    }

    fn column(&self, column: &Column, batch: &RecordBatch, changes: &[Change]) -> Result<ArrayRef> {
        match column {
            Column::Job(at) => Ok(Arc::clone(batch.column(*at))),
            Column::Expression(_, expression) => {
                // A deleted row has null where its few columns do not suffice.
                let evaluated = evaluate(expression, batch)?;
                self.must_hold(evaluated.failed.iter().any(|row| changes[*row] != Change::Delete), "columns")?;
                Ok(evaluated.values)
            }
        }
    }

    /// [`SinkPlan::failures`] kept out the records for which an expression fails. For a result it may: a condition is then
    /// not true, and a value null.
    fn must_hold(&self, failed: bool, what: &str) -> Result<()> {
        if failed && !matches!(self.from, RowsFrom::Aggregate(_)) {
            let message = "fails for a row that passed at the source".to_owned();
            return Err(DataflowError::Expression { place: format!("{}.{what}", self.place), message });
        }
        Ok(())
    }
}

/// True where a new row of the feed is a new key of the sink: the key holds all that tells rows of the feed apart, or its
/// author promises it.
fn knows_new(job: &JobSpec, sink: &SinkSpec) -> bool {
    let SinkTo::Table(table) = &sink.to else { return false };
    let in_key = |column: usize| {
        table.write.key().iter().any(|key| sink.columns.get(*key).is_some_and(|c| c.value == SinkValue::Column(column)))
    };
    match sink.from {
        RowsFrom::Records => {
            job.dedup.as_ref().is_some_and(|dedup| table.one_to_one || dedup.key.iter().all(|column| in_key(*column)))
        }
        RowsFrom::Aggregate(index) => {
            let aggregate = job.aggregates.get(index);
            aggregate.is_some_and(|a| table.one_to_one || (0..=a.window_start()).all(in_key))
        }
        RowsFrom::Late => false,
    }
}

type Selected = (RecordBatch, Vec<Change>, Vec<KeyGroup>);

fn select(batch: &RecordBatch, changes: &[Option<Change>], key_groups: &[KeyGroup]) -> Result<Selected> {
    if changes.iter().all(Option::is_some) {
        return Ok((batch.clone(), changes.iter().flatten().copied().collect(), key_groups.to_vec()));
    }
    let mask: BooleanArray = changes.iter().map(|change| Some(change.is_some())).collect();
    let kept = changes.iter().zip(key_groups).filter_map(|(change, key_group)| change.map(|c| (c, *key_group)));
    let (changes, key_groups) = kept.unzip();
    Ok((filter_record_batch(batch, &mask)?, changes, key_groups))
}
