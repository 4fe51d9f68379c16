//! What JobManager and TaskManagers say to each other. Every message carries job and attempt: the receiver's fence.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cut::{Cut, CutHash};
use crate::files::PlacedFile;
use crate::ids::{
    Attempt, CheckpointId, Epoch, EventTime, JobId, KeyGroupId, LookupsId, Position, SplitId, TargetId, TaskManagerId,
    WallTime,
};
use crate::ledger::Mark;
use crate::placement::Plan;
use crate::record::JobDefinition;

/// From the JobManager to one TaskManager, in order, over its `Session`.
#[derive(Debug, Clone, PartialEq)]
pub enum Instruction {
    /// Freeze all of this job's older attempts, take the key groups back to what is committed everywhere, report them.
    Prepare { job: JobId, attempt: Attempt },
    /// Take on this part of the plan. Only after `Prepare` of the same attempt.
    Deploy(Box<Deployment>),
    /// End the running epoch now.
    OpenCut { job: JobId, attempt: Attempt, opening: Opening },
    /// The cut is durable: what was computed for the epoch may be committed.
    Seal { job: JobId, attempt: Attempt, seal: Seal },
    /// `committed` moved and no `Seal` is due to carry it.
    Progress { job: JobId, attempt: Attempt, committed: Epoch },
    /// Take a checkpoint of epoch `epoch`, which is committed everywhere.
    TakeCheckpoint { job: JobId, attempt: Attempt, checkpoint: CheckpointId, epoch: Epoch },
    /// `checkpoint` is durable as a whole; older files that only earlier ones named may go from local memory.
    CheckpointDone { job: JobId, attempt: Attempt, checkpoint: CheckpointId },
    /// More files for splits of this TaskManager.
    Files { job: JobId, attempt: Attempt, files: Vec<PlacedFile> },
    /// The job ended or was cancelled: drop everything of it up to and including this attempt.
    Release { job: JobId, attempt: Attempt },
}

/// Everything that cut `epoch - 1` decided for `epoch`, and the clock of the cut that is being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    pub epoch: Epoch,
    pub clock: WallTime,
    /// Watermark after `epoch - 1`: the one under which `epoch` is processed.
    pub watermark: EventTime,
    /// Rows of the job's lookups for the records of `epoch + 1`, which are read before anything else says so.
    pub lookups: Option<LookupsId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    pub epoch: Epoch,
    pub hash: CutHash,
    /// *g*: the last epoch that all key groups have committed in every target.
    pub committed: Epoch,
    /// Nothing follows this epoch: the job was told to stop.
    pub last: bool,
}

/// What one TaskManager is to host in an attempt, and where everyone resumes.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    pub job: JobId,
    pub attempt: Attempt,
    pub definition: JobDefinition,
    pub plan: Plan,
    /// All key groups of the job: state and output up to this epoch exist, so rows are sent from the next one on.
    pub resume: BTreeMap<KeyGroupId, Epoch>,
    /// The receiver's own key groups and where their state comes from.
    pub restore: BTreeMap<KeyGroupId, Restore>,
    /// The cut of the least `resume`: where sources start reading.
    pub start: Cut,
    /// All sealed cuts after `start`, ascending.
    pub replay: Vec<Cut>,
    /// The epoch of the cut that `definition` begins with.
    pub since: Epoch,
    /// Its last epoch, where another definition follows: the replay ends there, and nothing is read beyond.
    pub until: Option<Epoch>,
    /// A target went back behind `since`: what only this definition writes to may be missing there.
    pub rewound: bool,
    /// Splits that `start` does not know yet, and where they begin.
    pub joined: BTreeMap<SplitId, Position>,
    /// Of a job that reads files: those of the receiver's splits that do not end before `start`.
    pub files: Vec<PlacedFile>,
    /// *g*
    pub committed: Epoch,
    /// *K*: at most this many epochs may be read beyond *g*.
    pub window: u64,
}

impl Deployment {
    /// Those of `replay` that are of this definition.
    pub fn replayed(&self) -> impl Iterator<Item = &Cut> {
        self.replay.iter().take_while(|cut| self.until.is_none_or(|until| cut.epoch <= until))
    }

    /// The newest cut of this definition; the first live epoch follows it.
    #[must_use]
    pub fn newest(&self) -> &Cut {
        self.replayed().last().unwrap_or(&self.start)
    }

    /// The newest sealed epoch of this definition.
    #[must_use]
    pub fn sealed(&self) -> Epoch {
        self.newest().epoch
    }

    /// True while nothing was sealed under this definition, so that what only it writes to can hold nothing, or where all of
    /// it is replayed into targets that went back: only then may ledger rows be made.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.sealed() == self.since || self.rewound && self.resume.values().all(|resume| *resume == self.since)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Restore {
    /// No state yet.
    Fresh,
    /// The copy that this TaskManager reported in `Prepared`.
    Copy,
    /// From the checkpoint storage.
    Snapshot(Snapshot),
}

/// State of one key group after an epoch, in the checkpoint storage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub epoch: Epoch,
    /// *p* of each target at that epoch.
    pub marks: BTreeMap<TargetId, Mark>,
    pub counters: Counters,
    pub files: Vec<SnapshotFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Name in the key group's directory.
    pub name: String,
    /// Object in the checkpoint storage, relative to its root; unique for ever.
    pub object: String,
    pub bytes: u64,
    /// CRC-32 of the contents.
    pub checksum: u32,
}

/// What became of records, cumulative over a key group's life. Part of its state, so it survives every failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Records that led to rows, corrections among them.
    pub written: u64,
    /// Of `written`: those that replaced values written before.
    pub corrections: u64,
    pub filtered: u64,
    pub duplicates: u64,
    pub superseded: u64,
    pub dead_letters: u64,
    /// Records too late for all windows of an aggregate, counted once for each; they are counted above too.
    #[serde(default)]
    pub late: u64,
}

impl Counters {
    pub fn add(&mut self, other: &Self) {
        self.written += other.written;
        self.corrections += other.corrections;
        self.filtered += other.filtered;
        self.duplicates += other.duplicates;
        self.superseded += other.superseded;
        self.dead_letters += other.dead_letters;
        self.late += other.late;
    }

    /// Records accounted for.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.written + self.filtered + self.duplicates + self.superseded + self.dead_letters
    }
}

/// A frozen key group that a TaskManager holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// Committed in every target, as far as this TaskManager knows.
    pub epoch: Epoch,
    /// *p* of each target at `epoch`.
    pub marks: BTreeMap<TargetId, Mark>,
}

/// From one TaskManager to the JobManager, in order, over its `Session`.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// Answer to `Prepare`.
    Prepared { job: JobId, attempt: Attempt, copies: BTreeMap<KeyGroupId, Copy> },
    /// One target's ledger was taken over and read for all hosted key groups.
    TakenOver { job: JobId, attempt: Attempt, target: TargetId, verdict: Verdict },
    /// All takeovers and restores of this TaskManager succeeded.
    Ready { job: JobId, attempt: Attempt },
    /// The running epoch has its first record, or (`full`) wants to be cut at once. At most one of each per epoch.
    InputWaiting { job: JobId, attempt: Attempt, epoch: Epoch, full: bool },
    /// Answer to `OpenCut` of a TaskManager that hosts splits.
    CutReported { job: JobId, attempt: Attempt, epoch: Epoch, splits: BTreeMap<SplitId, SplitReport> },
    /// All hosted key groups have processed and committed up to `epoch` in every target.
    Committed { job: JobId, attempt: Attempt, epoch: Epoch, counters: Counters },
    /// A key group's part of a checkpoint is stored and the ledger still confirms it.
    SnapshotTaken { job: JobId, attempt: Attempt, checkpoint: CheckpointId, key_group: KeyGroupId, snapshot: Snapshot },
    /// This checkpoint will not come to be; the job goes on.
    CheckpointFailed { job: JobId, attempt: Attempt, checkpoint: CheckpointId, reason: String },
    /// The TaskManager cannot go on with this attempt.
    Failed { job: JobId, attempt: Attempt, failure: Failure },
    /// SIGTERM: move everything away from this TaskManager; it keeps working until then.
    Leaving,
}

/// What one split delivered in the epoch that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitReport {
    pub end: Position,
    pub count: u64,
    pub hash: u64,
    /// Greatest event time of a good record in this epoch.
    pub greatest: Option<EventTime>,
}

/// What a takeover of a target's ledger found. Readings are per hosted key group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    /// Every row is where the state says, or ahead by epochs that the replay contains.
    Consistent,
    /// Some rows are behind their key group's state, or missing: the database went back.
    Behind { readings: BTreeMap<KeyGroupId, Mark> },
    /// A row names an epoch or a hash that this control log does not know.
    Ahead { key_group: KeyGroupId, found: Mark },
}

/// Why an attempt ended on a TaskManager, by what the JobManager does about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Another attempt may well succeed: a broken link, a full disk, a lost local file.
    Retry { reason: String },
    /// The database went back while the attempt ran.
    WentBack { target: TargetId, readings: BTreeMap<KeyGroupId, Mark> },
    /// The snapshot of a key group cannot be restored: an older checkpoint is needed.
    BadSnapshot { key_group: KeyGroupId, epoch: Epoch, reason: String },
    /// Only a person can mend it: the job fails with this text and can be resumed.
    Fatal { reason: String },
}

/// Between TaskManagers, and inside one: marks the end of an epoch on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    pub epoch: Epoch,
    /// Watermark under which `epoch` is processed.
    pub watermark: EventTime,
}

/// The TaskManagers that feed a stage: those with splits for stage 0.
#[must_use]
pub fn source_task_managers(plan: &Plan) -> BTreeSet<TaskManagerId> {
    plan.splits.values().copied().collect()
}
