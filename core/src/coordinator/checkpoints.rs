//! Checkpoints: when one is due, what belongs to it, which are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::epochs::is_final;
use super::job::{Context, Job, Outcome, Phase, Running};
use super::journal::{CheckpointLogged, CollectLogged, Durable, PinLogged, Then};
use super::{Answer, CheckpointId, Command, Epoch, Instant, RequestId, TaskManagerId};
use crate::control_log::{JobState, RetainedCheckpoint};
use crate::ids::KeyGroupId;
use crate::message::{Instruction, Snapshot};
use crate::mistake::Mistake;
use crate::record::{Manifest, Record};

/// After a checkpoint that failed, also where somebody waits for one.
const PAUSE: Duration = Duration::from_secs(1);

/// A TaskManager that has not heard of the newest checkpoint builds on the files of the one before it.
const LEAST_RETAINED: usize = 2;

#[derive(Debug)]
pub(super) struct OpenCheckpoint {
    pub(super) id: CheckpointId,
    pub(super) epoch: Epoch,
    pub(super) snapshots: BTreeMap<KeyGroupId, Snapshot>,
    /// Calls that it will answer, by which it is pinned.
    pub(super) savepoints: Vec<RequestId>,
    started: Instant,
    /// Its record is on its way.
    logging: bool,
}

/// When the next one is due.
#[derive(Debug)]
pub(super) struct Schedule {
    next: CheckpointId,
    /// When the last one began, and how many records had been read then.
    began: Instant,
    read: u64,
    not_before: Instant,
}

impl Schedule {
    pub(super) fn new(state: &JobState, now: Instant) -> Self {
        let newest = state.checkpoints.last().map(|c| c.manifest.checkpoint).unwrap_or_default();
        let read = state.read.values().sum();
        Self { next: CheckpointId(newest.0 + 1), began: now, read, not_before: now }
    }

    pub(super) fn is_due(&self, state: &JobState, cx: &Context) -> bool {
        let read: u64 = state.read.values().sum();
        cx.now.instant.since(self.began) >= cx.settings.checkpoint_interval
            || read.saturating_sub(self.read) >= cx.settings.checkpoint_records
            || state.behind_checkpoint() >= cx.settings.most_epochs / 2
            || state.files.is_full()
    }
}

impl Job {
    pub(super) fn advance_checkpoint(&mut self, cx: &mut Context) {
        let now = cx.now.instant;
        let Phase::Running(running) = &mut self.phase else { return };
        if let Some(open) = &running.open {
            if !open.logging && now.since(open.started) > cx.settings.checkpoint_timeout {
                let id = open.id;
                let timeout = cx.settings.checkpoint_timeout;
                self.checkpoint_failed(cx, id, format!("it took longer than {timeout:?}"));
            }
            return;
        }
        if running.deployed.until.is_some() {
            return;
        }
        let state = cx.journal.job(self.id);
        let committed = running.deployed.epochs.committed(state);
        if !self.calls.savepoints.is_empty()
            && let Some(newest) = state.checkpoints.last().map(|c| &c.manifest)
            && newest.epoch == committed
        {
            // Nothing came since: the newest one is the savepoint.
            let (checkpoint, epoch) = (newest.checkpoint, newest.epoch);
            let savepoints = std::mem::take(&mut self.calls.savepoints);
            let record = Record::Pinned { job: self.id, checkpoint };
            cx.journal.append(self.id, vec![record], Then::Pin(PinLogged { checkpoint, epoch, savepoints }));
            return;
        }
        if now < self.schedule.not_before || !can_take(running, state, committed) {
            return;
        }
        let wanted = !self.calls.savepoints.is_empty() || running.moving.is_some() || is_final(state);
        if !(wanted || self.schedule.is_due(state, cx)) {
            return;
        }
        let read = state.read.values().sum();
        let ahead = cx.settings.mistake == Mistake::UncommittedCheckpoint;
        let (id, epoch) = (self.schedule.next, if ahead { state.newest_cut().epoch } else { committed });
        self.schedule = Schedule { next: CheckpointId(id.0 + 1), began: now, read, not_before: now };
        let savepoints = std::mem::take(&mut self.calls.savepoints);
        let snapshots = BTreeMap::new();
        running.open = Some(OpenCheckpoint { id, epoch, snapshots, savepoints, started: now, logging: false });
        let (job, attempt) = (self.id, running.deployed.attempt);
        let take = Instruction::TakeCheckpoint { job, attempt, checkpoint: id, epoch };
        let hosts: BTreeSet<TaskManagerId> = running.deployed.plan.key_groups.values().copied().collect();
        for host in hosts {
            cx.send(host, take.clone());
        }
    }

    pub(super) fn snapshot_taken(
        &mut self,
        cx: &mut Context,
        from: TaskManagerId,
        checkpoint: CheckpointId,
        key_group: KeyGroupId,
        snapshot: Snapshot,
    ) {
        let Phase::Running(running) = &mut self.phase else { return };
        let plan = &running.deployed.plan;
        let Some(open) = running.open.as_mut().filter(|open| open.id == checkpoint && !open.logging) else { return };
        if plan.key_groups.get(&key_group) != Some(&from) || snapshot.epoch != open.epoch {
            return;
        }
        open.snapshots.insert(key_group, snapshot);
        if open.snapshots.len() < plan.key_groups.len() {
            return;
        }
        open.logging = true;
        let (epoch, snapshots) = (open.epoch, open.snapshots.clone());
        let manifest = Manifest { checkpoint, epoch, taken: cx.now.wall, snapshots };
        let savepoints = std::mem::take(&mut open.savepoints);
        let mut records = vec![Record::CheckpointDone { job: self.id, manifest }];
        if !savepoints.is_empty() {
            records.push(Record::Pinned { job: self.id, checkpoint });
        }
        let attempt = running.deployed.attempt;
        let logged = CheckpointLogged { attempt, checkpoint, epoch, savepoints };
        cx.journal.append(self.id, records, Then::Checkpoint(logged));
    }

    /// It will not come to be, and the job goes on. What it was for waits for the next one.
    pub(super) fn checkpoint_failed(&mut self, cx: &Context, checkpoint: CheckpointId, reason: String) {
        let Phase::Running(running) = &mut self.phase else { return };
        if let Some(open) = running.open.take_if(|open| open.id == checkpoint && !open.logging) {
            self.calls.savepoints.extend(open.savepoints);
            self.schedule.not_before = cx.now.instant.plus(PAUSE);
            self.checkpoint_trouble = Some(reason);
        }
    }

    pub(super) fn checkpoint_logged(&mut self, cx: &mut Context, logged: Durable<CheckpointLogged>) {
        let CheckpointLogged { attempt, checkpoint, epoch, savepoints } = logged.into_inner();
        for request in savepoints {
            cx.reply(request, Answer::SavepointTaken { checkpoint, epoch });
        }
        if let Phase::Running(running) = &mut self.phase
            && running.deployed.attempt == attempt
        {
            running.open = None;
            self.checkpoint_trouble = None;
            let done = Instruction::CheckpointDone { job: self.id, attempt, checkpoint };
            for member in running.deployed.plan.members.keys() {
                cx.send(*member, done.clone());
            }
            // Files that wait for the oldest one let no more in.
            let full = cx.journal.job(self.id).files.is_full();
            self.collect(cx, if full { LEAST_RETAINED } else { cx.settings.retained.max(LEAST_RETAINED) });
        }
    }

    pub(super) fn pin_logged(cx: &mut Context, logged: Durable<PinLogged>) {
        let PinLogged { checkpoint, epoch, savepoints } = logged.into_inner();
        for request in savepoints {
            cx.reply(request, Answer::SavepointTaken { checkpoint, epoch });
        }
    }

    /// Gives up what is beyond the number kept. Only while the job runs: a deployment that restores may need any of them.
    fn collect(&mut self, cx: &mut Context, kept: usize) {
        if self.collecting {
            return;
        }
        let state = cx.journal.job(self.id);
        let unpinned: Vec<&RetainedCheckpoint> =
            state.checkpoints.iter().filter(|c| !c.pinned && !is_bridge(state, c)).collect();
        let beyond = unpinned.len().saturating_sub(kept);
        if beyond == 0 {
            return;
        }
        let checkpoints: Vec<CheckpointId> = unpinned[..beyond].iter().map(|c| c.manifest.checkpoint).collect();
        let objects = unneeded(state, &checkpoints);
        self.collecting = true;
        let record = Record::Collect { job: self.id, checkpoints };
        cx.journal.append(self.id, vec![record], Then::Collect(CollectLogged { objects }));
    }

    pub(super) fn collect_logged(&mut self, cx: &mut Context, logged: Durable<CollectLogged>) {
        self.collecting = false;
        let CollectLogged { objects } = logged.into_inner();
        if !objects.is_empty() {
            cx.commands.push(Command::DeleteObjects(objects));
        }
        self.give_up_lookups(cx);
    }

    /// The final epoch is committed everywhere and in a checkpoint.
    pub(super) fn has_drained(&self, state: &JobState) -> bool {
        let Phase::Running(running) = &self.phase else { return false };
        let committed = running.deployed.epochs.committed(state);
        let all = is_final(state) && state.is_checkpointed() && committed == state.newest_cut().epoch;
        all && running.open.is_none()
    }

    /// The job has drained: it is finished.
    pub(super) fn finish_stopping(&mut self, cx: &mut Context) {
        let state = cx.journal.job(self.id);
        if !self.has_drained(state) || self.asking {
            return;
        }
        let Some(newest) = state.checkpoints.last().map(|c| &c.manifest) else { return };
        let (job, checkpoint, epoch) = (self.id, newest.checkpoint, newest.epoch);
        // Nobody goes back from the end of a finite input, and its files wait for the checkpoints before it.
        if state.files.complete && state.checkpoints.iter().filter(|c| !c.pinned).count() > 1 {
            self.collect(cx, 1);
            return;
        }
        let records = vec![Record::Pinned { job, checkpoint }, Record::Finished { job }];
        self.end(cx, records, Outcome::Finished { checkpoint, epoch });
    }
}

/// Of an epoch that all have committed, that is newer than the last checkpoint, and that nobody's files can be ahead of:
/// a copy may have been flushed up to where it resumed.
fn can_take(running: &Running, state: &JobState, committed: Epoch) -> bool {
    let newest = state.checkpoints.last().map(|c| c.manifest.epoch).unwrap_or_default();
    let flushed = running.deployed.recovery.resume.values().max().copied().unwrap_or_default();
    committed > newest && committed >= flushed
}

/// By it somebody who goes back behind a change, to a savepoint, comes forward again.
fn is_bridge(state: &JobState, checkpoint: &RetainedCheckpoint) -> bool {
    let epoch = checkpoint.manifest.epoch;
    let ends = state.past.iter().any(|past| past.until.next() == epoch);
    ends && state
        .checkpoints
        .iter()
        .any(|c| c.pinned && c.manifest.epoch < epoch && state.cuts.contains_key(&c.manifest.epoch))
}

/// Objects that only these checkpoints name.
fn unneeded(state: &JobState, checkpoints: &[CheckpointId]) -> Vec<String> {
    let (given_up, kept): (Vec<_>, Vec<_>) =
        state.checkpoints.iter().map(|c| &c.manifest).partition(|m| checkpoints.contains(&m.checkpoint));
    let objects = |manifests: &[&Manifest]| -> BTreeSet<String> {
        let snapshots = manifests.iter().flat_map(|manifest| manifest.snapshots.values());
        snapshots.flat_map(|snapshot| &snapshot.files).map(|file| file.object.clone()).collect()
    };
    objects(&given_up).difference(&objects(&kept)).cloned().collect()
}
