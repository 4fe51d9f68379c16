//! `[[aggregate]]`: event-time windows and what is computed over them.

use std::ops::Range;
use std::time::Duration;

use pulso_expr::Aggregation;

use super::MAX_TABLES;
use super::expression::{MAX_COLUMNS, condition, report};
use super::feed::Feed;
use super::name::{Columns, Derive, Scope};
use super::time::{Dedup, Time};
use crate::code;
use crate::document::{Entry, Section, printable};
use crate::reader::Reader;
use crate::spec::{
    AggregateColumn, AggregateSpec, ColumnIndex, Emit, FieldType, SqlExpression, TimestampText, WindowSpec,
};
use crate::unit::show_duration;

/// Columns that every result has.
const WINDOW_COLUMNS: [&str; 2] = ["window_start", "window_end"];
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);
/// Most windows that one record lies in.
const MOST_WINDOWS: u128 = 1_000;

/// The aggregates of a file; those too that are wrong.
#[derive(Default)]
pub(super) struct Aggregates(Vec<Aggregate>);

pub(super) struct Aggregate {
    pub(super) name: String,
    /// None if a part of it is wrong.
    spec: Option<AggregateSpec>,
    /// What a sink of it sees.
    pub(super) result: Columns,
}

impl Aggregates {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(|aggregate| aggregate.name.as_str())
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names().position(|known| known == name)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Aggregate> {
        self.0.get(index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// None if one is wrong. `routing`: columns that decide where a record is worked on.
    pub(super) fn into_specs(self, routing: &[ColumnIndex]) -> Option<Vec<AggregateSpec>> {
        let specs = self.0.into_iter().map(|aggregate| aggregate.spec);
        let placed = |spec: AggregateSpec| AggregateSpec { own_stage: spec.leaves(routing), ..spec };
        specs.map(|spec| spec.map(placed)).collect()
    }

    /// The specs that are right, by their index.
    pub(super) fn spec(&self, index: usize) -> Option<&AggregateSpec> {
        self.0.get(index)?.spec.as_ref()
    }
}

impl AggregateSpec {
    /// Rows of one group come from several key groups of the first stage.
    pub(super) fn leaves(&self, routing: &[ColumnIndex]) -> bool {
        routing.is_empty() || routing.iter().any(|column| !self.group_by.contains(column))
    }
}

pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &Section<'_>,
    feed: &Feed<'_>,
    time: Option<&Time>,
    dedup: Option<&Dedup>,
) -> Aggregates {
    let mut aggregates = Aggregates::default();
    let Some(entry) = root.take("aggregate") else {
        return aggregates;
    };
    if root.take("time").is_none() {
        let help = "windows close by event time: add [time] with `field`";
        reader.error_help(code::NEEDS_TIME, &entry.key_span, "[[aggregate]] needs [time]", help);
    }
    feed.deletes_are_known(reader, &entry.key_span);
    for section in reader.sections(&entry, MAX_TABLES) {
        let aggregate = aggregate(reader, &section, feed, &aggregates);
        if let (Some(time), Some(dedup), Some(spec)) = (time, dedup, &aggregate.spec) {
            is_remembered(reader, &section, time, dedup, spec.window);
        }
        aggregates.0.push(aggregate);
    }
    aggregates
}

/// A duplicate must be known for as long as a window could count it.
fn is_remembered(reader: &mut Reader<'_>, section: &Section<'_>, time: &Time, dedup: &Dedup, window: WindowSpec) {
    let (WindowSpec::Sliding { size, .. } | WindowSpec::Session { gap: size }) = window;
    let needed = size + time.spec.lateness;
    if needed > dedup.keep_for {
        let message =
            format!("`keep_for` of [dedup] is shorter than the window and `lateness` ({})", show_duration(needed));
        let span = section.take("window").map_or(section.span.clone(), |entry| entry.key_span);
        reader.error_help(
            code::NEEDS_TIME,
            &span,
            message,
            "a duplicate that a window still takes must still be known",
        );
    }
}

fn aggregate(reader: &mut Reader<'_>, section: &Section<'_>, feed: &Feed<'_>, before: &Aggregates) -> Aggregate {
    let columns = feed.columns;
    let name = reader.required(section, "name").and_then(|entry| name(reader, &entry, before));
    let where_ = section.take("where").map(|entry| condition(reader, &entry, columns, Scope::All));
    let group_entry = reader.required(section, "group_by");
    let group_by = group_entry.as_ref().and_then(|entry| group_by(reader, entry, feed));
    let window = reader.required(section, "window").and_then(|entry| window(reader, &entry));
    let emits = [("change", Emit::Change), ("close", Emit::Close)];
    let emit = section.take("emit").map_or(Some(Emit::Change), |entry| reader.choice(&entry, &emits));
    let mut result = Columns::default();
    match &group_by {
        Some(group_by) => {
            for (column, name) in group_by.iter().filter_map(|at| Some((*at, columns.names().nth(*at)?))) {
                result.add_result(name, columns.data_type(column), columns.nullable(column));
            }
        }
        // What it would have is not known: whatever refers to it is no second mistake.
        None => names_in(group_entry.as_ref()).for_each(|name| result.add_broken(name)),
    }
    for name in WINDOW_COLUMNS {
        result.add_result(name, FieldType::Timestamp(TimestampText::Epoch { per_second: 1 }).data_type(), false);
    }
    let own = reader.required(section, "columns").and_then(|entry| own_columns(reader, &entry, columns, &mut result));
    reader.no_others(section);
    let shown =
        name.clone().unwrap_or_else(|| section.take("name").and_then(|n| n.value.as_str()).unwrap_or("").to_owned());
    let build = || {
        Some(AggregateSpec {
            state: 0,
            name: name?,
            condition: where_.map_or(Some(None), |condition| condition.map(Some))?,
            group_by: group_by?,
            window: window?,
            emit: emit?,
            columns: own?,
            own_stage: false,
        })
    };
    Aggregate { name: shown, spec: build(), result }
}

fn names_in<'d>(entry: Option<&Entry<'d>>) -> impl Iterator<Item = &'d str> {
    let list = entry.and_then(|entry| entry.value.as_array());
    list.into_iter().flatten().filter_map(|value| value.get_ref().as_str())
}

fn name(reader: &mut Reader<'_>, entry: &Entry<'_>, before: &Aggregates) -> Option<String> {
    let name = reader.string(entry)?;
    if !reader.check_name("an aggregate", name, &entry.span) {
        return None;
    }
    if matches!(name, "records" | "late") || before.find(name).is_some() {
        let message = format!("`{}` is a source of rows already", printable(name));
        reader.error(code::DUPLICATE_NAME, &entry.span, message);
        return None;
    }
    Some(name.to_owned())
}

fn group_by(reader: &mut Reader<'_>, entry: &Entry<'_>, feed: &Feed<'_>) -> Option<Vec<ColumnIndex>> {
    let mut good = true;
    let found = feed.columns.resolve(reader, entry)?;
    for (column, span) in &found {
        let name = feed.columns.names().nth(*column).unwrap_or_default();
        if let Some(problem) = feed.columns.unfit_for_key(*column) {
            reader.error(code::BAD_KEY, span, problem);
            good = false;
        } else if WINDOW_COLUMNS.contains(&name) {
            reader.error(code::DUPLICATE_NAME, span, format!("`{name}` is a column of every aggregate's result"));
            good = false;
        }
        good &= feed.group_fits(reader, *column, span);
    }
    good.then(|| found.into_iter().map(|(column, _)| column).collect())
}

fn window(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<WindowSpec> {
    let section = reader.section("window", entry)?;
    let (size_entry, slide_entry, gap_entry) = (section.take("size"), section.take("slide"), section.take("gap"));
    let mut duration = |entry: &Option<Entry<'_>>| match entry {
        Some(entry) => reader.duration(entry, SHORTEST..=LONGEST).map(Some),
        None => Some(None),
    };
    let (size, slide, gap) = (duration(&size_entry), duration(&slide_entry), duration(&gap_entry));
    reader.no_others(&section);
    let wrong = |reader: &mut Reader<'_>, span: &Range<usize>, message: &str| {
        let help =
            "tumbling: { size = \"1m\" }, sliding: { size = \"1m\", slide = \"10s\" }, sessions: { gap = \"30m\" }";
        reader.error_help(code::BAD_WINDOW, span, message, help);
        None
    };
    match (size?, slide?, gap?) {
        (None, None, Some(gap)) => Some(WindowSpec::Session { gap }),
        (Some(size), slide, None) => {
            let (slide, span) = (slide.unwrap_or(size), slide_entry.map_or(entry.span.clone(), |entry| entry.span));
            if slide > size {
                return wrong(
                    reader,
                    &span,
                    "`slide` is longer than `size`: what lies between two windows would be lost",
                );
            }
            if size.as_micros().div_ceil(slide.as_micros()) > MOST_WINDOWS {
                return wrong(reader, &span, &format!("a record would lie in more than {MOST_WINDOWS} windows"));
            }
            Some(WindowSpec::Sliding { size, slide })
        }
        _ => wrong(reader, &entry.span, "a window has a `size`, perhaps with a `slide`, or else a `gap`"),
    }
}

fn own_columns(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    columns: &Columns,
    result: &mut Columns,
) -> Option<Vec<AggregateColumn>> {
    let section = reader.section("[aggregate.columns]", entry)?;
    if section.entries.is_empty() || section.entries.len() > MAX_COLUMNS {
        reader.error(code::TOO_LARGE, &entry.key_span, format!("an aggregate has 1 to {MAX_COLUMNS} columns"));
        return None;
    }
    let mut own = Vec::new();
    for entry in &section.entries {
        let mut good = reader.check_name("a column", entry.key, &entry.key_span);
        if result.is_defined(entry.key) {
            let message = format!("`{}` is a column of the result already", printable(entry.key));
            reader.error(code::DUPLICATE_NAME, &entry.key_span, message);
            good = false;
        }
        let column = own_column(reader, entry, columns).filter(|_| good);
        match &column {
            Some(column) => result.add_result(&column.name, column.data_type.clone(), column.nullable),
            None if !result.is_defined(entry.key) => result.add_broken(entry.key),
            None => {}
        }
        own.push(column);
    }
    own.into_iter().collect()
}

fn own_column(reader: &mut Reader<'_>, entry: &Entry<'_>, columns: &Columns) -> Option<AggregateColumn> {
    let sql = reader.string(entry)?;
    match Aggregation::compile(&[sql], &columns.schema(Scope::All)) {
        Ok(compiled) => Some(AggregateColumn {
            name: entry.key.to_owned(),
            value: SqlExpression { sql: sql.to_owned() },
            data_type: compiled.data_types().next()?.clone(),
            nullable: compiled.nullable().next()?,
        }),
        Err((_, error)) => {
            report(reader, entry, sql, columns, Scope::All, &error);
            None
        }
    }
}

impl Columns {
    fn add_result(&mut self, name: &str, data_type: arrow::datatypes::DataType, nullable: bool) {
        self.add_derive(Derive { name: name.to_owned(), sql: String::new(), data_type, nullable, from_fields: false });
    }
}
