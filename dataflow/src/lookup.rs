//! The rows of a lookup: one version of them, as it is stored, and as records are joined with it.

#![expect(clippy::disallowed_types, reason = "looked into for every record, and never in order")]

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_ipc::{CompressionType, MetadataVersion};
use pulso_job::JobSpec;
use pulso_job::spec::{LookupSpec, Missing};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{DataflowError, Result};
use crate::key::KeyColumns;

/// Largest version, as it is stored.
pub const MAX_LOOKUP_BYTES: usize = 256 << 20;

/// Bytes of the rows of a query, the same for the same rows in any order. `rows` have [`JobSpec::lookup_schema`]. Rows
/// with a null in a column of `on` fit no record and are left out.
///
/// # Errors
/// [`DataflowError::Invalid`] where several rows fit one record, or the rows are too many bytes.
pub fn encode(lookup: &LookupSpec, rows: &RecordBatch) -> Result<Vec<u8>> {
    let keys = keys(lookup, rows)?;
    let mut order: Vec<(Vec<u8>, u32)> = keys.into_iter().zip(0..).filter_map(|(key, row)| Some((key?, row))).collect();
    order.sort_unstable();
    let doubled = order.windows(2).filter(|pair| pair[0].0 == pair[1].0).count();
    if doubled > 0 {
        let (name, found) = (&lookup.name, order.len());
        return Err(DataflowError::Invalid(format!(
            "lookup `{name}`: {doubled} of its {found} rows have the same values in the columns of `on` as another row, \
             so nobody knows which one a record would get: take more columns into `on`, or change the query"
        )));
    }
    let order: UInt32Array = order.into_iter().map(|(_, row)| row).collect();
    let rows = take_record_batch(rows, &order)?;
    let options = IpcWriteOptions::try_new(8, false, MetadataVersion::V5)?;
    let options = options.try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &rows.schema(), options)?;
    writer.write(&rows)?;
    let bytes = writer.into_inner()?;
    if bytes.len() > MAX_LOOKUP_BYTES {
        let message =
            format!("lookup `{}`: {} bytes, at most {MAX_LOOKUP_BYTES} are allowed", lookup.name, bytes.len());
        return Err(DataflowError::Invalid(message));
    }
    Ok(bytes)
}

/// All lookups of a job, in file order, as one object; and its hash, which it begins with.
#[must_use]
pub fn bundle(encoded: &[&[u8]]) -> (Vec<u8>, u64) {
    let mut bundle = vec![0; 8];
    for bytes in encoded {
        bundle.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        bundle.extend_from_slice(bytes);
    }
    let hash = xxh3_64(&bundle[8..]);
    bundle[..8].copy_from_slice(&hash.to_le_bytes());
    (bundle, hash)
}

/// Reads back what [`bundle`] wrote.
///
/// # Errors
/// As [`Lookup::decode`].
pub fn unbundle(job: &JobSpec, bundle: &[u8]) -> Result<Vec<Arc<Lookup>>> {
    let corrupt = |reason: &str| DataflowError::Corrupt { what: "a version of the lookups", reason: reason.to_owned() };
    let short = || corrupt("it ends too early");
    let (hash, mut rest) = bundle.split_first_chunk::<8>().ok_or_else(short)?;
    if xxh3_64(rest).to_le_bytes() != *hash {
        return Err(corrupt("its bytes have changed"));
    }
    let mut lookups = Vec::new();
    for lookup in &job.lookups {
        let (length, behind) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| short())?;
        let (bytes, behind) = behind.split_at_checked(length).ok_or_else(short)?;
        lookups.push(Arc::new(Lookup::decode(job, lookup, bytes)?));
        rest = behind;
    }
    if rest.is_empty() { Ok(lookups) } else { Err(corrupt("it holds more lookups than the job has")) }
}

/// Rows that are found by the columns of `on`.
#[derive(Debug)]
pub struct Lookup {
    rows: HashMap<Vec<u8>, u32>,
    /// Those that the job uses.
    columns: RecordBatch,
}

impl Lookup {
    /// From what [`encode`] wrote.
    ///
    /// # Errors
    /// Where the bytes are something else, or of another job.
    pub fn decode(job: &JobSpec, lookup: &LookupSpec, bytes: &[u8]) -> Result<Self> {
        let schema = job.lookup_schema(lookup);
        let reader = FileReader::try_new(Cursor::new(bytes), None)?;
        if reader.schema() != schema {
            let reason = format!("it has the columns {}", reader.schema());
            return Err(DataflowError::Corrupt { what: "a version of a lookup", reason });
        }
        let rows = concat_batches(&schema, &reader.collect::<Result<Vec<_>, _>>()?)?;
        let keys = keys(lookup, &rows)?;
        let own: Vec<usize> = (lookup.on.len()..schema.fields().len()).collect();
        Ok(Self {
            rows: keys.into_iter().zip(0..).filter_map(|(key, row)| Some((key?, row))).collect(),
            columns: rows.project(&own)?,
        })
    }

    /// The columns for records that `batch` holds the fields of, and which of the records may stay.
    pub(crate) fn join(&self, lookup: &LookupSpec, batch: &RecordBatch) -> Result<(RecordBatch, BooleanArray)> {
        let on = KeyColumns::new(batch, lookup.on.iter().copied())?;
        let mut key = Vec::with_capacity(64);
        let find = |row| {
            key.clear();
            on.encode(row, &mut key);
            self.rows.get(&key).copied()
        };
        let found: UInt32Array = (0..batch.num_rows()).map(find).collect();
        let stays = |row| Some(lookup.missing == Missing::Null || found.is_valid(row));
        let stay = (0..found.len()).map(stays).collect();
        Ok((take_record_batch(&self.columns, &found)?, stay))
    }
}

/// Per row what it is found by.
fn keys(lookup: &LookupSpec, rows: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
    let on = KeyColumns::new(rows, 0..lookup.on.len())?;
    let key = |row| {
        let mut key = Vec::new();
        on.encode(row, &mut key);
        (!on.has_null(row)).then_some(key)
    };
    Ok((0..rows.num_rows()).map(key).collect())
}

/// The lookups of a job, in file order; `None` before the first version is there.
pub(crate) type Lookups = Vec<Option<Arc<Lookup>>>;

#[cfg(test)]
mod tests;
