//! Types of columns, in Arrow and in PostgreSQL.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::spec::{ColumnIndex, FieldSpec, FieldType, JobSpec, SinkColumn, SinkValue, WriteMode};

impl FieldType {
    pub fn data_type(&self) -> DataType {
        match self {
            Self::String | Self::Json => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::Timestamp(_) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Date => DataType::Date32,
            Self::Uuid => DataType::FixedSizeBinary(16),
        }
    }
}

impl FieldSpec {
    pub(crate) fn arrow(&self) -> Field {
        Field::new(&self.name, self.kind.data_type(), !self.required)
    }
}

impl JobSpec {
    /// Names of the columns: fields, then derives; [`ColumnIndex`] counts along.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().map(|field| field.name.as_str());
        fields.chain(self.derive.iter().map(|derive| derive.name.as_str()))
    }

    pub fn column_index(&self, name: &str) -> Option<ColumnIndex> {
        self.columns().position(|column| column == name)
    }

    /// Fields, then derives: what derives, conditions and columns of sinks are bound to. Derives count as nullable.
    pub fn schema(&self) -> SchemaRef {
        let derives = self.derive.iter().map(|derive| Field::new(&derive.name, derive.data_type.clone(), true));
        Arc::new(Schema::new(self.fields.iter().map(FieldSpec::arrow).chain(derives).collect::<Vec<_>>()))
    }

    /// Fields alone: what rules and the filter are bound to.
    pub fn field_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.iter().map(FieldSpec::arrow).collect::<Vec<_>>()))
    }

    /// The type of a sink's column in a table that Pulso creates.
    pub fn column_postgres_type(&self, column: &SinkColumn) -> String {
        let field = match column.value {
            SinkValue::Column(index) => self.fields.get(index),
            SinkValue::Expression(_) => None,
        };
        match field.map(|field| &field.kind) {
            // Arrow does not tell JSON text from text.
            Some(FieldType::Json) => "jsonb".to_owned(),
            _ => postgres_type(&column.data_type),
        }
    }
}

impl WriteMode {
    /// Indexes into the sink's columns; empty for append.
    pub fn key(&self) -> &[usize] {
        match self {
            Self::Upsert { key, .. } | Self::KeepFirst { key } => key,
            Self::Append => &[],
        }
    }
}

/// The PostgreSQL type that holds a column's values. JSON is text for Arrow: see [`JobSpec::column_postgres_type`].
pub fn postgres_type(data_type: &DataType) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a checked job has no columns of other types")]
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float64 => "double precision".to_owned(),
        DataType::Decimal128(precision, scale) => format!("numeric({precision},{scale})"),
        DataType::Timestamp(..) => "timestamptz".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::FixedSizeBinary(16) => "uuid".to_owned(),
        _ => "text".to_owned(),
    }
}
