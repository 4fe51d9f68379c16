//! How things stand, for pages and figures. Nothing decides by it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::job::{Job, Phase};
use super::{CheckpointId, Coordinator, Epoch, JobId, MemberView, Position, SplitId, TaskManagerId, WallTime};
use crate::control_log::{JobState, JobStatus};
use crate::ids::{Attempt, EventTime, KeyGroupId};
use crate::message::Counters;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterView {
    pub members: Vec<MemberView>,
    pub jobs: Vec<JobView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobView {
    pub id: JobId,
    pub name: String,
    pub status: JobStatus,
    /// Another definition waits until everything before it is committed.
    pub changing: bool,
    pub phase: PhaseView,
    /// What it waits for, or why it failed.
    pub reason: Option<String>,
    pub attempt: Attempt,
    pub epochs: EpochsView,
    pub watermark: EventTime,
    pub splits: BTreeMap<SplitId, SplitView>,
    pub key_groups: BTreeMap<KeyGroupId, KeyGroupView>,
    /// Oldest first; the last one may be under way.
    pub checkpoints: Vec<CheckpointView>,
    /// The last 50 that this JobManager has seen, oldest first.
    pub attempts: Vec<AttemptView>,
    /// What became of records, up to what is committed.
    pub counters: Counters,
    /// `counters` are those of the newest sealed epoch: nothing is in flight.
    pub settled: bool,
    /// Why the newest checkpoint failed; `None` after one that did not.
    pub checkpoint_trouble: Option<String>,
    /// Of a job with lookups.
    pub lookups: Option<LookupsView>,
    /// Records in all sealed epochs; what `counters` lacks is in flight.
    pub records_read: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseView {
    /// For TaskManagers, or for the next try.
    Waiting,
    /// TaskManagers freeze and report what they hold.
    Preparing,
    /// Takeovers and restores.
    Deploying,
    Running,
    /// The record of its end, its resumption, or its other definition is on its way.
    Changing,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EpochsView {
    /// Between `OpenCut` and the seal.
    pub open: Option<Epoch>,
    pub sealed: Epoch,
    /// In every target.
    pub committed: Epoch,
}

/// The rows that records are joined with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LookupsView {
    /// Of each lookup, in file order.
    pub rows: Vec<u64>,
    pub bytes: u64,
    /// When they were read first; what is read later and equal is no other version.
    pub read: WallTime,
    /// The cut that brings them in force is not there yet.
    pub waits: bool,
    /// Why they could not be read again.
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SplitView {
    /// Where the newest sealed epoch ends.
    pub position: Position,
    pub records_read: u64,
    pub owner: Option<TaskManagerId>,
    pub idle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KeyGroupView {
    pub owner: Option<TaskManagerId>,
    /// Committed in every target up to here.
    pub epoch: Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CheckpointView {
    pub id: CheckpointId,
    pub epoch: Epoch,
    /// Of the files that it names; several checkpoints may share them.
    pub bytes: u64,
    /// `None` while it is under way.
    pub taken: Option<WallTime>,
    pub pinned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptView {
    pub attempt: Attempt,
    pub reason: String,
    pub started: WallTime,
    /// When all of its TaskManagers were.
    pub ready: Option<WallTime>,
}

impl Coordinator {
    #[must_use]
    pub fn view(&self) -> ClusterView {
        let most = self.context.settings.most_epochs;
        let job = |job: &Job| view(job, self.context.journal.job(job.id), self.context.members.nobody_stays(), most);
        ClusterView { members: self.context.members.view(), jobs: self.jobs.values().map(job).collect() }
    }
}

fn view(job: &Job, state: &JobState, alone: bool, most: u64) -> JobView {
    let newest = state.newest_cut();
    let deployed = job.phase.deployed();
    let owners = deployed.map(|deployed| &deployed.plan);
    let mut splits: BTreeMap<SplitId, SplitView> = BTreeMap::new();
    let positions = newest.splits.iter().map(|(split, cut)| (*split, cut.end));
    for (split, position) in state.joined.iter().map(|(split, position)| (*split, *position)).chain(positions) {
        let view = SplitView {
            position,
            records_read: state.read.get(&split).copied().unwrap_or_default(),
            owner: owners.and_then(|plan| plan.splits.get(&split).copied()),
            idle: newest.idle.contains(&split),
        };
        splits.insert(split, view);
    }
    let committed = job.committed(state);
    JobView {
        id: job.id,
        name: state.definition.name.clone(),
        status: state.status.clone(),
        changing: state.change.is_some(),
        phase: job.phase.view(),
        reason: reason(job, state, alone, most),
        attempt: state.attempt,
        epochs: EpochsView {
            open: deployed.and_then(|deployed| deployed.epochs.open()),
            sealed: newest.epoch,
            committed,
        },
        watermark: newest.watermark,
        splits,
        key_groups: key_groups(job, state, committed),
        checkpoints: checkpoints(job, state),
        attempts: job.attempts.iter().cloned().collect(),
        counters: job.counters,
        settled: job.is_settled(state),
        checkpoint_trouble: job.checkpoint_trouble.clone(),
        lookups: state.lookups.newest.as_ref().map(|newest| LookupsView {
            rows: newest.rows.clone(),
            bytes: newest.bytes,
            read: newest.read,
            waits: state.lookups_wait(),
            trouble: job.lookup_trouble.clone(),
        }),
        records_read: state.read.values().sum(),
    }
}

fn reason(job: &Job, state: &JobState, alone: bool, most: u64) -> Option<String> {
    match (&state.status, &job.phase) {
        (JobStatus::Failed { reason }, _) => Some(reason.clone()),
        (_, Phase::Waiting(waiting)) if alone => Some(format!("{}; waits for a TaskManager", waiting.reason)),
        (_, Phase::Waiting(waiting)) => Some(waiting.reason.clone()),
        (_, Phase::Running(_)) if state.behind_checkpoint() >= most => Some(format!(
            "no checkpoint was taken in the last {most} epochs: reading goes on after the next one, so that \
             a recovery stays possible"
        )),
        (_, Phase::Running(running)) if running.deployed.until.is_some() => Some(
            "a target went back behind a change of the job file: what it lacks is written under the file before".into(),
        ),
        (_, Phase::Running(_)) if state.change.is_some() => {
            Some("goes on with another job file once everything before it is committed".into())
        }
        _ => None,
    }
}

fn key_groups(job: &Job, state: &JobState, committed: Epoch) -> BTreeMap<KeyGroupId, KeyGroupView> {
    if let Some(deployed) = job.phase.deployed() {
        let view = |(id, owner): (&KeyGroupId, &TaskManagerId)| {
            let resumed = deployed.recovery.resume.get(id).copied().unwrap_or_default();
            let epoch = deployed.epochs.committed_by(*owner).unwrap_or_default().max(resumed);
            (*id, KeyGroupView { owner: Some(*owner), epoch })
        };
        return deployed.plan.key_groups.iter().map(view).collect();
    }
    let plan = state.plan.iter().flat_map(|(_, plan, _)| plan.key_groups.keys());
    plan.map(|id| (*id, KeyGroupView { owner: None, epoch: committed })).collect()
}

fn checkpoints(job: &Job, state: &JobState) -> Vec<CheckpointView> {
    let done = state.checkpoints.iter().map(|retained| {
        let manifest = &retained.manifest;
        CheckpointView {
            id: manifest.checkpoint,
            epoch: manifest.epoch,
            bytes: manifest.snapshots.values().flat_map(|s| &s.files).map(|f| f.bytes).sum(),
            taken: Some(manifest.taken),
            pinned: retained.pinned,
        }
    });
    let open = job.open_checkpoint().map(|open| CheckpointView {
        id: open.id,
        epoch: open.epoch,
        bytes: open.snapshots.values().flat_map(|s| &s.files).map(|f| f.bytes).sum(),
        taken: None,
        pinned: !open.savepoints.is_empty(),
    });
    done.chain(open).collect()
}
