//! Where an epoch ends, for ever: the one thing that must be durable before anything of the epoch is committed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::ids::{Epoch, EventTime, LookupsId, Position, SplitId, WallTime};

/// Chained hash of all cuts up to one; equal hashes mean equal histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CutHash(pub u128);

impl From<CutHash> for String {
    fn from(hash: CutHash) -> Self {
        format!("{:032x}", hash.0)
    }
}

impl TryFrom<String> for CutHash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        u128::from_str_radix(&text, 16).map(Self).map_err(|e| format!("cut hash `{text}`: {e}"))
    }
}

/// The part of one split in one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitCut {
    /// Last delivered position + 1; the epoch before it ended where this one begins.
    pub end: Position,
    /// Records of this epoch.
    pub count: u64,
    /// [`RunningHash`] over the records of this epoch.
    pub hash: u64,
    /// Greatest event time of a good record of this split in this or any earlier epoch.
    pub greatest: Option<EventTime>,
}

/// The end of an epoch and every decision that depended on a clock or on the outside world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    pub epoch: Epoch,
    /// The JobManager's clock when it opened the cut; it bounds event times of this epoch.
    pub clock: WallTime,
    /// All splits of the job, also those without a record in this epoch.
    pub splits: BTreeMap<SplitId, SplitCut>,
    /// After this epoch; it holds for the processing of the next one and never goes back.
    pub watermark: EventTime,
    /// Splits that do not hold the watermark back after this epoch.
    pub idle: BTreeSet<SplitId>,
    /// The last epoch of a job that was told to stop.
    pub last: bool,
    /// Rows of the job's lookups that the records of the next epoch are joined with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookups: Option<LookupsId>,
    /// Hash of the cut before.
    pub previous: CutHash,
}

impl Cut {
    /// Hash of this cut and, through `previous`, of all before it.
    #[must_use]
    pub fn hash(&self) -> CutHash {
        let mut bytes = Vec::with_capacity(64 + self.splits.len() * 48);
        bytes.extend_from_slice(&self.previous.0.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&self.clock.0.to_le_bytes());
        bytes.extend_from_slice(&self.watermark.0.to_le_bytes());
        bytes.push(u8::from(self.last));
        bytes.extend_from_slice(&(self.splits.len() as u64).to_le_bytes());
        for (split, cut) in &self.splits {
            bytes.extend_from_slice(&split.0.to_le_bytes());
            bytes.extend_from_slice(&cut.end.0.to_le_bytes());
            bytes.extend_from_slice(&cut.count.to_le_bytes());
            bytes.extend_from_slice(&cut.hash.to_le_bytes());
            bytes.extend_from_slice(&cut.greatest.map_or(i64::MIN, |t| t.0).to_le_bytes());
        }
        bytes.extend_from_slice(&(self.idle.len() as u64).to_le_bytes());
        for split in &self.idle {
            bytes.extend_from_slice(&split.0.to_le_bytes());
        }
        if let Some(lookups) = &self.lookups {
            bytes.extend_from_slice(lookups.0.as_bytes());
        }
        CutHash(xxh3_128_with_seed(&bytes, 0))
    }

    /// Records of the epoch over all splits.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.splits.values().map(|s| s.count).sum()
    }
}

/// Running hash over the records of one split in one epoch, in order of position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunningHash(u64);

impl RunningHash {
    /// Takes one record in: everything of it that decides what comes out.
    pub fn add(&mut self, position: Position, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        let seed = self.0.rotate_left(17) ^ (position.0 as u64) ^ (timestamp_ms as u64).rotate_left(32);
        let value = value.map_or(seed ^ 0x9E37_79B9_7F4A_7C15, |v| xxh3_64_with_seed(v, seed));
        self.0 = match key {
            None => value,
            Some(key) => xxh3_64_with_seed(key, value),
        };
    }

    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}
