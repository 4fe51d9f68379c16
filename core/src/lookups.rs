//! Versions of the rows of a job's lookups: immutable objects that cuts name, so that a replay joins with the same ones.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cut::Cut;
use crate::ids::{JobId, LookupsId, WallTime};

/// Rows of all lookups of a job, as they were read at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupsVersion {
    pub id: LookupsId,
    /// Equal for equal rows.
    pub hash: u64,
    /// Of each lookup, in file order.
    pub rows: Vec<u64>,
    pub bytes: u64,
    pub read: WallTime,
}

/// What the control log knows of a job's versions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LookupsState {
    pub newest: Option<LookupsVersion>,
    /// Versions whose objects exist, in the order in which they came.
    pub stored: Vec<LookupsId>,
}

impl LookupsState {
    pub(crate) fn add(&mut self, version: &LookupsVersion) {
        self.stored.push(version.id);
        self.newest = Some(version.clone());
    }

    pub(crate) fn remove(&mut self, versions: &[LookupsId]) {
        self.stored.retain(|id| !versions.contains(id));
    }

    #[must_use]
    pub fn newest_id(&self) -> Option<LookupsId> {
        self.newest.as_ref().map(|version| version.id)
    }

    /// Versions that no replay needs: no cut names them, and none will, since cuts name ever newer ones.
    #[must_use]
    pub fn unneeded<'c>(&self, cuts: impl DoubleEndedIterator<Item = &'c Cut> + Clone) -> Vec<LookupsId> {
        let reached = cuts.clone().next_back().and_then(|cut| cut.lookups);
        let named: BTreeSet<LookupsId> = cuts.filter_map(|cut| cut.lookups).collect();
        let before = self.stored.iter().take_while(|id| Some(**id) != reached);
        before.filter(|id| !named.contains(id)).copied().collect()
    }
}

/// Where a version is in the checkpoint storage, relative to its root.
#[must_use]
pub fn object(job: JobId, version: LookupsId) -> String {
    format!("lookups/{job}/{version}")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::cut::CutHash;
    use crate::ids::{Epoch, EventTime};

    fn version(n: u128) -> LookupsVersion {
        LookupsVersion { id: LookupsId(Uuid::from_u128(n)), hash: 1, rows: vec![2], bytes: 3, read: WallTime(4) }
    }

    fn cut(epoch: u64, lookups: u128) -> Cut {
        Cut {
            epoch: Epoch(epoch),
            clock: WallTime(0),
            splits: [].into(),
            watermark: EventTime(0),
            idle: [].into(),
            last: false,
            lookups: Some(LookupsId(Uuid::from_u128(lookups))),
            previous: CutHash(0),
        }
    }

    #[test]
    fn versions_go_once_no_cut_names_them_and_newer_ones_wait_to_be_named() {
        let mut state = LookupsState::default();
        // Random like real ones: their order says nothing.
        for n in [7, 3, 9, 1, 5] {
            state.add(&version(n));
        }
        let ids = |state: &LookupsState, cuts: &[Cut]| -> Vec<u128> {
            state.unneeded(cuts.iter()).iter().map(|id| id.0.as_u128()).collect()
        };
        assert_eq!(ids(&state, &[cut(0, 7)]), [] as [u128; 0]);
        assert_eq!(ids(&state, &[cut(3, 3), cut(4, 3), cut(5, 1)]), [7, 9]);
        state.remove(&[version(7).id, version(9).id]);
        assert_eq!(ids(&state, &[cut(5, 1)]), [3]);
        assert_eq!(state.newest_id(), Some(version(5).id));
    }

    #[test]
    fn cuts_with_other_versions_have_other_hashes() {
        let without = Cut { lookups: None, ..cut(1, 1) };
        let hashes = [cut(1, 1).hash(), cut(1, 2).hash(), without.hash()];
        assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2] && hashes[0] != hashes[2]);
    }
}
