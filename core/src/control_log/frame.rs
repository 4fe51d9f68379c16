//! One object of the control log: a checked header and the records as JSON.
//!
//! `magic | version | leader nonce | hash of the object before | CRC-32 of all the rest | records`, little endian.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::record::Record;

const MAGIC: [u8; 6] = *b"PulsoL";
const VERSION: u16 = 1;
const NONCE: usize = 8;
const PREVIOUS: usize = NONCE + 16;
const CHECKSUM: usize = PREVIOUS + 16;
const BODY: usize = CHECKSUM + 4;

/// Hash of a whole object; chains every object to the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ObjectHash(u128);

impl ObjectHash {
    /// What the first object names as its predecessor.
    pub const NONE: Self = Self(0);

    #[must_use]
    pub fn of(object: &[u8]) -> Self {
        Self(xxh3_128(object))
    }
}

impl fmt::Display for ObjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What an object holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Nonce of the leader that wrote it.
    pub nonce: Uuid,
    pub previous: ObjectHash,
    pub records: Vec<Record>,
}

/// Why an object cannot be read. None of these is ever worked around: a wrong guess here loses or repeats rows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("not an object of a control log, or cut off: {bytes} bytes")]
    NotAFrame { bytes: usize },
    #[error("written by a newer version (format {found}, this program reads {VERSION})")]
    UnknownVersion { found: u16 },
    #[error("checksum is {computed:08x}, the object says {stored:08x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("records do not parse: {0}")]
    Records(String),
}

/// Bytes of one object.
#[must_use]
pub fn frame(nonce: Uuid, previous: ObjectHash, records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BODY + 256 * records.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(nonce.as_bytes());
    bytes.extend_from_slice(&previous.0.to_le_bytes());
    bytes.extend_from_slice(&[0; BODY - CHECKSUM]);
    serde_json::to_writer(&mut bytes, records)
        .expect("records have only keys that JSON can write, and a Vec never fails");
    let checksum = checksum(&bytes);
    bytes[CHECKSUM..BODY].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads what [`frame`] wrote.
///
/// # Errors
/// See [`FrameError`].
pub fn unframe(bytes: &[u8]) -> Result<Frame, FrameError> {
    if bytes.len() < BODY || bytes[..MAGIC.len()] != MAGIC {
        return Err(FrameError::NotAFrame { bytes: bytes.len() });
    }
    let found = u16::from_le_bytes(array(bytes, MAGIC.len()));
    if found != VERSION {
        return Err(FrameError::UnknownVersion { found });
    }
    let stored = u32::from_le_bytes(array(bytes, CHECKSUM));
    let computed = checksum(bytes);
    if stored != computed {
        return Err(FrameError::Checksum { stored, computed });
    }
    let records = serde_json::from_slice(&bytes[BODY..]).map_err(|e| FrameError::Records(e.to_string()))?;
    Ok(Frame {
        nonce: Uuid::from_bytes(array(bytes, NONCE)),
        previous: ObjectHash(u128::from_le_bytes(array(bytes, PREVIOUS))),
        records,
    })
}

/// Of everything but the field that holds it.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CHECKSUM]);
    hasher.update(&bytes[BODY..]);
    hasher.finalize()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Attempt, JobId};

    fn records(n: u64) -> Vec<Record> {
        (0..n)
            .map(|i| Record::Attempt {
                job: JobId(Uuid::from_u128(7)),
                attempt: Attempt(i),
                reason: "ação \"lost\"\n".to_owned(),
            })
            .collect()
    }

    #[test]
    fn a_newer_version_is_an_error() {
        let mut bytes = frame(Uuid::nil(), ObjectHash::NONE, &records(1));
        bytes[6] = 2;
        assert_eq!(unframe(&bytes), Err(FrameError::UnknownVersion { found: 2 }));
    }

    #[test]
    fn records_that_do_not_parse_are_an_error() {
        let mut bytes = frame(Uuid::nil(), ObjectHash::NONE, &[]);
        bytes.truncate(BODY);
        bytes.extend_from_slice(br#"[{"Unheard":{}}]"#);
        let sum = checksum(&bytes);
        bytes[CHECKSUM..BODY].copy_from_slice(&sum.to_le_bytes());
        assert!(matches!(unframe(&bytes), Err(FrameError::Records(_))));
    }

    proptest! {
        #[test]
        fn round_trip(nonce: u128, previous: u128, n in 0..5_u64) {
            let written = Frame { nonce: Uuid::from_u128(nonce), previous: ObjectHash(previous), records: records(n) };
            let bytes = frame(written.nonce, written.previous, &written.records);
            prop_assert_eq!(unframe(&bytes), Ok(written));
        }

        #[test]
        fn a_flipped_bit_or_a_lost_tail_is_noticed(at: prop::sample::Index, bit in 0..8_u8, cut: prop::sample::Index) {
            let bytes = frame(Uuid::from_u128(9), ObjectHash(3), &records(2));
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(unframe(&flipped).is_err());
            prop_assert!(unframe(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
