//! Arrow builders for a set of columns of any type of the job language.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, FixedSizeBinaryBuilder, Float64Builder,
    Int32Builder, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::reader::Row;
use super::value::Value;
use crate::error::{DataflowError, Result};

#[derive(Debug)]
enum Column {
    Text(StringBuilder),
    Bool(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float(Float64Builder),
    Decimal(Decimal128Builder, DataType),
    Time(TimestampMicrosecondBuilder, DataType),
    Date(Date32Builder),
    Uuid(FixedSizeBinaryBuilder),
}

#[derive(Debug)]
pub(crate) struct Columns {
    /// All nullable.
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
}

impl Columns {
    /// For the first `width` columns of `schema`.
    pub(crate) fn new(schema: &Schema, width: usize) -> Result<Self> {
        let fields = || schema.fields().iter().take(width);
        let columns = fields().map(|field| Column::new(field.data_type())).collect::<Result<_>>()?;
        let nullable = fields().map(|field| Field::new(field.name(), field.data_type().clone(), true));
        Ok(Self { schema: Arc::new(Schema::new(nullable.collect::<Vec<_>>())), columns, rows: 0 })
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Appends one row; `text` is what its text ranges point into.
    pub(crate) fn push(&mut self, row: &Row, text: &str) -> Result<()> {
        for (column, value) in self.columns.iter_mut().zip(&row.values) {
            column.push(value, text, &row.unescaped)?;
        }
        self.rows += 1;
        Ok(())
    }

    /// The rows so far; begins anew.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?)
    }
}

impl Column {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a checked job has no columns of other types")]
    fn new(data_type: &DataType) -> Result<Self> {
        Ok(match data_type {
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Int32 => Self::Int32(Int32Builder::new()),
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::Float64 => Self::Float(Float64Builder::new()),
            DataType::Decimal128(..) => Self::Decimal(Decimal128Builder::new(), data_type.clone()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Time(TimestampMicrosecondBuilder::new(), data_type.clone())
            }
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::FixedSizeBinary(16) => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
            other => return Err(DataflowError::Invalid(format!("no column can have the type {other}"))),
        })
    }

    fn push(&mut self, value: &Value, text: &str, unescaped: &str) -> Result<()> {
        match (self, value) {
            (Self::Text(to), Value::Text(range)) => to.append_value(text.get(range.clone()).unwrap_or("")),
            (Self::Text(to), Value::Unescaped(range)) => to.append_value(unescaped.get(range.clone()).unwrap_or("")),
            (Self::Text(to), _) => to.append_null(),
            (Self::Bool(to), Value::Bool(value)) => to.append_value(*value),
            (Self::Bool(to), _) => to.append_null(),
            (Self::Int32(to), Value::Int(value)) => to.append_option(i32::try_from(*value).ok()),
            (Self::Int32(to), _) => to.append_null(),
            (Self::Int64(to), Value::Int(value)) => to.append_value(*value),
            (Self::Int64(to), _) => to.append_null(),
            (Self::Float(to), Value::Float(value)) => to.append_value(*value),
            (Self::Float(to), _) => to.append_null(),
            (Self::Decimal(to, _), Value::Decimal(value)) => to.append_value(*value),
            (Self::Decimal(to, _), _) => to.append_null(),
            (Self::Time(to, _), Value::Int(value)) => to.append_value(*value),
            (Self::Time(to, _), _) => to.append_null(),
            (Self::Date(to), Value::Int(value)) => to.append_option(i32::try_from(*value).ok()),
            (Self::Date(to), _) => to.append_null(),
            (Self::Uuid(to), Value::Uuid(value)) => to.append_value(value)?,
            (Self::Uuid(to), _) => to.append_null(),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(from) => {
                // The next chunk will need about as much.
                let next = StringBuilder::with_capacity(from.len(), from.values_slice().len());
                Arc::new(std::mem::replace(from, next).finish())
            }
            Self::Bool(from) => Arc::new(from.finish()),
            Self::Int32(from) => Arc::new(from.finish()),
            Self::Int64(from) => Arc::new(from.finish()),
            Self::Float(from) => Arc::new(from.finish()),
            Self::Decimal(from, data_type) => Arc::new(from.finish().with_data_type(data_type.clone())),
            Self::Time(from, data_type) => Arc::new(from.finish().with_data_type(data_type.clone())),
            Self::Date(from) => Arc::new(from.finish()),
            Self::Uuid(from) => Arc::new(from.finish()),
        }
    }
}
