//! A field's JSON value, read as text, as a value of its type: NULL where it is none.

use pulso_job::{Bound, FieldSpec, FieldType, TimestampText};

use crate::sql;

/// `2026-01-31T12:00:00.5+01:00`: local time, fraction, zone.
const RFC_3339: &str =
    "^([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2})([.][0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})?$";
const INTEGER: &str = "^-?[0-9]+$";
/// Also keeps out `NaN` and `Infinity`, which a cast takes.
const NUMBER: &str = "^-?[0-9][0-9.eE+-]*$";
const DATE: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$";
const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// The field's value from SQL that is its text; `digits` of a second for timestamps.
pub(crate) fn parsed(field: &FieldSpec, text: &str, digits: u8) -> Result<String, String> {
    let cast = |pattern: &str, data_type: &str| {
        format!("CASE WHEN REGEXP({text}, {}) THEN TRY_CAST({text} AS {data_type}) END", sql::text(pattern))
    };
    Ok(match &field.kind {
        FieldType::String => text.to_owned(),
        FieldType::Bool => format!("CASE {text} WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END"),
        FieldType::Int32 => cast(INTEGER, "INT"),
        FieldType::Int64 => cast(INTEGER, "BIGINT"),
        FieldType::Float64 => cast(NUMBER, "DOUBLE"),
        FieldType::Decimal { precision, scale } => cast(NUMBER, &format!("DECIMAL({precision}, {scale})")),
        FieldType::Timestamp(TimestampText::Epoch { per_second: 1 }) => {
            format!("TO_TIMESTAMP_LTZ({}, 0)", cast(INTEGER, "BIGINT"))
        }
        FieldType::Timestamp(TimestampText::Epoch { per_second: 1_000 }) => {
            format!("TO_TIMESTAMP_LTZ({}, 3)", cast(INTEGER, "BIGINT"))
        }
        FieldType::Timestamp(TimestampText::Epoch { .. }) => {
            return Err("`epoch`: Flink's TO_TIMESTAMP_LTZ knows seconds and milliseconds only".to_owned());
        }
        FieldType::Timestamp(TimestampText::Rfc3339 { assume_zone }) => rfc_3339(text, assume_zone.as_deref(), digits),
        FieldType::Date => cast(DATE, "DATE"),
        FieldType::Uuid => format!("CASE WHEN REGEXP({text}, {}) THEN LOWER({text}) END", sql::text(UUID)),
        FieldType::Json => return Err("`type = \"json\"`: Flink's JSON format drops the quotes of texts".to_owned()),
    })
}

/// Flink casts no text with a `T` or a zone to a timestamp, so it is taken apart.
fn rfc_3339(text: &str, assume_zone: Option<&str>, digits: u8) -> String {
    let part = |index: u8| format!("REGEXP_EXTRACT({text}, {}, {index})", sql::text(RFC_3339));
    let local = format!(
        "REPLACE(UPPER({}), 'T', ' ') || SUBSTRING(RPAD(COALESCE(NULLIF({}, ''), '.'), {}, '0'), 1, {})",
        part(1),
        part(2),
        digits + 1,
        digits + 1
    );
    let zone = part(3);
    let minutes = format!("CAST(SUBSTRING({zone}, 2, 2) AS INT) * 60 + CAST(SUBSTRING({zone}, 5, 2) AS INT)");
    // The session's zone is UTC, so a local time is taken for UTC, and the offset subtracted.
    let at_offset = format!(
        "CAST(TIMESTAMPADD(MINUTE, CASE SUBSTRING({zone}, 1, 1) WHEN '+' THEN -({minutes}) WHEN '-' THEN {minutes} ELSE 0 END, \
         TRY_CAST({local} AS TIMESTAMP({digits}))) AS TIMESTAMP_LTZ({digits}))"
    );
    let without_zone = assume_zone.map(|assumed| {
        let pattern = format!("yyyy-MM-dd HH:mm:ss.{}", "S".repeat(usize::from(digits)));
        // Only what is a date can be parsed: else the job would end.
        format!(
            "WHEN TRY_CAST({local} AS TIMESTAMP({digits})) IS NOT NULL THEN TO_TIMESTAMP_LTZ({local}, {}, {})",
            sql::text(&pattern),
            sql::text(assumed)
        )
    });
    format!("CASE WHEN {zone} <> '' THEN {at_offset} {} END", without_zone.unwrap_or_default())
}

/// A bound as a literal of the field's type.
pub(crate) fn bound(field: &FieldSpec, bound: Bound) -> String {
    match bound {
        Bound::Int(value) => value.to_string(),
        Bound::Float(value) => format!("{value}E0"),
        Bound::Decimal(unscaled) => {
            let scale = match field.kind {
                FieldType::Decimal { scale, .. } => usize::try_from(scale).unwrap_or(0),
                FieldType::String
                | FieldType::Bool
                | FieldType::Int32
                | FieldType::Int64
                | FieldType::Float64
                | FieldType::Timestamp(_)
                | FieldType::Date
                | FieldType::Uuid
                | FieldType::Json => 0,
            };
            let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let sign = if unscaled < 0 { "-" } else { "" };
            if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
        }
    }
}
