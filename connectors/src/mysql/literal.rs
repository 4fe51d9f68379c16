//! Arrow columns as literals of a statement: text that the server reads as exactly the value that Arrow holds.

use std::fmt::Write as _;

use arrow::array::{
    Array, AsArray, BooleanArray, FixedSizeBinaryArray, GenericStringArray, RecordBatch, StringViewArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use uuid::Uuid;

use super::quote;
use crate::database::Zone;

/// Digits behind the point that a DECIMAL has at most.
pub(crate) const MOST_SCALE: i8 = 30;
/// What no column of a date or time accepts: the row is refused, like one whose number is out of range.
const NO_TIME: &str = "'out of range'";
const DAY: i64 = 86_400_000_000;

/// How values stand in a statement for a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Number,
    Text,
    /// MySQL's JSON, which compares by its own rules.
    Json,
    /// TIMESTAMP: the session's zone is UTC.
    Instant,
    /// DATETIME: the time of day in the target's zone.
    LocalTime,
    Date,
    Uuid,
    /// BINARY(16)
    UuidBytes,
}

/// The form for values of `data_type` in a column of this type, if it holds every one of them. `name`: `DATA_TYPE` of the
/// catalog; `scale`: digits behind the point, of a number or of seconds.
pub(crate) fn form(data_type: &DataType, name: &str, length: Option<u64>, scale: Option<i64>) -> Option<Form> {
    // CHAR loses blanks at the end.
    let texts = ["varchar", "tinytext", "text", "mediumtext", "longtext", "enum"];
    let micros = scale == Some(6);
    let form = match (data_type, name) {
        (DataType::Boolean, "tinyint" | "bit") => Form::Number,
        (DataType::Int32, "int" | "bigint" | "double" | "decimal") => Form::Number,
        (DataType::Int64, "bigint" | "decimal") => Form::Number,
        // DOUBLE(m,d) rounds.
        (DataType::Float64, "double") if scale.is_none() => Form::Number,
        // A column of fewer digits behind the point would round, silently.
        (DataType::Decimal128(_, wanted @ 0..=MOST_SCALE), "decimal") if scale >= Some(i64::from(*wanted)) => {
            Form::Number
        }
        (DataType::Utf8 | DataType::Utf8View, "json") => Form::Json,
        (DataType::Utf8 | DataType::Utf8View, name) if texts.contains(&name) => Form::Text,
        (DataType::Timestamp(TimeUnit::Microsecond, _), "datetime") if micros => Form::LocalTime,
        (DataType::Timestamp(TimeUnit::Microsecond, _), "timestamp") if micros => Form::Instant,
        (DataType::Date32, "date") => Form::Date,
        (DataType::FixedSizeBinary(16), "uuid") => Form::Uuid,
        (DataType::FixedSizeBinary(16), "char" | "varchar") if length >= Some(36) => Form::Uuid,
        (DataType::FixedSizeBinary(16), "binary") if length == Some(16) => Form::UuidBytes,
        _ => return None,
    };
    Some(form)
}

enum Cells<'a> {
    Bool(&'a BooleanArray),
    Int4(&'a [i32]),
    Int8(&'a [i64]),
    Float8(&'a [f64]),
    Decimal(&'a [i128], u8),
    Text(&'a GenericStringArray<i32>),
    TextView(&'a StringViewArray),
    Instant(&'a [i64]),
    LocalTime(&'a [i64], &'a Zone),
    Date(&'a [i32]),
    Uuid(&'a FixedSizeBinaryArray),
    UuidBytes(&'a FixedSizeBinaryArray),
}

struct Column<'a> {
    cells: Cells<'a>,
    nulls: Option<&'a NullBuffer>,
}

impl<'a> Column<'a> {
    /// `None` where the pair is not one of [`form`]'s.
    fn new(array: &'a dyn Array, form: Form, zone: &'a Zone) -> Option<Self> {
        let cells = match (array.data_type(), form) {
            (DataType::Boolean, Form::Number) => Cells::Bool(array.as_boolean()),
            (DataType::Int32, Form::Number) => Cells::Int4(array.as_primitive::<Int32Type>().values()),
            (DataType::Int64, Form::Number) => Cells::Int8(array.as_primitive::<Int64Type>().values()),
            (DataType::Float64, Form::Number) => Cells::Float8(array.as_primitive::<Float64Type>().values()),
            (DataType::Decimal128(_, scale), Form::Number) => {
                Cells::Decimal(array.as_primitive::<Decimal128Type>().values(), u8::try_from(*scale).ok()?)
            }
            (DataType::Utf8, Form::Text | Form::Json) => Cells::Text(array.as_string()),
            (DataType::Utf8View, Form::Text | Form::Json) => Cells::TextView(array.as_string_view()),
            (DataType::Timestamp(TimeUnit::Microsecond, _), Form::Instant) => {
                Cells::Instant(array.as_primitive::<TimestampMicrosecondType>().values())
            }
            (DataType::Timestamp(TimeUnit::Microsecond, _), Form::LocalTime) => {
                Cells::LocalTime(array.as_primitive::<TimestampMicrosecondType>().values(), zone)
            }
            (DataType::Date32, Form::Date) => Cells::Date(array.as_primitive::<Date32Type>().values()),
            (DataType::FixedSizeBinary(16), Form::Uuid) => Cells::Uuid(array.as_fixed_size_binary()),
            (DataType::FixedSizeBinary(16), Form::UuidBytes) => Cells::UuidBytes(array.as_fixed_size_binary()),
            _ => return None,
        };
        Some(Self { cells, nulls: array.nulls() })
    }

    fn put(&self, row: usize, out: &mut String) {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.push_str("NULL");
            return;
        }
        match &self.cells {
            Cells::Bool(values) => out.push(if values.value(row) { '1' } else { '0' }),
            Cells::Int4(values) => put_display(values[row], out),
            Cells::Int8(values) => put_display(values[row], out),
            Cells::Float8(values) => put_float(values[row], out),
            Cells::Decimal(values, scale) => put_decimal(values[row], *scale, out),
            Cells::Text(values) => quote::put_text(values.value(row), out),
            Cells::TextView(values) => quote::put_text(values.value(row), out),
            Cells::Instant(values) => put_time(values[row], out),
            Cells::LocalTime(values, zone) => put_time(zone.local(values[row]), out),
            Cells::Date(values) => match date(i64::from(values[row])) {
                Some(text) => put_display(format_args!("'{text}'"), out),
                None => out.push_str(NO_TIME),
            },
            Cells::Uuid(values) => match Uuid::from_slice(values.value(row)) {
                Ok(uuid) => put_display(format_args!("'{uuid}'"), out),
                Err(_) => out.push_str("NULL"),
            },
            Cells::UuidBytes(values) => quote::put_bytes(values.value(row), out),
        }
    }
}

pub(crate) fn put_display(value: impl std::fmt::Display, out: &mut String) {
    // Writing to a string does not fail.
    write!(out, "{value}").ok();
}

/// The shortest digits that are read back as the same number. What is not a number is a text that no number accepts.
fn put_float(value: f64, out: &mut String) {
    if value.is_finite() {
        put_display(format_args!("{value:e}"), out);
    } else {
        put_display(format_args!("'{value}'"), out);
    }
}

fn put_decimal(unscaled: i128, scale: u8, out: &mut String) {
    if unscaled < 0 {
        out.push('-');
    }
    let digits = unscaled.unsigned_abs().to_string();
    let scale = usize::from(scale);
    if scale == 0 {
        out.push_str(&digits);
        return;
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    put_display(format_args!("{whole}.{fraction}"), out);
}

/// Microseconds from 1970-01-01T00:00 of the clock that the column has.
pub(crate) fn put_time(micros: i64, out: &mut String) {
    let (days, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let Some(date) = date(days) else {
        out.push_str(NO_TIME);
        return;
    };
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    put_display(format_args!("'{date} {hour:02}:{minute:02}:{second:02}.{fraction:06}'"), out);
}

/// The day so many days after 1970-01-01. A DATE goes from year 1 to 9999.
fn date(days: i64) -> Option<String> {
    let days = i32::try_from(days).ok()?;
    let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().try_days(days).ok()?).ok()?;
    (1..=9999).contains(&date.year()).then(|| date.to_string())
}

/// Some columns of one batch, in the order in which a statement lists them.
pub(crate) struct Literals<'a>(Vec<Column<'a>>);

impl<'a> Literals<'a> {
    /// `Err` names the column whose type is not what the table was checked for.
    pub(crate) fn new(
        batch: &'a RecordBatch,
        columns: impl IntoIterator<Item = (usize, Form)>,
        zone: &'a Zone,
    ) -> Result<Self, String> {
        let column = |(index, form): (usize, Form)| {
            let array = batch.columns().get(index).ok_or_else(|| format!("column {index} is missing"))?;
            Column::new(array.as_ref(), form, zone)
                .ok_or_else(|| format!("column {index} is a {}, which does not go as {form:?}", array.data_type()))
        };
        Ok(Self(columns.into_iter().map(column).collect::<Result<_, String>>()?))
    }

    /// Appends the literals of one row, by commas.
    pub(crate) fn put(&self, row: usize, out: &mut String) {
        for (i, column) in self.0.iter().enumerate() {
            out.push_str(if i > 0 { "," } else { "" });
            column.put(row, out);
        }
    }

    /// Appends the literal of one of the columns.
    pub(crate) fn put_one(&self, column: usize, row: usize, out: &mut String) {
        match self.0.get(column) {
            Some(column) => column.put(row, out),
            None => out.push_str("NULL"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(put: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        put(&mut out);
        out
    }

    #[test]
    fn numbers_keep_every_digit() {
        for (unscaled, scale, expected) in
            [(0, 2, "0.00"), (-5, 2, "-0.05"), (1_234, 2, "12.34"), (7, 0, "7"), (10i128.pow(38) - 1, 38, "")]
        {
            let text = text(|out| put_decimal(unscaled, scale, out));
            let expected = if expected.is_empty() { format!("0.{}", "9".repeat(38)) } else { expected.to_owned() };
            assert_eq!(text, expected);
        }
        for value in [0.1, -0.0, f64::MAX, f64::MIN_POSITIVE, 5e-324] {
            let text = text(|out| put_float(value, out));
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{text}");
        }
        assert_eq!(text(|out| put_float(f64::NAN, out)), "'NaN'");
    }

    #[test]
    fn times_are_on_the_clock_of_the_column() {
        assert_eq!(text(|out| put_time(-1, out)), "'1969-12-31 23:59:59.999999'");
        assert_eq!(text(|out| put_time(1_700_000_000_123_456, out)), "'2023-11-14 22:13:20.123456'");
        for far in [i64::MIN, i64::MAX, -62_135_596_800_000_001, 253_402_300_800_000_000] {
            assert_eq!(text(|out| put_time(far, out)), NO_TIME);
        }
        assert_eq!(date(-719_162).as_deref(), Some("0001-01-01"));
        assert_eq!((date(-719_163), date(i64::from(i32::MAX))), (None, None));
    }
}
