//! A completed checkpoint can be restored: its files are there and hold the state of its epoch, its marks are those of
//! that epoch and committed, and nothing that a retained one names is deleted.

use std::collections::BTreeMap;

use pulso_core::ids::{Epoch, Instant, KeyGroupId, TargetId};
use pulso_core::ledger::Mark;
use pulso_core::message::Snapshot;
use pulso_core::record::{Manifest, Record};

use super::{Facts, Invariant, Seen};
use crate::dedup::State;
use crate::retained::Retained;
use crate::storage::checksum;

/// A target that goes back between the last reading of its ledger and the append is noticed by the next one. The report
/// of that reading waits as long as a JobManager is paused.
const UNNOTICED: u128 = 10_000;

#[derive(Default)]
pub(super) struct Checkpoints {
    retained: Retained,
    went_back: BTreeMap<TargetId, Instant>,
}

impl Invariant for Checkpoints {
    fn name(&self) -> &'static str {
        "checkpoints"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        match seen {
            Seen::Logged(Record::CheckpointDone { manifest, .. }) => {
                self.retained.done(manifest);
                self.restores(manifest, facts)
            }
            Seen::Logged(Record::Collect { checkpoints, .. }) => {
                self.retained.collected(checkpoints);
                Ok(())
            }
            Seen::Deleted(object) if self.retained.name(object) => {
                Err(format!("{object} is deleted and a retained checkpoint names it"))
            }
            Seen::WentBack(target) => {
                self.went_back.insert(*target, facts.now);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Checkpoints {
    fn restores(&self, manifest: &Manifest, facts: &Facts<'_>) -> Result<(), String> {
        let checkpoint = manifest.checkpoint;
        if manifest.snapshots.len() != usize::from(facts.oracle.key_groups) * usize::from(facts.oracle.stages) {
            return Err(format!("checkpoint {checkpoint} holds {} key groups", manifest.snapshots.len()));
        }
        for (key_group, snapshot) in &manifest.snapshots {
            let wrong = |what: String| Err(format!("checkpoint {checkpoint}, key group {key_group}: {what}"));
            if snapshot.files.iter().any(|f| facts.objects.is_damaged(&f.object)) {
                continue;
            }
            let mut state = State::new();
            for file in &snapshot.files {
                let Some(contents) = facts.objects.read(&file.object).filter(|c| checksum(c) == file.checksum) else {
                    return wrong(format!("{} is missing or damaged", file.object));
                };
                state.extend(contents);
            }
            if state != facts.oracle.state(*key_group, snapshot.epoch) {
                return wrong(format!("the state is not that after epoch {}", snapshot.epoch));
            }
            self.marks(*key_group, snapshot, facts).or_else(wrong)?;
        }
        Ok(())
    }

    fn marks(&self, key_group: KeyGroupId, snapshot: &Snapshot, facts: &Facts<'_>) -> Result<(), String> {
        for target in (0..facts.oracle.targets).map(TargetId) {
            let with_rows = |epoch: &&Epoch| facts.oracle.rows.contains_key(&(target, **epoch, key_group));
            let newest = facts.oracle.cuts.range(..=snapshot.epoch).map(|(e, _)| e).rev().find(with_rows);
            let due = newest.map_or(Mark::NOTHING, |e| Mark {
                epoch: *e,
                hash: facts.oracle.cuts.get(e).copied().unwrap_or_default(),
            });
            let mark = snapshot.marks.get(&target).copied().unwrap_or_default();
            if mark != due {
                return Err(format!("target {target}: mark {mark:?} instead of {due:?}"));
            }
            let unnoticed = self.went_back.get(&target).is_some_and(|at| facts.now.since(*at).as_millis() < UNNOTICED);
            let ledger = facts.databases.get(&target).and_then(|d| d.contents.ledger.get(&key_group));
            if !unnoticed && ledger.is_none_or(|e| e.row.mark < mark) {
                return Err(format!("target {target}: the ledger is behind mark {mark:?}"));
            }
        }
        Ok(())
    }
}
