//! One job on this TaskManager: which attempt counts, and what becomes of the one before.

use std::collections::{BTreeMap, BTreeSet};

use super::deployed::Deployed;
use super::history::History;
use super::{Command, Context, Event, Stop};
use crate::ids::{Attempt, KeyGroupId, TargetId};
use crate::message::{Copy, Deployment, Failure, Instruction, Report, Restore};
use crate::mistake::Mistake;

/// What arrives between `Prepared` and `Deploy` because others were deployed sooner: at most this many events.
const EARLY: usize = 4096;

/// Key groups between two attempts.
pub(super) type Histories = BTreeMap<KeyGroupId, Frozen>;

/// A key group at the last epoch that is known to be committed in every target.
#[derive(Debug, Clone)]
pub(super) struct Frozen {
    pub(super) copy: Copy,
    pub(super) history: History,
}

#[derive(Debug, Clone)]
pub(super) struct Job<P, O> {
    /// The newest attempt that was prepared or released: nothing of another one is accepted.
    attempt: Attempt,
    state: State<P, O>,
    /// The attempt of a `Process` under way. Only its answer ends it: the store cannot be taken back in the middle.
    processing: Option<Attempt>,
    /// Targets that may have a connection.
    connected: BTreeSet<TargetId>,
}

#[derive(Debug, Clone)]
enum State<P, O> {
    Idle,
    /// Waits for a `Process` under way, then for the store to take the key groups back.
    Freezing(Histories),
    Prepared {
        frozen: Histories,
        /// `None` once there was more than fits.
        early: Option<Vec<Event<P, O>>>,
    },
    Deployed(Box<Deployed<P, O>>),
    /// The attempt failed here: nothing is done until the next one.
    Halted(Box<Deployed<P, O>>),
}

impl<P, O: Clone> Job<P, O> {
    pub(super) fn new() -> Self {
        Self { attempt: Attempt(0), state: State::Idle, processing: None, connected: BTreeSet::new() }
    }

    pub(super) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Handles an event of `attempt`.
    pub(super) fn handle(
        &mut self,
        event: Event<P, O>,
        attempt: Attempt,
        context: &Context<'_>,
        out: &mut Vec<Command<P, O>>,
    ) {
        if matches!(event, Event::Processed { .. } | Event::ProcessingFailed { .. }) && self.processing == Some(attempt)
        {
            self.processing = None;
            if let State::Freezing(frozen) = &self.state {
                take_back(frozen, context, out);
            }
        }
        // The one fence: data and answers of any other attempt count for nothing.
        if attempt != self.attempt {
            return;
        }
        match &mut self.state {
            State::Deployed(deployed) => {
                let done = deployed.handle(event, context, out);
                self.advance(done, context, out);
            }
            State::Freezing(frozen) if matches!(event, Event::TookBack { .. }) && self.processing.is_none() => {
                let frozen = std::mem::take(frozen);
                out.push(prepared(&frozen, context));
                self.state = State::Prepared { frozen, early: Some(Vec::new()) };
            }
            State::Prepared { early, .. } => {
                if matches!(event, Event::Arrived { .. } | Event::BarrierArrived { .. } | Event::LinkLost { .. }) {
                    *early = early.take().filter(|kept| kept.len() < EARLY);
                    if let Some(kept) = early {
                        kept.push(event);
                    }
                }
            }
            State::Idle | State::Freezing(_) | State::Halted(_) => {}
        }
    }

    pub(super) fn instructed(&mut self, instruction: Instruction, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        match instruction {
            Instruction::Prepare { attempt, .. } => self.prepare(attempt, context, out),
            Instruction::Release { attempt, .. } => self.release(attempt, context, out),
            Instruction::Deploy(deployment) => self.deploy(deployment, context, out),
            Instruction::OpenCut { attempt, .. }
            | Instruction::Seal { attempt, .. }
            | Instruction::Progress { attempt, .. }
            | Instruction::TakeCheckpoint { attempt, .. }
            | Instruction::CheckpointDone { attempt, .. }
            | Instruction::Files { attempt, .. } => {
                if attempt == self.attempt {
                    self.of_deployed(instruction, context, out);
                }
            }
        }
    }

    /// Time passed.
    pub(super) fn tick(&mut self, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        self.advance(Ok(()), context, out);
    }

    /// An instruction of the own attempt that means something only once it is deployed.
    fn of_deployed(&mut self, instruction: Instruction, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        let State::Deployed(deployed) = &mut self.state else { return };
        let (job, attempt) = (context.job, context.attempt);
        match instruction {
            Instruction::OpenCut { opening, .. } => {
                if deployed.has_source {
                    out.push(Command::CloseEpoch { job, attempt, opening });
                }
            }
            Instruction::Seal { seal, .. } => deployed.sealed(&seal, context, out),
            Instruction::Progress { committed, .. } => deployed.progressed(committed, context, out),
            Instruction::TakeCheckpoint { checkpoint, epoch, .. } => {
                deployed.take_checkpoint(checkpoint, epoch, context, out);
            }
            Instruction::CheckpointDone { checkpoint, .. } => {
                out.push(Command::CheckpointDone { job, attempt, checkpoint });
            }
            Instruction::Files { files, .. } => {
                if deployed.has_source {
                    out.push(Command::AddFiles { job, attempt, files });
                }
            }
            Instruction::Prepare { .. } | Instruction::Deploy(_) | Instruction::Release { .. } => {}
        }
        self.advance(Ok(()), context, out);
    }

    /// Freezes whatever older attempt there is. Writes nothing to any target.
    fn prepare(&mut self, attempt: Attempt, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        if attempt <= self.attempt {
            if let State::Prepared { frozen, .. } = &self.state
                && attempt == self.attempt
            {
                out.push(prepared(frozen, context));
            }
            return;
        }
        self.attempt = attempt;
        let context = Context { attempt, ..*context };
        let frozen = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle if self.processing.is_none() => {
                let frozen = Histories::new();
                out.push(prepared(&frozen, &context));
                self.state = State::Prepared { frozen, early: Some(Vec::new()) };
                return;
            }
            State::Idle => Histories::new(),
            State::Freezing(frozen) | State::Prepared { frozen, .. } => frozen,
            State::Deployed(deployed) | State::Halted(deployed) => {
                let job = context.job;
                out.push(Command::StopSource { job });
                out.push(Command::CloseLinks { job });
                // Its outcome is unknown for good; the next takeover finds out. An idle connection may stay.
                for target in deployed.busy_targets() {
                    out.push(Command::Disconnect { job, target });
                    self.connected.remove(&target);
                }
                deployed.freeze()
            }
        };
        if self.processing.is_none() {
            take_back(&frozen, &context, out);
        }
        self.state = State::Freezing(frozen);
    }

    fn deploy(&mut self, deployment: Box<Deployment>, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        let State::Prepared { frozen, early } = &mut self.state else { return };
        if deployment.attempt != self.attempt {
            return;
        }
        if let Some(reason) = unusable(&deployment, frozen, early.is_some())
            && context.settings.mistake != Mistake::StaleCopy
        {
            let (job, attempt) = (context.job, context.attempt);
            out.push(Command::Report(Report::Failed { job, attempt, failure: Failure::Retry { reason } }));
            return;
        }
        let (mut frozen, early) = (std::mem::take(frozen), early.take().unwrap_or_default());
        let is_copy = |id: &KeyGroupId| matches!(deployment.restore.get(id), Some(Restore::Copy));
        let dropped: BTreeSet<KeyGroupId> = frozen.keys().filter(|id| !is_copy(id)).copied().collect();
        frozen.retain(|id, _| !dropped.contains(id));
        if !dropped.is_empty() {
            out.push(Command::Drop { job: context.job, key_groups: dropped });
        }
        take_back_to(&deployment, &mut frozen, context, out);
        let mut deployed = Box::new(Deployed::start(deployment, frozen, context, out));
        let targets = deployed.targets();
        for target in std::mem::take(&mut self.connected) {
            if !targets.contains(&target) {
                out.push(Command::Disconnect { job: context.job, target });
            }
        }
        self.connected = targets;
        let done = early.into_iter().try_for_each(|event| deployed.handle(event, context, out));
        self.state = State::Deployed(deployed);
        self.advance(done, context, out);
    }

    /// The job ended: drops everything up to and including `attempt`.
    fn release(&mut self, attempt: Attempt, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        if attempt >= self.attempt {
            self.attempt = attempt;
            self.drop_everything(context, out);
        }
    }

    fn drop_everything(&mut self, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        let job = context.job;
        let key_groups = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => BTreeSet::new(),
            State::Freezing(frozen) | State::Prepared { frozen, .. } => frozen.into_keys().collect(),
            State::Deployed(deployed) | State::Halted(deployed) => {
                out.push(Command::StopSource { job });
                out.push(Command::CloseLinks { job });
                deployed.key_groups()
            }
        };
        out.extend(std::mem::take(&mut self.connected).into_iter().map(|target| Command::Disconnect { job, target }));
        if !key_groups.is_empty() {
            out.push(Command::Drop { job, key_groups });
        }
    }

    /// Goes on after `done`, or ends the attempt.
    fn advance(&mut self, done: Result<(), Stop>, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        let State::Deployed(deployed) = &mut self.state else { return };
        let done = done.and_then(|()| deployed.advance(&mut self.processing, context, out));
        let Err(stop) = done else { return };
        let (job, attempt) = (context.job, context.attempt);
        let failure = match stop {
            Stop::Fenced { reason } => {
                // Whoever has the ledger has the job: what is here is of no use to anyone.
                self.drop_everything(context, out);
                Failure::Retry { reason }
            }
            Stop::Failed(failure) => {
                out.push(Command::StopSource { job });
                if let State::Deployed(deployed) = std::mem::replace(&mut self.state, State::Idle) {
                    self.state = State::Halted(deployed);
                }
                failure
            }
        };
        out.push(Command::Report(Report::Failed { job, attempt, failure }));
    }

    pub(super) fn view(&self, id: crate::ids::JobId) -> Option<super::JobView> {
        let (state, deployed) = match &self.state {
            State::Idle => return None,
            State::Freezing(_) => ("freezing", None),
            State::Prepared { .. } => ("prepared", None),
            State::Deployed(deployed) => ("deployed", Some(deployed.view())),
            State::Halted(deployed) => ("halted", Some(deployed.view())),
        };
        Some(super::JobView { job: id, attempt: self.attempt, state, deployed })
    }
}

fn take_back<P, O>(frozen: &Histories, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
    let key_groups = frozen.iter().map(|(id, frozen)| (*id, frozen.copy.epoch)).collect();
    out.push(Command::TakeBack { job: context.job, attempt: context.attempt, key_groups });
}

/// Stages resume together, where the copy that knows least is: the others go back to it, which nothing hinders, since no
/// store flushes beyond what is committed everywhere.
fn take_back_to<P, O>(
    deployment: &Deployment,
    frozen: &mut Histories,
    context: &Context<'_>,
    out: &mut Vec<Command<P, O>>,
) {
    let mut moved = false;
    for (id, copy) in frozen.iter_mut() {
        let resume = deployment.resume.get(id).copied().filter(|resume| *resume < copy.copy.epoch);
        if let Some(resume) = resume {
            copy.copy.epoch = resume;
            copy.history.take_back(resume);
            moved = true;
        }
    }
    if moved {
        take_back(frozen, context, out);
    }
}

fn prepared<P, O>(frozen: &Histories, context: &Context<'_>) -> Command<P, O> {
    let copies = frozen.iter().map(|(id, frozen)| (*id, frozen.copy.clone())).collect();
    Command::Report(Report::Prepared { job: context.job, attempt: context.attempt, copies })
}

/// Why this deployment cannot be taken on as it is.
fn unusable(deployment: &Deployment, frozen: &Histories, all_kept: bool) -> Option<String> {
    if !all_kept {
        return Some("more arrived before the deployment than is kept".into());
    }
    let copies = deployment.restore.iter().filter(|(_, restore)| matches!(restore, Restore::Copy));
    copies.map(|(id, _)| id).find_map(|id| {
        let asked = deployment.resume.get(id).copied().unwrap_or_default();
        let Some(held) = frozen.get(id) else { return Some(format!("there is no copy of key group {id}")) };
        let reaches = held.history.base() <= asked && asked <= held.copy.epoch;
        (!reaches).then(|| {
            format!("the copy of key group {id} is at epoch {}, and is to resume after {asked}", held.copy.epoch)
        })
    })
}
