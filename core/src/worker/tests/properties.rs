//! The worker among models of everything it touches, in any order that the protocol allows.
//!
//! Every row has to be in its target exactly once and in order, whatever is lost and whenever attempts change.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

type Rows = Vec<(KeyGroupId, u64)>;
type Order = Command<u64, Rows>;
type Happened = Event<u64, Rows>;

/// Epochs that are cut in one run.
const EPOCHS: u64 = 12;
/// Steps after which a run without faults has to be through.
const PATIENCE: usize = 20_000;

/// Whether a key group has rows of an epoch in a target: the pure function that processing is.
fn has_rows(target: TargetId, id: KeyGroupId, epoch: u64) -> bool {
    let mixed = (epoch * 7 + u64::from(id.group.0) * 3 + u64::from(target.0) * 5) % 11;
    mixed < 6
}

#[derive(Default)]
struct Target {
    ledger: BTreeMap<KeyGroupId, LedgerRow>,
    applied: Vec<(KeyGroupId, u64)>,
    orders: VecDeque<Order>,
    connection: u64,
    connected: bool,
}

impl Target {
    /// The guard, the rows and COMMIT, as one.
    fn commit(&mut self, attempt: Attempt, steps: &[Step], outputs: &[(Epoch, Rows)]) -> bool {
        for step in steps {
            if let Step::Guard(guard) = step {
                let matches = |g: &GuardRow| {
                    self.ledger.get(&g.key_group).is_some_and(|r| r.attempt == attempt && r.mark.epoch == g.from.epoch)
                };
                if !guard.iter().all(matches) {
                    return false;
                }
                self.ledger.extend(guard.iter().map(|g| (g.key_group, LedgerRow { attempt, mark: g.to })));
            }
        }
        self.applied.extend(outputs.iter().flat_map(|(_, rows)| rows.iter().copied()));
        true
    }

    fn read(&self, key_groups: &BTreeSet<KeyGroupId>) -> Ledger {
        key_groups.iter().map(|id| (*id, self.ledger.get(id).copied())).collect()
    }
}

struct World {
    worker: Worker<u64, Rows>,
    now: Instant,
    attempt: Attempt,
    deployed: bool,
    ready: bool,
    restoring: BTreeSet<KeyGroupId>,
    taking: BTreeSet<TargetId>,
    copies: Option<BTreeMap<KeyGroupId, Copy>>,
    /// Newest complete checkpoint.
    checkpoint: BTreeMap<KeyGroupId, Snapshot>,
    taken: BTreeMap<KeyGroupId, Snapshot>,
    checkpoints: u64,
    sealed: u64,
    start: u64,
    sent: BTreeMap<TaskManagerId, u64>,
    store: VecDeque<Order>,
    targets: BTreeMap<TargetId, Target>,
    /// Reported in this attempt.
    committed: u64,
    everywhere: u64,
    guards: BTreeMap<(TargetId, KeyGroupId), Epoch>,
}

impl World {
    fn new() -> Self {
        let settings =
            Settings { transaction_bytes: 3, retry_backoff: Duration::from_millis(10), ..Settings::default() };
        Self {
            worker: Worker::new(ME, settings),
            now: Instant(0),
            attempt: Attempt(0),
            deployed: false,
            ready: false,
            restoring: BTreeSet::new(),
            taking: BTreeSet::new(),
            copies: None,
            checkpoint: BTreeMap::new(),
            taken: BTreeMap::new(),
            checkpoints: 0,
            sealed: 0,
            start: 0,
            sent: BTreeMap::new(),
            store: VecDeque::new(),
            targets: BTreeMap::from([(A, Target::default()), (B, Target::default())]),
            committed: 0,
            everywhere: 0,
            guards: BTreeMap::new(),
        }
    }

    fn on(&mut self, event: Happened) {
        for order in self.worker.handle(event, self.now) {
            self.obey(order);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Command::Report(report) => self.reported(report),
            Command::Process { .. } => {
                assert!(self.restoring.is_empty() && self.taking.is_empty(), "processed before all is taken over");
                self.store.push_back(order);
            }
            Command::Restore { key_group, .. } => {
                self.restoring.insert(key_group);
                self.store.push_back(order);
            }
            Command::Settle { upto, .. } => {
                assert!(upto.0 <= self.everywhere && upto.0 <= self.committed, "settled what is not committed");
            }
            Command::TakeBack { .. } | Command::Snapshot { .. } => self.store.push_back(order),
            Command::TakeOver { target, .. } => {
                self.taking.insert(target);
                self.order(target, order);
            }
            Command::Register { target, .. } | Command::ReadLedger { target, .. } => self.order(target, order),
            Command::Transact { target, ref steps, ref outputs, .. } => {
                assert!(outputs.iter().all(|(epoch, _)| epoch.0 <= self.sealed), "commits what is not sealed");
                for guard in steps.iter().filter_map(|s| if let Step::Guard(g) = s { Some(g) } else { None }).flatten()
                {
                    let before = self.guards.insert((target, guard.key_group), guard.from.epoch);
                    assert!(before.is_none_or(|p| p <= guard.from.epoch), "p went back inside an attempt");
                    assert!(guard.from < guard.to);
                }
                self.order(target, order);
            }
            Command::Disconnect { target, .. } => {
                if let Some(target) = self.targets.get_mut(&target) {
                    target.connected = false;
                    // Whether the database still got it, nobody knows.
                    let lucky = self.now.0.is_multiple_of(2);
                    for order in std::mem::take(&mut target.orders) {
                        if let Command::Transact { attempt, steps, outputs, .. } = order
                            && lucky
                        {
                            target.commit(attempt, &steps, &outputs);
                        }
                    }
                }
            }
            Command::StartSource { .. }
            | Command::StopSource { .. }
            | Command::CloseEpoch { .. }
            | Command::AddFiles { .. }
            | Command::Committed { .. }
            | Command::OpenLinks { .. }
            | Command::CloseLinks { .. }
            | Command::Drop { .. }
            | Command::CheckpointDone { .. } => {}
        }
    }

    fn order(&mut self, target: TargetId, order: Order) {
        let Some(target) = self.targets.get_mut(&target) else { panic!("no such target") };
        target.orders.push_back(order);
        assert_eq!(target.orders.len(), 1, "one thing at a time on a connection");
    }

    fn reported(&mut self, report: Report) {
        match report {
            Report::Prepared { attempt, copies, .. } if attempt == self.attempt => self.copies = Some(copies),
            Report::Ready { .. } => self.ready = true,
            Report::Committed { epoch, counters, .. } => {
                assert!(epoch.0 >= self.committed && epoch.0 <= self.sealed);
                self.committed = epoch.0;
                // Each key group counts one record per epoch.
                assert!(counters.written >= epoch.0 * 2);
                for target in self.targets.keys() {
                    assert!(self.lacks(*target, epoch.0).is_none(), "{:?}", self.lacks(*target, epoch.0));
                }
            }
            Report::SnapshotTaken { key_group, snapshot, .. } => {
                assert!(snapshot.epoch.0 <= self.everywhere);
                assert_eq!(snapshot.counters.written, snapshot.epoch.0);
                self.taken.insert(key_group, snapshot);
                if self.taken.len() == 2 {
                    self.checkpoint = std::mem::take(&mut self.taken);
                }
            }
            Report::TakenOver { verdict, .. } => assert_eq!(verdict, Verdict::Consistent),
            Report::Failed { failure, .. } => panic!("{failure:?}"),
            Report::Prepared { .. }
            | Report::InputWaiting { .. }
            | Report::CutReported { .. }
            | Report::CheckpointFailed { .. }
            | Report::Leaving => {}
        }
    }

    /// A row up to `epoch` that is not in the target.
    fn lacks(&self, target: TargetId, epoch: u64) -> Option<(KeyGroupId, u64)> {
        let applied: BTreeSet<_> = self.targets[&target].applied.iter().copied().collect();
        let all = [X, Y].into_iter().flat_map(|id| (1..=epoch).map(move |epoch| (id, epoch)));
        all.into_iter().find(|(id, epoch)| has_rows(target, *id, *epoch) && !applied.contains(&(*id, *epoch)))
    }

    /// One step of one actor, `how` says which way where there are several. False where it has nothing to do.
    fn step(&mut self, who: u8, how: u8) -> bool {
        match who {
            0 => self.send(ME),
            1 => self.send(PEER),
            2 => self.seal(),
            3 => self.work(),
            4 => self.execute(A, how),
            5 => self.execute(B, how),
            6 => self.move_on(how),
            7 => {
                self.now = self.now.plus(Duration::from_millis(u64::from(how) + 1));
                self.on(Event::Tick);
                true
            }
            8 => self.take_checkpoint(),
            9 => self.lose_idle(if how.is_multiple_of(2) { A } else { B }),
            _ => self.progress(),
        }
    }

    fn send(&mut self, from: TaskManagerId) -> bool {
        let Some(sent) = self.sent.get_mut(&from).filter(|sent| **sent < EPOCHS && **sent < self.committed + 4) else {
            return false;
        };
        *sent += 1;
        let (job, attempt, stage, epoch) = (JOB, self.attempt, STAGE, Epoch(*sent));
        self.on(Event::Arrived { job, attempt, stage, from, epoch, payload: epoch.0 });
        let barrier = Barrier { epoch, watermark: EventTime(epoch.0 as i64) };
        self.on(Event::BarrierArrived { job, attempt, stage, from, barrier });
        true
    }

    fn seal(&mut self) -> bool {
        let next = self.sealed + 1;
        let cut_everywhere = self.deployed && self.sent.values().all(|sent| *sent >= next);
        if !self.ready || !cut_everywhere {
            return false;
        }
        self.sealed = next;
        self.everywhere = self.everywhere.max(self.committed);
        let committed = Epoch(self.everywhere);
        let seal = Seal { epoch: Epoch(next), hash: cut(next).hash(), committed, last: false };
        self.on(Event::Instructed(Instruction::Seal { job: JOB, attempt: self.attempt, seal }));
        true
    }

    fn progress(&mut self) -> bool {
        if self.everywhere >= self.committed {
            return false;
        }
        self.everywhere = self.committed;
        let (attempt, committed) = (self.attempt, Epoch(self.everywhere));
        self.on(Event::Instructed(Instruction::Progress { job: JOB, attempt, committed }));
        true
    }

    fn work(&mut self) -> bool {
        let Some(order) = self.store.pop_front() else { return false };
        if let Command::Process { job, attempt, stage, epoch, skip, muted, payloads, watermark } = order {
            assert_eq!((payloads, watermark), (vec![epoch.0, epoch.0], EventTime(epoch.0 as i64)));
            let (mut outputs, mut kept_back) = (BTreeMap::new(), BTreeMap::new());
            for target in [A, B] {
                let silent = muted.get(&target).cloned().unwrap_or_default();
                let all = [X, Y].into_iter().filter(|id| !skip.contains(id) && has_rows(target, *id, epoch.0));
                let (mute, loud): (BTreeSet<_>, BTreeSet<_>) = all.partition(|id| silent.contains(id));
                if !loud.is_empty() {
                    let rows = loud.iter().map(|id| (*id, epoch.0)).collect();
                    outputs.insert(target, Output { rows, key_groups: loud, bytes: 1 });
                }
                kept_back.insert(target, mute);
            }
            let counted = [X, Y].into_iter().filter(|id| !skip.contains(id)).map(|id| (id, counters(1)));
            let processed = Processed { outputs, muted: kept_back, counters: counted.collect() };
            self.on(Event::Processed { job, attempt, stage, epoch, processed });
        } else if let Command::TakeBack { job, attempt, .. } = order {
            self.on(Event::TookBack { job, attempt });
        } else if let Command::Restore { job, attempt, key_group, .. } = order {
            self.restoring.remove(&key_group);
            self.on(Event::Restored { job, attempt, key_group });
        } else if let Command::Snapshot { job, attempt, checkpoint, epoch, key_groups } = order {
            for (key_group, (marks, counters)) in key_groups {
                let snapshot = Snapshot { epoch, marks, counters, files: vec![] };
                self.on(Event::SnapshotStored { job, attempt, checkpoint, key_group, snapshot });
            }
        }
        true
    }

    fn execute(&mut self, id: TargetId, how: u8) -> bool {
        let Some(target) = self.targets.get_mut(&id) else { return false };
        let Some(order) = target.orders.pop_front() else { return false };
        let job = JOB;
        let lost = |attempt| Event::ConnectionLost { job, attempt, target: id, reason: "reset".into() };
        if let Command::Transact { attempt, steps, outputs, .. } = order {
            let event = match (target.connected, how % 8) {
                (false, _) => lost(attempt),
                (true, 0) => Event::Transacted {
                    job,
                    attempt,
                    target: id,
                    outcome: Outcome::RolledBack { reason: "deadlock".into() },
                },
                (true, 1) => {
                    target.connected = false;
                    lost(attempt)
                }
                (true, how) => {
                    assert!(target.commit(attempt, &steps, &outputs), "the guard of the only writer missed");
                    if how == 2 {
                        target.connected = false;
                        lost(attempt)
                    } else {
                        Event::Transacted { job, attempt, target: id, outcome: Outcome::Committed }
                    }
                }
            };
            self.on(event);
        } else if let Command::ReadLedger { attempt, key_groups, .. } = order {
            let (connection, rows) = (ConnectionId(target.connection), target.read(&key_groups));
            let read = Event::LedgerRead { job, attempt, target: id, connection, rows };
            let event = if target.connected { read } else { lost(attempt) };
            self.on(event);
        } else if let Command::Register { attempt, key_groups, .. } = order {
            if how.is_multiple_of(8) {
                self.on(lost(attempt));
                return true;
            }
            (target.connection, target.connected) = (target.connection + 1, true);
            let (connection, rows) = (ConnectionId(target.connection), target.read(&key_groups));
            self.on(Event::LedgerRead { job, attempt, target: id, connection, rows });
        } else if let Command::TakeOver { attempt, key_groups, create, .. } = order {
            self.take_over(id, attempt, &key_groups, create, how);
        }
        true
    }

    fn take_over(&mut self, id: TargetId, attempt: Attempt, ids: &BTreeSet<KeyGroupId>, create: bool, how: u8) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        for key_group in ids {
            if create {
                target.ledger.entry(*key_group).or_insert(LedgerRow { attempt, mark: Mark::NOTHING });
            }
            if let Some(row) = target.ledger.get_mut(key_group) {
                row.attempt = row.attempt.max(attempt);
            }
        }
        if how.is_multiple_of(4) {
            // Taken over, and nobody heard.
            target.connected = false;
            let reason = "reset".to_owned();
            return self.on(Event::ConnectionLost { job: JOB, attempt, target: id, reason });
        }
        if !target.connected {
            (target.connection, target.connected) = (target.connection + 1, true);
        }
        self.taking.remove(&id);
        let (connection, rows) = (ConnectionId(target.connection), target.read(ids));
        self.on(Event::TakenOver { job: JOB, attempt, target: id, connection, rows });
    }

    fn lose_idle(&mut self, id: TargetId) -> bool {
        let Some(target) = self.targets.get_mut(&id) else { return false };
        if !target.connected || !target.orders.is_empty() {
            return false;
        }
        target.connected = false;
        self.on(Event::ConnectionLost { job: JOB, attempt: self.attempt, target: id, reason: "reset".into() });
        true
    }

    fn take_checkpoint(&mut self) -> bool {
        if !self.ready || self.committed < self.everywhere {
            return false;
        }
        self.checkpoints += 1;
        self.taken.clear();
        let (checkpoint, epoch) = (CheckpointId(self.checkpoints), Epoch(self.everywhere));
        self.on(Event::Instructed(Instruction::TakeCheckpoint { job: JOB, attempt: self.attempt, checkpoint, epoch }));
        true
    }

    /// Begins the next attempt, or deploys it once it is prepared. By `how` a key group is lost meanwhile.
    fn move_on(&mut self, how: u8) -> bool {
        if self.deployed || self.attempt == Attempt(0) {
            self.attempt = self.attempt.next();
            (self.deployed, self.ready, self.copies) = (false, false, None);
            self.restoring.clear();
            self.taking.clear();
            self.sent.clear();
            self.taken.clear();
            self.guards.clear();
            self.committed = 0;
            self.on(Event::Instructed(Instruction::Prepare { job: JOB, attempt: self.attempt }));
            return true;
        }
        let Some(copies) = self.copies.take() else { return false };
        let restore = |(id, lost): (KeyGroupId, bool)| {
            let snapshot = self.checkpoint.get(&id);
            let usable = copies.get(&id).filter(|c| !lost && c.epoch >= snapshot.map_or(Epoch(0), |s| s.epoch));
            match (usable, snapshot) {
                (Some(copy), _) => (id, Restore::Copy, copy.epoch.0),
                (None, Some(snapshot)) => (id, Restore::Snapshot(snapshot.clone()), snapshot.epoch.0),
                (None, None) => (id, Restore::Fresh, 0),
            }
        };
        let restore = [(X, how & 1 == 1), (Y, how & 2 == 2)].map(restore);
        self.start = restore.iter().map(|(_, _, resume)| *resume).min().unwrap_or(0);
        let mut deployment = deployment(self.attempt.0, self.start, self.sealed, restore);
        deployment.committed = Epoch(self.everywhere);
        self.deployed = true;
        self.sent = BTreeMap::from([(ME, self.start), (PEER, self.start)]);
        self.committed = self.start;
        self.on(Event::Instructed(Instruction::Deploy(Box::new(deployment))));
        true
    }

    /// Without further faults everything gets committed, once and in order.
    fn settle_down(&mut self) {
        if self.attempt == Attempt(0) {
            self.move_on(0);
        }
        for _ in 0..PATIENCE {
            if self.deployed && self.committed == EPOCHS {
                break;
            }
            if !self.deployed {
                self.step(6, 0);
            }
            for who in [0, 1, 2, 3, 4, 5, 7, 10] {
                self.step(who, 7);
            }
        }
        assert_eq!(self.committed, EPOCHS, "{:#?}", self.worker.view());
        for (target, state) in &self.targets {
            for id in [X, Y] {
                let rows: Vec<u64> =
                    state.applied.iter().filter(|(of, _)| *of == id).map(|(_, epoch)| *epoch).collect();
                let all: Vec<u64> = (1..=EPOCHS).filter(|epoch| has_rows(*target, id, *epoch)).collect();
                assert_eq!(rows, all, "{id} in {target}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn every_row_is_committed_once_and_in_order(steps in proptest::collection::vec((0..40_u8, any::<u8>()), 0..600)) {
        let mut world = World::new();
        world.move_on(0);
        world.move_on(0);
        for (who, how) in steps {
            // Faults and new attempts are rarer than progress.
            let who = match who {
                0..6 => who,
                6..9 => 7,
                9 => 8,
                10 => 9,
                11 => 6,
                12 => 10,
                more if !world.deployed && more < 16 => 6,
                more => more % 6,
            };
            world.step(who, how);
        }
        world.settle_down();
    }
}
