//! `[[sink]]`: which rows go where, and as what.

use std::ops::Range;

use arrow::datatypes::DataType;

use super::aggregate::Aggregates;
use super::expression::{MAX_COLUMNS, compile, condition};
use super::feed::Feed;
use super::name::{Columns, Scope};
use super::target::{Database, Found, Targets, table};
use super::{MAX_TABLES, loops, unknown_name};
use crate::code;
use crate::document::{Entry, Section, printable};
use crate::reader::Reader;
use crate::spec::{
    ColumnIndex, FileFormat, RowsFrom, SinkColumn, SinkSpec, SinkTo, SinkValue, TableSpec, TargetIndex, TopicSpec,
    WriteMode,
};

const KEYS: [&str; 14] = [
    "to",
    "from",
    "where",
    "columns",
    "table",
    "write",
    "key",
    "newest_by",
    "one_to_one",
    "create",
    "delete_when",
    "topic",
    "record_key",
    "format",
];
/// Those of a sink to a database.
const DATABASE_KEYS: [&str; 7] = ["table", "write", "key", "newest_by", "one_to_one", "create", "delete_when"];
/// Columns that every PostgreSQL table has already.
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

pub(super) struct Sinks {
    /// None if one is broken.
    pub(super) specs: Option<Vec<SinkSpec>>,
    pub(super) tables: Vec<(TargetIndex, (String, String))>,
    /// Columns behind the key of the first sink that has one, if all are plain columns.
    pub(super) first_key: Option<Vec<ColumnIndex>>,
}

/// A sink and where its parts stand.
pub(super) struct Draft {
    pub(super) spec: SinkSpec,
    pub(super) key_span: Range<usize>,
}

/// The column of the feed behind a column of a sink.
pub(super) fn plain(column: &SinkColumn) -> Option<ColumnIndex> {
    match column.value {
        SinkValue::Column(index) => Some(index),
        SinkValue::Expression(_) => None,
    }
}

pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &Section<'_>,
    feed: &Feed<'_>,
    targets: &Targets,
    aggregates: &Aggregates,
) -> Sinks {
    let mut sinks = Sinks { specs: None, tables: Vec::new(), first_key: None };
    let Some(entry) = reader.required(root, "sink") else {
        return sinks;
    };
    let sections = reader.sections(&entry, MAX_TABLES);
    if sections.is_empty() {
        return sinks;
    }
    let drafts: Vec<Option<Draft>> = sections
        .iter()
        .map(|section| sink(reader, section, feed.columns, targets, aggregates, &mut sinks.tables))
        .collect();
    let first_key = drafts.iter().flatten().find_map(|draft| match (&draft.spec.to, draft.spec.from) {
        (SinkTo::Table(table), RowsFrom::Records) if table.write != WriteMode::Append => {
            Some(table.write.key().iter().map(|index| plain(&draft.spec.columns[*index])).collect())
        }
        _ => None,
    });
    sinks.first_key = first_key.flatten();
    let whole = drafts.iter().all(Option::is_some);
    // Without [dedup] a broken sink could have been the first with a key, which decides on the routing.
    if !feed.hidden && (whole || feed.routing.is_some()) {
        let routing = feed.routing_key(sinks.first_key.as_deref());
        for draft in drafts.iter().flatten() {
            feed.key_fits(reader, draft, &routing, aggregates);
        }
    }
    sinks.specs = drafts.into_iter().map(|draft| draft.map(|draft| draft.spec)).collect();
    sinks
}

fn sink(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    columns: &Columns,
    targets: &Targets,
    aggregates: &Aggregates,
    tables: &mut Vec<(TargetIndex, (String, String))>,
) -> Option<Draft> {
    let to = reader.required(section, "to");
    let found = to.as_ref().map_or(Found::Nothing, |to| targets.find(reader, to));
    let from = section.take("from").map_or(Some(RowsFrom::Records), |from| rows_from(reader, &from, aggregates));
    let (Found::Database(target, _) | Found::Kafka(target) | Found::Files(target)) = found else {
        section.know(&KEYS);
        reader.no_others(section);
        return None;
    };
    let Some(from) = from else {
        section.know(&KEYS);
        reader.no_others(section);
        return None;
    };
    let columns = match from {
        RowsFrom::Records | RowsFrom::Late => columns,
        RowsFrom::Aggregate(index) => &aggregates.get(index)?.result,
    };
    let where_ = section.take("where").map(|entry| condition(reader, &entry, columns, Scope::All));
    let mut sink_columns = match section.take("columns") {
        Some(entry) => mapped(reader, &entry, columns),
        None => every_column(columns),
    };
    if matches!(from, RowsFrom::Aggregate(_)) {
        // What cannot be computed of a result is null.
        let computed = |column: &&mut SinkColumn| matches!(column.value, SinkValue::Expression(_));
        sink_columns.iter_mut().flatten().filter(computed).for_each(|column| column.nullable = true);
    }
    let to = match found {
        Found::Kafka(_) => topic(reader, section, sink_columns.as_deref(), targets, target),
        Found::Files(_) => files(reader, section),
        Found::Database(_, kind) => database(reader, section, columns, sink_columns.as_deref(), (target, kind), tables),
        Found::Nothing => None,
    };
    reader.no_others(section);
    let key_span = section.take("key").map_or(section.span.clone(), |entry| entry.span);
    let spec = SinkSpec {
        target,
        from,
        condition: where_.map_or(Some(None), |condition| condition.map(Some))?,
        columns: sink_columns?,
        to: to?,
    };
    Some(Draft { spec, key_span })
}

fn database(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    columns: &Columns,
    sink_columns: Option<&[SinkColumn]>,
    target: (TargetIndex, Database),
    tables: &mut Vec<(TargetIndex, (String, String))>,
) -> Option<SinkTo> {
    let name = reader.required(section, "table").and_then(|entry| sink_table(reader, &entry, target, tables));
    let one_to_one = section.take("one_to_one").map_or(Some(false), |entry| reader.boolean(&entry));
    let create = section.take("create").map_or(Some(false), |entry| reader.boolean(&entry));
    let delete_when = section.take("delete_when").map(|entry| condition(reader, &entry, columns, Scope::All));
    let write = write(reader, section, sink_columns);
    not_for(reader, section, &["topic", "record_key", "format"], "a database");
    Some(SinkTo::Table(TableSpec {
        name: name?,
        write: write?,
        one_to_one: one_to_one?,
        create: create?,
        delete_when: delete_when.map_or(Some(None), |condition| condition.map(Some))?,
    }))
}

fn topic(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    columns: Option<&[SinkColumn]>,
    targets: &Targets,
    target: TargetIndex,
) -> Option<SinkTo> {
    let topic = reader.required(section, "topic");
    let topic = topic.and_then(|entry| loops::written_topic(reader, &entry, targets, target));
    let record_key = match section.take("record_key") {
        Some(entry) => reader.strings(&entry).and_then(|names| {
            let columns = columns?;
            let found = names.iter().map(|(name, span)| named_column(reader, name, span, columns));
            found.collect::<Vec<_>>().into_iter().collect()
        }),
        None => Some(Vec::new()),
    };
    not_for(reader, section, &DATABASE_KEYS, "Kafka");
    not_for(reader, section, &["format"], "Kafka");
    Some(SinkTo::Topic(TopicSpec { topic: topic?, record_key: record_key? }))
}

fn files(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<SinkTo> {
    let formats = [("jsonl", FileFormat::Jsonl), ("csv", FileFormat::Csv), ("parquet", FileFormat::Parquet)];
    let format = section.take("format").map_or(Some(FileFormat::Jsonl), |entry| reader.choice(&entry, &formats));
    not_for(reader, section, &DATABASE_KEYS, "files");
    not_for(reader, section, &["topic", "record_key"], "files");
    format.map(SinkTo::Files)
}

/// Keys of another type of target.
fn not_for(reader: &mut Reader<'_>, section: &Section<'_>, keys: &[&'static str], what: &str) {
    for entry in keys.iter().filter_map(|key| section.take(key)) {
        let message = format!("`{}` is not for a sink to {what}", entry.key);
        reader.error(code::WRONG_TABLE, &entry.key_span, message);
    }
}

/// None: reported.
fn rows_from(reader: &mut Reader<'_>, from: &Entry<'_>, aggregates: &Aggregates) -> Option<RowsFrom> {
    let name = reader.string(from)?;
    match name {
        "records" => return Some(RowsFrom::Records),
        "late" if aggregates.is_empty() => {
            let message = "nothing can be late: there is no [[aggregate]]";
            reader.error(code::UNKNOWN_NAME, &from.span, message);
            return None;
        }
        "late" => return Some(RowsFrom::Late),
        _ => {}
    }
    let found = aggregates.find(name).map(RowsFrom::Aggregate);
    if found.is_none() {
        let known = ["records", "late"].into_iter().chain(aggregates.names());
        unknown_name(reader, &from.span, "source of rows", name, known);
    }
    found
}

fn sink_table(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    (target, database): (TargetIndex, Database),
    tables: &mut Vec<(TargetIndex, (String, String))>,
) -> Option<(String, String)> {
    let table = table(reader, entry, database)?;
    if let Some(reason) = database.forbids(&table) {
        reader.error(code::SINK_TABLE, &entry.span, reason);
        return None;
    }
    if tables.contains(&(target, table.clone())) {
        reader.error(code::SINK_TABLE, &entry.span, "another sink writes to this table already");
        return None;
    }
    tables.push((target, table.clone()));
    Some(table)
}

/// All of `[fields]` and `[derive]`. None if one of them is broken.
fn every_column(columns: &Columns) -> Option<Vec<SinkColumn>> {
    let own = columns.names().enumerate().filter(|(index, _)| columns.found(*index).is_none());
    let all = own.map(|(index, name)| SinkColumn {
        name: name.to_owned(),
        value: SinkValue::Column(index),
        data_type: columns.data_type(index),
        nullable: columns.nullable(index),
    });
    (!columns.any_broken()).then(|| all.collect())
}

fn mapped(reader: &mut Reader<'_>, entry: &Entry<'_>, columns: &Columns) -> Option<Vec<SinkColumn>> {
    let section = reader.section("columns", entry)?;
    if section.entries.is_empty() || section.entries.len() > MAX_COLUMNS {
        reader.error(code::TOO_LARGE, &entry.key_span, format!("a table has 1 to {MAX_COLUMNS} columns"));
        return None;
    }
    let mapped: Vec<Option<SinkColumn>> = section.entries.iter().map(|entry| column(reader, entry, columns)).collect();
    mapped.into_iter().collect()
}

fn column(reader: &mut Reader<'_>, entry: &Entry<'_>, columns: &Columns) -> Option<SinkColumn> {
    let named = reader.check_name("a column", entry.key, &entry.key_span);
    if SYSTEM_COLUMNS.contains(&entry.key) || entry.key == "pulso_change" {
        let message = format!("`{}` is a column that the table has for other purposes", printable(entry.key));
        reader.error(code::BAD_NAME, &entry.key_span, message);
        return None;
    }
    let sql = reader.string(entry)?.trim();
    if let Some(index) = columns.index(sql).or_else(|| columns.index(&sql.to_ascii_lowercase())) {
        return named.then(|| SinkColumn {
            name: entry.key.to_owned(),
            value: SinkValue::Column(index),
            data_type: columns.data_type(index),
            nullable: columns.nullable(index),
        });
    }
    let (sql, expression) = compile(reader, entry, columns, Scope::All)?;
    named.then(|| SinkColumn {
        name: entry.key.to_owned(),
        value: SinkValue::Expression(sql),
        data_type: expression.data_type().clone(),
        nullable: expression.nullable(),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Upsert,
    KeepFirst,
    Append,
}

/// None if the mode or a key is wrong, or the columns are.
fn write(reader: &mut Reader<'_>, section: &Section<'_>, columns: Option<&[SinkColumn]>) -> Option<WriteMode> {
    let modes = [("upsert", Mode::Upsert), ("keep_first", Mode::KeepFirst), ("append", Mode::Append)];
    let mode = section.take("write").map_or(Some(Mode::Upsert), |entry| reader.choice(&entry, &modes));
    let key_entry = section.take("key");
    let newest_entry = section.take("newest_by");
    let mode = mode?;
    if mode != Mode::Upsert {
        for entry in [newest_entry.clone(), section.take("delete_when")].into_iter().flatten() {
            reader.error(code::SINK_KEY, &entry.key_span, format!("`{}` is for `write = \"upsert\"`", entry.key));
        }
    }
    if mode == Mode::Append {
        for entry in [key_entry, section.take("one_to_one")].into_iter().flatten() {
            reader.error(code::SINK_KEY, &entry.key_span, format!("`write = \"append\"` has no `{}`", entry.key));
        }
        return Some(WriteMode::Append);
    }
    let Some(key_entry) = key_entry else {
        let help = "name the columns that tell one row from another, or write = \"append\"";
        reader.error_help(code::SINK_KEY, &section.span, "upsert and keep_first need a `key`", help);
        return None;
    };
    let names = reader.strings(&key_entry)?;
    let columns = columns?;
    let key: Vec<Option<usize>> = names.iter().map(|(name, span)| key_column(reader, name, span, columns)).collect();
    let newest_by = match newest_entry {
        Some(entry) => {
            let name = reader.string(&entry)?;
            Some(named_column(reader, name, &entry.span, columns)?)
        }
        None => None,
    };
    let key: Vec<usize> = key.into_iter().collect::<Option<_>>()?;
    Some(match mode {
        Mode::KeepFirst => WriteMode::KeepFirst { key },
        Mode::Upsert | Mode::Append => WriteMode::Upsert { key, newest_by },
    })
}

fn key_column(reader: &mut Reader<'_>, name: &str, span: &Range<usize>, columns: &[SinkColumn]) -> Option<usize> {
    let index = named_column(reader, name, span, columns)?;
    if columns[index].data_type == DataType::Float64 {
        reader.error(code::SINK_KEY, span, "a float64 does not compare exactly, so it cannot be a key");
        return None;
    }
    Some(index)
}

fn named_column(reader: &mut Reader<'_>, name: &str, span: &Range<usize>, columns: &[SinkColumn]) -> Option<usize> {
    let found = columns.iter().position(|column| column.name == name);
    if found.is_none() {
        unknown_name(reader, span, "column of this sink", name, columns.iter().map(|column| column.name.as_str()));
    }
    found
}
