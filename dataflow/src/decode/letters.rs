//! Raw records as they came in, and the dead letters made of some of them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, Int64Builder, RecordBatch, StringBuilder, UInt16Builder, UInt32Builder};
use pulso_core::ids::KeyGroup;
use pulso_core::key_group;

use super::RawRecord;
use crate::batch::letters_schema;
use crate::error::Result;

/// Copies of raw records, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    heads: Vec<Head>,
}

#[derive(Debug, Clone)]
struct Head {
    split: pulso_core::ids::SplitId,
    position: pulso_core::ids::Position,
    timestamp_ms: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
}

impl Records {
    pub(crate) fn push(&mut self, record: &RawRecord<'_>) {
        let key = record.key.map(|bytes| self.copy(bytes));
        let value = record.value.map(|bytes| self.copy(bytes));
        let RawRecord { split, position, timestamp_ms, .. } = *record;
        self.heads.push(Head { split, position, timestamp_ms, key, value });
    }

    /// These records; goes on with room for as many.
    pub(crate) fn hand_over(&mut self) -> Self {
        let next = Self { bytes: Vec::with_capacity(self.bytes.len()), heads: Vec::with_capacity(self.heads.len()) };
        std::mem::replace(self, next)
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn record(&self, id: u32) -> RawRecord<'_> {
        let Head { split, position, timestamp_ms, ref key, ref value } = self.heads[id as usize];
        let bytes = |range: &Option<Range<usize>>| range.clone().map(|range| &self.bytes[range]);
        RawRecord { split, position, timestamp_ms, key: bytes(key), value: bytes(value) }
    }
}

/// Dead letters in the making.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    key_group: UInt16Builder,
    split: UInt32Builder,
    position: Int64Builder,
    timestamp: Int64Builder,
    reason: StringBuilder,
    field: StringBuilder,
    key: BinaryBuilder,
    value: BinaryBuilder,
    rows: usize,
}

impl Letters {
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// A dead letter has no routing key that can be trusted: it goes by its split.
    pub(crate) fn push(&mut self, record: &RawRecord<'_>, key_groups: u16, reason: &str, field: Option<&str>) {
        let KeyGroup(key_group) = key_group::of_split(record.split, key_groups);
        self.key_group.append_value(key_group);
        self.split.append_value(record.split.0);
        self.position.append_value(record.position.0);
        self.timestamp.append_value(record.timestamp_ms);
        self.reason.append_value(reason);
        self.field.append_option(field);
        self.key.append_option(record.key);
        self.value.append_option(record.value);
        self.rows += 1;
    }

    /// The letters so far; begins anew.
    pub(crate) fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(None);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.key_group.finish()),
            Arc::new(self.split.finish()),
            Arc::new(self.position.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.field.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
        ];
        Ok(Some(RecordBatch::try_new(letters_schema(), columns)?))
    }
}
