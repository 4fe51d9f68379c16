//! What flows: payloads over the exchange, and what the processing of an epoch makes for a target.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt16Array, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use pulso_core::ids::KeyGroup;

use crate::error::Result;

/// UInt16, the key group that works on the row.
pub const KEY_GROUP: &str = "__key_group";
/// UInt32, the split that the record came from.
pub const SPLIT: &str = "__split";
/// Int64, its position there.
pub const POSITION: &str = "__position";
/// Int64, its broker timestamp in milliseconds; below 0 where it has none.
pub const TIMESTAMP: &str = "__timestamp";
/// Boolean, true for a tombstone: only the columns of the record's key are set.
pub const DELETE: &str = "__delete";

/// Columns before the job's own in [`Payload::rows`].
pub const META_COLUMNS: usize = 5;

/// Index of the columns that rows and letters have in common.
pub(crate) mod column {
    pub(crate) const KEY_GROUP: usize = 0;
    pub(crate) const SPLIT: usize = 1;
    pub(crate) const POSITION: usize = 2;
    pub(crate) const TIMESTAMP: usize = 3;
    pub(crate) const DELETE: usize = 4;
}

/// Schema of [`Payload::rows`]. Every column of the job is nullable there: a tombstone has only its key.
#[must_use]
pub fn rows_schema(job: &Schema) -> SchemaRef {
    let mut fields = vec![
        Arc::new(Field::new(KEY_GROUP, DataType::UInt16, false)),
        Arc::new(Field::new(SPLIT, DataType::UInt32, false)),
        Arc::new(Field::new(POSITION, DataType::Int64, false)),
        Arc::new(Field::new(TIMESTAMP, DataType::Int64, false)),
        Arc::new(Field::new(DELETE, DataType::Boolean, false)),
    ];
    fields.extend(job.fields().iter().map(|f| Arc::new(Field::new(f.name(), f.data_type().clone(), true))));
    Arc::new(Schema::new(fields))
}

/// Schema of [`Payload::rows`] between stages: the split is the key group of the first stage, the position the row's number
/// in what that sends in the epoch; then what the row did to its key, and for which aggregate it is.
#[must_use]
pub fn forwarded_schema(job: &Schema) -> SchemaRef {
    let mut fields = vec![
        Arc::new(Field::new(KEY_GROUP, DataType::UInt16, false)),
        Arc::new(Field::new(SPLIT, DataType::UInt32, false)),
        Arc::new(Field::new(POSITION, DataType::Int64, false)),
        Arc::new(Field::new(TIMESTAMP, DataType::Int64, false)),
        Arc::new(Field::new("__step", DataType::UInt8, false)),
        Arc::new(Field::new("__aggregate", DataType::UInt16, false)),
    ];
    fields.extend(job.fields().iter().map(|f| Arc::new(Field::new(f.name(), f.data_type().clone(), true))));
    Arc::new(Schema::new(fields))
}

/// Schema of dead letters: where the record is, why it is refused, and its raw bytes.
#[must_use]
pub fn letters_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(KEY_GROUP, DataType::UInt16, false),
        Field::new(SPLIT, DataType::UInt32, false),
        Field::new(POSITION, DataType::Int64, false),
        Field::new(TIMESTAMP, DataType::Int64, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("field", DataType::Utf8, true),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
    ]))
}

/// A part of an epoch on its way from a source task to the key groups. The order of its rows means nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Payload {
    /// [`rows_schema`], or [`forwarded_schema`] between stages
    pub rows: Option<RecordBatch>,
    /// [`letters_schema`]
    pub letters: Option<RecordBatch>,
    /// Records that the job's filter dropped, by the key group that counts them.
    pub filtered: BTreeMap<KeyGroup, u64>,
}

impl Payload {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_none() && self.letters.is_none() && self.filtered.is_empty()
    }

    /// Rows and dead letters.
    #[must_use]
    pub fn rows_count(&self) -> usize {
        let count = |batch: &Option<RecordBatch>| batch.as_ref().map_or(0, RecordBatch::num_rows);
        count(&self.rows) + count(&self.letters)
    }

    /// Bytes that it holds in memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let bytes = |batch: &Option<RecordBatch>| batch.as_ref().map_or(0, RecordBatch::get_array_memory_size);
        bytes(&self.rows) + bytes(&self.letters) + self.filtered.len() * 32
    }

    /// The same in parts that hold about `bytes` at most, or a single row.
    #[must_use]
    pub fn pieces(self, bytes: usize) -> Vec<Self> {
        let count = self.memory().div_ceil(bytes.max(1));
        let rows = self.rows_count();
        if count <= 1 || rows <= 1 {
            return vec![self];
        }
        let size = rows.div_ceil(count).max(1);
        let slices = |batch: &Option<RecordBatch>| -> Vec<RecordBatch> {
            let Some(batch) = batch else { return Vec::new() };
            let starts = (0..batch.num_rows()).step_by(size);
            starts.map(|start| batch.slice(start, size.min(batch.num_rows() - start))).collect()
        };
        let rows = slices(&self.rows).into_iter().map(|rows| Self { rows: Some(rows), ..Self::default() });
        let letters = slices(&self.letters).into_iter().map(|part| Self { letters: Some(part), ..Self::default() });
        let filtered = Self { filtered: self.filtered, ..Self::default() };
        rows.chain(letters).chain((!filtered.is_empty()).then_some(filtered)).collect()
    }

    /// One payload per destination: `owner_of[key group]` says which one gets a row. A key group whose owner is not below
    /// `destinations` gets nothing: so a replay leaves out those that have the epoch already.
    ///
    /// # Errors
    /// Arrow's, where a row names a key group beyond `owner_of`.
    pub fn route(self, owner_of: &[usize], destinations: usize) -> Result<Vec<Self>> {
        if destinations == 1 && owner_of.iter().all(|&owner| owner == 0) {
            return Ok(vec![self]);
        }
        let mut parts = vec![Self::default(); destinations];
        if let Some(rows) = &self.rows {
            for (part, batch) in parts.iter_mut().zip(split(rows, owner_of, destinations)?) {
                part.rows = batch;
            }
        }
        if let Some(letters) = &self.letters {
            for (part, batch) in parts.iter_mut().zip(split(letters, owner_of, destinations)?) {
                part.letters = batch;
            }
        }
        for (key_group, count) in self.filtered {
            if let Some(part) = owner_of.get(usize::from(key_group.0)).and_then(|&owner| parts.get_mut(owner)) {
                part.filtered.insert(key_group, count);
            }
        }
        Ok(parts)
    }
}

fn split(batch: &RecordBatch, owner_of: &[usize], destinations: usize) -> Result<Vec<Option<RecordBatch>>> {
    let mut indices: Vec<Vec<u32>> = vec![Vec::new(); destinations];
    for (row, key_group) in (0u32..).zip(key_groups(batch)?.values()) {
        let owner = owner_of.get(usize::from(*key_group)).ok_or_else(|| {
            arrow::error::ArrowError::InvalidArgumentError(format!("no owner of key group {key_group} is known"))
        })?;
        if let Some(indices) = indices.get_mut(*owner) {
            indices.push(row);
        }
    }
    let all = batch.num_rows();
    indices
        .into_iter()
        .map(|indices| match indices.len() {
            0 => Ok(None),
            n if n == all => Ok(Some(batch.clone())),
            _ => Ok(Some(take_record_batch(batch, &UInt32Array::from(indices))?)),
        })
        .collect()
}

/// Column [`KEY_GROUP`] of rows or letters.
pub(crate) fn key_groups(batch: &RecordBatch) -> Result<&UInt16Array> {
    batch.column(column::KEY_GROUP).as_any().downcast_ref().ok_or_else(|| {
        arrow::error::ArrowError::SchemaError(format!("column {KEY_GROUP} must be the first and a UInt16")).into()
    })
}

/// What processing an epoch made for one target. Shares its memory: a clone is cheap.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TargetRows {
    /// In file order of the sinks; a sink without rows is left out.
    pub sinks: Vec<SinkRows>,
    /// [`letters_schema`]; only in the target that takes the job's dead letters.
    pub letters: Option<RecordBatch>,
    /// Broker timestamps (milliseconds) of some records of the epoch, evenly picked: latency is measured by them.
    pub samples_ms: Vec<i64>,
}

impl TargetRows {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sinks.is_empty() && self.letters.is_none()
    }

    /// Rows of all sinks and dead letters.
    #[must_use]
    pub fn rows_count(&self) -> usize {
        self.sinks.iter().map(|s| s.batch.num_rows()).sum::<usize>()
            + self.letters.as_ref().map_or(0, RecordBatch::num_rows)
    }

    /// Bytes that it holds in memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.sinks.iter().map(|s| s.batch.get_array_memory_size() + s.changes.len() * 3).sum::<usize>()
            + self.letters.as_ref().map_or(0, RecordBatch::get_array_memory_size)
    }
}

/// Rows for one sink. Rows of one key may occur several times, here and across the epochs of one transaction; they hold in
/// the order given, and the sink reduces them per key.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkRows {
    /// Index into `JobSpec::sinks`.
    pub sink: usize,
    /// Exactly the sink's columns, in order, all nullable: of a [`Change::Delete`] only the key is sure to be there.
    pub batch: RecordBatch,
    /// One per row.
    pub changes: Arc<[Change]>,
    /// One per row: the key group that made it.
    pub key_groups: Arc<[KeyGroup]>,
}

/// What a row is to its sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A new record. For a sink with a key also: as far as the state knows, no row of this key is in the table.
    Insert,
    /// Replaces the row of its key where there is one. Keyed sinks get it also where nobody can know whether there is one
    /// (no dedup, another key than the dedup key, or a record older than `keep_for`); what to do is the same.
    Correction,
    /// The row of this key goes away, if there is one.
    Delete,
}

impl Change {
    /// What a row that is not new is called where all rows are kept.
    #[must_use]
    pub fn mark(self) -> Option<&'static str> {
        match self {
            Self::Insert => None,
            Self::Correction => Some("correction"),
            Self::Delete => Some("delete"),
        }
    }
}
