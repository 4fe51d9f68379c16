//! Arrow columns to the rows of a binary COPY, with no value copied twice.

use arrow::array::{
    Array, AsArray, BooleanArray, FixedSizeBinaryArray, GenericStringArray, RecordBatch, StringViewArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit};
use bytes::{BufMut, BytesMut};

use super::numeric;
use crate::database::Zone;

/// Microseconds and days from 1970, where Arrow counts from, to 2000, where PostgreSQL does.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const NULL: i32 = -1;

/// The binary form that a table's column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Bool,
    Int4,
    Int8,
    Float8,
    Numeric,
    /// Text and whatever is read as text, enums among them.
    Text,
    Jsonb,
    /// With time zone: microseconds in UTC.
    Timestamp,
    /// Without time zone: microseconds on the clock of the target's zone.
    LocalTimestamp,
    Date,
    Uuid,
}

/// The form for values of `data_type` in a column of this base type, if it holds every one of them.
pub(crate) fn wire(data_type: &DataType, base: &str, is_enum: bool) -> Option<Wire> {
    let wire = match (data_type, base) {
        (DataType::Boolean, "bool") => Wire::Bool,
        (DataType::Int32, "int4") => Wire::Int4,
        (DataType::Int32 | DataType::Int64, "int8") => Wire::Int8,
        (DataType::Int32 | DataType::Float64, "float8") => Wire::Float8,
        (DataType::Int32 | DataType::Int64, "numeric") => Wire::Numeric,
        (DataType::Decimal128(_, 0..=38), "numeric") => Wire::Numeric,
        (DataType::Utf8 | DataType::Utf8View, "text" | "varchar" | "bpchar" | "citext" | "json") => Wire::Text,
        (DataType::Utf8 | DataType::Utf8View, _) if is_enum => Wire::Text,
        (DataType::Utf8 | DataType::Utf8View, "jsonb") => Wire::Jsonb,
        (DataType::Timestamp(TimeUnit::Microsecond, _), "timestamptz") => Wire::Timestamp,
        (DataType::Timestamp(TimeUnit::Microsecond, _), "timestamp") => Wire::LocalTimestamp,
        (DataType::Date32, "date") => Wire::Date,
        (DataType::FixedSizeBinary(16), "uuid") => Wire::Uuid,
        _ => return None,
    };
    Some(wire)
}

enum Cells<'a> {
    Bool(&'a BooleanArray),
    Int4(&'a [i32]),
    Int4As8(&'a [i32]),
    Int8(&'a [i64]),
    Int4AsFloat(&'a [i32]),
    Float8(&'a [f64]),
    Int4AsNumeric(&'a [i32]),
    Int8AsNumeric(&'a [i64]),
    Numeric(&'a [i128], u8),
    Text(&'a GenericStringArray<i32>),
    TextView(&'a StringViewArray),
    Json(&'a GenericStringArray<i32>),
    JsonView(&'a StringViewArray),
    Timestamp(&'a [i64]),
    LocalTimestamp(&'a [i64], &'a Zone),
    Date(&'a [i32]),
    Uuid(&'a FixedSizeBinaryArray),
}

/// One column of one batch.
pub(crate) struct Column<'a> {
    cells: Cells<'a>,
    nulls: Option<&'a NullBuffer>,
}

impl<'a> Column<'a> {
    /// `None` where the pair is not one of [`wire`]'s.
    pub(crate) fn new(array: &'a dyn Array, wire: Wire, zone: &'a Zone) -> Option<Self> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "what `wire` does not pair is refused")]
        let cells = match (array.data_type(), wire) {
            (DataType::Boolean, Wire::Bool) => Cells::Bool(array.as_boolean()),
            (DataType::Int32, wire) => {
                let values = array.as_primitive::<Int32Type>().values();
                match wire {
                    Wire::Int4 => Cells::Int4(values),
                    Wire::Int8 => Cells::Int4As8(values),
                    Wire::Float8 => Cells::Int4AsFloat(values),
                    Wire::Numeric => Cells::Int4AsNumeric(values),
                    _ => return None,
                }
            }
            (DataType::Int64, Wire::Int8) => Cells::Int8(array.as_primitive::<Int64Type>().values()),
            (DataType::Int64, Wire::Numeric) => Cells::Int8AsNumeric(array.as_primitive::<Int64Type>().values()),
            (DataType::Float64, Wire::Float8) => Cells::Float8(array.as_primitive::<Float64Type>().values()),
            (DataType::Decimal128(_, scale), Wire::Numeric) => {
                Cells::Numeric(array.as_primitive::<Decimal128Type>().values(), u8::try_from(*scale).ok()?)
            }
            (DataType::Utf8, Wire::Text) => Cells::Text(array.as_string()),
            (DataType::Utf8View, Wire::Text) => Cells::TextView(array.as_string_view()),
            (DataType::Utf8, Wire::Jsonb) => Cells::Json(array.as_string()),
            (DataType::Utf8View, Wire::Jsonb) => Cells::JsonView(array.as_string_view()),
            (DataType::Timestamp(TimeUnit::Microsecond, _), Wire::Timestamp) => {
                Cells::Timestamp(array.as_primitive::<TimestampMicrosecondType>().values())
            }
            (DataType::Timestamp(TimeUnit::Microsecond, _), Wire::LocalTimestamp) => {
                Cells::LocalTimestamp(array.as_primitive::<TimestampMicrosecondType>().values(), zone)
            }
            (DataType::Date32, Wire::Date) => Cells::Date(array.as_primitive::<Date32Type>().values()),
            (DataType::FixedSizeBinary(16), Wire::Uuid) => Cells::Uuid(array.as_fixed_size_binary()),
            _ => return None,
        };
        Some(Self { cells, nulls: array.nulls() })
    }

    fn put(&self, row: usize, out: &mut BytesMut) {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.put_i32(NULL);
            return;
        }
        match &self.cells {
            Cells::Bool(values) => out.put_slice(&[0, 0, 0, 1, u8::from(values.value(row))]),
            Cells::Int4(values) => put4(out, values[row].to_be_bytes()),
            Cells::Int4As8(values) => put8(out, i64::from(values[row]).to_be_bytes()),
            Cells::Int8(values) => put8(out, values[row].to_be_bytes()),
            Cells::Int4AsFloat(values) => put8(out, f64::from(values[row]).to_be_bytes()),
            Cells::Float8(values) => put8(out, values[row].to_be_bytes()),
            Cells::Int4AsNumeric(values) => numeric::put(i128::from(values[row]), 0, out),
            Cells::Int8AsNumeric(values) => numeric::put(i128::from(values[row]), 0, out),
            Cells::Numeric(values, scale) => numeric::put(values[row], *scale, out),
            Cells::Text(values) => put_bytes(out, values.value(row).as_bytes()),
            Cells::TextView(values) => put_bytes(out, values.value(row).as_bytes()),
            Cells::Json(values) => put_jsonb(out, values.value(row)),
            Cells::JsonView(values) => put_jsonb(out, values.value(row)),
            Cells::Timestamp(values) => put8(out, timestamp(values[row]).to_be_bytes()),
            Cells::LocalTimestamp(values, zone) => put8(out, timestamp(zone.local(values[row])).to_be_bytes()),
            Cells::Date(values) => put4(out, date(values[row]).to_be_bytes()),
            Cells::Uuid(values) => put_bytes(out, values.value(row)),
        }
    }
}

/// PostgreSQL's count. The ends of its range mean infinity, so a time beyond the range becomes one that it refuses.
pub(crate) fn timestamp(micros: i64) -> i64 {
    micros.saturating_sub(EPOCH_MICROS).clamp(i64::MIN + 1, i64::MAX - 1)
}

fn date(days: i32) -> i32 {
    days.saturating_sub(EPOCH_DAYS).clamp(i32::MIN + 1, i32::MAX - 1)
}

/// Fields of fixed length go in one piece, length and value.
fn put4(out: &mut BytesMut, value: [u8; 4]) {
    let [a, b, c, d] = value;
    out.extend_from_slice(&[0, 0, 0, 4, a, b, c, d]);
}

fn put8(out: &mut BytesMut, value: [u8; 8]) {
    let [a, b, c, d, e, f, g, h] = value;
    out.extend_from_slice(&[0, 0, 0, 8, a, b, c, d, e, f, g, h]);
}

/// A value is at most a Kafka record long, far below what an `i32` counts.
fn put_bytes(out: &mut BytesMut, value: &[u8]) {
    out.put_i32(value.len() as i32);
    out.extend_from_slice(value);
}

/// Version 1 of `jsonb`'s binary form is the text.
fn put_jsonb(out: &mut BytesMut, value: &str) {
    out.put_i32(value.len() as i32 + 1);
    out.put_u8(1);
    out.extend_from_slice(value.as_bytes());
}

/// Starts a COPY stream.
pub(crate) fn header(out: &mut BytesMut) {
    out.extend_from_slice(HEADER);
}

/// Ends a COPY stream.
pub(crate) fn trailer(out: &mut BytesMut) {
    out.put_i16(-1);
}

/// Starts a row.
pub(crate) fn row_start(out: &mut BytesMut, fields: usize) {
    out.put_i16(fields as i16);
}

pub(crate) fn optional_text(out: &mut BytesMut, text: Option<&str>) {
    optional_bytes(out, text.map(str::as_bytes));
}

pub(crate) fn optional_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => out.put_i32(NULL),
        Some(bytes) => put_bytes(out, bytes),
    }
}

pub(crate) fn optional_i64(out: &mut BytesMut, value: Option<i64>) {
    match value {
        None => out.put_i32(NULL),
        Some(value) => put8(out, value.to_be_bytes()),
    }
}

/// Some columns of one batch, in the order in which a COPY lists them.
pub(crate) struct Encoder<'a>(Vec<Column<'a>>);

impl<'a> Encoder<'a> {
    /// `Err` names the column whose type is not what the table was checked for.
    pub(crate) fn new(
        batch: &'a RecordBatch,
        columns: impl IntoIterator<Item = (usize, Wire)>,
        zone: &'a Zone,
    ) -> Result<Self, String> {
        let column = |(index, wire): (usize, Wire)| {
            let array = batch.columns().get(index).ok_or_else(|| format!("column {index} is missing"))?;
            Column::new(array.as_ref(), wire, zone)
                .ok_or_else(|| format!("column {index} is a {}, which does not go as {wire:?}", array.data_type()))
        };
        Ok(Self(columns.into_iter().map(column).collect::<Result<_, String>>()?))
    }

    /// Appends the fields of one row.
    pub(crate) fn put(&self, row: usize, out: &mut BytesMut) {
        for column in &self.0 {
            column.put(row, out);
        }
    }
}
