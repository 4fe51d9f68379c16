//! How the cluster stands, as REST, the status page, the metrics and healthctl show it: the coordinator's view joined
//! with the figures of the heartbeats. Times are milliseconds since 1970 UTC.

mod conservation;
mod join;
mod wire;

use pulso_core::ids::{JobId, TaskManagerId};
use serde::Serialize;

pub(crate) use self::conservation::Conservation;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Overview {
    /// False on a standby, which knows nothing of the jobs.
    pub(crate) leading: bool,
    pub(crate) version: &'static str,
    pub(crate) time_ms: i64,
    pub(crate) task_managers: Vec<TaskManager>,
    /// By name, the active one first where several had it.
    pub(crate) jobs: Vec<Job>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct TaskManager {
    pub(crate) id: TaskManagerId,
    pub(crate) name: String,
    pub(crate) exchange: String,
    /// It was told to end and keeps working until all has moved away.
    pub(crate) leaving: bool,
    /// Over all jobs.
    pub(crate) splits: u32,
    pub(crate) key_groups: u32,
    /// Absent before the first heartbeat that brings it.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) cpu_ms: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) status: Status,
    /// Another file waits until everything before it is committed.
    pub(crate) changing: bool,
    /// What the attempt is doing.
    pub(crate) phase: &'static str,
    /// Why it failed, or what it waits for.
    pub(crate) reason: Option<String>,
    pub(crate) attempt: u64,
    pub(crate) epochs: Epochs,
    pub(crate) watermark_ms: Option<i64>,
    /// Records at the source that are not in a sealed epoch; absent while it is not known for all splits.
    pub(crate) lag: Option<u64>,
    pub(crate) conservation: Conservation,
    pub(crate) backpressured: bool,
    pub(crate) state_bytes: u64,
    /// Of the TaskManager that is worst off.
    pub(crate) latency: Option<Latency>,
    /// Absent for a job without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lookups: Option<Lookups>,
    /// What makes input or commits wait, such as a target that is down.
    pub(crate) troubles: Vec<String>,
    pub(crate) splits: Vec<Split>,
    pub(crate) key_groups: Vec<KeyGroup>,
    /// Newest first.
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// Newest first.
    pub(crate) attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Running,
    Stopping,
    Finished,
    Cancelled,
    Failed,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Epochs {
    /// Opened and not sealed yet.
    pub(crate) open: Option<u64>,
    pub(crate) sealed: u64,
    pub(crate) committed: u64,
}

/// From a record's broker timestamp to its commit, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: u64,
    pub(crate) p95_us: u64,
    pub(crate) p99_us: u64,
}

/// The newest rows of all lookups.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Lookups {
    /// Of each lookup, in file order.
    pub(crate) rows: Vec<u64>,
    pub(crate) bytes: u64,
    /// When they were first read so.
    pub(crate) read_ms: i64,
    /// Records are not joined with them yet.
    pub(crate) waits: bool,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Split {
    pub(crate) split: u32,
    /// Where the newest sealed epoch ends.
    pub(crate) position: i64,
    pub(crate) high_watermark: Option<i64>,
    pub(crate) lag: Option<u64>,
    pub(crate) records_read: u64,
    /// TaskManager.
    pub(crate) owner: Option<TaskManagerId>,
    pub(crate) idle: bool,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct KeyGroup {
    /// STAGE/KEY_GROUP
    pub(crate) key_group: String,
    pub(crate) owner: Option<TaskManagerId>,
    /// Committed in every target up to here.
    pub(crate) epoch: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Checkpoint {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    pub(crate) bytes: u64,
    /// Absent while it is under way.
    pub(crate) taken_ms: Option<i64>,
    /// A savepoint: kept until a person releases it.
    pub(crate) pinned: bool,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Attempt {
    pub(crate) number: u64,
    pub(crate) reason: String,
    pub(crate) started_ms: Option<i64>,
    /// When all of its TaskManagers were ready.
    pub(crate) ready_ms: Option<i64>,
}

impl Overview {
    pub(crate) fn standby() -> Self {
        Self {
            leading: false,
            version: env!("CARGO_PKG_VERSION"),
            time_ms: 0,
            task_managers: Vec::new(),
            jobs: Vec::new(),
        }
    }

    /// By UUID or name, as everywhere.
    pub(crate) fn job(&self, name: &str) -> Option<&Job> {
        let named = self.jobs.iter().find(|job| job.name == name);
        named.or_else(|| self.jobs.iter().find(|job| job.id.to_string() == name))
    }
}

impl Status {
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Stopping)
    }
}
