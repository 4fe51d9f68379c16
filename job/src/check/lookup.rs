//! `[[lookup]]`: columns from a table of a database.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use arrow::datatypes::DataType;
use toml::de::DeValue;

use super::expression::{MAX_COLUMNS, type_name};
use super::field::type_named;
use super::name::Columns;
use super::select::select;
use super::target::{Found, Targets};
use super::{MAX_TABLES, unknown_name};
use crate::code;
use crate::document::{Entry, Section, list};
use crate::reader::Reader;
use crate::spec::{ColumnIndex, FieldType, LookupColumn, LookupSpec, Missing, TargetIndex};
use crate::submission::LookupTypes;

const MOST_ROWS: i64 = 10_000_000;

/// Adds the columns of all lookups. `types` are those that the databases tell; without them types are assumed.
pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &Section<'_>,
    columns: &mut Columns,
    targets: &Targets,
    types: &LookupTypes,
) -> Option<Vec<LookupSpec>> {
    let Some(entry) = root.take("lookup") else {
        return Some(Vec::new());
    };
    let mut lookups = Vec::new();
    for section in reader.sections(&entry, MAX_TABLES) {
        let name = reader.required(&section, "name").and_then(|entry| name(reader, &entry, columns));
        let lookup = lookup(reader, &section, columns, targets, name.as_deref()).and_then(|mut lookup| {
            let mentioned = mentioned(root, &lookup.name);
            match types.get(&lookup.name) {
                Some(types) => told(reader, &section, &mut lookup, types, &mentioned, columns)?,
                None => {
                    let assume = |name: &String| column(&lookup.name, name, DataType::Utf8);
                    lookup.columns = mentioned.iter().map(assume).collect();
                }
            }
            Some(lookup)
        });
        if let Some(name) = &name {
            columns.add_lookup(name, lookup.as_ref());
        }
        lookups.push(lookup);
    }
    if columns.names().count() > MAX_COLUMNS {
        reader.error(code::TOO_LARGE, &entry.key_span, format!("a record may have {MAX_COLUMNS} columns"));
    }
    lookups.into_iter().collect()
}

fn name(reader: &mut Reader<'_>, entry: &Entry<'_>, columns: &Columns) -> Option<String> {
    let name = reader.string(entry)?;
    reader.check_name("a lookup", name, &entry.span).then_some(())?;
    if columns.is_lookup(name) {
        reader.error(code::DUPLICATE_NAME, &entry.span, format!("there are two lookups `{name}`"));
        return None;
    }
    Some(name.to_owned())
}

fn lookup(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    columns: &Columns,
    targets: &Targets,
    name: Option<&str>,
) -> Option<LookupSpec> {
    let target = reader.required(section, "in").and_then(|entry| database(reader, &entry, targets));
    let sql = reader.required(section, "sql").and_then(|entry| select(reader, &entry, "lookup", code::BAD_LOOKUP));
    let on = reader.required(section, "on").and_then(|entry| on(reader, &entry, columns));
    let refresh = section.take("refresh").map_or(Some(Duration::from_secs(60)), |entry| {
        reader.duration(&entry, Duration::from_secs(1)..=Duration::from_secs(86_400))
    });
    let missing = section.take("missing").map_or(Some(Missing::DeadLetter), |entry| {
        reader.choice(&entry, &[("dead_letter", Missing::DeadLetter), ("null", Missing::Null)])
    });
    let max_rows = section.take("max_rows").map_or(Some(100_000), |entry| reader.integer(&entry, 1..=MOST_ROWS));
    reader.no_others(section);
    Some(LookupSpec {
        name: name?.to_owned(),
        target: target?,
        sql: sql?,
        on: on?,
        refresh: refresh?,
        missing: missing?,
        max_rows: usize::try_from(max_rows?).ok()?,
        columns: Vec::new(),
        known: false,
    })
}

fn database(reader: &mut Reader<'_>, entry: &Entry<'_>, targets: &Targets) -> Option<TargetIndex> {
    match targets.find(reader, entry) {
        Found::Database(target, _) => Some(target),
        Found::Kafka(_) | Found::Files(_) => {
            reader.error(code::BAD_LOOKUP, &entry.span, "a lookup asks a database, and this target is none");
            None
        }
        Found::Nothing => None,
    }
}

fn on(reader: &mut Reader<'_>, entry: &Entry<'_>, columns: &Columns) -> Option<Vec<ColumnIndex>> {
    let (mut on, mut good) = (Vec::new(), true);
    for (name, span) in reader.strings(entry)? {
        let Some(index) = columns.index(name) else {
            good = false;
            if !columns.is_broken(name) {
                let fields = columns.fields().iter().map(|field| field.name.as_str());
                unknown_name(reader, &span, "field", name, fields);
            }
            continue;
        };
        if let Some(problem) = columns.unfit_for_key(index) {
            reader.error(code::BAD_KEY, &span, problem);
            good = false;
        }
        on.push(index);
    }
    good.then_some(on)
}

/// What the database says of the columns; those of `on` must fit the fields.
fn told(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    lookup: &mut LookupSpec,
    types: &[(String, String)],
    mentioned: &BTreeSet<String>,
    columns: &Columns,
) -> Option<()> {
    let at = |key: &'static str| section.take(key).map_or(section.span.clone(), |entry| entry.span);
    let mut good = true;
    for column in &lookup.on {
        let Some(field) = columns.field(*column) else { continue };
        let found = types.iter().find(|(name, _)| *name == field.name);
        let problem = match found {
            None => {
                format!("the query has no column `{}`, only {}", field.name, list(types.iter().map(|t| t.0.as_str())))
            }
            Some((_, told)) if !comparable(told, &field.kind) => {
                let wanted = type_name(&field.kind.data_type());
                format!("`{}` is of type {told} in the query and of type {wanted} in [fields]", field.name)
            }
            Some(_) => continue,
        };
        reader.error(code::BAD_LOOKUP, &at("on"), problem);
        good = false;
    }
    for (name, told) in types.iter().filter(|(name, _)| mentioned.contains(name)) {
        let Some(kind) = type_named(told) else {
            let message = format!("`{name}` of the query is of type {told}, which no column can hold; cast it");
            reader.error(code::BAD_LOOKUP, &at("sql"), message);
            good = false;
            continue;
        };
        lookup.columns.push(column(&lookup.name, name, kind.data_type()));
    }
    lookup.known = true;
    good.then_some(())
}

fn column(lookup: &str, name: &str, data_type: DataType) -> LookupColumn {
    LookupColumn { name: format!("{lookup}.{name}"), data_type }
}

/// Every value of the type told for a query's column that equals one of the field's type can be converted to it.
pub fn comparable(told: &str, wanted: &FieldType) -> bool {
    match (type_named(told), wanted) {
        (
            Some(FieldType::Int32 | FieldType::Int64),
            FieldType::Int32 | FieldType::Int64 | FieldType::Decimal { .. },
        ) => true,
        (Some(FieldType::Decimal { scale, .. }), FieldType::Decimal { scale: wanted, .. }) => scale <= *wanted,
        (Some(FieldType::Timestamp(_)), FieldType::Timestamp(_)) => true,
        // MySQL has no type for them.
        (Some(FieldType::String), FieldType::Uuid) => true,
        (Some(told), wanted) => told == *wanted,
        (None, _) => false,
    }
}

/// Columns of the lookup that the rest of the file names.
fn mentioned(root: &Section<'_>, lookup: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for key in ["derive", "dedup", "time", "aggregate", "sink"] {
        if let Some(entry) = root.take(key) {
            mentions(entry.value, lookup, &mut found);
        }
    }
    found
}

fn mentions(value: &DeValue<'_>, lookup: &str, found: &mut BTreeSet<String>) {
    match value {
        DeValue::String(text) => found.extend(names_behind(text, lookup)),
        DeValue::Array(values) => values.iter().for_each(|value| mentions(value.get_ref(), lookup, found)),
        DeValue::Table(table) => table.iter().for_each(|(_, value)| mentions(value.get_ref(), lookup, found)),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// `a` and `b` of `name.a + name.b`.
fn names_behind<'t>(text: &'t str, lookup: &'t str) -> impl Iterator<Item = String> + 't {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let lower = text.to_ascii_lowercase();
    let places: Vec<Range<usize>> = lower.match_indices(lookup).map(|(at, found)| at..at + found.len()).collect();
    places.into_iter().filter_map(move |place| {
        let before = lower[..place.start].chars().next_back();
        let rest = lower[place.end..].strip_prefix('.')?;
        let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
        (before.is_none_or(|c| !is_word(c) && c != '.') && !name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_behind_the_lookup_and_nowhere_else() {
        let names = |text: &str| names_behind(text, "map").collect::<Vec<_>>();
        assert_eq!(names("map.a + 2*MAP.B-map.c_1"), ["a", "b", "c_1"]);
        assert_eq!(names("remap.a + x.map.b + map. + map"), [] as [&str; 0]);
    }

    #[test]
    fn integers_and_decimals_compare() {
        let decimal = FieldType::Decimal { precision: 6, scale: 2 };
        assert!(
            comparable("int32", &FieldType::Int64)
                && comparable("int64", &decimal)
                && comparable("decimal(9,1)", &decimal)
        );
        assert!(!comparable("decimal(9,3)", &decimal) && !comparable("decimal(9,0)", &FieldType::Int64));
        assert!(comparable("string", &FieldType::Uuid) && !comparable("uuid", &FieldType::String));
        assert!(comparable("string", &FieldType::String) && !comparable("varbinary", &FieldType::String));
    }
}
