//! One job as it runs: the phase that it is in, and what survives its attempts in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::checkpoints::{OpenCheckpoint, Schedule};
use super::epochs::Epochs;
use super::files::Files;
use super::journal::{AttemptLogged, Durable};
use super::recovery::{Prepared, Readings, Recovery};
use super::view::{AttemptView, PhaseView};
use super::{
    Answer, CheckpointId, Command, Epoch, Instant, JobId, Members, Now, Refusal, RequestId, SessionId, Settings,
};
use super::{TaskManagerId, journal::Journal};
use crate::control_log::JobState;
use crate::ids::Attempt;
use crate::message::{Counters, Instruction};
use crate::placement::Plan;

/// Everything but the jobs: what a job decides with, and where its commands go.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) journal: Journal,
    pub(super) members: Members,
    pub(super) commands: Vec<Command>,
    /// Sessions that a job has given up, and why; closed once the job has had its say.
    pub(super) expelled: Vec<(SessionId, String)>,
    /// Without the times in which this process stood still.
    pub(super) now: Now,
}

impl Context {
    /// Goes nowhere where the TaskManager is gone: then the attempt ends anyway.
    pub(super) fn send(&mut self, to: TaskManagerId, instruction: Instruction) {
        if let Some(session) = self.members.session(to) {
            self.commands.push(Command::Send { session, instruction });
        }
    }

    pub(super) fn reply(&mut self, request: RequestId, answer: Answer) {
        self.commands.push(Command::Reply { request, answer });
    }

    pub(super) fn refuse(&mut self, request: RequestId, reason: impl Into<String>) {
        self.reply(request, Answer::Refused(Refusal::WrongState { reason: reason.into() }));
    }
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) phase: Phase,
    pub(super) readings: Readings,
    /// Checkpoints that could not be restored.
    pub(super) bad: BTreeSet<CheckpointId>,
    /// Attempts in a row that failed soon.
    pub(super) failures: u32,
    pub(super) attempts: VecDeque<AttemptView>,
    pub(super) counters: Counters,
    /// Why the newest checkpoint failed.
    pub(super) checkpoint_trouble: Option<String>,
    pub(super) lookup_trouble: Option<String>,
    /// What an earlier attempt has committed; only for show.
    pub(super) committed_before: Epoch,
    pub(super) calls: Calls,
    pub(super) schedule: Schedule,
    /// A `Collect` is on its way.
    pub(super) collecting: bool,
    /// A `Changing` is on its way.
    pub(super) asking: bool,
    /// The era before a change that was left last, by its last epoch, and the newest one then.
    pub(super) left: Option<(Epoch, Epoch)>,
    pub(super) files: Files,
}

/// Calls that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) savepoints: Vec<RequestId>,
    pub(super) stops: Vec<RequestId>,
    pub(super) cancels: Vec<RequestId>,
    pub(super) resumes: Vec<RequestId>,
    pub(super) changes: Vec<RequestId>,
}

#[derive(Debug)]
pub(super) enum Phase {
    Waiting(Waiting),
    /// The record of the attempt is on its way.
    Logging {
        attempt: Attempt,
    },
    Preparing(Preparing),
    /// The record of the plan is on its way.
    Planning {
        attempt: Attempt,
        members: BTreeSet<TaskManagerId>,
    },
    Deploying(Box<Deployed>),
    Running(Box<Running>),
    /// The record that another definition is in force is on its way.
    Changing,
    /// The record of the job's end is on its way.
    Ending(Outcome),
    Ended,
    /// The record of its resumption is on its way.
    Resuming,
}

/// For the next attempt.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Why there will be another attempt.
    pub(super) reason: String,
    pub(super) not_before: Instant,
    /// Until then the TaskManagers of the last plan are waited for, so that what they hold is not thrown away.
    pub(super) settle: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Preparing {
    pub(super) logged: Durable<AttemptLogged>,
    pub(super) deadline: Instant,
    pub(super) asked: BTreeSet<TaskManagerId>,
    pub(super) prepared: Prepared,
}

#[derive(Debug)]
pub(super) struct Deployed {
    pub(super) attempt: Attempt,
    pub(super) plan: Plan,
    pub(super) recovery: Recovery,
    /// The attempt is under a definition that was in force up to here.
    pub(super) until: Option<Epoch>,
    pub(super) epochs: Epochs,
    pub(super) ready: BTreeSet<TaskManagerId>,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) deployed: Deployed,
    pub(super) since: Instant,
    pub(super) open: Option<OpenCheckpoint>,
    pub(super) moving: Option<Moving>,
    /// Members or splits are not those of the plan any more.
    pub(super) look_at_plan: bool,
}

/// The next attempt will have another plan; a checkpoint first makes its replay short.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) reason: String,
    /// What was committed when it began: a checkpoint of this epoch or a later one is enough.
    pub(super) epoch: Epoch,
    pub(super) until: Instant,
}

#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Finished { checkpoint: CheckpointId, epoch: Epoch },
    Cancelled,
    Failed { reason: String },
}

impl Phase {
    pub(super) fn deployed(&self) -> Option<&Deployed> {
        match self {
            Self::Deploying(deployed) => Some(deployed),
            Self::Running(running) => Some(&running.deployed),
            Self::Waiting(_)
            | Self::Logging { .. }
            | Self::Preparing(_)
            | Self::Planning { .. }
            | Self::Changing
            | Self::Ending(_)
            | Self::Ended
            | Self::Resuming => None,
        }
    }

    pub(super) fn deployed_mut(&mut self) -> Option<&mut Deployed> {
        match self {
            Self::Deploying(deployed) => Some(deployed),
            Self::Running(running) => Some(&mut running.deployed),
            Self::Waiting(_)
            | Self::Logging { .. }
            | Self::Preparing(_)
            | Self::Planning { .. }
            | Self::Changing
            | Self::Ending(_)
            | Self::Ended
            | Self::Resuming => None,
        }
    }

    pub(super) fn view(&self) -> PhaseView {
        match self {
            Self::Waiting(_) | Self::Logging { .. } => PhaseView::Waiting,
            Self::Preparing(_) | Self::Planning { .. } => PhaseView::Preparing,
            Self::Deploying(_) => PhaseView::Deploying,
            Self::Running(_) => PhaseView::Running,
            Self::Changing | Self::Ending(_) | Self::Resuming => PhaseView::Changing,
            Self::Ended => PhaseView::Ended,
        }
    }
}

impl Job {
    pub(super) fn new(id: JobId, state: &JobState, phase: Phase, now: Instant) -> Self {
        Self {
            id,
            phase,
            readings: BTreeMap::new(),
            bad: BTreeSet::new(),
            failures: 0,
            attempts: VecDeque::new(),
            counters: state.checkpoints.last().map(|c| c.manifest.counters()).unwrap_or_default(),
            checkpoint_trouble: None,
            lookup_trouble: None,
            committed_before: state.checkpoints.last().map(|c| c.manifest.epoch).unwrap_or_default(),
            calls: Calls::default(),
            schedule: Schedule::new(state, now),
            collecting: false,
            asking: false,
            left: None,
            files: Files::default(),
        }
    }

    /// For show: what is committed in every target, as far as this JobManager has seen it.
    pub(super) fn committed(&self, state: &JobState) -> Epoch {
        let now = self.phase.deployed().map(|deployed| deployed.epochs.committed(state));
        now.unwrap_or_default().max(self.committed_before)
    }

    /// All have counted, up to the newest sealed epoch.
    pub(super) fn is_settled(&self, state: &JobState) -> bool {
        let newest = state.newest_cut().epoch;
        match &self.phase {
            Phase::Running(running) => {
                let epochs = &running.deployed.epochs;
                epochs.counters().is_some() && epochs.committed(state) == newest
            }
            Phase::Ended => state.checkpoints.last().is_some_and(|c| c.manifest.epoch == newest),
            Phase::Waiting(_)
            | Phase::Logging { .. }
            | Phase::Preparing(_)
            | Phase::Planning { .. }
            | Phase::Deploying(_)
            | Phase::Changing
            | Phase::Ending(_)
            | Phase::Resuming => false,
        }
    }

    pub(super) fn open_checkpoint(&self) -> Option<&OpenCheckpoint> {
        let Phase::Running(running) = &self.phase else { return None };
        running.open.as_ref()
    }

    /// Ends whatever the job was doing. What calls wait for goes on waiting.
    pub(super) fn leave(&mut self, cx: &Context, next: Phase) {
        let state = cx.journal.job(self.id);
        self.committed_before = self.committed(state);
        if let Phase::Running(running) = &mut self.phase
            && let Some(open) = running.open.take()
        {
            self.calls.savepoints.extend(open.savepoints);
        }
        self.phase = next;
    }

    pub(super) fn wait(&mut self, cx: &Context, reason: impl Into<String>, not_before: Instant) {
        self.leave(cx, Phase::Waiting(Waiting { reason: reason.into(), not_before, settle: None }));
    }

    /// The next attempt, later from failure to failure.
    pub(super) fn retry(&mut self, cx: &Context, reason: impl Into<String>) {
        let now = cx.now.instant;
        let backoff = cx.settings.retry_backoff;
        if let Phase::Running(running) = &self.phase
            && now.since(running.since) > backoff * 32
        {
            self.failures = 0;
        }
        let pause = backoff * (1 << self.failures.min(5));
        self.failures += 1;
        self.wait(cx, reason, now.plus(pause));
    }
}
