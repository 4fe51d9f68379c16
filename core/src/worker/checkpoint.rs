//! One checkpoint at a time: snapshots of all hosted key groups, then one more look at every ledger.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{CheckpointId, KeyGroupId, TargetId};
use crate::message::Snapshot;

#[derive(Debug, Clone)]
pub(super) enum Checkpoint {
    None,
    /// The store uploads.
    Storing {
        id: CheckpointId,
        missing: BTreeSet<KeyGroupId>,
        stored: BTreeMap<KeyGroupId, Snapshot>,
    },
    /// All is stored; these targets have not confirmed yet that they did not go back meanwhile.
    Confirming {
        id: CheckpointId,
        unread: BTreeSet<TargetId>,
        stored: BTreeMap<KeyGroupId, Snapshot>,
    },
}

impl Checkpoint {
    pub(super) fn begin(id: CheckpointId, key_groups: BTreeSet<KeyGroupId>) -> Self {
        Self::Storing { id, missing: key_groups, stored: BTreeMap::new() }
    }

    pub(super) fn id(&self) -> Option<CheckpointId> {
        match self {
            Self::None => None,
            Self::Storing { id, .. } | Self::Confirming { id, .. } => Some(*id),
        }
    }

    /// Takes one snapshot in. True once it was the last one, and the ledgers of `targets` are to be read.
    pub(super) fn stored(
        &mut self,
        checkpoint: CheckpointId,
        key_group: KeyGroupId,
        snapshot: Snapshot,
        targets: BTreeSet<TargetId>,
    ) -> bool {
        let Self::Storing { id, missing, stored } = self else { return false };
        if *id != checkpoint || !missing.remove(&key_group) {
            return false;
        }
        stored.insert(key_group, snapshot);
        let all = missing.is_empty();
        if all {
            *self = Self::Confirming { id: checkpoint, unread: targets, stored: std::mem::take(stored) };
        }
        all
    }

    /// A target's ledger was read after everything was stored, and agreed.
    pub(super) fn confirmed(&mut self, checkpoint: CheckpointId, target: TargetId) {
        if let Self::Confirming { id, unread, .. } = self
            && *id == checkpoint
        {
            unread.remove(&target);
        }
    }

    /// The snapshots, once every target confirmed; then it is over.
    pub(super) fn finish(&mut self) -> Option<(CheckpointId, BTreeMap<KeyGroupId, Snapshot>)> {
        let Self::Confirming { id, unread, stored } = self else { return None };
        if !unread.is_empty() {
            return None;
        }
        let done = (*id, std::mem::take(stored));
        *self = Self::None;
        Some(done)
    }

    /// True where this one was under way.
    pub(super) fn give_up(&mut self, checkpoint: CheckpointId) -> bool {
        let under_way = self.id() == Some(checkpoint);
        if under_way {
            *self = Self::None;
        }
        under_way
    }
}
