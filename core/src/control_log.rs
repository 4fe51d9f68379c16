//! The control log: framing, the fold over its records, and the machine that appends with put-if-absent.

mod appender;
mod changing;
mod fold;
mod following;
mod frame;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use appender::{Appender, Command, Event, PutAnswer, Settings};
pub use changing::{Era, PastEra};
pub use fold::{CUTS_FOR_PINNED, FoldError};
pub use frame::{Frame, FrameError, ObjectHash, frame, unframe};

use crate::cut::Cut;
use crate::files::FilesState;
use crate::ids::{Attempt, Epoch, JobId, KeyGroupId, Position, SplitId};
use crate::ledger::Mark;
use crate::lookups::LookupsState;
use crate::placement::Plan;
use crate::record::{Change, JobDefinition, Manifest};

/// What the records up to one sequence number add up to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LogState {
    pub jobs: BTreeMap<JobId, JobState>,
    /// Name of the newest leader: a JobManager that finds its own name here restarts and need not wait for silence.
    pub leader: String,
    /// Numbers at which leadership was claimed. Those objects stay for ever: each sits where the leader before it
    /// would put its next record, however late that one wakes up.
    pub claims: BTreeSet<u64>,
}

/// The durable part of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobState {
    pub definition: JobDefinition,
    /// The epoch of the cut that `definition` begins with.
    #[serde(default)]
    pub since: Epoch,
    /// What held before, oldest first, as long as somebody may have to go back there.
    #[serde(default)]
    pub past: Vec<PastEra>,
    /// Asked for, and not in force yet.
    #[serde(default)]
    pub change: Option<Box<Change>>,
    /// By target: what the ledger holds of key groups that no longer write there.
    #[serde(default)]
    pub unused_marks: BTreeMap<String, BTreeMap<KeyGroupId, Mark>>,
    /// An attempt brought targets forward up to here, under a definition of before, and no checkpoint was taken since.
    #[serde(default)]
    pub rewound: Option<Epoch>,
    pub status: JobStatus,
    pub attempt: Attempt,
    /// The attempt and plan that were deployed last, and where it resumed.
    pub plan: Option<(Attempt, Plan, BTreeMap<KeyGroupId, Epoch>)>,
    /// From the cut of the oldest retained checkpoint (or Cut(0)) to the newest, without gaps. Never empty.
    pub cuts: BTreeMap<Epoch, Cut>,
    /// Splits that the oldest of `cuts` does not know, and where they begin.
    pub joined: BTreeMap<SplitId, Position>,
    /// Oldest first.
    pub checkpoints: Vec<RetainedCheckpoint>,
    /// Records in all cuts that there ever were.
    pub read: BTreeMap<SplitId, u64>,
    /// The newest sealed epoch when the job was last told to stop; its final cut is a later one.
    pub stopping_after: Epoch,
    /// Of a job that reads files.
    #[serde(default)]
    pub files: FilesState,
    /// Of a job with lookups.
    #[serde(default)]
    pub lookups: LookupsState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetainedCheckpoint {
    pub manifest: Manifest,
    pub pinned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobStatus {
    Running,
    Stopping,
    Finished,
    Cancelled,
    Failed { reason: String },
}

impl JobStatus {
    /// The job has work to do, or will have once there is a TaskManager.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Running | Self::Stopping)
    }
}
