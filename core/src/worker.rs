//! The TaskManager's decisions: which attempt counts, what is processed when, what may be committed.
//!
//! Rows are opaque: `P` is a payload as it came over the exchange, `O` what processing an epoch made for one target.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::{
    Attempt, CheckpointId, ConnectionId, Epoch, EventTime, JobId, KeyGroupId, SplitId, Stage, TargetId, TaskManagerId,
};
use crate::ledger::{LedgerRow, Mark, Step};
use crate::message::{
    Barrier, Copy, Counters, Deployment, Instruction, Opening, Report, Restore, Snapshot, SplitReport,
};

/// Everything that can happen to a TaskManager. Events of effects repeat the job and attempt of their command.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<P, O> {
    /// Time passed; sent at least every 20 ms.
    Tick,
    /// An instruction of the JobManager, in the order sent.
    Instructed(Instruction),

    // Source task
    /// The running epoch has its first record, or wants to be cut.
    SourceWaiting { job: JobId, attempt: Attempt, epoch: Epoch, full: bool },
    /// Answer to `CloseEpoch`: rows and barrier are on all links.
    SourceClosed { job: JobId, attempt: Attempt, epoch: Epoch, splits: BTreeMap<SplitId, SplitReport> },
    /// Retry: broker trouble beyond the client's own retries. Fatal: the input is not what the cuts say.
    SourceFailed { job: JobId, attempt: Attempt, fatal: bool, reason: String },

    // Exchange
    /// Rows of one epoch from one TaskManager, for key groups hosted here.
    Arrived { job: JobId, attempt: Attempt, stage: Stage, from: TaskManagerId, epoch: Epoch, payload: P },
    /// No more rows of this epoch come from there.
    BarrierArrived { job: JobId, attempt: Attempt, stage: Stage, from: TaskManagerId, barrier: Barrier },
    /// A link of this attempt broke, in either direction.
    LinkLost { job: JobId, attempt: Attempt, peer: TaskManagerId, reason: String },

    // State
    /// Answer to `TakeBack`: the store holds these key groups at the epochs asked for.
    TookBack { job: JobId, attempt: Attempt },
    /// Answer to `Restore`, one per key group.
    Restored { job: JobId, attempt: Attempt, key_group: KeyGroupId },
    RestoreFailed { job: JobId, attempt: Attempt, key_group: KeyGroupId, reason: String, retry: bool },
    /// Answer to `Process`: state is changed in memory, output is there.
    Processed { job: JobId, attempt: Attempt, stage: Stage, epoch: Epoch, processed: Processed<O> },
    ProcessingFailed { job: JobId, attempt: Attempt, reason: String },
    /// Answer to `Snapshot`, one per key group.
    SnapshotStored { job: JobId, attempt: Attempt, checkpoint: CheckpointId, key_group: KeyGroupId, snapshot: Snapshot },
    SnapshotFailed { job: JobId, attempt: Attempt, checkpoint: CheckpointId, reason: String },

    // Targets
    /// Answer to `TakeOver`: what the ledger says, `None` for a missing row, on this connection.
    TakenOver {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        connection: ConnectionId,
        rows: BTreeMap<KeyGroupId, Option<LedgerRow>>,
    },
    /// Answer to `Register` and `ReadLedger`: the same, without taking over.
    LedgerRead {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        connection: ConnectionId,
        rows: BTreeMap<KeyGroupId, Option<LedgerRow>>,
    },
    /// Answer to `Transact`.
    Transacted { job: JobId, attempt: Attempt, target: TargetId, outcome: Outcome },
    /// The connection is gone; whatever was under way on it has an unknown outcome.
    ConnectionLost { job: JobId, attempt: Attempt, target: TargetId, reason: String },
    /// A takeover, registration or reading failed without losing its connection, and may be tried again.
    TargetRefused { job: JobId, attempt: Attempt, target: TargetId, reason: String },
    /// Only a person can mend it: table missing, no permission. The text says what to do.
    TargetFailed { job: JobId, attempt: Attempt, target: TargetId, reason: String },
}

/// What processing one epoch made.
#[derive(Debug, Clone, PartialEq)]
pub struct Processed<O> {
    /// For each target the rows to commit, of key groups that are not muted there; absent: none.
    pub outputs: BTreeMap<TargetId, Output<O>>,
    /// What became of the epoch's records, per key group that processed any.
    pub counters: BTreeMap<KeyGroupId, Counters>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Output<O> {
    pub rows: O,
    /// Key groups with at least one row (dead letters too) in `rows`.
    pub key_groups: BTreeSet<KeyGroupId>,
    /// Size of `rows` in memory, to bound one transaction.
    pub bytes: u64,
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Committed,
    /// The guard's count was wrong; rolled back, then read on the same connection.
    GuardMissed { rows: BTreeMap<KeyGroupId, Option<LedgerRow>> },
    /// Rolled back for certain: deadlock, serialization failure, lock time-out, disk full. Worth another try.
    RolledBack { reason: String },
    /// Rolled back for certain, and only a person can mend it.
    Failed { reason: String },
}

/// What the shell carries out, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<P, O> {
    Report(Report),

    // Source task
    /// Start reading the splits that the plan gives to this TaskManager; stop whatever ran for an older attempt.
    StartSource { deployment: Box<Deployment> },
    StopSource { job: JobId },
    /// Finish what is read of `opening.epoch`, put its barrier on all links, answer `SourceClosed`.
    CloseEpoch { job: JobId, attempt: Attempt, opening: Opening },
    /// *g* moved: reading may go on up to `committed` + K.
    Committed { job: JobId, attempt: Attempt, committed: Epoch },

    // Exchange
    /// Connect to the members of this attempt and drop links of older ones.
    OpenLinks { job: JobId, attempt: Attempt, deployment: Box<Deployment> },
    CloseLinks { job: JobId },

    // State
    /// Take each key group back to this epoch, in memory; drop key groups that are not named.
    TakeBack { job: JobId, attempt: Attempt, key_groups: BTreeMap<KeyGroupId, Epoch> },
    /// Make the state of one key group as the deployment says; drop any other copy of it.
    Restore { job: JobId, attempt: Attempt, key_group: KeyGroupId, restore: Restore },
    /// Drop the state of these key groups.
    Drop { job: JobId, key_groups: BTreeSet<KeyGroupId> },
    /// Work one epoch off, in canonical order.
    Process {
        job: JobId,
        attempt: Attempt,
        stage: Stage,
        epoch: Epoch,
        watermark: EventTime,
        payloads: Vec<P>,
        /// Key groups that have this epoch in their state already and must not see it again.
        skip: BTreeSet<KeyGroupId>,
        /// Per target: key groups whose output of this epoch is committed there already.
        muted: BTreeMap<TargetId, BTreeSet<KeyGroupId>>,
    },
    /// Epochs up to `upto` are committed everywhere: their state changes may be written to disk.
    Settle { job: JobId, attempt: Attempt, upto: Epoch },
    /// Flush to exactly `epoch` and store a snapshot of each of these key groups, one after another.
    Snapshot {
        job: JobId,
        attempt: Attempt,
        checkpoint: CheckpointId,
        epoch: Epoch,
        /// Marks and counters at `epoch`; the store adds the files.
        key_groups: BTreeMap<KeyGroupId, (BTreeMap<TargetId, Mark>, Counters)>,
    },
    /// The last checkpoint is complete: the next one may build on its files.
    CheckpointDone { job: JobId, attempt: Attempt, checkpoint: CheckpointId },

    // Targets
    /// Connect where there is no connection, end the backends that the rows name, take the rows over.
    /// `create`: rows (and tables, where the job says so) may be made, because nothing was ever committed.
    TakeOver { job: JobId, attempt: Attempt, target: TargetId, key_groups: BTreeSet<KeyGroupId>, create: bool },
    /// Connect anew, make this connection the rows' backend, read them.
    Register { job: JobId, attempt: Attempt, target: TargetId, key_groups: BTreeSet<KeyGroupId> },
    /// Read the rows on the connection there is.
    ReadLedger { job: JobId, attempt: Attempt, target: TargetId, key_groups: BTreeSet<KeyGroupId> },
    /// Execute the steps; `outputs` are the rows of the epochs that `Step::Rows` names.
    Transact { job: JobId, attempt: Attempt, target: TargetId, steps: Vec<Step>, outputs: Vec<(Epoch, O)> },
    /// Close the connection, at once: whatever is under way on it has an unknown outcome.
    Disconnect { job: JobId, target: TargetId },
}

/// The bounds of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Output of one transaction, in bytes: several waiting epochs go together up to this.
    pub transaction_bytes: u64,
    /// First pause before a target is tried again; doubles up to 64 times this.
    pub retry_backoff: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { transaction_bytes: 16 << 20, retry_backoff: Duration::from_millis(20) }
    }
}

/// A frozen key group as the worker remembers it.
pub type Copies = BTreeMap<KeyGroupId, Copy>;
