//! Rows as JSON, for targets whose rows are text.
//!
//! Every value stands as exactly as it is: decimals and integers as numbers with all their digits, a timestamp as RFC 3339
//! in UTC with microseconds. What has no such form is null: NaN, infinity, a time outside of the years 1 to 9999.

use std::io::Write as _;

use arrow::array::{
    Array, AsArray, BooleanArray, FixedSizeBinaryArray, GenericStringArray, RecordBatch, StringViewArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DecimalType as _, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};

/// Microseconds.
const SECOND: i64 = 1_000_000;
/// Seconds.
const DAY: i64 = 86_400;
/// What RFC 3339 can say, the years 1 to 9999, in seconds since 1970. Fields are within, expressions can go beyond.
const YEARS: std::ops::Range<i64> = -62_135_596_800..253_402_300_800;

/// A column that JSON is to be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonColumn {
    /// With its quotes, and the colon behind it.
    name: Vec<u8>,
    /// Text that is JSON already.
    is_json: bool,
}

impl JsonColumn {
    pub(crate) fn new(name: &str, is_json: bool) -> Self {
        let mut quoted = Vec::with_capacity(name.len() + 3);
        text(name, &mut quoted);
        quoted.push(b':');
        Self { name: quoted, is_json }
    }
}

/// The columns of one batch.
pub(crate) struct JsonRows<'a> {
    columns: Vec<(&'a JsonColumn, Cells<'a>, Option<&'a NullBuffer>)>,
}

enum Cells<'a> {
    Bool(&'a BooleanArray),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    Float64(&'a [f64]),
    Decimal(&'a [i128], u8, i8),
    Text(&'a GenericStringArray<i32>),
    TextView(&'a StringViewArray),
    Timestamp(&'a [i64]),
    Date(&'a [i32]),
    Uuid(&'a FixedSizeBinaryArray),
}

impl<'a> JsonRows<'a> {
    /// `columns` are those of the batch, in order. `None` where one has a type that no checked job has.
    pub(crate) fn new(columns: &'a [JsonColumn], batch: &'a RecordBatch) -> Option<Self> {
        let pairs = columns.iter().zip(batch.columns());
        let columns = pairs.map(|(column, array)| Some((column, Cells::new(array)?, array.nulls())));
        Some(Self { columns: columns.collect::<Option<_>>()? })
    }

    /// Appends a row as an object of these columns, by their index.
    pub(crate) fn object(&self, columns: &[usize], row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut first = true;
        for (column, cells, nulls) in columns.iter().filter_map(|index| self.columns.get(*index)) {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(&column.name);
            match nulls.is_some_and(|nulls| nulls.is_null(row)) {
                true => out.extend_from_slice(b"null"),
                false => cells.value(row, column.is_json, out),
            }
        }
        out.push(b'}');
    }

    /// Appends one value as bare text: what a string says, what other values look like in JSON, without quotes. False,
    /// and nothing appended, where it is null.
    pub(crate) fn bare(&self, column: usize, row: usize, out: &mut Vec<u8>) -> bool {
        let Some((column, cells, nulls)) = self.columns.get(column) else { return false };
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return false;
        }
        match cells {
            Cells::Text(array) => out.extend_from_slice(array.value(row).as_bytes()),
            Cells::TextView(array) => out.extend_from_slice(array.value(row).as_bytes()),
            Cells::Timestamp(_) | Cells::Date(_) | Cells::Uuid(_) => {
                // Between quotes, and nothing in there is escaped.
                let start = out.len();
                cells.value(row, column.is_json, out);
                if out.get(start) != Some(&b'"') {
                    out.truncate(start);
                    return false;
                }
                out.pop();
                out.remove(start);
            }
            Cells::Bool(_) | Cells::Int32(_) | Cells::Int64(_) | Cells::Float64(_) | Cells::Decimal(..) => {
                cells.value(row, column.is_json, out);
            }
        }
        true
    }
}

impl<'a> Cells<'a> {
    fn new(array: &'a dyn Array) -> Option<Self> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a checked job has no columns of other types")]
        Some(match array.data_type() {
            DataType::Boolean => Self::Bool(array.as_boolean()),
            DataType::Int32 => Self::Int32(array.as_primitive::<Int32Type>().values()),
            DataType::Int64 => Self::Int64(array.as_primitive::<Int64Type>().values()),
            DataType::Float64 => Self::Float64(array.as_primitive::<Float64Type>().values()),
            DataType::Decimal128(precision, scale) => {
                Self::Decimal(array.as_primitive::<Decimal128Type>().values(), *precision, *scale)
            }
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::Utf8View => Self::TextView(array.as_string_view()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>().values())
            }
            DataType::Date32 => Self::Date(array.as_primitive::<Date32Type>().values()),
            DataType::FixedSizeBinary(16) => Self::Uuid(array.as_fixed_size_binary()),
            _ => return None,
        })
    }

    fn value(&self, row: usize, is_json: bool, out: &mut Vec<u8>) {
        match self {
            Self::Bool(array) => show(array.value(row), out),
            Self::Int32(values) => show(values[row], out),
            Self::Int64(values) => show(values[row], out),
            Self::Float64(values) => serialize(&values[row], out),
            Self::Decimal(values, precision, scale) => {
                out.extend_from_slice(Decimal128Type::format_decimal(values[row], *precision, *scale).as_bytes());
            }
            Self::Text(array) if is_json => on_one_line(array.value(row), out),
            Self::TextView(array) if is_json => on_one_line(array.value(row), out),
            Self::Text(array) => text(array.value(row), out),
            Self::TextView(array) => text(array.value(row), out),
            Self::Timestamp(values) => timestamp(values[row], out),
            Self::Date(values) => date(values[row], out),
            Self::Uuid(array) => match uuid::Uuid::from_slice(array.value(row)) {
                Ok(id) => show(format_args!("\"{}\"", id.hyphenated()), out),
                Err(_) => out.extend_from_slice(b"null"),
            },
        }
    }
}

fn show(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    write!(out, "{value}").expect("memory takes everything");
}

fn serialize(value: &(impl serde::Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("numbers and text are JSON, and memory takes everything");
}

pub(crate) fn text(value: &str, out: &mut Vec<u8>) {
    serialize(value, out);
}

/// JSON as it is. In there line ends stand only between tokens, and a row must not have any.
fn on_one_line(json: &str, out: &mut Vec<u8>) {
    out.extend(json.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
}

fn timestamp(micros: i64, out: &mut Vec<u8>) {
    match timestamp_us_to_datetime(micros).filter(|_| YEARS.contains(&micros.div_euclid(SECOND))) {
        Some(time) => show(format_args!("\"{}\"", time.format("%Y-%m-%dT%H:%M:%S%.6fZ")), out),
        None => out.extend_from_slice(b"null"),
    }
}

fn date(days: i32, out: &mut Vec<u8>) {
    match date32_to_datetime(days).filter(|_| YEARS.contains(&(i64::from(days) * DAY))) {
        Some(time) => show(format_args!("\"{}\"", time.format("%Y-%m-%d")), out),
        None => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    };

    use super::*;

    fn batch(columns: Vec<ArrayRef>) -> (Vec<JsonColumn>, RecordBatch) {
        let named = columns.into_iter().enumerate().map(|(i, array)| (format!("c{i}"), array, true));
        let batch = RecordBatch::try_from_iter_with_nullable(named).unwrap();
        let json = batch.schema().fields().iter().map(|f| JsonColumn::new(f.name(), f.name() == "c9")).collect();
        (json, batch)
    }

    fn one_of_each() -> (Vec<JsonColumn>, RecordBatch) {
        let uuid = FixedSizeBinaryArray::try_from_iter([[0xab_u8; 16]].into_iter()).unwrap();
        batch(vec![
            Arc::new(BooleanArray::from(vec![true])),
            Arc::new(Int32Array::from(vec![-7])),
            Arc::new(Int64Array::from(vec![i64::MAX])),
            Arc::new(Float64Array::from(vec![36.6])),
            Arc::new(Decimal128Array::from(vec![-5]).with_precision_and_scale(12, 2).unwrap()),
            Arc::new(StringArray::from(vec!["a\"\\\n\u{1}é"])),
            Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_001]).with_timezone("UTC")),
            Arc::new(Date32Array::from(vec![-1])),
            Arc::new(uuid),
            Arc::new(StringArray::from(vec!["{\"x\": [1.10, null]}"])),
            Arc::new(Int64Array::from(vec![None])),
        ])
    }

    #[test]
    fn every_type_stands_exactly() {
        let (columns, batch) = one_of_each();
        let rows = JsonRows::new(&columns, &batch).unwrap();
        let mut out = Vec::new();
        rows.object(&(0..11).collect::<Vec<_>>(), 0, &mut out);
        let expected = r#"{"c0":true,"c1":-7,"c2":9223372036854775807,"c3":36.6,"c4":-0.05,"c5":"a\"\\\n\u0001é","#
            .to_owned()
            + r#""c6":"2023-11-14T22:13:20.000001Z","c7":"1969-12-31","c8":"abababab-abab-abab-abab-abababababab","#
            + r#""c9":{"x": [1.10, null]},"c10":null}"#;
        assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
        serde_json::from_slice::<serde_json::Value>(&out).unwrap();
    }

    #[test]
    fn bare_values_are_what_a_key_says() {
        let (columns, batch) = one_of_each();
        let rows = JsonRows::new(&columns, &batch).unwrap();
        let bare = |column: usize| {
            let mut out = b">".to_vec();
            rows.bare(column, 0, &mut out).then(|| String::from_utf8(out).unwrap())
        };
        let expected = [
            Some(">true"),
            Some(">-7"),
            Some(">9223372036854775807"),
            Some(">36.6"),
            Some(">-0.05"),
            Some(">a\"\\\n\u{1}é"),
            Some(">2023-11-14T22:13:20.000001Z"),
            Some(">1969-12-31"),
            Some(">abababab-abab-abab-abab-abababababab"),
            Some(">{\"x\": [1.10, null]}"),
            None,
        ];
        for (column, expected) in expected.iter().enumerate() {
            assert_eq!(bare(column).as_deref(), *expected);
        }
    }

    #[test]
    fn a_row_is_one_line() {
        let mut nine = vec![Arc::new(Int32Array::from(vec![1])) as ArrayRef; 9];
        nine.push(Arc::new(StringArray::from(vec!["{\r\n  \"x\": \"a\\nb\",\n\t\"y\": []\n}"])));
        let (columns, batch) = batch(nine);
        let rows = JsonRows::new(&columns, &batch).unwrap();
        let mut out = Vec::new();
        rows.object(&[9], 0, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "{\"c9\":{    \"x\": \"a\\nb\", \t\"y\": [] }}");
    }

    #[test]
    fn what_json_has_no_number_for_is_null() {
        let (columns, batch) = batch(vec![
            Arc::new(Float64Array::from(vec![f64::NAN, f64::INFINITY, -0.0, 1e300, 5.0])),
            Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX, i64::MIN, 0, -1, 253_402_300_799_999_999])),
        ]);
        let rows = JsonRows::new(&columns, &batch).unwrap();
        let lines: Vec<String> = (0..5)
            .map(|row| {
                let mut out = Vec::new();
                rows.object(&[0, 1], row, &mut out);
                String::from_utf8(out).unwrap()
            })
            .collect();
        assert_eq!(
            lines,
            [
                r#"{"c0":null,"c1":null}"#,
                r#"{"c0":null,"c1":null}"#,
                r#"{"c0":-0.0,"c1":"1970-01-01T00:00:00.000000Z"}"#,
                r#"{"c0":1e+300,"c1":"1969-12-31T23:59:59.999999Z"}"#,
                r#"{"c0":5.0,"c1":"9999-12-31T23:59:59.999999Z"}"#,
            ]
        );
    }
}
