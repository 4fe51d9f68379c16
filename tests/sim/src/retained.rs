//! The checkpoints that the control log retains, as seen from outside: what a fault may take away and what not.

use std::collections::BTreeSet;

use pulso_core::ids::{CheckpointId, TargetId};
use pulso_core::record::Manifest;

use crate::database::Contents;
use crate::storage::{Objects, checksum};

#[derive(Debug, Default)]
pub(crate) struct Retained {
    manifests: Vec<(Manifest, bool)>,
    /// The first checkpoint was asked for: once it completes, nothing begins with Cut(0) any more.
    begun: bool,
}

impl Retained {
    pub(crate) fn done(&mut self, manifest: &Manifest) {
        self.manifests.push((manifest.clone(), false));
    }

    pub(crate) fn begun(&mut self) {
        self.begun = true;
    }

    pub(crate) fn pinned(&mut self, checkpoint: CheckpointId) {
        self.manifests.iter_mut().filter(|(m, _)| m.checkpoint == checkpoint).for_each(|(_, pinned)| *pinned = true);
    }

    pub(crate) fn collected(&mut self, checkpoints: &[CheckpointId]) {
        self.manifests.retain(|(m, _)| !checkpoints.contains(&m.checkpoint));
    }

    /// True where the ledger of `contents` is one that the job can follow back, even if one more checkpoint completes
    /// meanwhile and the oldest is given up for it.
    pub(crate) fn precedes(&self, target: TargetId, contents: &Contents, objects: &Objects, key_groups: usize) -> bool {
        if contents.ledger.len() < key_groups {
            return false;
        }
        let safe = |at: usize| self.manifests.len() < 3 || at > 0;
        let fits = |manifest: &Manifest| {
            is_whole(manifest, objects)
                && manifest.snapshots.iter().all(|(key_group, snapshot)| {
                    let mark = snapshot.marks.get(&target).copied().unwrap_or_default();
                    contents.ledger.get(key_group).is_some_and(|e| e.row.mark >= mark)
                })
        };
        !self.begun || self.manifests.iter().enumerate().any(|(at, (m, _))| safe(at) && fits(m))
    }

    /// Objects of the newest checkpoint that no older one names, while two others are whole.
    pub(crate) fn only_in_newest(&self, objects: &Objects) -> Vec<String> {
        let Some(((newest, _), older)) = self.manifests.split_last() else { return Vec::new() };
        if older.iter().filter(|(m, _)| is_whole(m, objects)).count() < 2 {
            return Vec::new();
        }
        let shared: BTreeSet<&String> = older.iter().flat_map(|(m, _)| names(m)).collect();
        names(newest).filter(|n| !shared.contains(n)).cloned().collect()
    }

    pub(crate) fn name(&self, object: &str) -> bool {
        self.manifests.iter().any(|(m, _)| names(m).any(|n| n == object))
    }
}

fn names(manifest: &Manifest) -> impl Iterator<Item = &String> {
    manifest.snapshots.values().flat_map(|s| s.files.iter().map(|f| &f.object))
}

fn is_whole(manifest: &Manifest, objects: &Objects) -> bool {
    let mut files = manifest.snapshots.values().flat_map(|s| &s.files);
    files.all(|f| objects.read(&f.object).is_some_and(|contents| checksum(&contents) == f.checksum))
}
