//! Payloads as bytes: Arrow IPC streams in a frame with a version and a checksum.

use std::collections::BTreeMap;
use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use pulso_core::ids::KeyGroup;
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::{Payload, forwarded_schema, letters_schema, rows_schema};
use crate::error::{DataflowError, Result};

const VERSION: u8 = 1;
/// Version and checksum.
const HEADER: usize = 9;

impl Payload {
    /// Version 1: `version u8, xxh3-64 of the rest u64, filtered count u32, (key group u16, count u64)*, length of rows u32,
    /// rows, letters`, little-endian; an absent batch has no bytes. Not compressed: links are local or fast, and the time
    /// is better spent elsewhere.
    ///
    /// # Errors
    /// Arrow's, and [`DataflowError::Invalid`] for rows of more than 4 GiB.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(1_024 + self.memory());
        bytes.push(VERSION);
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&length(self.filtered.len())?);
        for (key_group, count) in &self.filtered {
            bytes.extend_from_slice(&key_group.0.to_le_bytes());
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        let at = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        write(self.rows.as_ref(), &mut bytes)?;
        let rows = length(bytes.len() - at - 4)?;
        bytes[at..at + 4].copy_from_slice(&rows);
        write(self.letters.as_ref(), &mut bytes)?;
        let checksum = xxh3_64(&bytes[HEADER..]);
        bytes[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }

    /// # Errors
    /// [`DataflowError::Corrupt`] if the bytes are not what [`Payload::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (header, mut rest) = bytes.split_first_chunk::<HEADER>().ok_or_else(|| corrupt("it is too short"))?;
        if header[0] != VERSION {
            return Err(corrupt(&format!("version {} is unknown", header[0])));
        }
        if xxh3_64(rest).to_le_bytes() != header[1..] {
            return Err(corrupt("its checksum is another"));
        }
        let mut filtered = BTreeMap::new();
        for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
            let key_group = KeyGroup(u16::from_le_bytes(take(&mut rest)?));
            filtered.insert(key_group, u64::from_le_bytes(take(&mut rest)?));
        }
        let length = u32::from_le_bytes(take(&mut rest)?) as usize;
        let (rows, letters) = rest.split_at_checked(length).ok_or_else(|| corrupt("its rows end too early"))?;
        let (rows, letters) = (read(rows)?, read(letters)?);
        check(rows.as_ref(), letters.as_ref())?;
        Ok(Self { rows, letters, filtered })
    }
}

fn write(batch: Option<&RecordBatch>, bytes: &mut Vec<u8>) -> Result<()> {
    let Some(batch) = batch else { return Ok(()) };
    let mut writer = StreamWriter::try_new(bytes, &batch.schema())?;
    writer.write(batch)?;
    Ok(writer.finish()?)
}

fn read(bytes: &[u8]) -> Result<Option<RecordBatch>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    let batch = reader.next().ok_or_else(|| corrupt("a stream has no batch"))??;
    if reader.next().is_some() { Err(corrupt("a stream has more than one batch")) } else { Ok(Some(batch)) }
}

/// The columns before the job's own are where everyone looks for them.
fn check(rows: Option<&RecordBatch>, letters: Option<&RecordBatch>) -> Result<()> {
    // What sources send, or what the first stage sends.
    let metas = [rows_schema(&Schema::empty()), forwarded_schema(&Schema::empty())];
    let has_meta = |batch: &RecordBatch| {
        let columns = batch.schema();
        metas.iter().any(|meta| columns.fields().get(..meta.fields().len()) == Some(&meta.fields()[..]))
    };
    if !rows.is_none_or(has_meta) || !letters.is_none_or(|batch| batch.schema() == letters_schema()) {
        return Err(corrupt("it has other columns"));
    }
    Ok(())
}

fn length(bytes: usize) -> Result<[u8; 4]> {
    let length = u32::try_from(bytes).map_err(|_| DataflowError::Invalid("a payload of more than 4 GiB".to_owned()))?;
    Ok(length.to_le_bytes())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (value, rest) = bytes.split_first_chunk::<N>().ok_or_else(|| corrupt("it ends too early"))?;
    *bytes = rest;
    Ok(*value)
}

fn corrupt(reason: &str) -> DataflowError {
    DataflowError::Corrupt { what: "a payload", reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray, UInt8Array, UInt16Array, UInt32Array};
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn payload() -> Payload {
        let job = Schema::new(vec![Field::new("name", DataType::Utf8, false)]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt16Array::from(vec![0, 2, 1])),
            Arc::new(UInt32Array::from(vec![0, 0, 1])),
            Arc::new(Int64Array::from(vec![7, 8, 0])),
            Arc::new(Int64Array::from(vec![-1, 1, 2])),
            Arc::new(BooleanArray::from(vec![false, true, false])),
            Arc::new(StringArray::from(vec![Some("a"), None, Some("ç")])),
        ];
        let rows = RecordBatch::try_new(rows_schema(&job), columns).unwrap();
        Payload { rows: Some(rows), letters: None, filtered: BTreeMap::from([(KeyGroup(2), 5), (KeyGroup(0), 1)]) }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let whole = payload();
        assert_eq!(Payload::decode(&whole.encode().unwrap()).unwrap(), whole);
        let slice = Payload { rows: whole.rows.as_ref().map(|rows| rows.slice(1, 1)), ..Payload::default() };
        assert_eq!(Payload::decode(&slice.encode().unwrap()).unwrap(), slice);
        let empty = Payload::default();
        assert_eq!(Payload::decode(&empty.encode().unwrap()).unwrap(), empty);
    }

    #[test]
    fn reads_back_what_the_first_stage_sends_and_nothing_else() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt16Array::from(vec![3])),
            Arc::new(UInt32Array::from(vec![1])),
            Arc::new(Int64Array::from(vec![1])),
            Arc::new(Int64Array::from(vec![-1])),
            Arc::new(UInt8Array::from(vec![2])),
            Arc::new(UInt16Array::from(vec![0])),
        ];
        let rows = RecordBatch::try_new(forwarded_schema(&Schema::empty()), columns).unwrap();
        let payload = Payload { rows: Some(rows.clone()), ..Payload::default() };
        assert_eq!(Payload::decode(&payload.encode().unwrap()).unwrap(), payload);
        let fewer = Payload { rows: Some(rows.project(&[0, 1, 2, 3, 4]).unwrap()), ..Payload::default() };
        assert!(matches!(Payload::decode(&fewer.encode().unwrap()), Err(DataflowError::Corrupt { .. })));
    }

    #[test]
    fn pieces_hold_every_row_once() {
        let whole = payload();
        let pieces = whole.clone().pieces(1);
        assert_eq!(pieces.len(), 4, "three rows, and what was filtered");
        let rows: Vec<_> = pieces.iter().filter_map(|piece| piece.rows.clone()).collect();
        let schema = whole.rows.as_ref().unwrap().schema();
        assert_eq!(arrow::compute::concat_batches(&schema, &rows).unwrap(), whole.rows.clone().unwrap());
        assert_eq!(pieces.last().unwrap().filtered, whole.filtered);
        for piece in pieces {
            assert_eq!(Payload::decode(&piece.encode().unwrap()).unwrap(), piece);
        }
        assert_eq!(whole.clone().pieces(1 << 20), [whole]);
    }

    #[test]
    fn finds_every_flipped_byte_and_every_cut() {
        let bytes = payload().encode().unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(matches!(Payload::decode(&flipped), Err(DataflowError::Corrupt { .. })), "byte {at}");
            assert!(Payload::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn routes_every_row_once_and_leaves_out_who_has_no_owner() {
        let whole = payload();
        let parts = whole.clone().route(&[1, 0, 1], 2).unwrap();
        let texts = |part: &Payload| {
            let rows = part.rows.as_ref().unwrap();
            rows.column(2).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
        };
        assert_eq!((texts(&parts[0]), texts(&parts[1])), (vec![0], vec![7, 8]));
        assert!(parts[0].filtered.is_empty());
        assert_eq!(parts[1].filtered, whole.filtered);
        let parts = whole.clone().route(&[usize::MAX, 0, usize::MAX], 1).unwrap();
        assert_eq!((texts(&parts[0]), parts[0].filtered.len()), (vec![0], 0));
        assert_eq!(whole.clone().route(&[0, 0, 0], 1).unwrap(), std::slice::from_ref(&whole));
        assert!(whole.route(&[0, 1], 2).is_err());
    }
}
