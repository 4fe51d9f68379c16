//! Files of a job that reads files: which are taken in, who is told, when they are no longer needed, when all are read.

use std::collections::BTreeMap;
use std::time::Duration;

use super::job::{Context, Job, Phase};
use super::journal::{Durable, Then};
use super::{Command, Coordinator, JobId, TaskManagerId};
use crate::control_log::{JobState, JobStatus};
use crate::cut::Cut;
use crate::files::{FileNumber, FilesState, FoundFile, PlacedFile};
use crate::ids::{Instant, SplitId};
use crate::message::Instruction;
use crate::record::Record;

/// After a file could not be moved away.
const PAUSE: Duration = Duration::from_secs(10);
/// Files that are moved away at once.
const MOST_RETIRED: usize = 1_000;

/// What is under way with the files of one job.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// A record of found files is on its way.
    finding: bool,
    /// Files are being moved, or the record of it is on its way.
    retiring: bool,
    not_before: Instant,
    /// The record of the end is on its way.
    ending: bool,
}

impl Files {
    /// Something of a record that is not durable yet, or not written.
    pub(super) fn are_under_way(&self) -> bool {
        self.finding || self.retiring
    }
}

impl Coordinator {
    /// A look into the folder. What comes while the last one is not durable yet is found again by the next.
    pub(super) fn files_found(&mut self, id: JobId, of: u64, found: &[FoundFile], gone: &[u64], complete: bool) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let over = matches!(job.phase, Phase::Changing | Phase::Ending(_) | Phase::Ended | Phase::Resuming);
        let state = self.context.journal.job(id);
        let looks = state.definition.fingerprint == of && state.status == JobStatus::Running && state.change.is_none();
        if over || job.files.finding || !looks || state.files.complete {
            return;
        }
        let files = state.files.place(found, state.newest_cut());
        let gone: Vec<u64> = gone.iter().filter(|hash| state.files.read.contains_key(hash)).copied().collect();
        let complete = complete && files.len() == found.len();
        if files.is_empty() && gone.is_empty() && !complete {
            return;
        }
        job.files.finding = true;
        let record = Record::FilesFound { job: id, files: files.clone(), gone, complete };
        self.context.journal.append(id, vec![record], Then::FilesFound(files));
    }

    /// These were moved away, or (true) stay; what is not named could not be moved.
    pub(super) fn files_retired(&mut self, id: JobId, retired: Vec<(SplitId, FileNumber, bool)>, all: bool) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if !all {
            job.files.not_before = self.context.now.instant.plus(PAUSE);
        }
        if retired.is_empty() {
            job.files.retiring = false;
            return;
        }
        let record = Record::FilesRetired { job: id, files: retired };
        self.context.journal.append(id, vec![record], Then::FilesRetired(()));
    }

    /// What is known of a job's files, for who looks for more.
    #[must_use]
    pub fn files(&self, job: JobId) -> Option<&FilesState> {
        self.context.journal.state().jobs.get(&job).map(|state| &state.files)
    }
}

impl Job {
    /// Only durable files may be read: a position names them.
    pub(super) fn files_logged(&mut self, cx: &mut Context, logged: Durable<Vec<PlacedFile>>) {
        self.files.finding = false;
        let Some(deployed) = self.phase.deployed() else { return };
        let mut by_owner: BTreeMap<TaskManagerId, Vec<PlacedFile>> = BTreeMap::new();
        for placed in logged.into_inner() {
            if let Some(owner) = deployed.plan.splits.get(&placed.split) {
                by_owner.entry(*owner).or_default().push(placed);
            }
        }
        let (job, attempt) = (self.id, deployed.attempt);
        for (owner, files) in by_owner {
            cx.send(owner, Instruction::Files { job, attempt, files });
        }
    }

    pub(super) fn files_retired(&mut self) {
        self.files.retiring = false;
    }

    /// Has files moved away that lie before every checkpoint anybody may go back to. In any phase: also after the end.
    pub(super) fn retire_files(&mut self, cx: &mut Context) {
        let state = cx.journal.job(self.id);
        if self.files.retiring || !state.files.is_used() || cx.now.instant < self.files.not_before {
            return;
        }
        let mut files = state.files.unneeded(oldest_needed(state));
        files.truncate(MOST_RETIRED);
        if !files.is_empty() {
            self.files.retiring = true;
            cx.commands.push(Command::RetireFiles { job: self.id, files });
        }
    }

    /// All files are read: the end of a finite input ends the job as if somebody had stopped it.
    pub(super) fn end_of_files(&mut self, cx: &mut Context) {
        let state = cx.journal.job(self.id);
        let running = matches!(self.phase, Phase::Running(_)) && state.status == JobStatus::Running;
        let ended = state.files.has_ended(state.newest_cut()) && !state.end_is_not_cut();
        let changes = state.change.is_some() || self.asking;
        if running && !changes && !self.files.ending && ended {
            self.files.ending = true;
            cx.journal.append(self.id, vec![Record::Stopping { job: self.id }], Then::Stopping(()));
        }
        if !running {
            self.files.ending = false;
        }
    }
}

/// Files that end before this cut are needed by no replay. Where no more files can be taken in, those of a pinned
/// checkpoint are given up, as its cuts are after a while.
fn oldest_needed(state: &JobState) -> &Cut {
    if state.files.is_full() { state.oldest_unpinned_cut() } else { state.oldest_cut() }
}

/// Files that are read leave once the checkpoints before them do. Without input those stay, until empty epochs bring
/// new ones.
pub(super) fn wait_for_checkpoints(state: &JobState) -> bool {
    let oldest = oldest_needed(state);
    let pinned = oldest.epoch < state.oldest_unpinned_cut().epoch;
    state.status == JobStatus::Running && !pinned && state.files.wait_for(oldest, state.newest_cut())
}
