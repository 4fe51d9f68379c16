//! Joins what the coordinator knows with what the heartbeats say.

use std::collections::BTreeMap;

use pulso_core::control_log::JobStatus;
use pulso_core::coordinator::{AttemptView, CheckpointView, ClusterView, JobView, PhaseView};
use pulso_core::ids::{EventTime, JobId, KeyGroupId, TaskManagerId, WallTime};
use pulso_proto::v1;

use super::conservation::{Conservation, Counted};
use super::{Attempt, Checkpoint, Epochs, Job, KeyGroup, Latency, Lookups, Overview, Split, Status, TaskManager};

type Figures = BTreeMap<TaskManagerId, v1::Figures>;

impl Overview {
    /// `figures`: the newest heartbeat of each TaskManager.
    pub(crate) fn new(view: &ClusterView, figures: &Figures, now: WallTime) -> Self {
        let mut jobs: Vec<Job> = view.jobs.iter().map(|job| of_job(job, figures)).collect();
        jobs.sort_by(|a, b| (&a.name, !a.status.is_active(), b.id).cmp(&(&b.name, !b.status.is_active(), a.id)));
        Self {
            leading: true,
            version: env!("CARGO_PKG_VERSION"),
            time_ms: milliseconds(now),
            task_managers: task_managers(view, figures),
            jobs,
        }
    }
}

fn milliseconds(time: WallTime) -> i64 {
    time.0.div_euclid(1000)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn task_managers(view: &ClusterView, figures: &Figures) -> Vec<TaskManager> {
    let mut members: Vec<TaskManager> = view
        .members
        .iter()
        .map(|member| {
            let id = member.task_manager;
            let splits = view.jobs.iter().flat_map(|job| job.splits.values()).filter(|s| s.owner == Some(id)).count();
            let groups = view.jobs.iter().flat_map(|job| job.key_groups.values()).filter(|k| k.owner == Some(id));
            let figures = figures.get(&id);
            TaskManager {
                id,
                name: member.name.clone(),
                exchange: member.exchange.clone(),
                leaving: member.leaving,
                splits: number(splits),
                key_groups: number(groups.count()),
                memory_bytes: figures.map(|f| f.memory_bytes),
                memory_limit_bytes: figures.map(|f| f.memory_limit_bytes),
                cpu_ms: figures.map(|f| f.cpu_ms),
            }
        })
        .collect();
    members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    members
}

fn of_job(job: &JobView, figures: &Figures) -> Job {
    let running = figures_of(job.id, figures);
    let splits: Vec<Split> = splits(job, &running);
    let status = match job.status {
        JobStatus::Running => Status::Running,
        JobStatus::Stopping => Status::Stopping,
        JobStatus::Finished => Status::Finished,
        JobStatus::Cancelled => Status::Cancelled,
        JobStatus::Failed { .. } => Status::Failed,
    };
    Job {
        id: job.id,
        name: job.name.clone(),
        status,
        changing: job.changing,
        phase: phase(job.phase),
        reason: job.reason.clone(),
        attempt: job.attempt.0,
        epochs: Epochs {
            open: job.epochs.open.map(|epoch| epoch.0),
            sealed: job.epochs.sealed.0,
            committed: job.epochs.committed.0,
        },
        watermark_ms: (job.watermark != EventTime::MIN).then(|| job.watermark.0.div_euclid(1000)),
        // Zero for no splits at all.
        lag: splits.iter().map(|split| split.lag).sum(),
        conservation: conservation(job),
        backpressured: running.iter().any(|(_, f)| f.backpressured),
        state_bytes: running.iter().map(|(_, f)| f.state_bytes).sum(),
        latency: latency(&running),
        lookups: job.lookups.as_ref().map(|lookups| Lookups {
            rows: lookups.rows.clone(),
            bytes: lookups.bytes,
            read_ms: milliseconds(lookups.read),
            waits: lookups.waits,
        }),
        troubles: troubles(job, &running),
        splits,
        key_groups: job.key_groups.iter().map(key_group).collect(),
        checkpoints: job.checkpoints.iter().rev().map(checkpoint).collect(),
        attempts: job.attempts.iter().rev().map(attempt).collect(),
    }
}

fn phase(phase: PhaseView) -> &'static str {
    match phase {
        PhaseView::Waiting => "waiting",
        PhaseView::Preparing => "preparing",
        PhaseView::Deploying => "deploying",
        PhaseView::Running => "running",
        PhaseView::Changing => "changing",
        PhaseView::Ended => "ended",
    }
}

/// Of each TaskManager that says something of this job.
fn figures_of(job: JobId, figures: &Figures) -> Vec<(TaskManagerId, &v1::JobFigures)> {
    figures
        .iter()
        .flat_map(|(member, all)| all.jobs.iter().map(|of_job| (*member, of_job)))
        .filter(|(_, of_job)| of_job.job == job.0.as_bytes())
        .collect()
}

/// The end of a split counts from its owner alone: another one's figure may be older.
fn splits(job: &JobView, figures: &[(TaskManagerId, &v1::JobFigures)]) -> Vec<Split> {
    let mut ends = BTreeMap::new();
    for (member, of_job) in figures {
        for split in &of_job.splits {
            ends.extend(split.high_watermark.map(|end| ((*member, split.split), end)));
        }
    }
    let view = |(id, split): (&pulso_core::ids::SplitId, &pulso_core::coordinator::SplitView)| {
        let high_watermark = split.owner.and_then(|owner| ends.get(&(owner, id.0)).copied());
        Split {
            split: id.0,
            position: split.position.0,
            high_watermark,
            lag: high_watermark.map(|end| u64::try_from(end.saturating_sub(split.position.0)).unwrap_or(0)),
            records_read: split.records_read,
            owner: split.owner,
            idle: split.idle,
        }
    };
    job.splits.iter().map(view).collect()
}

/// Where nothing is in flight, the counters say exactly what was read. A job that has not committed anything under
/// this JobManager has no counters yet.
fn conservation(job: &JobView) -> Conservation {
    let known = job.records_read == 0 || job.counters.total() > 0;
    Conservation::of(Counted {
        read: job.records_read,
        committed: job.settled.then_some(job.records_read),
        counters: known.then_some(job.counters),
    })
}

fn latency(figures: &[(TaskManagerId, &v1::JobFigures)]) -> Option<Latency> {
    let counted = figures.iter().filter_map(|(_, f)| f.latency.as_ref()).filter(|latency| latency.count > 0);
    let worst = counted.max_by_key(|latency| latency.p95_us)?;
    Some(Latency { p50_us: worst.p50_us, p95_us: worst.p95_us, p99_us: worst.p99_us })
}

/// Each text once.
fn troubles(job: &JobView, figures: &[(TaskManagerId, &v1::JobFigures)]) -> Vec<String> {
    let all = figures.iter().flat_map(|(_, f)| {
        f.splits.iter().map(|split| &split.trouble).chain(f.targets.iter().map(|target| &target.trouble))
    });
    let checkpoint = job.checkpoint_trouble.iter().map(|reason| format!("the newest checkpoint failed: {reason}"));
    let lookups = job.lookups.iter().filter_map(|lookups| lookups.trouble.clone());
    let all = all.filter(|text| !text.is_empty()).cloned();
    let mut troubles: Vec<String> = all.chain(checkpoint).chain(lookups).collect();
    troubles.sort();
    troubles.dedup();
    troubles
}

fn key_group((id, view): (&KeyGroupId, &pulso_core::coordinator::KeyGroupView)) -> KeyGroup {
    KeyGroup { key_group: id.to_string(), owner: view.owner, epoch: view.epoch.0 }
}

fn checkpoint(view: &CheckpointView) -> Checkpoint {
    Checkpoint {
        id: view.id.0,
        epoch: view.epoch.0,
        bytes: view.bytes,
        taken_ms: view.taken.map(milliseconds),
        pinned: view.pinned,
    }
}

fn attempt(view: &AttemptView) -> Attempt {
    Attempt {
        number: view.attempt.0,
        reason: view.reason.clone(),
        started_ms: Some(milliseconds(view.started)),
        ready_ms: view.ready.map(milliseconds),
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
