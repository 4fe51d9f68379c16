//! What the state keeps per dedup key, and its bytes.

use pulso_core::ids::{EventTime, Position, SplitId};

use crate::error::{DataflowError, Result};

/// Version and kind; another kind of entry, or another layout, gets another number.
const DEDUP_1: u8 = 1;
/// What aggregates keep; its layout is theirs.
pub(crate) const WINDOW_1: u8 = 2;
const LENGTH: usize = 46;

/// Which of two records of one key wins: the one with the greater of these, compared in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) timestamp_ms: i64,
    pub(crate) split: SplitId,
    pub(crate) position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) deleted: bool,
    /// xxh3-128 of the values that are not the key; 0 where deleted.
    pub(crate) hash: u128,
    pub(crate) rank: Rank,
    /// The greatest of all records of the key, so that it does not matter which came first.
    pub(crate) event_time: EventTime,
}

impl Entry {
    /// `1 u8, deleted u8, hash u128, timestamp i64, split u32, position i64, event time i64`, little-endian.
    pub(crate) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = DEDUP_1;
        bytes[1] = u8::from(self.deleted);
        bytes[2..18].copy_from_slice(&self.hash.to_le_bytes());
        bytes[18..26].copy_from_slice(&self.rank.timestamp_ms.to_le_bytes());
        bytes[26..30].copy_from_slice(&self.rank.split.0.to_le_bytes());
        bytes[30..38].copy_from_slice(&self.rank.position.0.to_le_bytes());
        bytes[38..46].copy_from_slice(&self.event_time.0.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = || DataflowError::Corrupt {
            what: "an entry of the state",
            reason: format!("kind {:?} and {} bytes are unknown", bytes.first(), bytes.len()),
        };
        let (&[DEDUP_1, deleted @ (0 | 1)], mut rest) = bytes.split_first_chunk::<2>().ok_or_else(corrupt)? else {
            return Err(corrupt());
        };
        let hash = u128::from_le_bytes(take(&mut rest).ok_or_else(corrupt)?);
        let timestamp_ms = i64::from_le_bytes(take(&mut rest).ok_or_else(corrupt)?);
        let split = SplitId(u32::from_le_bytes(take(&mut rest).ok_or_else(corrupt)?));
        let position = Position(i64::from_le_bytes(take(&mut rest).ok_or_else(corrupt)?));
        let event_time = EventTime(i64::from_le_bytes(take(&mut rest).ok_or_else(corrupt)?));
        if !rest.is_empty() {
            return Err(corrupt());
        }
        Ok(Self { deleted: deleted == 1, hash, rank: Rank { timestamp_ms, split, position }, event_time })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (value, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::{Horizon, is_expired};

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn reads_back_what_it_wrote(
            deleted in any::<bool>(),
            hash in any::<u128>(),
            (timestamp_ms, split, position) in any::<(i64, u32, i64)>(),
            event_time in any::<i64>(),
        ) {
            let rank = Rank { timestamp_ms, split: SplitId(split), position: Position(position) };
            let entry = Entry { deleted, hash, rank, event_time: EventTime(event_time) };
            prop_assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
        }
    }

    #[test]
    fn refuses_other_versions_and_lengths() {
        let rank = Rank { timestamp_ms: 1, split: SplitId(2), position: Position(3) };
        let bytes = Entry { deleted: false, hash: 7, rank, event_time: EventTime(100) }.encode();
        let mut other = bytes;
        other[0] = 9;
        assert!(Entry::decode(&other).is_err());
        assert!(Entry::decode(&bytes[..45]).is_err());
        assert!(Entry::decode(&[&bytes[..], &[0]].concat()).is_err());
        assert!(Entry::decode(&[]).is_err());
        // A compaction drops only what it knows to be old.
        let horizon = |dedup| Horizon { dedup: EventTime(dedup), windows: EventTime::MIN };
        assert!(is_expired(&bytes, horizon(101)));
        assert!(!is_expired(&bytes, horizon(100)));
        assert!(!is_expired(&other, horizon(101)));
    }
}
