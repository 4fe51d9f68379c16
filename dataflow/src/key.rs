//! The canonical encoding of typed values: routing keys, keys of state, and what the hash of a record's values is made of.
//!
//! Stable for ever: key groups and state on disk depend on it. Every value has a tag and text has its length, so that
//! ("a", "bc") and ("ab", "c") differ; int32 and int64 of one value are the same.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, FixedSizeBinaryBuilder,
    Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};

use crate::error::{DataflowError, Result};

mod tag {
    pub(super) const NULL: u8 = 0;
    pub(super) const BOOL: u8 = 1;
    pub(super) const INT: u8 = 2;
    pub(super) const FLOAT: u8 = 3;
    pub(super) const DECIMAL: u8 = 4;
    pub(super) const TIMESTAMP: u8 = 5;
    pub(super) const DATE: u8 = 6;
    pub(super) const UUID: u8 = 7;
    pub(super) const TEXT: u8 = 8;
}

/// One value of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Unscaled.
    Decimal(i128),
    /// Microseconds since 1970 UTC.
    Timestamp(i64),
    /// Days since 1970.
    Date(i32),
    Uuid([u8; 16]),
    Text(String),
}

/// Reads back what [`KeyColumns::encode`] wrote.
///
/// # Errors
/// [`DataflowError::Corrupt`], if the bytes are anything else.
pub fn decode(mut bytes: &[u8]) -> Result<Vec<KeyValue>> {
    let mut values = Vec::new();
    while let Some((&tag, rest)) = bytes.split_first() {
        bytes = rest;
        values.push(match tag {
            tag::NULL => KeyValue::Null,
            tag::BOOL => KeyValue::Bool(take::<1>(&mut bytes)? != [0]),
            tag::INT => KeyValue::Int(i64::from_be_bytes(take(&mut bytes)?)),
            tag::FLOAT => KeyValue::Float(f64::from_bits(u64::from_be_bytes(take(&mut bytes)?))),
            tag::DECIMAL => KeyValue::Decimal(i128::from_be_bytes(take(&mut bytes)?)),
            tag::TIMESTAMP => KeyValue::Timestamp(i64::from_be_bytes(take(&mut bytes)?)),
            tag::DATE => KeyValue::Date(i32::from_be_bytes(take(&mut bytes)?)),
            tag::UUID => KeyValue::Uuid(take(&mut bytes)?),
            tag::TEXT => {
                let length = u32::from_be_bytes(take(&mut bytes)?) as usize;
                let (text, rest) = bytes.split_at_checked(length).ok_or_else(short)?;
                bytes = rest;
                KeyValue::Text(String::from_utf8(text.to_vec()).map_err(|_| corrupt("text is not UTF-8"))?)
            }
            other => return Err(corrupt(&format!("unknown tag {other}"))),
        });
    }
    Ok(values)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (value, rest) = bytes.split_first_chunk::<N>().ok_or_else(short)?;
    *bytes = rest;
    Ok(*value)
}

fn short() -> DataflowError {
    corrupt("it ends too early")
}

fn corrupt(reason: &str) -> DataflowError {
    DataflowError::Corrupt { what: "an encoded key", reason: reason.to_owned() }
}

/// The columns of a batch that make a key, or that a hash is taken of.
pub struct KeyColumns<'a>(Vec<KeyColumn<'a>>);

enum KeyColumn<'a> {
    Text(&'a StringArray),
    Bool(&'a BooleanArray),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float(&'a Float64Array),
    Decimal(&'a Decimal128Array),
    Timestamp(&'a TimestampMicrosecondArray),
    Date(&'a Date32Array),
    Uuid(&'a FixedSizeBinaryArray),
}

impl<'a> KeyColumns<'a> {
    /// # Errors
    /// [`DataflowError::Invalid`] for a type that no column of a job has.
    pub fn new(batch: &'a RecordBatch, columns: impl IntoIterator<Item = usize>) -> Result<Self> {
        columns.into_iter().map(|column| KeyColumn::new(batch.column(column))).collect::<Result<_>>().map(Self)
    }

    /// Appends the values of one row.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) {
        for column in &self.0 {
            column.encode(row, out);
        }
    }

    /// True if a value of this row is null.
    #[must_use]
    pub fn has_null(&self, row: usize) -> bool {
        self.0.iter().any(|column| column.array().is_null(row))
    }
}

impl<'a> KeyColumn<'a> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a checked job has no columns of other types")]
    fn new(array: &'a ArrayRef) -> Result<Self> {
        let known = match array.data_type() {
            DataType::Utf8 => array.as_string_opt().map(Self::Text),
            DataType::Boolean => array.as_boolean_opt().map(Self::Bool),
            DataType::Int32 => array.as_primitive_opt::<Int32Type>().map(Self::Int32),
            DataType::Int64 => array.as_primitive_opt::<Int64Type>().map(Self::Int64),
            DataType::Float64 => array.as_primitive_opt::<Float64Type>().map(Self::Float),
            DataType::Decimal128(..) => array.as_primitive_opt::<Decimal128Type>().map(Self::Decimal),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                array.as_primitive_opt::<TimestampMicrosecondType>().map(Self::Timestamp)
            }
            DataType::Date32 => array.as_primitive_opt::<Date32Type>().map(Self::Date),
            DataType::FixedSizeBinary(16) => array.as_fixed_size_binary_opt().map(Self::Uuid),
            _ => None,
        };
        known.ok_or_else(|| DataflowError::Invalid(format!("a key of type {}", array.data_type())))
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Text(array) => *array,
            Self::Bool(array) => *array,
            Self::Int32(array) => *array,
            Self::Int64(array) => *array,
            Self::Float(array) => *array,
            Self::Decimal(array) => *array,
            Self::Timestamp(array) => *array,
            Self::Date(array) => *array,
            Self::Uuid(array) => *array,
        }
    }

    fn encode(&self, row: usize, out: &mut Vec<u8>) {
        if self.array().is_null(row) {
            out.push(tag::NULL);
            return;
        }
        match self {
            Self::Text(array) => {
                let text = array.value(row).as_bytes();
                out.push(tag::TEXT);
                // One Arrow string is shorter than 2 GiB.
                out.extend_from_slice(&(text.len() as u32).to_be_bytes());
                out.extend_from_slice(text);
            }
            Self::Bool(array) => out.extend_from_slice(&[tag::BOOL, u8::from(array.value(row))]),
            Self::Int32(array) => put(tag::INT, i64::from(array.value(row)).to_be_bytes(), out),
            Self::Int64(array) => put(tag::INT, array.value(row).to_be_bytes(), out),
            Self::Float(array) => put(tag::FLOAT, canonical(array.value(row)).to_be_bytes(), out),
            Self::Decimal(array) => put(tag::DECIMAL, array.value(row).to_be_bytes(), out),
            Self::Timestamp(array) => put(tag::TIMESTAMP, array.value(row).to_be_bytes(), out),
            Self::Date(array) => put(tag::DATE, array.value(row).to_be_bytes(), out),
            Self::Uuid(array) => {
                out.push(tag::UUID);
                out.extend_from_slice(array.value(row));
            }
        }
    }
}

fn put<const N: usize>(tag: u8, bytes: [u8; N], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&bytes);
}

/// Equal numbers have equal bits: one zero, one NaN.
fn canonical(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

/// Columns of encoded keys, one row a key.
///
/// # Errors
/// Where a key does not have values of these types.
pub(crate) fn columns(keys: &[&[u8]], types: &[&DataType]) -> Result<Vec<ArrayRef>> {
    let keys: Vec<Vec<KeyValue>> = keys.iter().map(|key| decode(key)).collect::<Result<_>>()?;
    if keys.iter().any(|key| key.len() != types.len()) {
        return Err(corrupt("it has another number of values"));
    }
    types.iter().enumerate().map(|(at, data_type)| array(keys.iter().map(|key| &key[at]), data_type)).collect()
}

/// Values of one column.
///
/// # Errors
/// Where a value is not of this type.
pub fn array<'k>(values: impl Iterator<Item = &'k KeyValue>, data_type: &DataType) -> Result<ArrayRef> {
    macro_rules! collect {
        ($array:ty, $pattern:pat => $value:expr) => {{
            let values = values.map(|value| match value {
                KeyValue::Null => Ok(None),
                $pattern => Ok(Some($value)),
                _ => Err(corrupt("a value is of another type")),
            });
            values.collect::<Result<$array>>()?
        }};
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "a checked job has no columns of other types")]
    Ok(match data_type {
        DataType::Utf8 => Arc::new(collect!(StringArray, KeyValue::Text(text) => text.as_str())),
        DataType::Boolean => Arc::new(collect!(BooleanArray, KeyValue::Bool(value) => *value)),
        DataType::Int32 => {
            Arc::new(collect!(Int32Array, KeyValue::Int(value) => i32::try_from(*value).map_err(|_| short())?))
        }
        DataType::Int64 => Arc::new(collect!(Int64Array, KeyValue::Int(value) => *value)),
        DataType::Float64 => Arc::new(collect!(Float64Array, KeyValue::Float(value) => *value)),
        DataType::Decimal128(precision, scale) => {
            let values = collect!(Decimal128Array, KeyValue::Decimal(value) => *value);
            Arc::new(values.with_precision_and_scale(*precision, *scale)?)
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let values = collect!(TimestampMicrosecondArray, KeyValue::Timestamp(value) => *value);
            Arc::new(values.with_timezone_opt(zone.clone()))
        }
        DataType::Date32 => Arc::new(collect!(Date32Array, KeyValue::Date(value) => *value)),
        DataType::FixedSizeBinary(16) => {
            let mut builder = FixedSizeBinaryBuilder::new(16);
            for value in values {
                match value {
                    KeyValue::Null => builder.append_null(),
                    KeyValue::Uuid(value) => builder.append_value(value)?,
                    _ => return Err(corrupt("a value is of another type")),
                }
            }
            Arc::new(builder.finish())
        }
        other => return Err(DataflowError::Invalid(format!("a key of type {other}"))),
    })
}

/// The schema with every column nullable.
pub(crate) fn all_nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
