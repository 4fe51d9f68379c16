//! The checkpoints that the control log retains, as seen from outside: what a fault may take away and what not.

use std::collections::BTreeSet;

use pulso_core::control_log::{Era, JobState};
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
    pub(crate) fn precedes(
        &self,
        target: TargetId,
        contents: &Contents,
        objects: &Objects,
        job: Option<&JobState>,
        key_groups: usize,
    ) -> bool {
        let safe = |at: usize| self.manifests.len() < 3 || at > 0;
        let manifests = || self.manifests.iter().enumerate().filter(|(at, _)| safe(*at)).map(|(_, (m, _))| m);
        let writes = |era: &Era<'_>| era.definition.targets.len() > usize::from(target.0);
        // It may be as it was before it became a target, where the definition before is still a way back.
        if let Some(job) = job
            && contents.ledger.is_empty()
            && let Some(before) = job.eras().nth(1).filter(|before| !writes(before) && writes(&job.era()))
        {
            let first = job.checkpoints.iter().map(|c| &c.manifest).find(|m| m.epoch == job.since);
            let is_new = |m: &Manifest| m.snapshots.values().all(|snapshot| !snapshot.marks.contains_key(&target));
            let has_first = first.is_some_and(|first| is_new(first) && is_whole(first, objects));
            return has_first && manifests().any(|m| before.has(m.epoch) && is_whole(m, objects));
        }
        if contents.ledger.len() < key_groups {
            return false;
        }
        let fits = |manifest: &Manifest| {
            let era = job.and_then(|job| job.eras().find(|era| era.has(manifest.epoch)));
            era.is_some_and(|era| writes(&era))
                && is_whole(manifest, objects)
                && manifest.snapshots.iter().all(|(key_group, snapshot)| {
                    let mark = snapshot.marks.get(&target).copied().unwrap_or_default();
                    contents.ledger.get(key_group).is_some_and(|e| e.row.mark >= mark)
                })
        };
        !self.begun || manifests().any(fits)
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
