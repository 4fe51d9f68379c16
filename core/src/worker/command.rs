//! What a TaskManager is to do.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::PlacedFile;
use crate::ids::{Attempt, CheckpointId, Epoch, EventTime, JobId, KeyGroupId, Stage, TargetId};
use crate::ledger::{Mark, Step};
use crate::message::{Counters, Deployment, Opening, Report, Restore};

/// What the shell carries out, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<P, O> {
    Report(Report),

    // Source task
    /// Start reading the splits that the plan gives to this TaskManager; stop whatever ran for an older attempt.
    StartSource {
        deployment: Box<Deployment>,
    },
    StopSource {
        job: JobId,
    },
    /// Finish what is read of `opening.epoch`, put its barrier on all links, answer `SourceClosed`.
    CloseEpoch {
        job: JobId,
        attempt: Attempt,
        opening: Opening,
    },
    /// *g* moved: reading may go on up to `committed` + K.
    Committed {
        job: JobId,
        attempt: Attempt,
        committed: Epoch,
    },

    /// More files of splits that are read here.
    AddFiles {
        job: JobId,
        attempt: Attempt,
        files: Vec<PlacedFile>,
    },

    // Exchange
    /// Connect to the members of this attempt and drop links of older ones.
    OpenLinks {
        job: JobId,
        attempt: Attempt,
        deployment: Box<Deployment>,
    },
    CloseLinks {
        job: JobId,
    },

    // State
    /// Take each key group back to this epoch, in memory; drop key groups that are not named.
    TakeBack {
        job: JobId,
        attempt: Attempt,
        key_groups: BTreeMap<KeyGroupId, Epoch>,
    },
    /// Make the state of one key group as the deployment says; drop any other copy of it.
    Restore {
        job: JobId,
        attempt: Attempt,
        key_group: KeyGroupId,
        restore: Restore,
    },
    /// Drop the state of these key groups.
    Drop {
        job: JobId,
        key_groups: BTreeSet<KeyGroupId>,
    },
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
    Settle {
        job: JobId,
        attempt: Attempt,
        upto: Epoch,
    },
    /// Flush to exactly `epoch` and store a snapshot of each of these key groups, one after another. What a `Settle`
    /// after this command lets through is not in it.
    Snapshot {
        job: JobId,
        attempt: Attempt,
        checkpoint: CheckpointId,
        epoch: Epoch,
        /// Marks and counters at `epoch`; the store adds the files.
        key_groups: BTreeMap<KeyGroupId, (BTreeMap<TargetId, Mark>, Counters)>,
    },
    /// The last checkpoint is complete: the next one may build on its files.
    CheckpointDone {
        job: JobId,
        attempt: Attempt,
        checkpoint: CheckpointId,
    },

    // Targets
    /// Connect where there is no connection, end the backends that the rows name, take the rows over.
    /// `create`: rows (and tables, where the job says so) may be made, because nothing was ever committed.
    TakeOver {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        key_groups: BTreeSet<KeyGroupId>,
        create: bool,
    },
    /// Connect anew, make this connection the rows' backend, read them.
    Register {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        key_groups: BTreeSet<KeyGroupId>,
    },
    /// Read the rows on the connection there is. `last`: the job has no more epochs, so nothing will be committed any
    /// more, and what is committed must not wait for more to become visible.
    ReadLedger {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        key_groups: BTreeSet<KeyGroupId>,
        last: bool,
    },
    /// Execute the steps; `outputs` are the rows of the epochs that `Step::Rows` names.
    Transact {
        job: JobId,
        attempt: Attempt,
        target: TargetId,
        steps: Vec<Step>,
        outputs: Vec<(Epoch, O)>,
    },
    /// Close the connection, at once: whatever is under way on it has an unknown outcome.
    Disconnect {
        job: JobId,
        target: TargetId,
    },
}
