//! The writer of one TaskManager and target, as the shell has it: turns commands into statements, one after another.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use pulso_core::ids::{Attempt, ConnectionId, KeyGroupId};
use pulso_core::ledger::{GuardRow, LedgerRow, Step};
use pulso_core::worker::Outcome;

use crate::database::{Reply, Request};
use crate::dedup::Written;
use crate::mistakes::{Mistake, Mistakes};

pub(crate) type LedgerRows = std::collections::BTreeMap<KeyGroupId, Option<LedgerRow>>;

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    TakeOver { attempt: Attempt, key_groups: Vec<KeyGroupId>, create: bool },
    Register { attempt: Attempt, key_groups: Vec<KeyGroupId> },
    Read { attempt: Attempt, key_groups: Vec<KeyGroupId> },
    Transact { attempt: Attempt, hosted: Vec<KeyGroupId>, steps: VecDeque<Step>, rows: Vec<Rc<Vec<Written>>> },
}

impl Operation {
    pub(crate) fn attempt(&self) -> Attempt {
        match self {
            Self::TakeOver { attempt, .. }
            | Self::Register { attempt, .. }
            | Self::Read { attempt, .. }
            | Self::Transact { attempt, .. } => *attempt,
        }
    }

    fn key_groups(&self) -> Vec<KeyGroupId> {
        match self {
            Self::TakeOver { key_groups, .. } | Self::Register { key_groups, .. } | Self::Read { key_groups, .. } => {
                key_groups.clone()
            }
            Self::Transact { hosted, .. } => hosted.clone(),
        }
    }
}

/// What the operation under way waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connect,
    Look,
    Terminate,
    Update,
    Read,
    Step,
    RollBack,
}

/// What the shell does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Close what there is and connect anew.
    Connect,
    Send(Request),
    TakenOver(Attempt, LedgerRows),
    Read(Attempt, LedgerRows),
    Transacted(Attempt, Outcome),
    /// The connection is gone; of the operation under way, or of the last one.
    Lost(Attempt),
}

#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) connection: Option<ConnectionId>,
    under_way: Option<(Operation, Phase)>,
    waiting: VecDeque<Operation>,
    guard: Vec<GuardRow>,
    /// Attempt of the newest operation.
    serves: Attempt,
}

impl Writer {
    pub(crate) fn push(&mut self, operation: Operation, mistakes: &Mistakes) -> Vec<Next> {
        self.waiting.push_back(operation);
        if self.under_way.is_some() { Vec::new() } else { self.start(mistakes) }
    }

    /// Key groups of the newest transaction.
    pub(crate) fn guarded(&self) -> BTreeSet<KeyGroupId> {
        self.guard.iter().map(|r| r.key_group).collect()
    }

    /// The worker wants the connection gone: nothing of it is answered any more.
    pub(crate) fn disconnect(&mut self) {
        *self = Self { serves: self.serves, ..Self::default() };
    }

    fn start(&mut self, mistakes: &Mistakes) -> Vec<Next> {
        let Some(operation) = self.waiting.pop_front() else { return Vec::new() };
        let connected = self.connection.is_some();
        self.serves = operation.attempt();
        let (phase, next) = match &operation {
            Operation::TakeOver { .. } if connected => (Phase::Look, Next::Send(look(&operation, false))),
            Operation::TakeOver { .. } | Operation::Register { .. } => (Phase::Connect, Next::Connect),
            Operation::Read { key_groups, .. } if connected => {
                (Phase::Read, Next::Send(Request::Read(key_groups.clone())))
            }
            Operation::Transact { .. } if connected => {
                self.under_way = Some((operation, Phase::Step));
                return self.step(mistakes);
            }
            Operation::Read { .. } | Operation::Transact { .. } => {
                return std::iter::once(Next::Lost(self.serves)).chain(self.start(mistakes)).collect();
            }
        };
        self.under_way = Some((operation, phase));
        vec![next]
    }

    /// The connection is gone, or was never made.
    pub(crate) fn lost(&mut self, mistakes: &Mistakes) -> Vec<Next> {
        self.connection = None;
        self.under_way = None;
        std::iter::once(Next::Lost(self.serves)).chain(self.start(mistakes)).collect()
    }

    pub(crate) fn reply(&mut self, reply: Reply, mistakes: &Mistakes) -> Vec<Next> {
        let Some((operation, phase)) = self.under_way.clone() else { return Vec::new() };
        let key_groups = operation.key_groups();
        match (phase, reply) {
            (_, Reply::LockTimeout) => self.go(Phase::Look, look(&operation, true)),
            (_, Reply::Aborted) => self.rolled_back("deadlock detected", mistakes),
            (Phase::Connect, _) => match &operation {
                Operation::Register { .. } if mistakes.has(Mistake::NoRegister) => {
                    self.go(Phase::Read, Request::Read(key_groups))
                }
                Operation::Register { .. } => self.go(Phase::Update, update(&operation)),
                Operation::TakeOver { .. } | Operation::Read { .. } | Operation::Transact { .. } => {
                    self.go(Phase::Look, look(&operation, false))
                }
            },
            (Phase::Look, Reply::Backends(backends)) => self.go(Phase::Terminate, Request::Terminate(backends)),
            (Phase::Terminate, _) if matches!(operation, Operation::Transact { .. }) => {
                self.rolled_back("lock timeout", mistakes)
            }
            (Phase::Terminate, _) => self.go(Phase::Update, update(&operation)),
            (Phase::Update | Phase::Read, Reply::Rows(rows)) => {
                let next = match operation {
                    Operation::TakeOver { attempt, .. } => Next::TakenOver(attempt, rows),
                    Operation::Register { attempt, .. } | Operation::Read { attempt, .. } => Next::Read(attempt, rows),
                    Operation::Transact { attempt, .. } => Next::Transacted(attempt, Outcome::GuardMissed { rows }),
                };
                self.finish(next, mistakes)
            }
            (Phase::Step, Reply::Count(count))
                if count != self.guard.len() && !mistakes.has(Mistake::GuardBehindRows) =>
            {
                self.go(Phase::RollBack, Request::Rollback)
            }
            (Phase::Step, _) => self.step(mistakes),
            (Phase::RollBack, _) => self.go(Phase::Read, Request::Read(key_groups)),
            (Phase::Look | Phase::Update | Phase::Read, _) => self.lost(mistakes),
        }
    }

    fn go(&mut self, phase: Phase, request: Request) -> Vec<Next> {
        if let Some((_, at)) = &mut self.under_way {
            *at = phase;
        }
        vec![Next::Send(request)]
    }

    fn finish(&mut self, next: Next, mistakes: &Mistakes) -> Vec<Next> {
        self.under_way = None;
        std::iter::once(next).chain(self.start(mistakes)).collect()
    }

    fn rolled_back(&mut self, reason: &str, mistakes: &Mistakes) -> Vec<Next> {
        let outcome = Outcome::RolledBack { reason: reason.to_owned() };
        self.finish(Next::Transacted(self.serves, outcome), mistakes)
    }

    fn step(&mut self, mistakes: &Mistakes) -> Vec<Next> {
        let Some((Operation::Transact { attempt, steps, rows, .. }, _)) = &mut self.under_way else {
            return Vec::new();
        };
        let request = match steps.pop_front() {
            None => return self.finish(Next::Transacted(self.serves, Outcome::Committed), mistakes),
            Some(Step::Begin) => Request::Begin,
            Some(Step::Guard(guard)) => {
                self.guard.clone_from(&guard);
                let loose = mistakes.has(Mistake::NoRegister);
                Request::Guard { attempt: *attempt, rows: guard, loose }
            }
            Some(Step::Rows(_)) => Request::Write(Rc::new(rows.iter().flat_map(|r| r.iter().cloned()).collect())),
            Some(Step::Commit) => Request::Commit,
        };
        vec![Next::Send(request)]
    }
}

fn look(operation: &Operation, blockers: bool) -> Request {
    Request::Backends { attempt: operation.attempt(), key_groups: operation.key_groups(), blockers }
}

fn update(operation: &Operation) -> Request {
    let (attempt, key_groups) = (operation.attempt(), operation.key_groups());
    match operation {
        Operation::TakeOver { create, .. } => Request::TakeOver { attempt, key_groups, create: *create },
        Operation::Register { .. } | Operation::Read { .. } | Operation::Transact { .. } => {
            Request::Register { attempt, key_groups }
        }
    }
}
