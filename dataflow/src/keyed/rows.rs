//! All rows of an epoch in one batch, and their canonical order.

use std::collections::BTreeSet;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt16Array, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Int64Type, UInt32Type};
use pulso_core::ids::{KeyGroup, Position, SplitId};

use crate::batch::{column, key_groups};
use crate::entry::Rank;
use crate::error::{DataflowError, Result};

/// Rows of an epoch whose timestamps are looked at.
const SAMPLES: usize = 16;

/// The columns of rows that say where each comes from.
pub(crate) struct Rows<'a> {
    key_groups: &'a UInt16Array,
    splits: &'a UInt32Array,
    positions: &'a Int64Array,
    timestamps: &'a Int64Array,
    deletes: &'a BooleanArray,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(batch: &'a RecordBatch) -> Result<Self> {
        Ok(Self {
            key_groups: key_groups(batch)?,
            splits: known(batch.column(column::SPLIT).as_primitive_opt::<UInt32Type>())?,
            positions: known(batch.column(column::POSITION).as_primitive_opt::<Int64Type>())?,
            timestamps: known(batch.column(column::TIMESTAMP).as_primitive_opt::<Int64Type>())?,
            deletes: known(batch.column(column::DELETE).as_boolean_opt())?,
        })
    }

    pub(crate) fn rank(&self, row: usize) -> Rank {
        Rank {
            timestamp_ms: self.timestamps.value(row),
            split: SplitId(self.splits.value(row)),
            position: Position(self.positions.value(row)),
        }
    }

    pub(crate) fn is_delete(&self, row: usize) -> bool {
        self.deletes.value(row)
    }

    /// Broker timestamps of some rows, evenly picked. A record without one says nothing.
    pub(crate) fn samples(&self) -> Vec<i64> {
        samples(self.timestamps)
    }

    /// Rows by key group, each in canonical order.
    pub(crate) fn by_key_group(&self) -> Vec<(KeyGroup, Vec<u32>)> {
        canonical(self.key_groups, self.splits, self.positions)
    }
}

pub(crate) fn samples(timestamps: &Int64Array) -> Vec<i64> {
    let every = timestamps.len().div_ceil(SAMPLES).max(1);
    timestamps.values().iter().step_by(every).copied().filter(|timestamp| *timestamp >= 0).collect()
}

/// Rows by key group, and within it by split and position.
pub(crate) fn canonical(
    key_groups: &UInt16Array,
    splits: &UInt32Array,
    positions: &Int64Array,
) -> Vec<(KeyGroup, Vec<u32>)> {
    let mut order: Vec<(u16, u32, i64, u32)> = (0u32..)
        .zip(key_groups.values().iter().zip(splits.values()).zip(positions.values()))
        .map(|(row, ((key_group, split), position))| (*key_group, *split, *position, row))
        .collect();
    order.sort_unstable();
    order
        .chunk_by(|a, b| a.0 == b.0)
        .map(|chunk| (KeyGroup(chunk[0].0), chunk.iter().map(|(.., row)| *row).collect()))
        .collect()
}

/// One batch of all, without the rows of key groups that have this epoch already.
pub(crate) fn gather<'a>(
    batches: impl Iterator<Item = &'a RecordBatch>,
    skip: &BTreeSet<KeyGroup>,
) -> Result<Option<RecordBatch>> {
    let mut kept = Vec::new();
    for batch in batches {
        kept.push(without(batch, skip)?);
    }
    kept.retain(|batch| batch.num_rows() > 0);
    match kept.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        all => Ok(Some(concat_batches(&all[0].schema(), all)?)),
    }
}

/// The rows of `batch` whose key group is not in `unwanted`.
pub(crate) fn without(batch: &RecordBatch, unwanted: &BTreeSet<KeyGroup>) -> Result<RecordBatch> {
    if unwanted.is_empty() {
        return Ok(batch.clone());
    }
    let keep: BooleanArray =
        key_groups(batch)?.values().iter().map(|group| Some(!unwanted.contains(&KeyGroup(*group)))).collect();
    if keep.true_count() == batch.num_rows() { Ok(batch.clone()) } else { Ok(filter_record_batch(batch, &keep)?) }
}

/// Letters in canonical order.
pub(crate) fn sorted(letters: &RecordBatch) -> Result<RecordBatch> {
    let splits: &ArrayRef = letters.column(column::SPLIT);
    let positions: &ArrayRef = letters.column(column::POSITION);
    let (splits, positions) =
        (known(splits.as_primitive_opt::<UInt32Type>())?, known(positions.as_primitive_opt::<Int64Type>())?);
    let order = canonical(key_groups(letters)?, splits, positions);
    let order: UInt32Array = order.into_iter().flat_map(|(_, rows)| rows).collect();
    Ok(arrow::compute::take_record_batch(letters, &order)?)
}

pub(crate) fn known<T>(array: Option<T>) -> Result<T> {
    array.ok_or_else(|| {
        DataflowError::Invalid("rows or dead letters with other columns than those of a payload".to_owned())
    })
}
