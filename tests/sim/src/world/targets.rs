//! Writers and databases: commands of the worker become statements, their answers become events.

use std::collections::BTreeMap;

use pulso_core::ids::{Attempt, ConnectionId, KeyGroupId, TargetId};
use pulso_core::ledger::{LedgerRow, Step};
use pulso_core::worker::{Event, Outcome};

use super::{JOB, World};
use crate::action::{Action, DbMessage, TmMessage, WorkerEvent};
use crate::coverage::Sight;
use crate::database::{Effect, Reply, Request};
use crate::invariants::Seen;
use crate::mistakes::Mistake;
use crate::writer::{LedgerRows, Next, Operation, Writer};

/// `lock_timeout` of every connection.
const LOCK_TIMEOUT: u64 = 300_000;

impl World {
    pub(crate) fn operate(&mut self, tm: usize, target: TargetId, operation: Operation) {
        let mut operation = operation;
        if let (Operation::Transact { steps, .. }, true) = (&mut operation, self.mistakes.has(Mistake::GuardBehindRows))
        {
            steps.make_contiguous().sort_by_key(|s| match s {
                Step::Begin => 0,
                Step::Rows(_) => 1,
                Step::Guard(_) => 2,
                Step::Commit => 3,
            });
        }
        let mistakes = self.mistakes;
        let next = self.writer(tm, target).push(operation, &mistakes);
        self.carry_out(tm, target, next);
    }

    fn writer(&mut self, tm: usize, target: TargetId) -> &mut Writer {
        self.tms[tm].writers.entry(target).or_default()
    }

    pub(crate) fn disconnect(&mut self, tm: usize, target: TargetId) {
        if let Some(id) = self.writer(tm, target).connection {
            self.close_connection(id);
        }
        self.writer(tm, target).disconnect();
    }

    pub(crate) fn db_reply(&mut self, tm: usize, target: TargetId, connection: ConnectionId, reply: Reply) {
        if self.writer(tm, target).connection != Some(connection) {
            return;
        }
        let mistakes = self.mistakes;
        let next = self.writer(tm, target).reply(reply, &mistakes);
        self.carry_out(tm, target, next);
    }

    pub(crate) fn connection_ended(&mut self, tm: usize, target: TargetId, connection: ConnectionId) {
        if self.writer(tm, target).connection != Some(connection) {
            return;
        }
        if let Some(old) = self.connections.get(&connection).copied() {
            self.connections.remove(&connection);
            self.network.close(old.requests, false);
            self.network.close(old.replies, false);
        }
        let mistakes = self.mistakes;
        let next = self.writer(tm, target).lost(&mistakes);
        self.carry_out(tm, target, next);
    }

    fn carry_out(&mut self, tm: usize, target: TargetId, next: Vec<Next>) {
        for next in next {
            let connection = self.writer(tm, target).connection.unwrap_or_default();
            match next {
                Next::Connect => {
                    if let Some(old) = self.writer(tm, target).connection.take() {
                        self.close_connection(old);
                    }
                    let id = self.open_connection(tm, target);
                    self.writer(tm, target).connection = Some(id);
                    self.ask(target, id, Request::Connect);
                }
                Next::Send(request) => self.ask(target, connection, request),
                Next::TakenOver(attempt, rows) => {
                    self.fenced(attempt, &rows);
                    let read = rows.iter().map(|(k, row)| ((target, *k), *row));
                    self.tms[tm].remembered.extend(read);
                    let event = Event::TakenOver { job: JOB, attempt, target, connection, rows };
                    self.tell(tm, event);
                }
                Next::Read(attempt, rows) => {
                    self.fenced(attempt, &rows);
                    let rows = self.forgetful(tm, target, rows);
                    self.tell(tm, Event::LedgerRead { job: JOB, attempt, target, connection, rows });
                }
                Next::Transacted(attempt, mut outcome) => {
                    if let Outcome::GuardMissed { rows } = &mut outcome {
                        let guarded = self.writer(tm, target).guarded();
                        let mut seen = self.forgetful(tm, target, rows.clone());
                        seen.retain(|k, _| !guarded.contains(k));
                        rows.extend(seen);
                    }
                    match &outcome {
                        Outcome::GuardMissed { rows } => self.fenced(attempt, rows),
                        Outcome::RolledBack { .. } => self.sight(Sight::RolledBack),
                        Outcome::Committed | Outcome::Failed { .. } => {}
                    }
                    self.tell(tm, Event::Transacted { job: JOB, attempt, target, outcome });
                }
                Next::Lost(attempt) => {
                    let reason = "connection closed".to_owned();
                    self.tell(tm, Event::ConnectionLost { job: JOB, attempt, target, reason });
                }
            }
        }
    }

    /// Events of effects reach the worker's loop after what is there already.
    pub(crate) fn tell(&mut self, tm: usize, event: WorkerEvent) {
        self.schedule.after(0, Action::TaskManager(tm, TmMessage::Worker(Box::new(event))));
    }

    fn fenced(&mut self, attempt: Attempt, rows: &LedgerRows) {
        if rows.values().flatten().any(|r| r.attempt > attempt) {
            self.sight(Sight::Fenced);
        }
    }

    /// The mistake of not looking again: a key group without rows under way is where it was.
    fn forgetful(&mut self, tm: usize, target: TargetId, rows: LedgerRows) -> LedgerRows {
        let known: BTreeMap<(TargetId, KeyGroupId), Option<LedgerRow>> = self.tms[tm].remembered.clone();
        for (key_group, row) in &rows {
            self.tms[tm].remembered.insert((target, *key_group), *row);
        }
        if !self.mistakes.has(Mistake::IdleForgets) {
            return rows;
        }
        let newer = |k: &KeyGroupId, row: Option<LedgerRow>| match known.get(&(target, *k)) {
            Some(Some(old)) if row.is_none_or(|r| r.attempt == old.attempt && r.mark < old.mark) => Some(*old),
            Some(_) | None => row,
        };
        rows.into_iter().map(|(k, row)| (k, newer(&k, row))).collect()
    }

    fn ask(&mut self, target: TargetId, connection: ConnectionId, request: Request) {
        let Some(pipe) = self.connections.get(&connection).map(|c| c.requests) else { return };
        let slow = self.scenario.slow_rows > 0 && matches!(request, Request::Write(_));
        let action = Action::Database(target, DbMessage::Request(connection, request));
        if slow {
            let work = self.chance.below(self.scenario.slow_rows);
            self.send_late(pipe, action, work);
        } else {
            self.send(pipe, action);
        }
    }

    pub(crate) fn database(&mut self, target: TargetId, message: DbMessage) {
        self.trace.note(self.schedule.now(), target, &message);
        let Some(database) = self.databases.get_mut(&target) else { return };
        let effects = match message {
            DbMessage::Request(connection, request) => {
                if self.rough && self.goes_wrong(target, connection, &request) {
                    return;
                }
                match self.databases.get_mut(&target) {
                    Some(database) => database.request(connection, request),
                    None => Vec::new(),
                }
            }
            DbMessage::LateCommit(connection) => database.request(connection, Request::Commit),
            DbMessage::LockTimeout(connection, statement) => database.lock_timeout(connection, statement),
            DbMessage::ClientGone(connection) => database.client_gone(connection),
        };
        self.take_effect(target, effects);
    }

    pub(crate) fn take_effect(&mut self, target: TargetId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply(connection, reply) => {
                    let Some(c) = self.connections.get(&connection).copied() else { continue };
                    self.send(c.replies, Action::TaskManager(c.tm, TmMessage::Reply(target, connection, reply)));
                }
                Effect::Ended(connection) => {
                    let Some(c) = self.connections.get(&connection).copied() else { continue };
                    self.send(c.replies, Action::TaskManager(c.tm, TmMessage::ConnectionEnded(target, connection)));
                    self.network.close(c.requests, false);
                }
                Effect::Waits(connection, statement) => {
                    self.request_later(target, LOCK_TIMEOUT, DbMessage::LockTimeout(connection, statement));
                }
                Effect::Committed(commit) => {
                    if let Some(c) = self.connections.get(&commit.backend).copied() {
                        let rows = commit.guarded.iter().map(|(k, (_, after))| ((target, *k), Some(*after)));
                        self.tms[c.tm].remembered.extend(rows);
                    }
                    self.see(&Seen::Committed(&commit));
                }
            }
        }
    }

    /// Statements that fail, and COMMITs whose answer is lost. True: the request is dealt with.
    fn goes_wrong(&mut self, target: TargetId, connection: ConnectionId, request: &Request) -> bool {
        if !self.connections.contains_key(&connection) {
            return false;
        }
        match request {
            Request::Commit if self.chance.per_mille(40) => {
                match self.chance.below(3) {
                    0 => {
                        self.sight(Sight::CommitUnknownDone);
                        self.break_connection(connection);
                        let effects = self.databases.get_mut(&target).map(|d| d.request(connection, Request::Commit));
                        self.take_effect(target, effects.unwrap_or_default());
                    }
                    1 => {
                        self.sight(Sight::CommitUnknownLost);
                        self.break_connection(connection);
                    }
                    _ => {
                        // It is executed long after the client gave up, unless somebody ends the backend before.
                        self.sight(Sight::CommitUnknownDone);
                        let Some(c) = self.connections.remove(&connection) else { return true };
                        self.network.close(c.requests, false);
                        self.network.close(c.replies, false);
                        let ended = TmMessage::ConnectionEnded(target, connection);
                        self.schedule.after(1_000, Action::TaskManager(c.tm, ended));
                        let late = self.chance.between(2_000..900_000);
                        self.request_later(target, late, DbMessage::LateCommit(connection));
                        self.request_later(target, late + 1_000, DbMessage::ClientGone(connection));
                    }
                }
                true
            }
            Request::Guard { .. } | Request::Write(_) | Request::Commit if self.chance.per_mille(10) => {
                let effects = self.databases.get_mut(&target).map(|d| d.request(connection, Request::Rollback));
                let mut effects = effects.unwrap_or_default();
                for effect in &mut effects {
                    match effect {
                        Effect::Reply(to, reply) if *to == connection => *reply = Reply::Aborted,
                        Effect::Reply(..) | Effect::Ended(_) | Effect::Waits(..) | Effect::Committed(_) => {}
                    }
                }
                self.take_effect(target, effects);
                true
            }
            Request::Connect
            | Request::Backends { .. }
            | Request::Terminate(_)
            | Request::TakeOver { .. }
            | Request::Register { .. }
            | Request::Read(_)
            | Request::Begin
            | Request::Guard { .. }
            | Request::Write(_)
            | Request::Commit
            | Request::Rollback => false,
        }
    }
}
