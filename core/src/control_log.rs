//! The control log: framing, the fold over its records, and the machine that appends with put-if-absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cut::Cut;
use crate::ids::{Attempt, Epoch, JobId, KeyGroupId, Position, SplitId};
use crate::placement::Plan;
use crate::record::{JobDefinition, Manifest};

/// What the records up to one sequence number add up to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LogState {
    pub jobs: BTreeMap<JobId, JobState>,
}

/// The durable part of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobState {
    pub definition: JobDefinition,
    pub status: JobStatus,
    pub attempt: Attempt,
    /// The attempt and plan that were deployed last, and where it resumed.
    pub plan: Option<(Attempt, Plan, BTreeMap<KeyGroupId, Epoch>)>,
    /// From the cut of the oldest retained checkpoint (or Cut(0)) to the newest, without gaps.
    pub cuts: BTreeMap<Epoch, Cut>,
    /// Splits that joined and are in no cut yet.
    pub joined: BTreeMap<SplitId, Position>,
    /// Oldest first.
    pub checkpoints: Vec<RetainedCheckpoint>,
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
