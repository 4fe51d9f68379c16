//! The writer of one target: one connection, one thing at a time on it, sealed epochs in order.

mod comparing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Command, Context, Outcome, Output, Stop};
use crate::cut::CutHash;
use crate::ids::{CheckpointId, ConnectionId, Epoch, Instant, KeyGroupId, Stage, TargetId};
use crate::ledger::{self, GuardRow, LedgerRow, Mark, Survey};
use crate::message::{Failure, Verdict};
use crate::mistake::Mistake;

type Rows = BTreeMap<KeyGroupId, Option<LedgerRow>>;

/// A pause grows up to this power of two.
const DOUBLINGS: u32 = 6;

#[derive(Debug, Clone)]
pub(super) struct Writer<O> {
    target: TargetId,
    /// *p* of each hosted key group: from its state, raised by the takeover, moved by own commits, by nothing else.
    marks: BTreeMap<KeyGroupId, Mark>,
    queue: VecDeque<Queued<O>>,
    state: State,
    /// The newest connection that gave a reading: what an older one read says nothing any more.
    connection: Option<ConnectionId>,
    /// Tries since something was committed.
    failures: u32,
    /// Why it is being tried again.
    trouble: Option<String>,
    /// A checkpoint waits for the ledger to be read once more.
    confirm: Option<CheckpointId>,
    /// The last epoch of the job is sealed.
    last: bool,
}

/// Rows of one sealed epoch and stage.
#[derive(Debug, Clone)]
pub(super) struct Queued<O> {
    pub(super) epoch: Epoch,
    pub(super) hash: CutHash,
    pub(super) output: Output<O>,
}

#[derive(Debug, Clone)]
enum State {
    TakingOver,
    Idle,
    /// A transaction of the first `items` of the queue is under way.
    Writing {
        items: usize,
        guard: Vec<GuardRow>,
    },
    Reading {
        checkpoint: CheckpointId,
    },
    Registering,
    Paused {
        until: Instant,
        next: Next,
    },
    /// The takeover found another history: nothing more happens in this attempt.
    Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    TakeOver,
    Register,
    /// The connection is good.
    Write,
}

impl<O: Clone> Writer<O> {
    pub(super) fn new(target: TargetId, marks: BTreeMap<KeyGroupId, Mark>) -> Self {
        Self {
            target,
            marks,
            queue: VecDeque::new(),
            state: State::TakingOver,
            connection: None,
            failures: 0,
            trouble: None,
            confirm: None,
            last: false,
        }
    }

    /// Key groups of a stage whose output of `epoch` is in this target already.
    pub(super) fn muted(&self, stage: Stage, epoch: Epoch) -> BTreeSet<KeyGroupId> {
        let committed = self.marks.iter().filter(|(id, mark)| id.stage == stage && mark.epoch >= epoch);
        committed.map(|(id, _)| *id).collect()
    }

    pub(super) fn is_taken_over(&self) -> bool {
        match self.state {
            State::TakingOver | State::Held | State::Paused { next: Next::TakeOver, .. } => false,
            State::Idle
            | State::Writing { .. }
            | State::Reading { .. }
            | State::Registering
            | State::Paused { next: Next::Register | Next::Write, .. } => true,
        }
    }

    /// Something is under way on the connection, or it is unknown whether there is one.
    pub(super) fn is_busy(&self) -> bool {
        match self.state {
            State::Idle | State::Held | State::Paused { .. } => false,
            State::TakingOver | State::Writing { .. } | State::Reading { .. } | State::Registering => true,
        }
    }

    /// The oldest epoch whose rows are not known to be committed.
    pub(super) fn oldest(&self) -> Option<Epoch> {
        self.queue.front().map(|queued| queued.epoch)
    }

    pub(super) fn push(&mut self, queued: Queued<O>) {
        self.queue.push_back(queued);
    }

    /// Whether the newest sealed epoch is the job's last.
    pub(super) fn set_last(&mut self, last: bool) {
        self.last = last;
    }

    /// Asks for one more reading of the ledger.
    pub(super) fn confirm(&mut self, checkpoint: CheckpointId) {
        self.confirm = Some(checkpoint);
    }

    pub(super) fn take_over<P>(&mut self, create: bool, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        self.state = State::TakingOver;
        let (job, attempt, target) = (context.job, context.attempt, self.target);
        out.push(Command::TakeOver { job, attempt, target, key_groups: self.key_groups(), create });
    }

    /// Goes on with whatever is due; `create` as in [`Command::TakeOver`].
    pub(super) fn advance<P>(&mut self, create: bool, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        if let State::Paused { until, next } = self.state
            && until <= context.now
        {
            match next {
                Next::TakeOver => self.take_over(create, context, out),
                Next::Register => self.register(context, out),
                Next::Write => self.state = State::Idle,
            }
        }
        if !matches!(self.state, State::Idle) {
            return;
        }
        let (job, attempt, target) = (context.job, context.attempt, self.target);
        if let Some(checkpoint) = self.confirm.take() {
            self.state = State::Reading { checkpoint };
            let last = self.last && self.queue.is_empty();
            out.push(Command::ReadLedger { job, attempt, target, key_groups: self.key_groups(), last });
        } else if !self.queue.is_empty() {
            self.transact(context, out);
        }
    }

    fn register<P>(&mut self, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        self.state = State::Registering;
        let (job, attempt, target) = (context.job, context.attempt, self.target);
        out.push(Command::Register { job, attempt, target, key_groups: self.key_groups() });
    }

    /// One transaction for as many waiting epochs as fit, each with the rows of all its stages: what the ledger says of an
    /// epoch then holds for every key group. A key group's guard goes from *p* to the last of these
    /// epochs in which it has rows.
    fn transact<P>(&mut self, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        let mut guard: BTreeMap<KeyGroupId, GuardRow> = BTreeMap::new();
        let (mut epochs, mut outputs, mut bytes) = (Vec::<Epoch>::new(), Vec::new(), 0_u64);
        for Queued { epoch, hash, output } in &self.queue {
            bytes = bytes.saturating_add(output.bytes);
            let begun = epochs.last() == Some(epoch);
            if !begun && !epochs.is_empty() && bytes > context.settings.transaction_bytes {
                break;
            }
            let to = Mark { epoch: *epoch, hash: *hash };
            for key_group in &output.key_groups {
                let from = self.marks.get(key_group).copied().unwrap_or(Mark::NOTHING);
                guard.entry(*key_group).or_insert(GuardRow { key_group: *key_group, from, to }).to = to;
            }
            epochs.extend((!begun).then_some(*epoch));
            outputs.push((*epoch, output.rows.clone()));
        }
        let guard: Vec<GuardRow> = guard.into_values().collect();
        self.state = State::Writing { items: outputs.len(), guard: guard.clone() };
        let (job, attempt, target) = (context.job, context.attempt, self.target);
        let steps = ledger::transaction(guard, epochs);
        out.push(Command::Transact { job, attempt, target, steps, outputs });
    }

    /// Answer to `TakeOver`. `known`: cut hash of an epoch that the key group is about to replay. `None` where nothing
    /// was asked.
    pub(super) fn taken_over(
        &mut self,
        connection: ConnectionId,
        rows: &Rows,
        known: impl Fn(KeyGroupId, Epoch) -> Option<CutHash>,
        context: &Context<'_>,
    ) -> Result<Option<Verdict>, Stop> {
        if !matches!(self.state, State::TakingOver | State::Paused { next: Next::TakeOver, .. }) {
            return Ok(None);
        }
        if context.settings.mistake == Mistake::MarkFromLedger {
            let read = |id: &KeyGroupId| rows.get(id).copied().flatten().map_or(Mark::NOTHING, |row| row.mark);
            self.marks.iter_mut().for_each(|(id, p)| *p = read(id));
        }
        let verdict = match ledger::survey(rows, context.attempt, &self.marks, known) {
            Survey::Fenced { by } => return Err(self.fenced(by)),
            Survey::Ahead { key_group, found } => Verdict::Ahead { key_group, found },
            Survey::Behind { readings } => Verdict::Behind { readings },
            Survey::Consistent { raised } => {
                self.marks.extend(raised);
                self.connection = Some(connection);
                self.recovered();
                self.state = State::Idle;
                return Ok(Some(Verdict::Consistent));
            }
        };
        self.state = State::Held;
        Ok(Some(verdict))
    }

    /// Answer to `Register` or `ReadLedger`. Returns the checkpoint that this reading confirms.
    pub(super) fn ledger_read(
        &mut self,
        connection: ConnectionId,
        rows: &Rows,
        context: &Context<'_>,
    ) -> Result<Option<CheckpointId>, Stop> {
        if !self.is_taken_over() || self.connection.is_some_and(|newest| connection < newest) {
            return Ok(None);
        }
        let new = self.connection != Some(connection);
        match self.state {
            State::Registering | State::Paused { next: Next::Register, .. } if new => {
                self.compare(rows, context)?;
                self.connection = Some(connection);
                if self.queue.is_empty() {
                    self.recovered();
                }
                self.state = State::Idle;
            }
            State::Reading { checkpoint } => {
                self.compare(rows, context)?;
                self.connection = Some(connection);
                self.state = State::Idle;
                return Ok(Some(checkpoint));
            }
            // A second registration, of a connection lost twice: what runs now runs on it, so it has to agree.
            State::Idle | State::Writing { .. } | State::Paused { next: Next::Write, .. } if new => {
                let raised = self.look(rows, context)?;
                self.connection = Some(connection);
                if matches!(self.state, State::Idle) {
                    self.trim(raised, context)?;
                }
            }
            State::TakingOver
            | State::Held
            | State::Idle
            | State::Writing { .. }
            | State::Registering
            | State::Paused { .. } => {}
        }
        Ok(None)
    }

    /// Answer to `Transact`.
    pub(super) fn transacted(&mut self, outcome: Outcome, context: &Context<'_>) -> Result<(), Stop> {
        let State::Writing { items, guard } = &self.state else { return Ok(()) };
        match outcome {
            Outcome::Committed => {
                self.marks.extend(guard.iter().map(|row| (row.key_group, row.to)));
                self.queue.drain(..*items);
                self.recovered();
                self.state = State::Idle;
            }
            Outcome::GuardMissed { rows } => {
                let waiting = self.queue.len();
                self.compare(&rows, context)?;
                if self.queue.len() < waiting {
                    self.state = State::Idle;
                } else {
                    // The rows are where the guard wanted them: whatever moved them has moved them back.
                    self.pause(Next::Write, "the guard matched too few rows".into(), context);
                }
            }
            Outcome::RolledBack { reason } => self.pause(Next::Write, reason, context),
            Outcome::Failed { reason } => return Err(Stop::Failed(Failure::Fatal { reason })),
        }
        Ok(())
    }

    /// Every new connection registers and looks at all rows again, also after an idle one was lost.
    pub(super) fn connection_lost(&mut self, reason: String, context: &Context<'_>) {
        match self.state {
            State::TakingOver => self.pause(Next::TakeOver, reason, context),
            State::Reading { checkpoint } => {
                self.confirm.get_or_insert(checkpoint);
                self.reconnect(reason, context);
            }
            State::Registering => self.pause(Next::Register, reason, context),
            State::Idle | State::Writing { .. } | State::Paused { next: Next::Write, .. } => {
                self.reconnect(reason, context);
            }
            State::Paused { next: Next::TakeOver | Next::Register, .. } | State::Held => {}
        }
    }

    /// A takeover, registration, reading or transaction failed, and the connection is still there.
    pub(super) fn refused(&mut self, reason: String, context: &Context<'_>) {
        match self.state {
            State::TakingOver => self.pause(Next::TakeOver, reason, context),
            // The outcome is unknown, and only a look at the rows from a new connection settles it.
            State::Registering | State::Writing { .. } => self.pause(Next::Register, reason, context),
            State::Reading { checkpoint } => {
                self.confirm.get_or_insert(checkpoint);
                self.pause(Next::Write, reason, context);
            }
            State::Idle | State::Paused { .. } | State::Held => {}
        }
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.trouble = None;
    }

    /// The first time at once: most lost connections come back.
    fn reconnect(&mut self, reason: String, context: &Context<'_>) {
        if self.failures > 0 {
            return self.pause(Next::Register, reason, context);
        }
        self.failures = 1;
        self.trouble = Some(reason);
        self.state = State::Paused { until: context.now, next: Next::Register };
    }

    fn pause(&mut self, next: Next, reason: String, context: &Context<'_>) {
        let pause: Duration = context.settings.retry_backoff.saturating_mul(1 << self.failures.min(DOUBLINGS));
        self.failures = self.failures.saturating_add(1);
        self.trouble = Some(reason);
        self.state = State::Paused { until: context.now.plus(pause), next };
    }

    fn key_groups(&self) -> BTreeSet<KeyGroupId> {
        self.marks.keys().copied().collect()
    }

    pub(super) fn view(&self) -> super::WriterView {
        let state = match self.state {
            State::TakingOver => "taking over",
            State::Idle => "idle",
            State::Writing { .. } => "writing",
            State::Reading { .. } => "reading",
            State::Registering => "registering",
            State::Paused { .. } => "waiting to try again",
            State::Held => "held",
        };
        super::WriterView {
            target: self.target,
            state,
            queued_epochs: self.queue.len(),
            queued_bytes: self.queue.iter().map(|queued| queued.output.bytes).sum(),
            tries: self.failures,
            trouble: self.trouble.clone(),
        }
    }
}
