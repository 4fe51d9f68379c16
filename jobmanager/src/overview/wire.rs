//! The overview in the messages of healthctl.

use pulso_proto::convert::id_bytes;
use pulso_proto::v1;

use super::{Job, Status, TaskManager};

impl From<&Job> for v1::JobSummary {
    fn from(job: &Job) -> Self {
        let line = &job.conservation;
        let status = match job.status {
            Status::Running => v1::JobStatus::Running,
            Status::Stopping => v1::JobStatus::Stopping,
            Status::Finished => v1::JobStatus::Finished,
            Status::Cancelled => v1::JobStatus::Cancelled,
            Status::Failed => v1::JobStatus::Failed,
        };
        Self {
            job: id_bytes(job.id.0),
            name: job.name.clone(),
            status: status.into(),
            changing: job.changing,
            reason: job.reason.clone().unwrap_or_default(),
            attempt: job.attempt,
            phase: job.phase.to_owned(),
            sealed: job.epochs.sealed,
            committed: job.epochs.committed,
            records_read: line.read,
            counters: Some(v1::Counters {
                written: line.written,
                corrections: line.corrections,
                filtered: line.filtered,
                duplicates: line.duplicates,
                superseded: line.superseded,
                dead_letters: line.dead_letters,
                late: line.late,
            }),
            in_flight: line.in_flight,
            conserved: line.adds_up == Some(true),
            uncounted: line.adds_up.is_none(),
            lag: job.lag,
            watermark: job.watermark_ms.map(|ms| ms.saturating_mul(1000)),
        }
    }
}

impl From<&TaskManager> for v1::Node {
    fn from(node: &TaskManager) -> Self {
        Self {
            task_manager: id_bytes(node.id.0),
            name: node.name.clone(),
            exchange: node.exchange.clone(),
            leaving: node.leaving,
            splits: node.splits,
            key_groups: node.key_groups,
            memory_bytes: node.memory_bytes,
            memory_limit_bytes: node.memory_limit_bytes,
        }
    }
}
