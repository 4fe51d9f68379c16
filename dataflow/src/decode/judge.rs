//! What becomes of typed records: event-time check, rules, filter, derived columns, and the key group of those that stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt16Array,
    UInt32Array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use pulso_core::ids::{EventTime, KeyGroup, SplitId};
use pulso_core::key_group;
use pulso_expr::Expression;
use pulso_job::spec::LookupSpec;
use pulso_job::{ColumnIndex, JobSpec, RowsFrom, SourceSpec};

use super::letters::{Letters, Records};
use super::reason;
use crate::aggregate::Aggregate;
use crate::batch::{column, rows_schema};
use crate::error::{DataflowError, Result};
use crate::evaluate::{compile, compile_as, condition, evaluate};
use crate::key::{KeyColumns, all_nullable};
use crate::lookup::{Lookup, Lookups};
use crate::sink::SinkPlan;

pub(crate) struct Judge {
    key_groups: u16,
    time: Option<Time>,
    /// Reason and condition.
    rules: Vec<(String, Expression)>,
    filter: Option<Expression>,
    lookups: Lookups,
    specs: Vec<LookupSpec>,
    derives: Vec<(String, Expression)>,
    /// Neither may be null: the dedup key and the routing key.
    keys: Vec<ColumnIndex>,
    routing_key: Vec<ColumnIndex>,
    sinks: Vec<SinkPlan>,
    aggregates: Vec<Aggregate>,
    schema: SchemaRef,
    rows_schema: SchemaRef,
}

pub(crate) struct Time {
    pub(crate) column: ColumnIndex,
    /// Microseconds.
    pub(crate) max_future: i64,
    /// A record's own timestamp bounds its event time too. Not for files: when one was written last says little of when
    /// it was written first, and copies may keep the times of their originals or not.
    by_record: bool,
}

/// What is not rows and does not wait for a clock.
#[derive(Default)]
pub(crate) struct Aside {
    pub(crate) letters: Letters,
    pub(crate) filtered: BTreeMap<KeyGroup, u64>,
    /// Event times of filtered records: they move the watermark like any good record.
    pub(crate) filtered_times: Vec<(SplitId, EventTime)>,
}

/// Rows that only the epoch's clock may still refuse.
pub(crate) struct Judged {
    /// Columns of a payload's rows.
    pub(crate) rows: RecordBatch,
    /// Per row the record that it came from.
    pub(crate) ids: Vec<u32>,
    pub(crate) records: Records,
}

/// Records under judgement and where each came from.
struct Candidates<'a> {
    batch: RecordBatch,
    ids: Vec<u32>,
    records: &'a Records,
}

impl Candidates<'_> {
    fn retain(&mut self, keep: &BooleanArray) -> Result<()> {
        self.batch = filter_record_batch(&self.batch, keep)?;
        let mut row = 0;
        self.ids.retain(|_| {
            row += 1;
            keep.value(row - 1)
        });
        Ok(())
    }
}

impl Judge {
    pub(crate) fn new(job: &JobSpec) -> Result<Self> {
        let schema = job.schema();
        let fields = job.field_schema();
        let time = job.time.as_ref().map(|time| {
            let max_future = i64::try_from(time.max_future.as_micros()).unwrap_or(i64::MAX);
            let data_type = schema.field(time.field).data_type();
            if matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _)) {
                Ok(Time { column: time.field, max_future, by_record: matches!(job.source, SourceSpec::Kafka(_)) })
            } else {
                Err(DataflowError::Invalid(format!("the field of [time] is {data_type}")))
            }
        });
        let rule = |rule: &pulso_job::RuleSpec| {
            let reason = format!("rule:{}", rule.name);
            compile(&reason, &rule.condition.sql, &fields).map(|condition| (reason, condition))
        };
        let derive = |(at, derive): (usize, &pulso_job::DeriveSpec)| {
            let width = job.first_derived() + at;
            let known = Schema::new(schema.fields().iter().take(width).cloned().collect::<Vec<_>>());
            let value = compile_as(&derive.name, &derive.value.sql, &Arc::new(known), &derive.data_type)?;
            Ok((derive.name.clone(), value))
        };
        let mut keys: Vec<ColumnIndex> = job.routing_key.clone();
        keys.extend(job.dedup.iter().flat_map(|dedup| &dedup.key));
        keys.sort_unstable();
        keys.dedup();
        let all = job.aggregates.iter();
        Ok(Self {
            key_groups: job.key_groups,
            time: time.transpose()?,
            rules: job.rules.iter().map(rule).collect::<Result<_>>()?,
            filter: job.filter.as_ref().map(|sql| compile("filter", &sql.sql, &fields)).transpose()?,
            lookups: job.lookups.iter().map(|_| None).collect(),
            specs: job.lookups.clone(),
            derives: job.derive.iter().enumerate().map(derive).collect::<Result<_>>()?,
            keys,
            routing_key: job.routing_key.clone(),
            sinks: SinkPlan::of(job, |from| !matches!(from, RowsFrom::Aggregate(_)))?,
            aggregates: all.map(|spec| Aggregate::new(job, spec)).collect::<Result<_>>()?,
            rows_schema: rows_schema(&schema),
            schema: all_nullable(&schema),
        })
    }

    /// Rows for the records of the next epoch on, in file order.
    pub(crate) fn set_lookups(&mut self, lookups: impl IntoIterator<Item = Arc<Lookup>>) {
        self.lookups = lookups.into_iter().map(Some).collect();
    }

    pub(crate) fn time(&self) -> Option<&Time> {
        self.time.as_ref()
    }

    pub(crate) fn key_groups(&self) -> u16 {
        self.key_groups
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Judges records of which `batch` holds the fields.
    pub(crate) fn records(&self, batch: RecordBatch, records: Records, aside: &mut Aside) -> Result<Judged> {
        let ids = (0..records.len() as u32).collect();
        let mut found = Candidates { batch, ids, records: &records };
        let time_is_field = self.time.as_ref().is_none_or(|time| time.column < found.batch.num_columns());
        if time_is_field {
            self.check_time(&mut found, true, aside)?;
        }
        for (reason, rule) in &self.rules {
            let (keep, _) = condition(rule, &found.batch)?;
            self.refuse(&mut found, &keep, reason, None, aside)?;
        }
        self.apply_filter(&mut found, time_is_field, aside)?;
        for (spec, lookup) in self.specs.iter().zip(&self.lookups) {
            self.look_up(&mut found, spec, lookup.as_deref(), aside)?;
        }
        for (name, derive) in &self.derives {
            self.derive(&mut found, name, derive, aside)?;
        }
        if !time_is_field {
            self.check_time(&mut found, true, aside)?;
        }
        for column in &self.keys {
            let name = self.schema.field(*column).name();
            let keep = arrow::compute::is_not_null(found.batch.column(*column))?;
            self.refuse(&mut found, &keep, reason::MISSING_FIELD, Some(name), aside)?;
        }
        for sink in &self.sinks {
            let failures = sink.failures(&found.batch)?;
            self.refuse_each(&mut found, failures, aside)?;
        }
        for aggregate in &self.aggregates {
            let failures = aggregate.failures(&found.batch)?;
            self.refuse_each(&mut found, failures, aside)?;
        }
        self.judged(found, false).map(|(rows, ids)| Judged { rows, ids, records })
    }

    /// Judges deletes of which `batch` holds the key, in all columns of the job.
    pub(crate) fn tombstones(&self, batch: RecordBatch, records: Records, aside: &mut Aside) -> Result<Judged> {
        let ids = (0..records.len() as u32).collect();
        let mut found = Candidates { batch, ids, records: &records };
        self.check_time(&mut found, false, aside)?;
        self.judged(found, true).map(|(rows, ids)| Judged { rows, ids, records })
    }

    /// An event time ahead of the record's own broker timestamp is wrong whatever the clock says.
    fn check_time(&self, found: &mut Candidates<'_>, required: bool, aside: &mut Aside) -> Result<()> {
        let Some(time) = &self.time else { return Ok(()) };
        let name = self.schema.field(time.column).name();
        if required {
            let keep = arrow::compute::is_not_null(found.batch.column(time.column))?;
            self.refuse(found, &keep, reason::NO_EVENT_TIME, Some(name), aside)?;
        }
        let times = event_times(&found.batch, time.column)?;
        let plausible = |row: usize, id: u32| {
            let broker = found.records.record(id).timestamp_ms;
            if !time.by_record {
                return true;
            }
            let limit = broker.saturating_mul(1_000).saturating_add(time.max_future);
            times.is_null(row) || broker < 0 || times.value(row) <= limit
        };
        let keep = found.ids.iter().enumerate().map(|(row, id)| Some(plausible(row, *id))).collect();
        self.refuse(found, &keep, reason::TOO_FAR_IN_FUTURE, Some(name), aside)
    }

    fn apply_filter(&self, found: &mut Candidates<'_>, has_time: bool, aside: &mut Aside) -> Result<()> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let (keep, failed) = condition(filter, &found.batch)?;
        let times = match &self.time {
            Some(time) if has_time => Some(event_times(&found.batch, time.column)?.clone()),
            _ => None,
        };
        for (row, id) in found.ids.iter().enumerate().filter(|(row, _)| !keep.value(*row)) {
            let record = found.records.record(*id);
            if failed.binary_search(&row).is_ok() {
                aside.letters.push(&record, self.key_groups, reason::EXPRESSION_ERROR, Some("filter"));
                continue;
            }
            *aside.filtered.entry(key_group::of_split(record.split, self.key_groups)).or_default() += 1;
            aside.filtered_times.extend(times.iter().map(|times| (record.split, EventTime(times.value(row)))));
        }
        if keep.true_count() < found.ids.len() { found.retain(&keep) } else { Ok(()) }
    }

    fn look_up(
        &self,
        found: &mut Candidates<'_>,
        spec: &LookupSpec,
        lookup: Option<&Lookup>,
        aside: &mut Aside,
    ) -> Result<()> {
        let lookup = lookup.ok_or_else(|| DataflowError::Invalid(format!("lookup `{}` has no rows yet", spec.name)))?;
        let (columns, stay) = lookup.join(spec, &found.batch)?;
        self.widen(found, columns.columns())?;
        self.refuse(found, &stay, &format!("lookup:{}", spec.name), None, aside)
    }

    /// Adds columns behind those there are.
    fn widen(&self, found: &mut Candidates<'_>, more: &[ArrayRef]) -> Result<()> {
        let columns: Vec<ArrayRef> = found.batch.columns().iter().chain(more).cloned().collect();
        let fields: Vec<_> = self.schema.fields().iter().take(columns.len()).cloned().collect();
        found.batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        Ok(())
    }

    fn derive(&self, found: &mut Candidates<'_>, name: &str, value: &Expression, aside: &mut Aside) -> Result<()> {
        let evaluated = evaluate(value, &found.batch)?;
        self.widen(found, &[evaluated.values])?;
        let failures = evaluated.failed.into_iter().map(|row| (row, name.to_owned())).collect();
        self.refuse_each(found, failures, aside)
    }

    /// Rows of which `keep` is false become dead letters.
    fn refuse(
        &self,
        found: &mut Candidates<'_>,
        keep: &BooleanArray,
        reason: &str,
        field: Option<&str>,
        aside: &mut Aside,
    ) -> Result<()> {
        if keep.true_count() == found.ids.len() {
            return Ok(());
        }
        for (row, id) in found.ids.iter().enumerate().filter(|(row, _)| !keep.value(*row)) {
            debug_assert!(row < keep.len());
            aside.letters.push(&found.records.record(*id), self.key_groups, reason, field);
        }
        found.retain(keep)
    }

    /// Rows for which an expression failed, with the place of the expression.
    fn refuse_each(
        &self,
        found: &mut Candidates<'_>,
        mut failures: Vec<(usize, String)>,
        aside: &mut Aside,
    ) -> Result<()> {
        if failures.is_empty() {
            return Ok(());
        }
        failures.sort();
        failures.dedup_by_key(|(row, _)| *row);
        let mut keep = vec![true; found.ids.len()];
        for (row, place) in failures {
            keep[row] = false;
            let record = found.records.record(found.ids[row]);
            aside.letters.push(&record, self.key_groups, reason::EXPRESSION_ERROR, Some(&place));
        }
        found.retain(&BooleanArray::from(keep))
    }

    /// Adds the columns that say where a row comes from and where it goes.
    fn judged(&self, found: Candidates<'_>, delete: bool) -> Result<(RecordBatch, Vec<u32>)> {
        let Candidates { batch, ids, records } = found;
        let heads = || ids.iter().map(|id| records.record(*id));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.route(&batch, &ids, records)?),
            Arc::new(heads().map(|r| r.split.0).collect::<UInt32Array>()),
            Arc::new(heads().map(|r| r.position.0).collect::<Int64Array>()),
            Arc::new(heads().map(|r| r.timestamp_ms).collect::<Int64Array>()),
            Arc::new(BooleanArray::from(vec![delete; ids.len()])),
        ];
        columns.extend(batch.columns().iter().cloned());
        Ok((RecordBatch::try_new(Arc::clone(&self.rows_schema), columns)?, ids))
    }

    fn route(&self, batch: &RecordBatch, ids: &[u32], records: &Records) -> Result<UInt16Array> {
        if self.routing_key.is_empty() {
            let by_split = |id: &u32| key_group::of_split(records.record(*id).split, self.key_groups).0;
            return Ok(ids.iter().map(by_split).collect());
        }
        let key = KeyColumns::new(batch, self.routing_key.iter().copied())?;
        let mut encoded = Vec::with_capacity(64);
        let groups = (0..batch.num_rows()).map(|row| {
            encoded.clear();
            key.encode(row, &mut encoded);
            key_group::of_key(&encoded, self.key_groups).0
        });
        Ok(groups.collect())
    }
}

pub(crate) fn event_times(batch: &RecordBatch, at: usize) -> Result<&TimestampMicrosecondArray> {
    let array = batch.column(at);
    array
        .as_primitive_opt::<TimestampMicrosecondType>()
        .ok_or_else(|| DataflowError::Invalid(format!("the event time is {}", array.data_type())))
}

/// Column [`column::SPLIT`] of rows.
pub(crate) fn splits(rows: &RecordBatch) -> Result<&UInt32Array> {
    rows.column(column::SPLIT)
        .as_any()
        .downcast_ref()
        .ok_or_else(|| DataflowError::Invalid("the split is no UInt32".to_owned()))
}
