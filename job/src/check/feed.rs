//! What sinks and aggregates are fed with, and the rules that keep every row of a key in one writer's hands.

use std::ops::Range;

use super::aggregate::Aggregates;
use super::expression::present;
use super::name::{Columns, Scope};
use super::sink::{Draft, plain};
use super::source::Source;
use super::time::{Dedup, Time};
use crate::code;
use crate::document::Section;
use crate::reader::Reader;
use crate::spec::{
    AggregateSpec, ColumnIndex, OnChanged, RowsFrom, SinkTo, SqlExpression, TableSpec, WindowSpec, WriteMode,
};

/// What is known of the rows that sinks are fed with.
pub(super) struct Feed<'c> {
    pub(super) columns: &'c Columns,
    /// A mistake elsewhere hides what the rows will be: rules about keys cannot be judged.
    pub(super) hidden: bool,
    /// `route_by`, else the tombstone key.
    pub(super) routing: Option<Vec<ColumnIndex>>,
    /// The dedup key, else the tombstone key.
    identity: Option<Vec<ColumnIndex>>,
    corrections: bool,
    /// Deletes come, and no state knows what they delete.
    blind_deletes: bool,
    time: Option<(ColumnIndex, Range<usize>)>,
    /// Of these the rules and the filter say that they are not null.
    present: Vec<ColumnIndex>,
}

impl<'c> Feed<'c> {
    pub(super) fn new(
        root: &Section<'_>,
        columns: &'c Columns,
        source: Option<&Source>,
        dedup: Option<&Dedup>,
        time: Option<&Time>,
        conditions: Vec<&SqlExpression>,
    ) -> Self {
        let tombstone = source.and_then(|source| source.tombstone.clone());
        let broken = |key: &'static str, found: bool| root.take(key).is_some() && !found;
        let hidden = source.is_none() || broken("dedup", dedup.is_some()) || broken("time", time.is_some());
        let updates = dedup.is_some_and(|dedup| dedup.changed == OnChanged::Update);
        Self {
            columns,
            hidden,
            routing: dedup.map(|dedup| dedup.route_by.clone()).or_else(|| tombstone.clone()),
            corrections: updates || tombstone.is_some(),
            blind_deletes: tombstone.is_some() && root.take("dedup").is_none(),
            identity: dedup.map(|dedup| dedup.key.clone()).or(tombstone),
            time: time.map(|time| (time.spec.field, time.field_span.clone())),
            present: present(conditions, columns, Scope::Fields),
        }
    }

    /// DESIGN section 1: `route_by`, else the tombstone key, else the first keyed sink's, else the split (empty).
    pub(super) fn routing_key(&self, first_key: Option<&[ColumnIndex]>) -> Vec<ColumnIndex> {
        let usable = |key: &&[ColumnIndex]| {
            key.iter().all(|index| {
                let required = self.columns.field(*index).is_some_and(|field| field.required);
                required && self.columns.unfit_for_key(*index).is_none()
            })
        };
        match (&self.routing, first_key.filter(usable)) {
            (Some(routing), _) => routing.clone(),
            (None, Some(key)) => key.to_vec(),
            (None, None) => Vec::new(),
        }
    }

    /// A correction must not move a record in event time.
    pub(super) fn time_fits(&self, reader: &mut Reader<'_>) {
        let (Some(identity), Some((field, span)), false) = (&self.identity, &self.time, self.hidden) else {
            return;
        };
        if self.corrections && !identity.contains(field) {
            reader.error_help(
                code::SINK_CORRECTION,
                span,
                "corrections or deletes can come, so the event time must be a column of the dedup (or tombstone) key",
                "add it to the key, or set `changed = \"drop\"` in [dedup]",
            );
        }
    }

    /// A correction must find the group in which the record was counted before.
    pub(super) fn group_fits(&self, reader: &mut Reader<'_>, column: ColumnIndex, span: &Range<usize>) -> bool {
        let Some(identity) = self.identity.as_ref().filter(|_| self.corrections && !self.hidden) else {
            return true;
        };
        if !identity.contains(&column) {
            reader.error_help(
                code::AGGREGATE_CORRECTION,
                span,
                "corrections or deletes can come, so `group_by` must consist of columns of the dedup (or tombstone) key",
                "add it to the key, or set `changed = \"drop\"` in [dedup]",
            );
        }
        identity.contains(&column)
    }

    pub(super) fn deletes_are_known(&self, reader: &mut Reader<'_>, span: &Range<usize>) {
        if self.blind_deletes && !self.hidden {
            let message =
                "tombstones can come, and without [dedup] nobody knows what was counted of the deleted record";
            reader.error_help(code::AGGREGATE_CORRECTION, span, message, "add [dedup] with the tombstone key as `key`");
        }
    }

    /// Rows of one key of the sink must come from one writer, and one at a time.
    pub(super) fn key_fits(
        &self,
        reader: &mut Reader<'_>,
        draft: &Draft,
        routing: &[ColumnIndex],
        aggregates: &Aggregates,
    ) {
        let SinkTo::Table(table) = &draft.spec.to else { return };
        let (key, newest_by) = match &table.write {
            WriteMode::Upsert { key, newest_by } => (key, newest_by.is_some()),
            WriteMode::KeepFirst { key } => (key, false),
            WriteMode::Append => return,
        };
        if table.one_to_one || newest_by {
            return;
        }
        let behind: Vec<Option<usize>> = key.iter().map(|index| plain(&draft.spec.columns[*index])).collect();
        match draft.spec.from {
            RowsFrom::Records | RowsFrom::Late => self.record_key_fits(reader, draft, table, routing, &behind),
            RowsFrom::Aggregate(index) => {
                if let (Some(aggregate), Some(found)) = (aggregates.spec(index), aggregates.get(index)) {
                    self.aggregate_key_fits(reader, draft, aggregate, &behind);
                    self.warn_null_groups(reader, draft, aggregate, &found.result, &behind);
                }
            }
        }
    }

    fn record_key_fits(
        &self,
        reader: &mut Reader<'_>,
        draft: &Draft,
        table: &TableSpec,
        routing: &[ColumnIndex],
        behind: &[Option<ColumnIndex>],
    ) {
        let missing = routing.iter().filter(|column| !behind.contains(&Some(**column)));
        let missing: Vec<&str> = missing.filter_map(|column| self.columns.names().nth(*column)).collect();
        if routing.is_empty() || !missing.is_empty() {
            let why = match missing.as_slice() {
                [] => "records of one key can come from several splits, so several writers would write it".to_owned(),
                missing => format!(
                    "the sink's key lacks `{}` of the routing key, so several writers would write it",
                    missing.join("`, `")
                ),
            };
            reader.error_help(
                code::SINK_ROUTING,
                &draft.key_span,
                why,
                "name a column by which the newest row wins (newest_by, upsert only), or promise `one_to_one = true`",
            );
        }
        let upsert = matches!(table.write, WriteMode::Upsert { .. });
        let Some(identity) = self.identity.as_ref().filter(|_| self.corrections && upsert) else {
            return;
        };
        let outside = behind.iter().any(|column| column.is_none_or(|column| !identity.contains(&column)));
        if outside {
            reader.error_help(
                code::SINK_CORRECTION,
                &draft.key_span,
                "corrections or deletes can come, so the sink's key must consist of columns of the dedup (or tombstone) key",
                "else a corrected record leaves its old row behind; `newest_by` and `one_to_one` sinks are exempt",
            );
        }
    }

    /// A group has one row a window: the key must tell the windows apart too.
    fn aggregate_key_fits(
        &self,
        reader: &mut Reader<'_>,
        draft: &Draft,
        aggregate: &AggregateSpec,
        behind: &[Option<usize>],
    ) {
        let (start, end) = (aggregate.window_start(), aggregate.window_start() + 1);
        let groups = (0..start).filter(|at| !behind.contains(&Some(*at)));
        let mut missing: Vec<&str> =
            groups.filter_map(|at| self.columns.names().nth(*aggregate.group_by.get(at)?)).collect();
        let sessions = matches!(aggregate.window, WindowSpec::Session { .. });
        if !behind.contains(&Some(start)) && (sessions || !behind.contains(&Some(end))) {
            missing.push("window_start");
        }
        let others = behind.iter().any(|column| column.is_none_or(|column| column > end || sessions && column == end));
        if !missing.is_empty() || others {
            let why = match missing.as_slice() {
                [] => "the sink's key holds what changes while the group and its window stay the same".to_owned(),
                missing => format!("the sink's key lacks `{}`: several rows would have one key", missing.join("`, `")),
            };
            let help = "the key of an aggregate's row is its `group_by` and `window_start`";
            reader.error_help(code::SINK_ROUTING, &draft.key_span, why, help);
        }
    }
    /// In a database a key with a null in it is equal to no other: a group without it would never find its row again.
    fn warn_null_groups(
        &self,
        reader: &mut Reader<'_>,
        draft: &Draft,
        aggregate: &AggregateSpec,
        result: &Columns,
        behind: &[Option<usize>],
    ) {
        let counted = present(&aggregate.condition, self.columns, Scope::All);
        let written = present(&draft.spec.condition, result, Scope::All);
        for (at, column) in aggregate.group_by.iter().enumerate().filter(|(at, _)| behind.contains(&Some(*at))) {
            let is_present = self.present.contains(column) || counted.contains(column) || written.contains(&at);
            let Some(name) = self.columns.names().nth(*column).filter(|_| !is_present) else { continue };
            if self.columns.nullable(*column) {
                reader.warn(
                    code::NULL_KEY,
                    &draft.key_span,
                    format!("`{name}` can be null, and a row whose key has a null is refused, or written again at each change"),
                    format!("`where = \"{name} is not null\"` in the aggregate, or `required = true` in [fields]"),
                );
            }
        }
    }
}
