//! A database's rows as JSON, with what must not be shown masked.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use pulso_connectors::panel::PanelRows;
use pulso_job::{JobSpec, RowsFrom, SinkValue};
use serde::Serialize;
use serde_json::Value;

/// Masked values can be told apart as long as this process lives, and not be found out by trying.
static MASK: LazyLock<RandomState> = LazyLock::new(RandomState::new);

#[derive(Debug, Clone, Serialize, PartialEq)]
pub(crate) struct Column {
    name: String,
    /// As of [`PanelRows::columns`].
    r#type: String,
    masked: bool,
}

#[derive(Debug, Clone, Serialize, PartialEq)]
pub(crate) struct Answer {
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
    /// There are more rows than are shown.
    truncated: bool,
}

impl Answer {
    pub(crate) fn new(found: PanelRows, protected: &BTreeSet<String>) -> Self {
        let column = |(name, kind): &(String, String)| Column {
            masked: protected.contains(name),
            name: name.clone(),
            r#type: kind.clone(),
        };
        let columns: Vec<Column> = found.columns.iter().map(column).collect();
        let value = |(text, column): (Option<String>, &Column)| match text {
            None => Value::Null,
            Some(text) if column.masked => masked(&text),
            Some(text) => value(text, &column.r#type),
        };
        let rows = found.rows.into_iter().map(|row| row.into_iter().zip(&columns).map(value).collect()).collect();
        Self { columns, rows, truncated: found.truncated }
    }
}

/// Names under which values of fields with `phi = true` are stored. A panel that gives them other names shows them: its
/// author decides.
pub(crate) fn protected(job: &JobSpec) -> BTreeSet<String> {
    let is_phi = |column: usize| job.fields.get(column).is_some_and(|field| field.phi);
    let mut names: BTreeSet<String> =
        job.fields.iter().filter(|field| field.phi).map(|field| field.name.clone()).collect();
    for sink in &job.sinks {
        let source = |column: usize| match sink.from {
            RowsFrom::Records | RowsFrom::Late => Some(column),
            RowsFrom::Aggregate(index) => job.aggregates.get(index).and_then(|a| a.group_by.get(column)).copied(),
        };
        let protected = sink.columns.iter().filter(|column| match &column.value {
            SinkValue::Column(column) => source(*column).is_some_and(is_phi),
            SinkValue::Expression(_) => false,
        });
        names.extend(protected.map(|column| column.name.clone()));
    }
    names
}

fn masked(text: &str) -> Value {
    Value::from(format!("•••{:06x}", MASK.hash_one(text) & 0xff_ffff))
}

/// Numbers that JSON holds exactly are numbers; `numeric` is text, so that no digit is lost; times are RFC 3339.
fn value(text: String, kind: &str) -> Value {
    let found = match kind {
        "bool" => Some(Value::Bool(text == "t")),
        "int2" | "int4" | "int8" | "int32" | "int64" => text.parse::<i64>().ok().map(Value::from),
        "float4" | "float8" | "float64" => {
            text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number)
        }
        "json" | "jsonb" => serde_json::from_str(&text).ok(),
        "timestamptz" | "timestamp" if text.ends_with("+00") => {
            Some(Value::from(format!("{}Z", text.trim_end_matches("+00").replacen(' ', "T", 1))))
        }
        "timestamp" => Some(Value::from(text.replacen(' ', "T", 1))),
        _ => None,
    };
    found.unwrap_or(Value::String(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_have_the_form_of_their_type() {
        let values = [
            ("t", "bool", json!(true)),
            ("f", "bool", json!(false)),
            ("-9223372036854775808", "int8", json!(i64::MIN)),
            ("1.5", "float8", json!(1.5)),
            ("NaN", "float8", json!("NaN")),
            ("0.10", "numeric", json!("0.10")),
            ("2026-01-01 00:00:00.5+00", "timestamptz", json!("2026-01-01T00:00:00.5Z")),
            ("infinity", "timestamptz", json!("infinity")),
            ("2026-01-01 00:00:00", "timestamp", json!("2026-01-01T00:00:00")),
            ("2026-01-01 00:00:00.000000+00", "timestamp", json!("2026-01-01T00:00:00.000000Z")),
            ("-7", "int32", json!(-7)),
            ("0.25", "float64", json!(0.25)),
            ("1.50", "decimal(6,2)", json!("1.50")),
            ("{\"a\": [1]}", "jsonb", json!({"a": [1]})),
            ("x", "text", json!("x")),
        ];
        for (text, kind, expected) in values {
            assert_eq!(value(text.to_owned(), kind), expected, "{kind}");
        }
    }

    #[test]
    fn masked_values_can_be_told_apart_and_do_not_tell() {
        let rows = [Some("Ana"), Some("Bia"), Some("Ana"), None];
        let found = PanelRows {
            columns: vec![("patient".to_owned(), "text".to_owned()), ("n".to_owned(), "int4".to_owned())],
            rows: rows.iter().map(|name| vec![name.map(str::to_owned), Some("1".to_owned())]).collect(),
            truncated: false,
        };
        let answer = Answer::new(found, &BTreeSet::from(["patient".to_owned()]));
        let names: Vec<&Value> = answer.rows.iter().map(|row| &row[0]).collect();
        assert_eq!((names[0], names[3]), (names[2], &Value::Null));
        assert_ne!(names[0], names[1]);
        assert!(answer.columns[0].masked && !answer.columns[1].masked);
        assert!(!serde_json::to_string(&answer).unwrap().contains("Ana"));
    }
}
