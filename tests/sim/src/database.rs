//! Model of one target: the ledger with its row locks, transactions of several backends, tables, and a way back in time.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use pulso_core::ids::{Attempt, ConnectionId, Instant, KeyGroupId, Position, SplitId, TargetId};
use pulso_core::ledger::{GuardRow, LedgerRow, Mark};

use crate::dedup::{Fate, Written};

/// A row of the ledger.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Entry {
    pub(crate) row: LedgerRow,
    /// The backend that commits for this key group: a connection here, process id and start time there.
    pub(crate) backend: ConnectionId,
}

/// What is committed. Cloned whole to be able to go back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    pub(crate) ledger: BTreeMap<KeyGroupId, Entry>,
    pub(crate) keyed: BTreeMap<u32, u32>,
    pub(crate) appended: BTreeMap<(SplitId, Position), Vec<Written>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Request {
    Connect,
    /// Backends that the rows name and that are neither this one nor of a newer attempt; with `blockers` also those of an
    /// older attempt that hold the locks of these rows.
    Backends {
        attempt: Attempt,
        key_groups: Vec<KeyGroupId>,
        blockers: bool,
    },
    Terminate(Vec<ConnectionId>),
    TakeOver {
        attempt: Attempt,
        key_groups: Vec<KeyGroupId>,
        create: bool,
    },
    Register {
        attempt: Attempt,
        key_groups: Vec<KeyGroupId>,
    },
    Read(Vec<KeyGroupId>),
    Begin,
    Guard {
        attempt: Attempt,
        rows: Vec<GuardRow>,
        /// A mistake on purpose: `epoch < n` instead of `epoch = p`.
        loose: bool,
    },
    Write(Rc<Vec<Written>>),
    Commit,
    Rollback,
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Connected,
    Backends(Vec<ConnectionId>),
    Done,
    Rows(BTreeMap<KeyGroupId, Option<LedgerRow>>),
    Count(usize),
    LockTimeout,
    /// Deadlock, serialization failure, disk full: rolled back.
    Aborted,
}

/// One statement or transaction that became durable.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) target: TargetId,
    pub(crate) backend: ConnectionId,
    /// The guard's rows: ledger row before, after. Empty for takeovers and registrations.
    pub(crate) guarded: BTreeMap<KeyGroupId, (LedgerRow, LedgerRow)>,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) rows: Vec<Written>,
    /// New keys that were there already.
    pub(crate) repeated: Vec<u32>,
}

/// What the world does about a request.
#[derive(Debug)]
pub(crate) enum Effect {
    Reply(ConnectionId, Reply),
    /// The server ended this connection.
    Ended(ConnectionId),
    /// Ask again with [`Database::lock_timeout`].
    Waits(ConnectionId, u64),
    Committed(Commit),
}

#[derive(Debug, Default)]
struct Transaction {
    attempt: Option<Attempt>,
    ledger: BTreeMap<KeyGroupId, Entry>,
    guarded: BTreeMap<KeyGroupId, (LedgerRow, LedgerRow)>,
    rows: Vec<Written>,
}

#[derive(Debug, Default)]
struct Backend {
    transaction: Option<Transaction>,
    /// The statement that waits for a lock, and its number.
    blocked: Option<(u64, Request)>,
    gone: bool,
}

pub(crate) struct Database {
    target: TargetId,
    pub(crate) contents: Contents,
    pub(crate) up: bool,
    backends: BTreeMap<ConnectionId, Backend>,
    locks: BTreeMap<KeyGroupId, ConnectionId>,
    statements: u64,
    pub(crate) history: VecDeque<(Instant, Contents)>,
}

impl Database {
    pub(crate) fn new(target: TargetId) -> Self {
        Self {
            target,
            contents: Contents::default(),
            up: true,
            backends: BTreeMap::new(),
            locks: BTreeMap::new(),
            statements: 0,
            history: VecDeque::new(),
        }
    }

    pub(crate) fn request(&mut self, connection: ConnectionId, request: Request) -> Vec<Effect> {
        if !self.up {
            return vec![Effect::Ended(connection)];
        }
        if matches!(request, Request::Connect) {
            self.backends.insert(connection, Backend::default());
            return vec![Effect::Reply(connection, Reply::Connected)];
        }
        if !self.backends.contains_key(&connection) {
            return vec![Effect::Ended(connection)];
        }
        let mut effects = Vec::new();
        self.run(connection, request, &mut effects);
        self.wake(&mut effects);
        effects
    }

    /// A statement has waited for a lock for too long; its transaction is rolled back.
    pub(crate) fn lock_timeout(&mut self, connection: ConnectionId, statement: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(backend) = self.backends.get_mut(&connection) else { return effects };
        if backend.blocked.as_ref().is_none_or(|(number, _)| *number != statement) {
            return effects;
        }
        backend.blocked = None;
        self.roll_back(connection);
        effects.push(Effect::Reply(connection, Reply::LockTimeout));
        self.wake(&mut effects);
        effects
    }

    /// The server notices that the client is gone. A statement that waits for a lock goes on until it has it.
    pub(crate) fn client_gone(&mut self, connection: ConnectionId) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(backend) = self.backends.get_mut(&connection) else { return effects };
        backend.gone = true;
        if backend.blocked.is_none() {
            self.end(connection);
            self.wake(&mut effects);
        }
        effects
    }

    /// Ends every backend: a restart, a crash, a way back.
    pub(crate) fn end_all(&mut self) -> Vec<Effect> {
        self.locks.clear();
        std::mem::take(&mut self.backends).into_keys().map(Effect::Ended).collect()
    }

    pub(crate) fn remember(&mut self, now: Instant) {
        self.history.push_back((now, self.contents.clone()));
        if self.history.len() > 40 {
            self.history.pop_front();
        }
    }

    fn run(&mut self, connection: ConnectionId, request: Request, effects: &mut Vec<Effect>) {
        let reply = match &request {
            Request::Connect => Some(Reply::Connected),
            Request::Backends { attempt, key_groups, blockers } => {
                Some(Reply::Backends(self.named(connection, *attempt, key_groups, *blockers)))
            }
            Request::Terminate(backends) => {
                for backend in backends.clone() {
                    self.end(backend);
                    effects.push(Effect::Ended(backend));
                }
                Some(Reply::Done)
            }
            Request::TakeOver { key_groups, .. } | Request::Register { key_groups, .. } => self
                .update(connection, &request)
                .map(|_| {
                    self.commit(connection, effects);
                    self.read(connection, key_groups)
                })
                .map(Reply::Rows),
            Request::Read(key_groups) => Some(Reply::Rows(self.read(connection, key_groups))),
            Request::Begin => {
                self.transaction(connection);
                Some(Reply::Done)
            }
            Request::Guard { .. } => self.update(connection, &request).map(Reply::Count),
            Request::Write(rows) => {
                self.transaction(connection).rows.extend(rows.iter().cloned());
                Some(Reply::Done)
            }
            Request::Commit => {
                self.commit(connection, effects);
                Some(Reply::Done)
            }
            Request::Rollback => {
                self.roll_back(connection);
                Some(Reply::Done)
            }
        };
        match reply {
            Some(reply) => effects.push(Effect::Reply(connection, reply)),
            None => {
                self.statements += 1;
                if let Some(backend) = self.backends.get_mut(&connection) {
                    backend.blocked = Some((self.statements, request));
                }
                effects.push(Effect::Waits(connection, self.statements));
            }
        }
    }

    /// Lets statements go on whose lock may be free now, the longest waiting first, until none moves.
    fn wake(&mut self, effects: &mut Vec<Effect>) {
        let mut waiting: Vec<(u64, ConnectionId)> =
            self.backends.iter().filter_map(|(c, b)| b.blocked.as_ref().map(|(number, _)| (*number, *c))).collect();
        waiting.sort_unstable();
        for (_, connection) in waiting {
            let Some(backend) = self.backends.get_mut(&connection) else { continue };
            let Some((number, request)) = backend.blocked.take() else { continue };
            let gone = backend.gone;
            let mut made = Vec::new();
            self.run(connection, request, &mut made);
            if let Some(Effect::Waits(..)) = made.last() {
                // It waits on under its first number: the time-out runs from there.
                if let Some((n, _)) = self.backends.get_mut(&connection).and_then(|b| b.blocked.as_mut()) {
                    *n = number;
                }
                continue;
            }
            effects.extend(made);
            if gone {
                self.end(connection);
            }
            return self.wake(effects);
        }
    }

    /// Changes the rows that match, in key order, each under its lock. `None`: another backend holds one.
    fn update(&mut self, connection: ConnectionId, request: &Request) -> Option<usize> {
        let mut count = 0;
        for key_group in touched(request) {
            let pending = self.transaction(connection).ledger.get(&key_group).copied();
            let entry = pending.or_else(|| self.contents.ledger.get(&key_group).copied());
            let Some(changed) = change(request, key_group, entry, connection) else { continue };
            match self.locks.get(&key_group) {
                Some(holder) if *holder != connection => return None,
                Some(_) | None => self.locks.insert(key_group, connection),
            };
            let transaction = self.transaction(connection);
            transaction.ledger.insert(key_group, changed);
            if let (Request::Guard { attempt, .. }, Some(before)) = (request, entry) {
                transaction.attempt = Some(*attempt);
                transaction.guarded.insert(key_group, (before.row, changed.row));
            }
            count += 1;
        }
        Some(count)
    }

    fn transaction(&mut self, connection: ConnectionId) -> &mut Transaction {
        self.backends.entry(connection).or_default().transaction.get_or_insert_with(Transaction::default)
    }

    fn commit(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) {
        let transaction = self.backends.get_mut(&connection).and_then(|b| b.transaction.take()).unwrap_or_default();
        self.contents.ledger.extend(transaction.ledger);
        let mut repeated = Vec::new();
        for row in &transaction.rows {
            if let Some((key, value)) = row.upsert {
                let before = self.contents.keyed.insert(key, value);
                if before.is_some() && row.fate == Fate::Inserted {
                    repeated.push(key);
                }
            }
            self.contents.appended.entry((row.split, row.position)).or_default().push(row.clone());
        }
        self.locks.retain(|_, holder| *holder != connection);
        effects.push(Effect::Committed(Commit {
            target: self.target,
            backend: connection,
            guarded: transaction.guarded,
            attempt: transaction.attempt,
            rows: transaction.rows,
            repeated,
        }));
    }

    fn roll_back(&mut self, connection: ConnectionId) {
        if let Some(backend) = self.backends.get_mut(&connection) {
            backend.transaction = None;
        }
        self.locks.retain(|_, holder| *holder != connection);
    }

    fn end(&mut self, connection: ConnectionId) {
        self.roll_back(connection);
        self.backends.remove(&connection);
    }

    fn read(&self, connection: ConnectionId, key_groups: &[KeyGroupId]) -> BTreeMap<KeyGroupId, Option<LedgerRow>> {
        let own = self.backends.get(&connection).and_then(|b| b.transaction.as_ref());
        key_groups
            .iter()
            .map(|k| (*k, own.and_then(|t| t.ledger.get(k)).or_else(|| self.contents.ledger.get(k)).map(|e| e.row)))
            .collect()
    }

    fn named(&self, me: ConnectionId, attempt: Attempt, of: &[KeyGroupId], blockers: bool) -> Vec<ConnectionId> {
        let mut named: Vec<ConnectionId> = Vec::new();
        for entry in of.iter().filter_map(|k| self.contents.ledger.get(k)) {
            // A row of a newer attempt makes the asker the zombie, not the backend that the row names.
            if entry.row.attempt <= attempt {
                named.push(entry.backend);
            }
        }
        if blockers {
            let holders = of.iter().filter_map(|k| self.locks.get(k));
            named.extend(holders.filter(|h| self.attempt_of(**h).is_none_or(|a| a <= attempt)));
        }
        named.retain(|c| *c != me && self.backends.contains_key(c));
        named.sort_unstable();
        named.dedup();
        named
    }

    fn attempt_of(&self, backend: ConnectionId) -> Option<Attempt> {
        let transaction = self.backends.get(&backend)?.transaction.as_ref()?;
        transaction.ledger.values().map(|e| e.row.attempt).max()
    }
}

fn touched(request: &Request) -> Vec<KeyGroupId> {
    let mut key_groups = match request {
        Request::TakeOver { key_groups, .. } | Request::Register { key_groups, .. } => key_groups.clone(),
        Request::Guard { rows, .. } => rows.iter().map(|r| r.key_group).collect(),
        Request::Connect
        | Request::Backends { .. }
        | Request::Terminate(_)
        | Request::Read(_)
        | Request::Begin
        | Request::Write(_)
        | Request::Commit
        | Request::Rollback => Vec::new(),
    };
    key_groups.sort_unstable();
    key_groups
}

/// The row after an UPDATE of this request, `None` where its WHERE does not match.
fn change(request: &Request, key_group: KeyGroupId, entry: Option<Entry>, me: ConnectionId) -> Option<Entry> {
    match request {
        Request::TakeOver { attempt, create, .. } => match entry {
            Some(entry) if entry.row.attempt <= *attempt => {
                Some(Entry { row: LedgerRow { attempt: *attempt, ..entry.row }, backend: me })
            }
            Some(_) => None,
            None => create.then_some(Entry { row: LedgerRow { attempt: *attempt, mark: Mark::NOTHING }, backend: me }),
        },
        Request::Register { attempt, .. } => {
            entry.filter(|e| e.row.attempt == *attempt).map(|e| Entry { backend: me, ..e })
        }
        Request::Guard { attempt, rows, loose } => {
            let entry = entry.filter(|e| e.row.attempt == *attempt)?;
            let row = rows.iter().find(|r| r.key_group == key_group)?;
            let epoch = entry.row.mark.epoch;
            let matches = if *loose { epoch < row.to.epoch } else { epoch == row.from.epoch };
            matches.then_some(Entry { row: LedgerRow { mark: row.to, ..entry.row }, ..entry })
        }
        Request::Connect
        | Request::Backends { .. }
        | Request::Terminate(_)
        | Request::Read(_)
        | Request::Begin
        | Request::Write(_)
        | Request::Commit
        | Request::Rollback => None,
    }
}
