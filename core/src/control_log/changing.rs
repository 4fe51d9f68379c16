//! A changed job: from one epoch on another definition holds, and what is kept of the time before it.
//!
//! The change is an epoch of its own, without a record, right behind the last one under the definition before. Its cut says
//! where splits begin and which watermark holds, and a checkpoint of it what is left of the state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FoldError, JobState, JobStatus, RetainedCheckpoint};
use crate::cut::{Cut, SplitCut};
use crate::files::FilesState;
use crate::ids::{CheckpointId, Epoch, EventTime, JobId, KeyGroup, KeyGroupId, Stage, TargetId};
use crate::message::{Counters, Snapshot};
use crate::record::{Change, JobDefinition, Manifest};

/// A definition that held before the one in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastEra {
    pub definition: JobDefinition,
    /// The epoch of the cut that it began with.
    pub since: Epoch,
    /// Its last epoch; the next one is that of the change.
    pub until: Epoch,
}

/// Epochs with one definition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Era<'a> {
    pub definition: &'a JobDefinition,
    pub since: Epoch,
    /// `None`: it is in force.
    pub until: Option<Epoch>,
}

impl Era<'_> {
    /// State after this epoch is state of this era.
    #[must_use]
    pub fn has(&self, epoch: Epoch) -> bool {
        epoch >= self.since && self.until.is_none_or(|until| epoch <= until)
    }

    /// As a checkpoint's marks call it.
    #[must_use]
    pub fn target(&self, name: &str) -> Option<TargetId> {
        target(self.definition, name)
    }
}

fn target(definition: &JobDefinition, name: &str) -> Option<TargetId> {
    definition.targets.iter().position(|target| target == name).and_then(|at| u16::try_from(at).ok()).map(TargetId)
}

impl JobState {
    /// What is in force.
    #[must_use]
    pub fn era(&self) -> Era<'_> {
        Era { definition: &self.definition, since: self.since, until: None }
    }

    /// All that somebody may have to go back to, newest first.
    pub fn eras(&self) -> impl Iterator<Item = Era<'_>> {
        let past = self.past.iter().rev();
        let past = past.map(|past| Era { definition: &past.definition, since: past.since, until: Some(past.until) });
        std::iter::once(self.era()).chain(past)
    }

    /// That of the attempt that was planned last: one attempt never has two.
    #[must_use]
    pub fn planned_era(&self) -> Era<'_> {
        let resumed = self.plan.as_ref().and_then(|(_, _, resume)| resume.values().min().copied());
        resumed.and_then(|resumed| self.eras().find(|era| era.has(resumed))).unwrap_or_else(|| self.era())
    }

    /// The job is to come to its end, or to that of its definition.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.status == JobStatus::Stopping || (self.status == JobStatus::Running && self.change.is_some())
    }

    /// Everything under the definition in force is in a checkpoint, which was committed in every target before.
    #[must_use]
    pub fn is_checkpointed(&self) -> bool {
        let newest = self.newest_cut().epoch;
        newest == Epoch::ZERO || self.checkpoints.last().is_some_and(|c| c.manifest.epoch == newest)
    }

    pub(super) fn changed(&mut self, job: JobId) -> Result<(), FoldError> {
        if !self.is_checkpointed() {
            return Err(FoldError::ChangeTooEarly { job });
        }
        let change = *self.change.take().ok_or(FoldError::ChangeTooEarly { job })?;
        let newest = self.newest_cut().epoch;
        let start = self.first_cut(&change);
        let manifest = self.carried_over(&change.definition, start.epoch);
        if change.source.is_some() {
            // Positions of other splits: nobody can go back behind here.
            self.past.clear();
            self.cuts.clear();
            self.checkpoints.clear();
            self.joined.clear();
            self.files = FilesState::default();
        } else if newest > self.since {
            let (definition, since) = (self.definition.clone(), self.since);
            self.past.push(PastEra { definition, since, until: newest });
        }
        // Whether more will come depends on the file.
        self.files.complete = false;
        match &change.lookups {
            Some(version) => self.lookups.add(version),
            None => self.lookups.newest = None,
        }
        self.since = start.epoch;
        self.definition = change.definition;
        self.cuts.insert(start.epoch, start);
        self.checkpoints.push(RetainedCheckpoint { manifest, pinned: false });
        self.prune();
        Ok(())
    }

    /// The cut of the change.
    fn first_cut(&self, change: &Change) -> Cut {
        let newest = self.newest_cut();
        let begin = |end, greatest| SplitCut { end, count: 0, hash: 0, greatest };
        let splits = match &change.source {
            Some(splits) => splits.iter().map(|(split, position)| (*split, begin(*position, None))).collect(),
            None => {
                let same = |cut: &SplitCut| begin(cut.end, cut.greatest.filter(|_| !change.time));
                newest.splits.iter().map(|(split, cut)| (*split, same(cut))).collect()
            }
        };
        Cut {
            epoch: newest.epoch.next(),
            clock: newest.clock,
            splits,
            watermark: if change.time { EventTime::MIN } else { newest.watermark },
            idle: if change.time || change.source.is_some() { [].into() } else { newest.idle.clone() },
            last: false,
            lookups: change.lookups.as_ref().map(|version| version.id),
            previous: newest.hash(),
        }
    }

    /// The state as the other definition finds it. Targets keep their marks by name; those that nobody writes under any
    /// more are put away, for the ledger has them still.
    fn carried_over(&mut self, after: &JobDefinition, epoch: Epoch) -> Manifest {
        let newest = self.checkpoints.last().map(|c| &c.manifest);
        let before = newest.map(|manifest| manifest.snapshots.clone()).unwrap_or_default();
        for (key_group, snapshot) in &before {
            let named = |target: &TargetId| self.definition.targets.get(usize::from(target.0));
            for (name, mark) in snapshot.marks.iter().filter_map(|(target, mark)| Some((named(target)?, *mark))) {
                self.unused_marks.entry(name.clone()).or_default().insert(*key_group, mark);
            }
        }
        let stages = (0..after.stages).map(Stage);
        let ids =
            stages.flat_map(|stage| (0..after.key_groups).map(KeyGroup).map(move |group| KeyGroupId { stage, group }));
        let mut snapshots: BTreeMap<KeyGroupId, Snapshot> = BTreeMap::new();
        for id in ids {
            let mut mark = |name: &String| self.unused_marks.get_mut(name)?.remove(&id);
            let marks =
                (0..).map(TargetId).zip(&after.targets).filter_map(|(t, name)| Some((t, mark(name)?))).collect();
            let kept = before.get(&id);
            let counters = kept.map(|snapshot| snapshot.counters).unwrap_or_default();
            let files = kept.map(|snapshot| snapshot.files.clone()).unwrap_or_default();
            snapshots.insert(id, Snapshot { epoch, marks, counters, files });
        }
        self.unused_marks.retain(|_, marks| !marks.is_empty());
        // What became of records stays true, also where the stage that counted is gone.
        let mut gone = Counters::default();
        before.iter().filter(|(id, _)| !snapshots.contains_key(id)).for_each(|(_, s)| gone.add(&s.counters));
        if let Some(mut first) = snapshots.first_entry() {
            first.get_mut().counters.add(&gone);
        }
        let (checkpoint, taken) = newest.map(|m| (m.checkpoint, m.taken)).unwrap_or_default();
        Manifest { checkpoint: CheckpointId(checkpoint.0 + 1), epoch, taken, snapshots }
    }

    /// Whoever goes back to a past era comes forward again by the checkpoint of the change. Without it nobody goes back.
    pub(super) fn forget_past(&mut self) {
        let oldest = self.oldest_cut().epoch;
        let checkpoints = &self.checkpoints;
        let has_end = |past: &PastEra| checkpoints.iter().any(|c| c.manifest.epoch == past.until.next());
        let lost = self.past.iter().rposition(|past| !has_end(past) || past.until <= oldest);
        if let Some(lost) = lost {
            let since = self.past.drain(..=lost).next_back().map(|past| past.until.next()).unwrap_or_default();
            self.cuts = self.cuts.split_off(&since.max(oldest));
        }
    }
}

#[cfg(test)]
#[path = "changing_tests.rs"]
mod tests;
