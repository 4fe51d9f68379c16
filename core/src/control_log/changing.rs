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
use crate::record::{Change, JobDefinition, Manifest, Redefinition};

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

    /// Its key groups write under this entry of the target's ledger.
    #[must_use]
    pub fn writes(&self, target: &str, key_group: KeyGroupId) -> bool {
        self.target(target).is_some() && key_group.stage.0 < self.definition.stages
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
        self.known_planned_era().unwrap_or_else(|| self.era())
    }

    /// The same; `None` too where nobody can go back there any more.
    pub(crate) fn known_planned_era(&self) -> Option<Era<'_>> {
        let (_, _, resume) = self.plan.as_ref()?;
        let resumed = resume.values().min().copied()?;
        self.eras().find(|era| era.has(resumed))
    }

    /// That which a definition began with, of an era that there is.
    pub(crate) fn first_checkpoint(&self, era: &Era<'_>) -> Option<&Manifest> {
        self.checkpoints.iter().map(|c| &c.manifest).find(|manifest| manifest.epoch == era.since)
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
        // Whoever ends with its input goes on with another one.
        if self.files.complete && self.status == JobStatus::Stopping {
            self.status = JobStatus::Running;
        }
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
        } else {
            // Nothing was ever read under it: its epoch goes to the era before, and nothing of it is needed.
            self.checkpoints.retain(|c| c.manifest.epoch < newest);
            if let Some(last) = self.past.last_mut() {
                last.until = newest;
            }
        }
        self.rewound = self.rewound.map(|_| newest);
        self.with_secrets_of_now(&change.before);
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

    pub(super) fn redefined(&mut self, definitions: &Redefinition) {
        self.definition = definitions.definition.clone();
        if let (Some(change), Some(next)) = (&mut self.change, &definitions.next) {
            change.definition = next.clone();
            change.before.extend(definitions.before.clone());
            change.before.insert(self.since, definitions.definition.clone());
        }
        self.with_secrets_of_now(&definitions.before);
    }

    fn with_secrets_of_now(&mut self, before: &BTreeMap<Epoch, JobDefinition>) {
        for era in &mut self.past {
            if let Some(definition) = before.get(&era.since) {
                era.definition = definition.clone();
            }
        }
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
            watermark: if change.time { EventTime::MIN } else { self.reached(newest) },
            idle: if change.time || change.source.is_some() { [].into() } else { newest.idle.clone() },
            last: false,
            lookups: change.lookups.as_ref().map(|version| version.id),
            previous: newest.hash(),
        }
    }

    /// The watermark of a cut; where the end of the input moved it behind everything, that of the records.
    fn reached(&self, cut: &Cut) -> EventTime {
        if cut.watermark < EventTime::MAX {
            return cut.watermark;
        }
        let greatest = cut.splits.values().filter_map(|part| part.greatest).max();
        greatest.map_or(EventTime::MIN, |time| EventTime(time.0.saturating_sub(self.definition.delay)))
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
