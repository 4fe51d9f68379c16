//! One field's typed value from what the record has for it, with all checks of `[fields]`.

use std::ops::Range;

use arrow::datatypes::{DataType, TimeUnit};
use jiff::tz::TimeZone;
use pulso_job::{Bound, FieldSpec, FieldType, TimestampText};

use super::field_map::Found;
use super::reason;
use super::{number, time};
use crate::error::{DataflowError, Result};
use crate::json::{self, Kind, Token};

/// A value before it goes into a column. Text is a range of the record or of the scratch beside it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Decimal(i128),
    Text(Range<usize>),
    /// Text that had escapes.
    Unescaped(Range<usize>),
    Uuid([u8; 16]),
}

#[derive(Debug)]
enum Type {
    Text,
    Bool,
    Int32,
    Int64,
    Float,
    Decimal { precision: u8, scale: i8 },
    Epoch { per_second: i64 },
    Time { zone: Option<TimeZone> },
    Date,
    Uuid,
    Json,
}

/// What one field accepts.
///
/// * strings: JSON strings without NUL; numbers are no strings and strings are no numbers
/// * bool: `true` and `false`, not 0 and 1
/// * int32, int64: numbers without fraction and exponent
/// * float64: any number that is finite in a double, correctly rounded; `-0` is 0
/// * decimal: any number that is exact at the scale
/// * timestamps with `epoch`: integers; others: RFC 3339 text; dates: `YYYY-MM-DD`; UUIDs: hyphenated
/// * json: anything but null; kept as the text that it was
#[derive(Debug)]
pub(crate) struct FieldPlan {
    kind: Type,
    required: bool,
    min: Option<Bound>,
    max: Option<Bound>,
    one_of: Vec<String>,
    max_bytes: usize,
}

impl FieldPlan {
    pub(crate) fn new(field: &FieldSpec) -> Result<Self> {
        let kind = match &field.kind {
            FieldType::String => Type::Text,
            FieldType::Bool => Type::Bool,
            FieldType::Int32 => Type::Int32,
            FieldType::Int64 => Type::Int64,
            FieldType::Float64 => Type::Float,
            FieldType::Decimal { precision, scale } => Type::Decimal { precision: *precision, scale: *scale },
            FieldType::Timestamp(TimestampText::Epoch { per_second }) => Type::Epoch { per_second: *per_second },
            FieldType::Timestamp(TimestampText::Rfc3339 { assume_zone }) => Type::Time {
                zone: assume_zone
                    .as_deref()
                    .map(TimeZone::get)
                    .transpose()
                    .map_err(|e| DataflowError::Invalid(format!("assume_zone of field `{}`: {e}", field.name)))?,
            },
            FieldType::Date => Type::Date,
            FieldType::Uuid => Type::Uuid,
            FieldType::Json => Type::Json,
        };
        Ok(Self {
            kind,
            required: field.required,
            min: field.min,
            max: field.max,
            one_of: field.one_of.clone(),
            max_bytes: field.max_bytes,
        })
    }

    /// A derived column as a part of a record's key.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a checked job has no columns of other types")]
    pub(crate) fn of_type(data_type: &DataType) -> Result<Self> {
        let kind = match data_type {
            DataType::Utf8 => Type::Text,
            DataType::Boolean => Type::Bool,
            DataType::Int32 => Type::Int32,
            DataType::Int64 => Type::Int64,
            DataType::Float64 => Type::Float,
            DataType::Decimal128(precision, scale) => Type::Decimal { precision: *precision, scale: *scale },
            DataType::Timestamp(TimeUnit::Microsecond, _) => Type::Time { zone: None },
            DataType::Date32 => Type::Date,
            DataType::FixedSizeBinary(16) => Type::Uuid,
            other => return Err(DataflowError::Invalid(format!("a column of type {other} in a record's key"))),
        };
        Ok(Self { kind, required: true, min: None, max: None, one_of: Vec::new(), max_bytes: 64 << 10 })
    }

    pub(crate) fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// True where the value is JSON text, so that a key which is just text stands for it without quotes.
    pub(crate) fn reads_text(&self) -> bool {
        matches!(self.kind, Type::Text | Type::Time { .. } | Type::Date | Type::Uuid)
    }

    /// Reads what was found in `record`; text that had escapes is appended to `scratch`.
    pub(crate) fn read(&self, found: Found, record: &str, scratch: &mut String) -> Result<Value, &'static str> {
        match found {
            Found::Absent if self.required => Err(reason::MISSING_FIELD),
            Found::Absent => Ok(Value::Null),
            Found::Blocked => Err(reason::WRONG_TYPE),
            Found::Value(token) => {
                let value = self.typed(token, record, scratch)?;
                self.check(&value)?;
                Ok(value)
            }
        }
    }

    fn typed(&self, token: Token, record: &str, scratch: &mut String) -> Result<Value, &'static str> {
        let raw = record.get(token.start..token.end).ok_or(reason::INVALID_JSON)?;
        match (&self.kind, token.kind) {
            (Type::Text, Kind::Text { escaped }) => self.text(token, escaped, raw, scratch),
            (Type::Json, _) => self.json(token, record),
            (Type::Bool, Kind::True) => Ok(Value::Bool(true)),
            (Type::Bool, Kind::False) => Ok(Value::Bool(false)),
            (Type::Int32, Kind::Number { integral }) => {
                let value = number::integer(raw, integral)?;
                i32::try_from(value).map(|value| Value::Int(value.into())).map_err(|_| reason::OUT_OF_RANGE)
            }
            (Type::Int64, Kind::Number { integral }) => number::integer(raw, integral).map(Value::Int),
            (Type::Float, Kind::Number { .. }) => number::float(raw).map(Value::Float),
            (Type::Decimal { precision, scale }, Kind::Number { .. }) => {
                number::decimal(raw, *precision, *scale).map(Value::Decimal)
            }
            (Type::Epoch { per_second }, Kind::Number { integral }) => {
                time::epoch(number::integer(raw, integral)?, *per_second).map(Value::Int)
            }
            (Type::Time { zone }, Kind::Text { escaped }) => {
                time::timestamp(plain(raw, escaped, scratch), zone.as_ref()).map(Value::Int)
            }
            (Type::Date, Kind::Text { escaped }) => {
                time::date(plain(raw, escaped, scratch)).map(|days| Value::Int(days.into()))
            }
            (Type::Uuid, Kind::Text { escaped }) => time::uuid(plain(raw, escaped, scratch)).map(Value::Uuid),
            _ => Err(reason::WRONG_TYPE),
        }
    }

    fn text(&self, token: Token, escaped: bool, raw: &str, scratch: &mut String) -> Result<Value, &'static str> {
        // Cheaper than reading the text, and a record's own key may have a raw one.
        if token.nul {
            return Err(reason::NUL_IN_TEXT);
        }
        let start = scratch.len();
        let text = if escaped {
            json::unescape(raw, scratch);
            &scratch[start..]
        } else {
            raw
        };
        if text.len() > self.max_bytes {
            return Err(reason::TOO_LONG);
        }
        if !self.one_of.is_empty() && !self.one_of.iter().any(|allowed| allowed == text) {
            return Err(reason::NOT_ONE_OF);
        }
        Ok(if escaped { Value::Unescaped(start..scratch.len()) } else { Value::Text(token.start..token.end) })
    }

    fn json(&self, token: Token, record: &str) -> Result<Value, &'static str> {
        if token.nul {
            return Err(reason::NUL_IN_TEXT);
        }
        // A string's token is what stands between its quotes.
        let quotes = usize::from(matches!(token.kind, Kind::Text { .. }));
        let range = token.start - quotes..token.end + quotes;
        if range.len() > self.max_bytes {
            return Err(reason::TOO_LONG);
        }
        if record.get(range.clone()).is_some() { Ok(Value::Text(range)) } else { Err(reason::INVALID_JSON) }
    }

    fn check(&self, value: &Value) -> Result<(), &'static str> {
        let inside = |bound: &Option<Bound>, low: bool| match bound {
            None => true,
            Some(bound) => within(value, bound, low),
        };
        if inside(&self.min, true) && inside(&self.max, false) { Ok(()) } else { Err(reason::OUT_OF_RANGE) }
    }
}

fn within(value: &Value, bound: &Bound, low: bool) -> bool {
    match (value, bound) {
        (Value::Int(value), Bound::Int(bound)) => {
            if low {
                value >= bound
            } else {
                value <= bound
            }
        }
        (Value::Float(value), Bound::Float(bound)) => {
            if low {
                value >= bound
            } else {
                value <= bound
            }
        }
        (Value::Decimal(value), Bound::Decimal(bound)) => {
            if low {
                value >= bound
            } else {
                value <= bound
            }
        }
        // Bounds are in the field's own type, so there is nothing else to compare.
        _ => true,
    }
}

/// The text of a string that is read and then forgotten.
fn plain<'a>(raw: &'a str, escaped: bool, scratch: &'a mut String) -> &'a str {
    if !escaped {
        return raw;
    }
    let start = scratch.len();
    json::unescape(raw, scratch);
    &scratch[start..]
}
