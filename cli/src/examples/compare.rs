//! What an example expects against what came out.

use std::fmt;

use anyhow::{Context, Result, bail};
use pulso_dataflow::key::KeyValue;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Counts, Example};
use crate::local::{Column, Outcome, Row, Table, from_json, order, to_json};

/// What is not as expected.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// `place`: a sink, or `dead letters`.
    Missing {
        place: String,
        row: Map<String, Value>,
    },
    Unexpected {
        place: String,
        row: Map<String, Value>,
    },
    /// The row of a key is there, with other values.
    Changed {
        place: String,
        key: Map<String, Value>,
        expected: Map<String, Value>,
        found: Map<String, Value>,
    },
    Count {
        name: &'static str,
        expected: u64,
        found: u64,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { place, row } => write!(f, "{place}: expected, but not there: {}", shown(row)),
            Self::Unexpected { place, row } => write!(f, "{place}: there, but not expected: {}", shown(row)),
            Self::Changed { place, key, expected, found } => {
                write!(f, "{place}: {} has {}, expected {}", shown(key), shown(found), shown(expected))
            }
            Self::Count { name, expected, found } => write!(f, "{name}: {found}, expected {expected}"),
        }
    }
}

fn shown(row: &Map<String, Value>) -> String {
    serde_json::to_string(row).unwrap_or_default()
}

/// `lines`: where each record stood in the input.
pub(super) fn compare(example: &Example, outcome: &Outcome, lines: &[usize]) -> Result<Vec<Difference>> {
    let mut differences = Vec::new();
    for (name, expected) in &example.rows {
        let Some(table) = outcome.tables.iter().find(|table| table.name == *name) else {
            let known: Vec<&str> = outcome.tables.iter().map(|table| table.name.as_str()).collect();
            bail!("the job has no sink `{name}`; there is {}", known.join(", "));
        };
        let expected = rows(expected, table).with_context(|| format!("rows of {name}"))?;
        compare_table(table, expected, &mut differences);
    }
    compare_letters(&example.dead_letters, outcome, lines, &mut differences).context("dead_letters")?;
    compare_counts(example.counts.clone().unwrap_or_default(), outcome, &mut differences);
    Ok(differences)
}

/// Expected rows in the form of the table's.
fn rows(text: &str, table: &Table) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let row = row(line, table).with_context(|| format!("line {number}"))?;
        rows.push(row);
    }
    Ok(rows)
}

fn row(line: &str, table: &Table) -> Result<Row> {
    let object: Map<String, Value> = serde_json::from_str(line).context("not a JSON object")?;
    if let Some(unknown) = object.keys().find(|name| table.columns.iter().all(|column| column.name != **name)) {
        let known: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        bail!("there is no column `{unknown}`; there is {}", known.join(", "));
    }
    let value = |column: &Column| {
        let value = object.get(&column.name).unwrap_or(&Value::Null);
        from_json(value, column).map_err(anyhow::Error::msg)
    };
    table.columns.iter().map(value).collect()
}

fn compare_table(table: &Table, mut expected: Vec<Row>, differences: &mut Vec<Difference>) {
    let mut found: Vec<Row> = table.rows().map(|row| comparable(row, &table.columns)).collect();
    // A table has no order: equal rows are paired off, the same row twice must be there twice.
    expected.retain(|row| match found.iter().position(|other| same(row, other)) {
        Some(at) => {
            found.swap_remove(at);
            false
        }
        None => true,
    });
    let place = &table.name;
    for row in expected {
        let key = table.key();
        let of_key = |other: &Row| !key.is_empty() && key.iter().all(|&i| order(&row[i], &other[i]).is_eq());
        match found.iter().position(of_key) {
            Some(at) => differences.push(changed(table, &row, &found.swap_remove(at))),
            None => differences.push(Difference::Missing { place: place.clone(), row: object(table, &row) }),
        }
    }
    let unexpected = |row: &Row| Difference::Unexpected { place: place.clone(), row: object(table, row) };
    differences.extend(found.iter().map(unexpected));
}

/// JSON can be written in many ways: as [`from_json`] writes it.
fn comparable(row: &Row, columns: &[Column]) -> Row {
    let value = |(value, column): (&KeyValue, &Column)| {
        let document = column.json && *value != KeyValue::Null;
        if document { KeyValue::Text(to_json(value, column).to_string()) } else { value.clone() }
    };
    row.iter().zip(columns).map(value).collect()
}

fn same(a: &Row, b: &Row) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| order(a, b).is_eq())
}

fn changed(table: &Table, expected: &Row, found: &Row) -> Difference {
    let only = |row: &Row, wanted: &dyn Fn(usize) -> bool| -> Map<String, Value> {
        let columns = table.columns.iter().zip(row).enumerate().filter(|(at, _)| wanted(*at));
        columns.map(|(_, (column, value))| (column.name.clone(), to_json(value, column))).collect()
    };
    let differs = |at: usize| order(&expected[at], &found[at]).is_ne();
    Difference::Changed {
        place: table.name.clone(),
        key: only(found, &|at| table.key().contains(&at)),
        expected: only(expected, &differs),
        found: only(found, &differs),
    }
}

/// Without what is null, as people write rows.
fn object(table: &Table, row: &Row) -> Map<String, Value> {
    let columns = table.columns.iter().zip(row).filter(|(_, value)| **value != KeyValue::Null);
    columns.map(|(column, value)| (column.name.clone(), to_json(value, column))).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Letter {
    /// Of the input, from 1.
    line: usize,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl Letter {
    fn object(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        }
    }
}

fn compare_letters(text: &str, outcome: &Outcome, lines: &[usize], differences: &mut Vec<Difference>) -> Result<()> {
    let mut found: Vec<Letter> = outcome
        .dead_letters
        .iter()
        .map(|letter| Letter {
            line: lines.get(letter.record).copied().unwrap_or(0),
            reason: letter.reason.clone(),
            field: letter.field.clone(),
        })
        .collect();
    let place = || "dead letters".to_owned();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let expected: Letter = serde_json::from_str(line)
            .with_context(|| format!("line {number}: not {{\"line\": 1, \"reason\": \"...\", \"field\": \"...\"}}"))?;
        match found.iter().position(|letter| *letter == expected) {
            Some(at) => drop(found.remove(at)),
            None => differences.push(Difference::Missing { place: place(), row: expected.object() }),
        }
    }
    differences.extend(found.iter().map(|letter| Difference::Unexpected { place: place(), row: letter.object() }));
    Ok(())
}

fn compare_counts(expected: Counts, outcome: &Outcome, differences: &mut Vec<Difference>) {
    let found = &outcome.counters;
    let counts = [
        ("read", expected.read, outcome.read),
        ("written", expected.written, found.written),
        ("corrections", expected.corrections, found.corrections),
        ("filtered", expected.filtered, found.filtered),
        ("duplicates", expected.duplicates, found.duplicates),
        ("superseded", expected.superseded, found.superseded),
        ("dead_letters", expected.dead_letters, found.dead_letters),
    ];
    for (name, expected, found) in counts {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            differences.push(Difference::Count { name, expected, found });
        }
    }
    // Whatever the example looks at: every record becomes exactly one thing.
    if found.total() != outcome.read {
        differences.push(Difference::Count {
            name: "records accounted for",
            expected: outcome.read,
            found: found.total(),
        });
    }
}
