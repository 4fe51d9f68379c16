//! Types of columns, in Arrow and in PostgreSQL.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::spec::{
    AggregateSpec, ColumnIndex, Emit, FieldSpec, FieldType, FileFormat, JobSpec, LookupColumn, LookupSpec, OnChanged,
    PathStart, RowsFrom, SinkColumn, SinkSpec, SinkTo, SinkValue, SourceSpec, TableSink, TargetIndex, TimestampText,
    WindowSpec, WriteMode,
};

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

impl LookupSpec {
    pub(crate) fn arrow(&self) -> impl Iterator<Item = Field> {
        self.columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true))
    }
}

impl LookupColumn {
    pub fn in_query(&self) -> &str {
        self.name.split_once('.').map_or("", |(_, name)| name)
    }
}

impl JobSpec {
    /// Names of the columns, in the order of [`JobSpec::schema`].
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().map(|field| field.name.as_str());
        let looked_up = self.lookups.iter().flat_map(|lookup| &lookup.columns).map(|column| column.name.as_str());
        fields.chain(looked_up).chain(self.derive.iter().map(|derive| derive.name.as_str()))
    }

    pub fn column_index(&self, name: &str) -> Option<ColumnIndex> {
        self.columns().position(|column| column == name)
    }

    /// Rows of a lookup: the columns of `on`, with the types of the fields, then those that the job uses.
    pub fn lookup_schema(&self, lookup: &LookupSpec) -> SchemaRef {
        let on = lookup.on.iter().filter_map(|column| self.fields.get(*column));
        let on = on.map(|field| Field::new(&field.name, field.kind.data_type(), true));
        Arc::new(Schema::new(on.chain(lookup.arrow()).collect::<Vec<_>>()))
    }

    /// Place of the first derived column.
    pub fn first_derived(&self) -> ColumnIndex {
        self.fields.len() + self.lookups.iter().map(|lookup| lookup.columns.len()).sum::<usize>()
    }

    /// Fields, those of lookups, then derives; [`ColumnIndex`] counts along. It is what derives, conditions and columns of
    /// sinks are bound to. All but fields count as nullable.
    pub fn schema(&self) -> SchemaRef {
        let looked_up = self.lookups.iter().flat_map(LookupSpec::arrow);
        let derives = self.derive.iter().map(|derive| Field::new(&derive.name, derive.data_type.clone(), true));
        Arc::new(Schema::new(
            self.fields.iter().map(FieldSpec::arrow).chain(looked_up).chain(derives).collect::<Vec<_>>(),
        ))
    }

    /// Fields alone: what rules and the filter are bound to.
    pub fn field_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.iter().map(FieldSpec::arrow).collect::<Vec<_>>()))
    }

    /// What a sink's columns and conditions are bound to.
    pub fn feed_schema(&self, from: RowsFrom) -> SchemaRef {
        match from {
            RowsFrom::Records | RowsFrom::Late => self.schema(),
            RowsFrom::Aggregate(index) => match self.aggregates.get(index) {
                Some(aggregate) => aggregate.result(&self.schema()),
                None => Arc::new(Schema::empty()),
            },
        }
    }

    /// The tables of a database target, in file order.
    pub fn tables(&self, target: TargetIndex) -> impl Iterator<Item = TableSink<'_>> {
        self.sinks.iter().enumerate().filter(move |(_, sink)| sink.target == target).filter_map(|(index, sink)| {
            match &sink.to {
                SinkTo::Table(table) => Some(TableSink { index, sink, table }),
                SinkTo::Topic(_) | SinkTo::Files(_) => None,
            }
        })
    }

    /// Paths that start at a file's root, each once, ascending: what a record of a JSON file carries beside itself.
    pub fn file_paths(&self) -> Vec<&[String]> {
        let paths = self.fields.iter().flat_map(|field| &field.paths).filter(|path| path.from == PathStart::File);
        let unique: std::collections::BTreeSet<&[String]> = paths.map(|path| path.keys.as_slice()).collect();
        unique.into_iter().collect()
    }

    /// Exchanges and the keyed work behind them.
    pub fn stages(&self) -> u8 {
        1 + u8::from(self.aggregates.iter().any(|aggregate| aggregate.own_stage))
    }

    /// A record may replace another one of its key.
    pub fn corrects(&self) -> bool {
        self.dedup.as_ref().is_some_and(|dedup| dedup.changed == OnChanged::Update)
    }

    /// A record may delete the one of its key.
    pub fn deletes(&self) -> bool {
        match &self.source {
            SourceSpec::Kafka(source) => source.tombstone_key.is_some(),
            SourceSpec::Files(_) => false,
        }
    }

    /// True for a sink that only appends while rows can be corrected or deleted: `pulso_change` tells which is which.
    pub fn is_marked(&self, sink: &SinkSpec) -> bool {
        let appends = match &sink.to {
            SinkTo::Table(table) => table.write == WriteMode::Append,
            SinkTo::Topic(_) | SinkTo::Files(_) => true,
        };
        let changes = match sink.from {
            RowsFrom::Records => self.corrects() || self.deletes(),
            RowsFrom::Late => false,
            RowsFrom::Aggregate(index) => self.aggregates.get(index).is_some_and(|a| a.emit == Emit::Change),
        };
        appends && changes
    }

    /// True for a sink that keeps deletes as rows: of these only the key is sure to be there.
    pub fn keeps_deletes(&self, sink: &SinkSpec) -> bool {
        self.is_marked(sink) && (sink.from != RowsFrom::Records || self.deletes())
    }

    /// The type of a sink's column in a table that Pulso creates.
    pub fn column_postgres_type(&self, sink: &SinkSpec, column: &SinkColumn) -> String {
        if self.is_json(sink, column) { "jsonb".to_owned() } else { postgres_type(&column.data_type) }
    }

    /// Arrow does not tell JSON text from text.
    pub fn is_json(&self, sink: &SinkSpec, column: &SinkColumn) -> bool {
        let SinkValue::Column(index) = column.value else { return false };
        let index = match sink.from {
            RowsFrom::Records | RowsFrom::Late => Some(&index),
            RowsFrom::Aggregate(aggregate) => self.aggregates.get(aggregate).and_then(|a| a.group_by.get(index)),
        };
        index.and_then(|index| self.fields.get(*index)).is_some_and(|field| field.kind == FieldType::Json)
    }
}

impl AggregateSpec {
    /// Columns of the result: `group_by`, `window_start`, `window_end`, then the aggregate's own. `job`: [`JobSpec::schema`].
    pub fn result(&self, job: &Schema) -> SchemaRef {
        let time = FieldType::Timestamp(TimestampText::Epoch { per_second: 1 }).data_type();
        let grouped =
            self.group_by.iter().filter_map(|column| job.fields().get(*column)).map(|field| (**field).clone());
        let window = ["window_start", "window_end"].map(|name| Field::new(name, time.clone(), false));
        let own = self.columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), column.nullable));
        Arc::new(Schema::new(grouped.chain(window).chain(own).collect::<Vec<_>>()))
    }

    /// A window that the watermark passes does something, and is not only forgotten.
    pub fn closes(&self) -> bool {
        self.emit == Emit::Close || matches!(self.window, WindowSpec::Session { .. })
    }

    /// Place of `window_start` in the result.
    pub fn window_start(&self) -> usize {
        self.group_by.len()
    }
}

impl FileFormat {
    /// Of the names of its files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
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
