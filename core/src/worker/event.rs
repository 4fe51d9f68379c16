//! What can happen to a TaskManager.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{
    Attempt, CheckpointId, ConnectionId, Epoch, JobId, KeyGroupId, SplitId, Stage, TargetId, TaskManagerId,
};
use crate::ledger::LedgerRow;
use crate::message::{Barrier, Counters, Instruction, Snapshot, SplitReport};

/// Everything that can happen to a TaskManager. Events of effects repeat the job and attempt of their command.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<P, O> {
    /// Time passed; sent at least every 20 ms.
    Tick,
    /// An instruction of the JobManager, in the order sent.
    Instructed(Instruction),

    // Source task
    /// The running epoch has its first record, or wants to be cut.
    SourceWaiting {
        job: JobId,
        attempt: Attempt,
        epoch: Epoch,
        full: bool,
    },
    /// Answer to `CloseEpoch`: rows and barrier are on all links.
    SourceClosed {
        job: JobId,
        attempt: Attempt,
        epoch: Epoch,
        splits: BTreeMap<SplitId, SplitReport>,
    },
    /// Retry: broker trouble beyond the client's own retries. Fatal: the input is not what the cuts say.
    SourceFailed {
        job: JobId,
        attempt: Attempt,
        fatal: bool,
        reason: String,
    },

    // Exchange
    /// Rows of one epoch from one TaskManager, for key groups hosted here.
    Arrived {
        job: JobId,
        attempt: Attempt,
        stage: Stage,
        from: TaskManagerId,
        epoch: Epoch,
        payload: P,
    },
    /// No more rows of this epoch come from there.
    BarrierArrived {
        job: JobId,
        attempt: Attempt,
        stage: Stage,
        from: TaskManagerId,
        barrier: Barrier,
    },
    /// A link of this attempt broke, in either direction.
    LinkLost {
        job: JobId,
        attempt: Attempt,
        peer: TaskManagerId,
        reason: String,
    },

    // State
    /// Answer to `TakeBack`: the store holds these key groups at the epochs asked for.
    TookBack {
        job: JobId,
        attempt: Attempt,
    },
    /// Answer to `Restore`, one per key group.
    Restored {
        job: JobId,
        attempt: Attempt,
        key_group: KeyGroupId,
    },
    RestoreFailed {
        job: JobId,
        attempt: Attempt,
        key_group: KeyGroupId,
        reason: String,
        retry: bool,
    },
    /// Answer to `Process`: state is changed in memory, output is there.
    Processed {
        job: JobId,
        attempt: Attempt,
        stage: Stage,
        epoch: Epoch,
        processed: Processed<O>,
    },
    ProcessingFailed {
        job: JobId,
        attempt: Attempt,
        reason: String,
    },
    /// Answer to `Snapshot`, one per key group.
    SnapshotStored {
        job: JobId,
        attempt: Attempt,
        checkpoint: CheckpointId,
        key_group: KeyGroupId,
        snapshot: Snapshot,
    },
    SnapshotFailed {
        job: JobId,
        attempt: Attempt,
        checkpoint: CheckpointId,
        reason: String,
    },

    // Targets
    /// Answer to `TakeOver`: what the ledger says, `None` for a missing row, on this connection.
    /// Of one target, a later connection has a greater number.
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
    Transacted {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        outcome: Outcome,
    },
    /// The connection is gone; whatever was under way on it has an unknown outcome. Comes instead of an answer, or
    /// unasked for an idle connection.
    ConnectionLost {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        reason: String,
    },
    /// A takeover, registration or reading failed without losing its connection, and may be tried again. Instead of
    /// `Transacted` it means that the outcome is not known.
    TargetRefused {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        reason: String,
    },
    /// Only a person can mend it: table missing, no permission. The text says what to do.
    TargetFailed {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        reason: String,
    },
}

impl<P, O> Event<P, O> {
    /// Job and attempt that the event belongs to, where it is not an instruction.
    #[must_use]
    pub fn address(&self) -> Option<(JobId, Attempt)> {
        match self {
            Self::Tick | Self::Instructed(_) => None,
            Self::SourceWaiting { job, attempt, .. }
            | Self::SourceClosed { job, attempt, .. }
            | Self::SourceFailed { job, attempt, .. }
            | Self::Arrived { job, attempt, .. }
            | Self::BarrierArrived { job, attempt, .. }
            | Self::LinkLost { job, attempt, .. }
            | Self::TookBack { job, attempt }
            | Self::Restored { job, attempt, .. }
            | Self::RestoreFailed { job, attempt, .. }
            | Self::Processed { job, attempt, .. }
            | Self::ProcessingFailed { job, attempt, .. }
            | Self::SnapshotStored { job, attempt, .. }
            | Self::SnapshotFailed { job, attempt, .. }
            | Self::TakenOver { job, attempt, .. }
            | Self::LedgerRead { job, attempt, .. }
            | Self::Transacted { job, attempt, .. }
            | Self::ConnectionLost { job, attempt, .. }
            | Self::TargetRefused { job, attempt, .. }
            | Self::TargetFailed { job, attempt, .. } => Some((*job, *attempt)),
        }
    }

    /// The target that the event tells of.
    #[must_use]
    pub fn target(&self) -> Option<TargetId> {
        match self {
            Self::TakenOver { target, .. }
            | Self::LedgerRead { target, .. }
            | Self::Transacted { target, .. }
            | Self::ConnectionLost { target, .. }
            | Self::TargetRefused { target, .. }
            | Self::TargetFailed { target, .. } => Some(*target),
            Self::Tick
            | Self::Instructed(_)
            | Self::SourceWaiting { .. }
            | Self::SourceClosed { .. }
            | Self::SourceFailed { .. }
            | Self::Arrived { .. }
            | Self::BarrierArrived { .. }
            | Self::LinkLost { .. }
            | Self::TookBack { .. }
            | Self::Restored { .. }
            | Self::RestoreFailed { .. }
            | Self::Processed { .. }
            | Self::ProcessingFailed { .. }
            | Self::SnapshotStored { .. }
            | Self::SnapshotFailed { .. } => None,
        }
    }
}

/// What processing one epoch made.
#[derive(Debug, Clone, PartialEq)]
pub struct Processed<O> {
    /// For each target the rows to commit, of key groups that are not muted there; absent: none.
    pub outputs: BTreeMap<TargetId, Output<O>>,
    /// Per target: muted key groups that made rows. Nothing is written, but their mark at this epoch is this epoch:
    /// a copy or checkpoint between `resume` and the ledger would else claim an older *p* than the target ever had.
    pub muted: BTreeMap<TargetId, BTreeSet<KeyGroupId>>,
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
    /// The guard's count was wrong; rolled back, then the rows of all hosted key groups read on the same connection.
    GuardMissed {
        rows: BTreeMap<KeyGroupId, Option<LedgerRow>>,
    },
    /// Rolled back for certain: deadlock, serialization failure, lock time-out, disk full. Worth another try.
    RolledBack {
        reason: String,
    },
    /// Rolled back for certain, and only a person can mend it.
    Failed {
        reason: String,
    },
}
