//! The fold: what one more record makes of the state. Total, and strict where a wrong state could lose or repeat rows.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{JobState, JobStatus, LogState, RetainedCheckpoint};
use crate::cut::Cut;
use crate::files::FilesState;
use crate::ids::{Attempt, CheckpointId, Epoch, EventTime, JobId};
use crate::lookups::LookupsState;
use crate::record::{JobDefinition, Manifest, Record};

/// Cuts kept for pinned checkpoints alone. At a hundred cuts a second a job that goes on from a pinned checkpoint
/// would else gather gigabytes of them in a week; older ones than these can no longer be rewound to.
pub const CUTS_FOR_PINNED: usize = 20_000;

/// A record that does not fit the ones before it: the log is not one history.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FoldError {
    #[error("a record names job {0}, which was never submitted")]
    UnknownJob(JobId),
    #[error("job {0} was submitted twice")]
    KnownJob(JobId),
    #[error("job {job}: cut {found} follows cut {newest}")]
    CutOutOfOrder { job: JobId, newest: Epoch, found: Epoch },
    #[error("job {job}: cut {epoch} names another predecessor than the cut before it")]
    OtherHistory { job: JobId, epoch: Epoch },
    #[error("job {job}: attempt {found} follows attempt {newest}")]
    AttemptOutOfOrder { job: JobId, newest: Attempt, found: Attempt },
    #[error("job {job}: the log holds no checkpoint {checkpoint}, or not the cut of its epoch")]
    UnknownCheckpoint { job: JobId, checkpoint: CheckpointId },
    #[error("job {job}: its definition changes, and nobody asked for that, or not all before it is in a checkpoint")]
    ChangeTooEarly { job: JobId },
}

impl LogState {
    /// Takes one record in.
    ///
    /// # Errors
    /// [`FoldError`]; the state is then unchanged.
    pub fn apply(&mut self, record: &Record) -> Result<(), FoldError> {
        match record {
            Record::Leader { name, .. } => self.leader.clone_from(name),
            Record::Alive => {}
            Record::Base(state) => self.clone_from(state),
            Record::Submitted { definition, start } => self.submit(definition, start)?,
            Record::Attempt { job, attempt, .. } => {
                let state = self.job(*job)?;
                if *attempt <= state.attempt {
                    return Err(FoldError::AttemptOutOfOrder { job: *job, newest: state.attempt, found: *attempt });
                }
                state.attempt = *attempt;
            }
            Record::Plan { job, attempt, plan, resume } => {
                let state = self.job(*job)?;
                if *attempt != state.attempt {
                    return Err(FoldError::AttemptOutOfOrder { job: *job, newest: state.attempt, found: *attempt });
                }
                state.plan = Some((*attempt, plan.clone(), resume.clone()));
                state.rewound = state.planned_era().until.or(state.rewound);
            }
            Record::Cut { job, cut } => self.job(*job)?.cut(*job, cut)?,
            Record::SplitsJoined { job, splits } => {
                let state = self.job(*job)?;
                for (split, position) in splits {
                    if !state.knows(*split) {
                        state.joined.insert(*split, *position);
                    }
                }
            }
            Record::FilesFound { job, files, gone, complete } => self.job(*job)?.files.found(files, gone, *complete),
            Record::FilesRetired { job, files } => {
                let state = &mut self.job(*job)?.files;
                files.iter().for_each(|(split, number, stays)| state.retire(*split, *number, *stays));
            }
            Record::LookupsRead { job, version } => self.job(*job)?.lookups.add(version),
            Record::LookupsGone { job, versions } => self.job(*job)?.lookups.remove(versions),
            Record::CheckpointDone { job, manifest } => self.job(*job)?.checkpoint_done(*job, manifest)?,
            Record::Pinned { job, checkpoint } => self.job(*job)?.pin(*job, *checkpoint)?,
            Record::Collect { job, checkpoints } => {
                let state = self.job(*job)?;
                state.checkpoints.retain(|c| !checkpoints.contains(&c.manifest.checkpoint));
                state.prune();
            }
            Record::Changing { job, change } => {
                let state = self.job(*job)?;
                state.change = Some(change.clone());
                state.stopping_after = state.newest_cut().epoch;
            }
            Record::Redefined { job, definitions } => self.job(*job)?.redefined(definitions),
            Record::Changed { job } => self.job(*job)?.changed(*job)?,
            Record::Stopping { job } => {
                let state = self.job(*job)?;
                if state.status == JobStatus::Running {
                    state.status = JobStatus::Stopping;
                    state.stopping_after = state.newest_cut().epoch;
                }
            }
            Record::Finished { job } => self.job(*job)?.status = JobStatus::Finished,
            Record::Cancelled { job } => {
                let state = self.job(*job)?;
                state.status = JobStatus::Cancelled;
                state.change = None;
            }
            Record::Failed { job, reason } => self.job(*job)?.status = JobStatus::Failed { reason: reason.clone() },
            Record::Resumed { job } => self.job(*job)?.status = JobStatus::Running,
        }
        Ok(())
    }

    /// Takes one object in: its records, and the claim of leadership that it may be.
    ///
    /// # Errors
    /// [`FoldError`] of the first record that does not fit.
    pub fn apply_object(&mut self, number: u64, records: &[Record]) -> Result<(), FoldError> {
        for record in records {
            self.apply(record)?;
        }
        if matches!(records, [Record::Leader { .. }]) {
            self.claims.insert(number);
        }
        Ok(())
    }

    fn submit(&mut self, definition: &JobDefinition, start: &Cut) -> Result<(), FoldError> {
        if self.jobs.contains_key(&definition.id) {
            return Err(FoldError::KnownJob(definition.id));
        }
        let job = JobState {
            definition: definition.clone(),
            since: start.epoch,
            past: Vec::new(),
            change: None,
            unused_marks: BTreeMap::new(),
            rewound: None,
            status: JobStatus::Running,
            attempt: Attempt::default(),
            plan: None,
            cuts: BTreeMap::from([(start.epoch, start.clone())]),
            joined: BTreeMap::new(),
            checkpoints: Vec::new(),
            read: start.splits.iter().map(|(split, cut)| (*split, cut.count)).collect(),
            stopping_after: Epoch::ZERO,
            files: FilesState::default(),
            lookups: LookupsState::default(),
        };
        self.jobs.insert(definition.id, job);
        Ok(())
    }

    fn job(&mut self, job: JobId) -> Result<&mut JobState, FoldError> {
        self.jobs.get_mut(&job).ok_or(FoldError::UnknownJob(job))
    }
}

impl JobState {
    /// The newest sealed cut.
    #[must_use]
    pub fn newest_cut(&self) -> &Cut {
        self.cuts.last_key_value().expect("Cut(0) comes with the job, and the newest cut is never pruned").1
    }

    /// The oldest cut that a replay can start at.
    #[must_use]
    pub fn oldest_cut(&self) -> &Cut {
        self.cuts.first_key_value().expect("Cut(0) comes with the job, and the newest cut is never pruned").1
    }

    /// The same, where nobody goes back to a pinned checkpoint.
    #[must_use]
    pub fn oldest_unpinned_cut(&self) -> &Cut {
        let unpinned = self.checkpoints.iter().find(|checkpoint| !checkpoint.pinned);
        let cut = unpinned.and_then(|checkpoint| self.cuts.get(&checkpoint.manifest.epoch));
        cut.unwrap_or_else(|| self.oldest_cut())
    }

    /// All input is read, and no watermark says so yet: windows wait for another cut.
    #[must_use]
    pub fn end_is_not_cut(&self) -> bool {
        let newest = self.newest_cut();
        self.definition.has_windows && newest.watermark < EventTime::MAX && self.files.has_ended(newest)
    }

    /// The lookups were read again, and no cut says so yet.
    #[must_use]
    pub fn lookups_wait(&self) -> bool {
        self.lookups.newest_id() != self.newest_cut().lookups
    }

    /// Sealed epochs behind the newest checkpoint.
    #[must_use]
    pub fn behind_checkpoint(&self) -> u64 {
        let checkpoint = self.checkpoints.last().map(|c| c.manifest.epoch).unwrap_or_default();
        self.newest_cut().epoch.0.saturating_sub(checkpoint.0)
    }

    /// True for a split that has a place in the newest cut or waits for the next one.
    #[must_use]
    pub fn knows(&self, split: crate::ids::SplitId) -> bool {
        self.newest_cut().splits.contains_key(&split) || self.joined.contains_key(&split)
    }

    fn cut(&mut self, job: JobId, cut: &Cut) -> Result<(), FoldError> {
        let newest = self.newest_cut();
        if cut.epoch != newest.epoch.next() {
            return Err(FoldError::CutOutOfOrder { job, newest: newest.epoch, found: cut.epoch });
        }
        if cut.previous != newest.hash() {
            return Err(FoldError::OtherHistory { job, epoch: cut.epoch });
        }
        for (split, part) in &cut.splits {
            *self.read.entry(*split).or_default() += part.count;
        }
        self.cuts.insert(cut.epoch, cut.clone());
        Ok(())
    }

    fn checkpoint_done(&mut self, job: JobId, manifest: &Manifest) -> Result<(), FoldError> {
        if !self.cuts.contains_key(&manifest.epoch) {
            return Err(FoldError::UnknownCheckpoint { job, checkpoint: manifest.checkpoint });
        }
        self.checkpoints.push(RetainedCheckpoint { manifest: manifest.clone(), pinned: false });
        self.rewound = None;
        self.prune();
        Ok(())
    }

    fn pin(&mut self, job: JobId, checkpoint: CheckpointId) -> Result<(), FoldError> {
        let found = self.checkpoints.iter_mut().find(|c| c.manifest.checkpoint == checkpoint);
        found.ok_or(FoldError::UnknownCheckpoint { job, checkpoint })?.pinned = true;
        Ok(())
    }

    /// Drops the cuts that no retained checkpoint needs, and those that only long gone pinned ones would need.
    pub(super) fn prune(&mut self) {
        let epochs = self.checkpoints.iter().map(|c| c.manifest.epoch);
        let Some(oldest) = epochs.clone().min() else { return };
        let newest = epochs.max().unwrap_or(oldest);
        let unpinned = self.checkpoints.iter().filter(|c| !c.pinned).map(|c| c.manifest.epoch).min();
        let needed = unpinned.unwrap_or(newest);
        let excess = self.cuts.range(oldest..).count().saturating_sub(CUTS_FOR_PINNED);
        let bound = self.cuts.range(oldest..).nth(excess).map_or(needed, |(epoch, _)| *epoch);
        let kept = self.checkpoints.iter().map(|c| c.manifest.epoch).filter(|epoch| *epoch >= bound).min();
        let first = kept.map_or(needed, |epoch| epoch.min(needed));
        self.cuts = self.cuts.split_off(&first);
        self.forget_past();
        if let Some((_, oldest)) = self.cuts.first_key_value() {
            self.joined.retain(|split, _| !oldest.splits.contains_key(split));
        }
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
