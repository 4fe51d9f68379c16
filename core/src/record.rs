//! The records of the control log: the whole durable memory of the JobManager.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cut::Cut;
use crate::files::{FileNumber, PlacedFile};
use crate::ids::{Attempt, CheckpointId, Epoch, JobId, KeyGroupId, LookupsId, Position, SplitId};
use crate::lookups::LookupsVersion;
use crate::message::{Counters, Snapshot};
use crate::placement::Plan;

/// A job as the coordinator knows it; what the records mean is in `submission`, which only the edges read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDefinition {
    pub id: JobId,
    pub name: String,
    /// `pulso_job::Submission` as JSON: the file's text and the values of the environment it names.
    pub submission: String,
    /// Hash of what the file means: equal for a file that is submitted again.
    pub fingerprint: u64,
    pub key_groups: u16,
    pub stages: u8,
    /// Names of the targets, in file order.
    pub targets: Vec<String>,
    /// Microseconds by which the watermark stays behind.
    pub delay: i64,
    /// Microseconds without a record after which a split counts as idle; 0: never.
    pub idle_after: i64,
    /// Windows close by watermark, so a cut that moved it is followed by another.
    pub has_windows: bool,
}

/// What is to hold of a job from one of its next epochs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub definition: JobDefinition,
    /// The source is another one: its splits, and where they begin.
    pub source: Option<BTreeMap<SplitId, Position>>,
    /// The event time is another one: the watermark begins anew.
    pub time: bool,
    /// Of a job with lookups.
    pub lookups: Option<LookupsVersion>,
    /// Definitions of before, by the epoch that they began with, with the addresses and secrets of now.
    pub before: BTreeMap<Epoch, JobDefinition>,
}

/// The definitions of a job with the addresses and secrets of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redefinition {
    pub definition: JobDefinition,
    /// That of a change which is asked for.
    pub next: Option<JobDefinition>,
    /// As of [`Change::before`].
    pub before: BTreeMap<Epoch, JobDefinition>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// The nonce of every following record of this leader.
    Leader {
        nonce: Uuid,
        name: String,
    },
    /// The leader is alive; nothing else was due.
    Alive,
    /// The whole state; readers need nothing before it.
    Base(Box<crate::control_log::LogState>),
    /// A new job and where its splits start, as Cut(0).
    Submitted {
        definition: JobDefinition,
        start: Cut,
    },
    Attempt {
        job: JobId,
        attempt: Attempt,
        reason: String,
    },
    Plan {
        job: JobId,
        attempt: Attempt,
        plan: Plan,
        resume: BTreeMap<KeyGroupId, Epoch>,
    },
    Cut {
        job: JobId,
        cut: Cut,
    },
    /// New splits, read from these positions on from the next attempt.
    SplitsJoined {
        job: JobId,
        splits: BTreeMap<SplitId, Position>,
    },
    /// Files of the input, of a job that reads files; `gone`: hashes of paths that need not be remembered any more.
    FilesFound {
        job: JobId,
        files: Vec<PlacedFile>,
        gone: Vec<u64>,
        complete: bool,
    },
    /// No replay needs these files: each was moved away, or (true) stays where it is.
    FilesRetired {
        job: JobId,
        files: Vec<(SplitId, FileNumber, bool)>,
    },
    /// The rows of the job's lookups were read and stored, and are others than before.
    LookupsRead {
        job: JobId,
        version: LookupsVersion,
    },
    /// No cut names these versions any more; their objects may be deleted once this is durable.
    LookupsGone {
        job: JobId,
        versions: Vec<LookupsId>,
    },
    CheckpointDone {
        job: JobId,
        manifest: Manifest,
    },
    /// A person wants another definition: the job is to end its epochs, like one that stops, and to go on with this one.
    Changing {
        job: JobId,
        change: Box<Change>,
    },
    /// The same job with other addresses or secrets.
    Redefined {
        job: JobId,
        definitions: Box<Redefinition>,
    },
    /// Everything under the definition before is in a checkpoint: the other one is in force, from an epoch of its own on.
    Changed {
        job: JobId,
    },
    /// A person pinned it: kept until released.
    Pinned {
        job: JobId,
        checkpoint: CheckpointId,
    },
    /// These checkpoints are given up; their files may be deleted once this is durable.
    Collect {
        job: JobId,
        checkpoints: Vec<CheckpointId>,
    },
    Stopping {
        job: JobId,
    },
    Finished {
        job: JobId,
    },
    Cancelled {
        job: JobId,
    },
    Failed {
        job: JobId,
        reason: String,
    },
    /// A person said go on, after `Failed`, `Finished` or `Cancelled`.
    Resumed {
        job: JobId,
    },
}

/// A completed checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub checkpoint: CheckpointId,
    /// Every key group's state is that after this epoch.
    pub epoch: Epoch,
    pub taken: crate::ids::WallTime,
    pub snapshots: BTreeMap<KeyGroupId, Snapshot>,
}

impl Manifest {
    /// What had become of all records up to its epoch.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.snapshots.values().for_each(|snapshot| sum.add(&snapshot.counters));
        sum
    }
}
