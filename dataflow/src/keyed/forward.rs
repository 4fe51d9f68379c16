//! Rows on their way from the first stage to aggregates that group by other columns than the routing key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt8Array, UInt16Array, UInt32Array, new_null_array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef, UInt8Type, UInt16Type, UInt32Type};
use pulso_core::ids::KeyGroup;
use pulso_core::key_group;
use pulso_expr::Expression;
use pulso_job::{AggregateSpec, ColumnIndex, JobSpec, RowsFrom};

use super::Records;
use super::rows::{canonical, known, samples};
use crate::aggregate::Aggregate;
use crate::batch::{column, forwarded_schema, key_groups};
use crate::error::{DataflowError, Result};
use crate::evaluate::condition;
use crate::key::KeyColumns;
use crate::sink::Step;

/// Columns before the job's own in [`forwarded_schema`].
const HEAD: usize = 6;
const STEP: usize = 4;
const AGGREGATE: usize = 5;

/// What goes to one aggregate.
#[derive(Debug)]
pub(super) struct Forward {
    aggregate: u16,
    group_by: Vec<ColumnIndex>,
    condition: Option<Expression>,
    /// The others are sent as nulls.
    needed: BTreeSet<ColumnIndex>,
    key_groups: u16,
    schema: SchemaRef,
}

impl Forward {
    pub(super) fn new(job: &JobSpec, index: usize, spec: &AggregateSpec) -> Result<Self> {
        let aggregate = Aggregate::new(job, spec)?;
        let schema = job.schema();
        let late = job.sinks.iter().any(|sink| sink.from == RowsFrom::Late);
        let needed = if late { (0..schema.fields().len()).collect() } else { aggregate.needed() };
        Ok(Self {
            aggregate: u16::try_from(index).unwrap_or(u16::MAX),
            group_by: spec.group_by.clone(),
            condition: aggregate.into_condition(),
            needed,
            key_groups: job.key_groups,
            schema: forwarded_schema(&schema),
        })
    }

    fn rows(&self, records: &Records, next: &mut BTreeMap<KeyGroup, i64>) -> Result<RecordBatch> {
        let batch = &records.batch;
        let groups = KeyColumns::new(batch, self.group_by.iter().copied())?;
        let mut encoded = Vec::new();
        let group = |row: usize| {
            encoded.clear();
            groups.encode(row, &mut encoded);
            key_group::of_key(&encoded, self.key_groups).0
        };
        let position = |from: &KeyGroup| {
            let next = next.entry(*from).or_default();
            *next += 1;
            *next
        };
        let rows = batch.num_rows();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new((0..rows).map(group).collect::<UInt16Array>()),
            Arc::new(records.key_groups.iter().map(|from| u32::from(from.0)).collect::<UInt32Array>()),
            Arc::new(records.key_groups.iter().map(position).collect::<Int64Array>()),
            Arc::clone(&records.timestamps),
            Arc::new(records.steps.iter().map(|step| code(*step)).collect::<UInt8Array>()),
            Arc::new(UInt16Array::from(vec![self.aggregate; rows])),
        ];
        columns.extend(batch.columns().iter().enumerate().map(|(at, values)| {
            if self.needed.contains(&at) { Arc::clone(values) } else { new_null_array(values.data_type(), rows) }
        }));
        let all = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let Some(wanted) = &self.condition else { return Ok(all) };
        let (mask, _) = condition(wanted, batch)?;
        // A row that counts no more has to be taken out.
        let is_new = |step: &Step| matches!(step, Step::New | Step::Again | Step::Unknown);
        let sent = records.steps.iter().enumerate().map(|(row, step)| Some(!is_new(step) || mask.value(row)));
        Ok(filter_record_batch(&all, &sent.collect())?)
    }
}

/// Rows for all aggregates of the second stage.
pub(super) fn all(forward: &[Forward], records: &Records) -> Result<Option<RecordBatch>> {
    let mut next = BTreeMap::new();
    let batches = forward.iter().map(|forward| forward.rows(records, &mut next)).collect::<Result<Vec<_>>>()?;
    let Some(first) = batches.first() else { return Ok(None) };
    let all = concat_batches(&first.schema(), &batches)?;
    Ok((all.num_rows() > 0).then_some(all))
}

/// The rows for one aggregate, in canonical order.
pub(super) fn received(rows: &RecordBatch, aggregate: usize, schema: &SchemaRef) -> Result<Records> {
    let aggregates = known(rows.column(AGGREGATE).as_primitive_opt::<UInt16Type>())?;
    let mine = aggregates.values().iter().map(|of| Some(usize::from(*of) == aggregate)).collect();
    let rows = filter_record_batch(rows, &mine)?;
    let splits = known(rows.column(column::SPLIT).as_primitive_opt::<UInt32Type>())?;
    let positions = known(rows.column(column::POSITION).as_primitive_opt::<Int64Type>())?;
    let order = canonical(key_groups(&rows)?, splits, positions);
    let owners = order.iter().flat_map(|(owner, rows)| rows.iter().map(|_| *owner)).collect();
    let order: UInt32Array = order.into_iter().flat_map(|(_, rows)| rows).collect();
    let rows = take_record_batch(&rows, &order)?;
    let steps = known(rows.column(STEP).as_primitive_opt::<UInt8Type>())?;
    Ok(Records {
        batch: RecordBatch::try_new(Arc::clone(schema), rows.columns()[HEAD..].to_vec())?,
        steps: steps.values().iter().map(|code| step(*code)).collect::<Result<_>>()?,
        key_groups: owners,
        samples_ms: samples(known(rows.column(column::TIMESTAMP).as_primitive_opt::<Int64Type>())?),
        timestamps: Arc::clone(rows.column(column::TIMESTAMP)),
    })
}

fn code(step: Step) -> u8 {
    match step {
        Step::New => 0,
        Step::Again => 1,
        Step::Unknown => 2,
        Step::Corrected => 3,
        Step::Deleted => 4,
    }
}

fn step(code: u8) -> Result<Step> {
    [Step::New, Step::Again, Step::Unknown, Step::Corrected, Step::Deleted]
        .get(usize::from(code))
        .copied()
        .ok_or_else(|| DataflowError::Corrupt { what: "a forwarded row", reason: format!("step {code} is unknown") })
}
