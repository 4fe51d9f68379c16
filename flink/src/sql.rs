//! Words of Flink SQL: names, literals, intervals, types.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of Arrow's types a checked job has only those that are named here"
)]

use std::time::Duration;

use arrow::datatypes::DataType;

/// Columns and views of the script's own: a `$` is in no name of a job.
pub(crate) mod own {
    pub(crate) const SOURCE: &str = "source";
    /// One column a field, as text.
    pub(crate) const TEXTS: &str = "texts";
    /// One column a field, of its type.
    pub(crate) const TYPED: &str = "typed";
    /// With what is wrong with each.
    pub(crate) const JUDGED: &str = "judged";
    pub(crate) const GOOD: &str = "good";
    pub(crate) const DERIVED: &str = "derived";
    /// What sinks and aggregates see.
    pub(crate) const RECORDS: &str = "records";
    pub(crate) const DEAD_LETTERS: &str = "dead_letters";

    pub(crate) const PARTITION: &str = "kafka$partition";
    pub(crate) const OFFSET: &str = "kafka$offset";
    pub(crate) const TIMESTAMP: &str = "kafka$timestamp";
    pub(crate) const ARRIVED: &str = "arrived$at";
    pub(crate) const EVENT_TIME: &str = "event$time";
    pub(crate) const RECORD: &str = "record$json";
    pub(crate) const PROBLEM: &str = "problem$reason";
    pub(crate) const NUMBER: &str = "row$number";
    pub(crate) const WINDOW_START: &str = "window$start";
    pub(crate) const WINDOW_END: &str = "window$end";
}

/// Names that PostgreSQL takes in quotes alone.
#[rustfmt::skip]
pub(crate) const RESERVED: [&str; 101] = [
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization", "binary",
    "both", "case", "cast", "check", "collate", "collation", "column", "concurrently", "constraint", "create",
    "cross", "current_catalog", "current_date", "current_role", "current_schema", "current_time",
    "current_timestamp", "current_user", "default", "deferrable", "desc", "distinct", "do", "else", "end", "except",
    "false", "fetch", "for", "foreign", "freeze", "from", "full", "grant", "group", "having", "ilike", "in",
    "initially", "inner", "intersect", "into", "is", "isnull", "join", "lateral", "leading", "left", "like",
    "limit", "localtime", "localtimestamp", "natural", "not", "notnull", "null", "offset", "on", "only", "or",
    "order", "outer", "overlaps", "placing", "primary", "references", "returning", "right", "select",
    "session_user", "similar", "some", "symmetric", "system_user", "table", "tablesample", "then", "to", "trailing",
    "true", "union", "unique", "user", "using", "variadic", "verbose", "when", "where", "window", "with",
];

pub(crate) fn name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

pub(crate) fn names<'n>(all: impl IntoIterator<Item = &'n str>) -> String {
    all.into_iter().map(name).collect::<Vec<_>>().join(", ")
}

pub(crate) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An interval, in the largest unit that holds it exactly, down to milliseconds.
pub(crate) fn interval(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, size) in [("DAY", 86_400_000), ("HOUR", 3_600_000), ("MINUTE", 60_000), ("SECOND", 1_000)] {
        if milliseconds >= size && milliseconds.is_multiple_of(size) {
            let count = (milliseconds / size).to_string();
            let digits = count.len();
            let precision = if digits > 2 { format!("({digits})") } else { String::new() };
            return format!("INTERVAL '{count}' {unit}{precision}");
        }
    }
    let (seconds, rest) = (milliseconds / 1_000, milliseconds % 1_000);
    if rest == 0 {
        return "INTERVAL '0' SECOND".to_owned();
    }
    let digits = seconds.to_string().len().max(2);
    format!("INTERVAL '{seconds}.{rest:03}' SECOND({digits}, 3)")
}

/// A setting's duration: `90000 ms`.
pub(crate) fn setting(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)] {
        if milliseconds >= size && milliseconds.is_multiple_of(size) {
            return format!("{} {unit}", milliseconds / size);
        }
    }
    format!("{milliseconds} ms")
}

/// The type of a column.
pub(crate) fn data_type(data_type: &DataType) -> Result<String, String> {
    Ok(match data_type {
        DataType::Utf8 => "STRING".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(precision, scale) if *scale >= 0 => format!("DECIMAL({precision}, {scale})"),
        DataType::Timestamp(..) => "TIMESTAMP_LTZ(6)".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        // Flink has no type for them: text in lower case.
        DataType::FixedSizeBinary(16) => "STRING".to_owned(),
        other => return Err(format!("Flink SQL has no type for {other}")),
    })
}

/// A comment in lines that can be read.
pub(crate) fn comment(text: &str) -> String {
    lines(text).iter().map(|line| format!("-- {line}\n")).collect()
}

/// One of several things in a comment.
pub(crate) fn point(text: &str) -> String {
    let lines = lines(text).into_iter().enumerate();
    lines.map(|(at, line)| format!("-- {} {line}\n", if at == 0 { "*" } else { " " })).collect()
}

fn lines(text: &str) -> Vec<String> {
    const WIDTH: usize = 110;
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_exact() {
        let of = |milliseconds| interval(Duration::from_millis(milliseconds));
        assert_eq!(of(0), "INTERVAL '0' SECOND");
        assert_eq!(of(90_000), "INTERVAL '90' SECOND");
        assert_eq!(of(600_000), "INTERVAL '10' MINUTE");
        assert_eq!(of(100 * 86_400_000), "INTERVAL '100' DAY(3)");
        assert_eq!(of(1_500), "INTERVAL '1.500' SECOND(2, 3)");
    }

    #[test]
    fn names_and_texts_cannot_break_out() {
        assert_eq!((name("a`b"), text("it's")), ("`a``b`".to_owned(), "'it''s'".to_owned()));
    }
}
