//! The JobManager's decisions: membership, placement, cuts, checkpoints, attempts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cut::Cut;
use crate::ids::{
    CheckpointId, Epoch, Instant, JobId, Position, RequestId, SessionId, SplitId, TaskManagerId, WallTime,
};
use crate::message::{Instruction, Report};
use crate::record::{JobDefinition, Record};

/// Everything that can happen to the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time passed; sent at least every 5 ms while jobs run, else every 100 ms.
    Tick,
    /// The records of the oldest outstanding `Append` are durable.
    Appended,
    /// A TaskManager opened a session. `exchange` is the address that others reach it at.
    Registered {
        session: SessionId,
        task_manager: TaskManagerId,
        name: String,
        exchange: String,
    },
    /// The stream of a session broke.
    SessionLost {
        session: SessionId,
    },
    /// A heartbeat; reports count as one too.
    Alive {
        session: SessionId,
    },
    Reported {
        session: SessionId,
        report: Report,
    },
    /// Splits that exist now and where a split that is new to the job starts.
    SplitsFound {
        job: JobId,
        splits: BTreeMap<SplitId, Position>,
    },
    Called {
        request: RequestId,
        call: Call,
    },
}

/// What a person asks for. The edge has checked the job and resolved its start positions before.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Submit {
        definition: JobDefinition,
        start: Cut,
    },
    /// Takes a checkpoint and pins it.
    Savepoint {
        job: JobId,
    },
    /// Drains, takes a savepoint, finishes.
    Stop {
        job: JobId,
    },
    Cancel {
        job: JobId,
    },
    /// Goes on after `Failed`, `Finished` or `Cancelled`, from the newest checkpoint.
    Resume {
        job: JobId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `known`: the same file runs already under this name.
    Submitted {
        job: JobId,
        known: bool,
    },
    SavepointTaken {
        checkpoint: CheckpointId,
        epoch: Epoch,
    },
    Stopped {
        checkpoint: CheckpointId,
        epoch: Epoch,
    },
    Cancelled,
    Resumed,
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another job of this name runs, from another file.
    NameTaken {
        job: JobId,
    },
    NoSuchJob,
    /// The call does not fit the job's state; says which state that is and what to do.
    WrongState {
        reason: String,
    },
    /// The job failed while the call waited.
    JobFailed {
        reason: String,
    },
}

/// What the shell carries out, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Append to the control log; answered by `Appended`. The coordinator has one outstanding at a time.
    Append(Vec<Record>),
    Send {
        session: SessionId,
        instruction: Instruction,
    },
    /// The TaskManager of this session is given up: close the stream.
    CloseSession {
        session: SessionId,
        reason: String,
    },
    Reply {
        request: RequestId,
        answer: Answer,
    },
    /// Delete objects of the checkpoint storage; best effort, may be repeated.
    DeleteObjects(Vec<String>),
}

/// The intervals and bounds of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// An epoch with input is cut no sooner than this after its first record was reported, unless it is full.
    pub epoch_age: Duration,
    /// *K*: epochs in flight.
    pub window: u64,
    /// A TaskManager that says nothing for this long is given up.
    pub session_timeout: Duration,
    /// How long `Prepare` waits for the TaskManagers of an attempt.
    pub prepare_timeout: Duration,
    /// After a (re)start: how long TaskManagers of the last plan are waited for.
    pub settle: Duration,
    pub checkpoint_interval: Duration,
    /// Records after which a checkpoint is due before the interval has passed.
    pub checkpoint_records: u64,
    pub checkpoint_timeout: Duration,
    /// Completed checkpoints kept, besides pinned ones.
    pub retained: usize,
    /// Between an attempt that failed and the next one; doubles up to 32 times this.
    pub retry_backoff: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            epoch_age: Duration::from_millis(10),
            window: 16,
            session_timeout: Duration::from_millis(1500),
            prepare_timeout: Duration::from_millis(1000),
            settle: Duration::from_millis(1500),
            checkpoint_interval: Duration::from_secs(10),
            checkpoint_records: 500_000,
            checkpoint_timeout: Duration::from_secs(60),
            retained: 3,
            retry_backoff: Duration::from_millis(50),
        }
    }
}

/// The time at which an event is handled: monotonic for deadlines, wall clock for what cuts record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub instant: Instant,
    pub wall: WallTime,
}

/// A registered TaskManager, as the pages show it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MemberView {
    pub task_manager: TaskManagerId,
    pub name: String,
    pub exchange: String,
    pub leaving: bool,
}
