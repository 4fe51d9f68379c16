//! A job at work: its reports, its cuts, and when it moves.

use super::attempts::plan;
use super::epochs::is_final;
use super::files::wait_for_checkpoints;
use super::job::{Context, Job, Moving, Phase};
use super::journal::{CutLogged, Durable, Then};
use super::{Epoch, TaskManagerId};
use crate::ids::Attempt;
use crate::message::{Counters, Instruction, Report, Seal};
use crate::record::Record;

/// A checkpoint that shall make a move short may take this long; then the job moves without it.
const MOVE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

impl Job {
    /// A report of one TaskManager on this job. What is of another attempt, or of nobody in the plan, is ignored.
    pub(super) fn reported(&mut self, cx: &mut Context, from: TaskManagerId, report: Report) {
        match report {
            Report::Prepared { attempt, copies, .. } => self.prepared(from, attempt, copies),
            // What these say of targets and files stays true when the attempt has ended meanwhile.
            Report::TakenOver { attempt, target, verdict, .. } if self.is_newest(cx, attempt) => {
                self.taken_over(cx, target, verdict);
            }
            Report::Failed { attempt, failure, .. } if self.is_newest(cx, attempt) => self.failed(cx, from, failure),
            Report::Ready { attempt, .. } if self.takes_part(from, attempt) => self.ready(cx, from),
            Report::InputWaiting { attempt, epoch, full, .. } if self.takes_part(from, attempt) => {
                let sealed = cx.journal.job(self.id).newest_cut().epoch;
                if let Some(deployed) = self.phase.deployed_mut() {
                    deployed.epochs.input_waiting(epoch, full, sealed);
                }
            }
            Report::CutReported { attempt, epoch, splits, .. } if self.takes_part(from, attempt) => {
                if let Some(deployed) = self.phase.deployed_mut() {
                    deployed.epochs.cut_reported(from, epoch, splits, &deployed.plan);
                }
            }
            Report::Committed { attempt, epoch, counters, .. } if self.takes_part(from, attempt) => {
                self.committed_by(cx, from, epoch, counters);
            }
            Report::SnapshotTaken { attempt, checkpoint, key_group, snapshot, .. }
                if self.takes_part(from, attempt) =>
            {
                self.snapshot_taken(cx, from, checkpoint, key_group, snapshot);
            }
            Report::CheckpointFailed { attempt, checkpoint, reason, .. } if self.takes_part(from, attempt) => {
                self.checkpoint_failed(cx, checkpoint, reason);
            }
            Report::TakenOver { .. }
            | Report::Failed { .. }
            | Report::Ready { .. }
            | Report::InputWaiting { .. }
            | Report::CutReported { .. }
            | Report::Committed { .. }
            | Report::SnapshotTaken { .. }
            | Report::CheckpointFailed { .. }
            | Report::Leaving => {}
        }
    }

    /// Of the newest attempt, while the job is neither ended nor about to.
    fn is_newest(&self, cx: &Context, attempt: Attempt) -> bool {
        let over = matches!(self.phase, Phase::Changing | Phase::Ending(_) | Phase::Ended | Phase::Resuming);
        let state = cx.journal.job(self.id);
        // Of a definition that nobody can go back to, nothing that is said of targets counts.
        !over && state.attempt == attempt && (state.plan.is_none() || state.known_planned_era().is_some())
    }

    fn takes_part(&self, from: TaskManagerId, attempt: Attempt) -> bool {
        let takes_part =
            |deployed: &super::job::Deployed| deployed.attempt == attempt && deployed.plan.members.contains_key(&from);
        self.phase.deployed().is_some_and(takes_part)
    }

    fn committed_by(&mut self, cx: &mut Context, from: TaskManagerId, epoch: Epoch, counters: Counters) {
        let state = cx.journal.job(self.id);
        let Some(deployed) = self.phase.deployed_mut() else { return };
        let moved = deployed.epochs.note_committed(from, epoch, counters, state);
        // Never back to what an earlier attempt had left behind.
        if let Some(counters) = deployed.epochs.counters().filter(|counters| counters.total() >= self.counters.total())
        {
            self.counters = counters;
        }
        if moved && deployed.epochs.open().is_none() {
            let committed = deployed.epochs.committed(state);
            let progress = Instruction::Progress { job: self.id, attempt: deployed.attempt, committed };
            for member in deployed.plan.members.keys() {
                cx.send(*member, progress.clone());
            }
        }
    }

    /// Whatever is due, in any phase.
    pub(super) fn advance(&mut self, cx: &mut Context) {
        self.advance_waiting(cx);
        self.advance_preparing(cx);
        self.leave_past(cx);
        self.open_epoch(cx);
        self.close_epoch(cx);
        self.end_of_files(cx);
        self.advance_checkpoint(cx);
        self.change_over(cx);
        self.finish_stopping(cx);
        self.retire_files(cx);
        self.look_at_plan(cx);
        self.advance_moving(cx);
    }

    fn open_epoch(&mut self, cx: &mut Context) {
        let Phase::Running(running) = &mut self.phase else { return };
        if running.deployed.until.is_some() {
            return;
        }
        let state = cx.journal.job(self.id);
        // A savepoint of a job that never had input needs an epoch to be of.
        let savepoint = !self.calls.savepoints.is_empty() && state.newest_cut().epoch == Epoch::ZERO;
        let idle = running.open.is_none() && state.behind_checkpoint() == 0;
        let files = idle && self.schedule.is_due(state, cx) && wait_for_checkpoints(state);
        let wanted = savepoint || files;
        let epochs = &mut running.deployed.epochs;
        let Some(opening) = epochs.open_due(state, &cx.settings, wanted, cx.now) else { return };
        let open = Instruction::OpenCut { job: self.id, attempt: running.deployed.attempt, opening };
        for source in epochs.sources() {
            cx.send(source, open.clone());
        }
    }

    fn close_epoch(&mut self, cx: &mut Context) {
        let Phase::Running(running) = &mut self.phase else { return };
        let state = cx.journal.job(self.id);
        match running.deployed.epochs.close(state, cx.now.instant) {
            None => {}
            Some(Ok(cut)) => {
                let record = Record::Cut { job: self.id, cut: cut.clone() };
                let logged = CutLogged { attempt: running.deployed.attempt, cut };
                cx.journal.append(self.id, vec![record], Then::Cut(Box::new(logged)));
            }
            Some(Err(error)) => self.retry(cx, error.to_string()),
        }
    }

    /// The cut is in force whoever asked for it; the attempt that did goes on with it.
    pub(super) fn cut_logged(&mut self, cx: &mut Context, logged: &Durable<Box<CutLogged>>) {
        let Phase::Running(running) = &mut self.phase else { return };
        if running.deployed.attempt != logged.attempt {
            return;
        }
        let state = cx.journal.job(self.id);
        let deployed = &mut running.deployed;
        deployed.epochs.sealed(logged.cut.epoch, state);
        let committed = deployed.epochs.committed(state);
        let (epoch, hash, last) = (logged.cut.epoch, logged.cut.hash(), logged.cut.last);
        let seal = Seal { epoch, hash, committed, last };
        for member in deployed.plan.members.keys() {
            cx.send(*member, Instruction::Seal { job: self.id, attempt: deployed.attempt, seal });
        }
    }

    /// Members came or leave, or splits joined: is another plan due?
    fn look_at_plan(&mut self, cx: &Context) {
        let Phase::Running(running) = &mut self.phase else { return };
        if !std::mem::take(&mut running.look_at_plan) {
            return;
        }
        let state = cx.journal.job(self.id);
        let now = &running.deployed.plan;
        let wanted = plan(state, &state.planned_era(), &cx.members.staying());
        let reason = if wanted.members.is_empty() {
            "the last TaskManager leaves"
        } else if wanted.splits.len() != now.splits.len() {
            self.wait(cx, "splits joined", cx.now.instant);
            return;
        } else if wanted.places_like(now) {
            running.moving = None;
            return;
        } else if now.members.keys().all(|member| wanted.members.contains_key(member)) {
            "a TaskManager joined"
        } else {
            "a TaskManager leaves"
        };
        let until = running.moving.take().map_or(cx.now.instant.plus(MOVE_PATIENCE), |moving| moving.until);
        let epoch = running.deployed.epochs.committed(state);
        running.moving = Some(Moving { reason: reason.to_owned(), epoch, until });
    }

    /// A job that is about to end stays where it is.
    fn advance_moving(&mut self, cx: &Context) {
        let Phase::Running(running) = &self.phase else { return };
        let Some(moving) = &running.moving else { return };
        let state = cx.journal.job(self.id);
        let newest = state.checkpoints.last().map(|c| c.manifest.epoch).unwrap_or_default();
        if !is_final(state) && (newest >= moving.epoch || cx.now.instant >= moving.until) {
            let reason = moving.reason.clone();
            self.wait(cx, reason, cx.now.instant);
        }
    }

    /// The job holds nothing on this TaskManager that anybody needs.
    pub(super) fn can_do_without(&self, cx: &Context, member: TaskManagerId) -> bool {
        match &self.phase {
            Phase::Waiting(_) => cx.members.nobody_stays(),
            Phase::Deploying(deployed) => !deployed.plan.members.contains_key(&member),
            Phase::Running(running) => !running.deployed.plan.members.contains_key(&member),
            Phase::Ended => true,
            Phase::Logging { .. }
            | Phase::Preparing(_)
            | Phase::Planning { .. }
            | Phase::Changing
            | Phase::Ending(_)
            | Phase::Resuming => false,
        }
    }
}
