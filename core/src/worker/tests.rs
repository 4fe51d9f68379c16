//! A worker with two key groups, one split and two targets, driven by hand.

mod attempts;
mod checkpoints;
mod properties;
mod takeovers;
mod writing;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::*;
use crate::cut::{Cut, CutHash, SplitCut};
use crate::ids::{
    CheckpointId, ConnectionId, Epoch, EventTime, KeyGroup, KeyGroupId, Position, SplitId, Stage, TargetId, WallTime,
};
use crate::ledger::{GuardRow, LedgerRow, Mark, Step};
use crate::message::{
    Barrier, Copy, Counters, Deployment, Opening, Report, Restore, Seal, Snapshot, SplitReport, Verdict,
};
use crate::placement::Plan;
use crate::record::JobDefinition;

const ME: TaskManagerId = TaskManagerId(Uuid::from_u128(1));
const PEER: TaskManagerId = TaskManagerId(Uuid::from_u128(2));
const JOB: JobId = JobId(Uuid::from_u128(9));
const STAGE: Stage = Stage(0);
const X: KeyGroupId = KeyGroupId { stage: STAGE, group: KeyGroup(0) };
const Y: KeyGroupId = KeyGroupId { stage: STAGE, group: KeyGroup(1) };
const A: TargetId = TargetId(0);
const B: TargetId = TargetId(1);

type Happened = Event<u32, &'static str>;
type Order = Command<u32, &'static str>;
type Ledger = BTreeMap<KeyGroupId, Option<LedgerRow>>;

fn cut(epoch: u64) -> Cut {
    let splits =
        BTreeMap::from([(SplitId(0), SplitCut { end: Position(epoch as i64), count: 1, hash: 0, greatest: None })]);
    Cut {
        epoch: Epoch(epoch),
        clock: WallTime(0),
        splits,
        watermark: EventTime(0),
        idle: BTreeSet::new(),
        last: false,
        lookups: None,
        previous: CutHash(0),
    }
}

fn mark(epoch: u64) -> Mark {
    if epoch == 0 { Mark::NOTHING } else { Mark { epoch: Epoch(epoch), hash: cut(epoch).hash() } }
}

fn row(attempt: u64, mark: Mark) -> Option<LedgerRow> {
    Some(LedgerRow { attempt: Attempt(attempt), mark })
}

fn rows(attempt: u64, x: u64, y: u64) -> Ledger {
    BTreeMap::from([(X, row(attempt, mark(x))), (Y, row(attempt, mark(y)))])
}

fn counters(written: u64) -> Counters {
    Counters { written, ..Counters::default() }
}

fn snapshot(epoch: u64, p: u64) -> Snapshot {
    let marks = BTreeMap::from([(A, mark(p)), (B, mark(p))]);
    Snapshot { epoch: Epoch(epoch), marks, counters: counters(100), files: vec![] }
}

/// Everything begins after `start`, cuts up to `sealed` are replayed; both TaskManagers have a split.
fn deployment(attempt: u64, start: u64, sealed: u64, restore: [(KeyGroupId, Restore, u64); 2]) -> Deployment {
    let resume: BTreeMap<_, _> = restore.iter().map(|(id, _, epoch)| (*id, Epoch(*epoch))).collect();
    Deployment {
        job: JOB,
        attempt: Attempt(attempt),
        since: Epoch::ZERO,
        until: None,
        rewound: false,
        definition: JobDefinition {
            id: JOB,
            name: "vitals".into(),
            submission: String::new(),
            fingerprint: 0,
            key_groups: 2,
            stages: 1,
            targets: vec!["a".into(), "b".into()],
            delay: 0,
            idle_after: 0,
            has_windows: false,
        },
        plan: Plan {
            members: BTreeMap::new(),
            splits: BTreeMap::from([(SplitId(0), ME), (SplitId(1), PEER)]),
            key_groups: BTreeMap::from([(X, ME), (Y, ME)]),
        },
        resume,
        restore: restore.into_iter().map(|(id, restore, _)| (id, restore)).collect(),
        start: cut(start),
        replay: (start + 1..=sealed).map(cut).collect(),
        files: Vec::new(),
        joined: BTreeMap::new(),
        committed: Epoch(start),
        window: 8,
    }
}

/// From nothing at all.
fn first(attempt: u64) -> Deployment {
    deployment(attempt, 0, 0, [(X, Restore::Fresh, 0), (Y, Restore::Fresh, 0)])
}

struct Rig {
    worker: Worker<u32, &'static str>,
    now: Instant,
    attempt: Attempt,
}

impl Rig {
    fn new() -> Self {
        let settings =
            Settings { transaction_bytes: 100, retry_backoff: Duration::from_millis(10), ..Settings::default() };
        Self { worker: Worker::new(ME, settings), now: Instant(0), attempt: Attempt(0) }
    }

    /// Deployed and ready from nothing, connection 1 to each target.
    fn ready() -> Self {
        let mut rig = Self::new();
        rig.prepare(1);
        rig.deploy(first(1));
        rig.all_restored();
        rig.taken_over(A, rows(1, 0, 0));
        let out = rig.taken_over(B, rows(1, 0, 0));
        assert!(reports(&out).contains(&Report::Ready { job: JOB, attempt: Attempt(1) }), "{out:?}");
        rig
    }

    fn on(&mut self, event: Happened) -> Vec<Order> {
        self.worker.handle(event, self.now)
    }

    fn instruct(&mut self, instruction: Instruction) -> Vec<Order> {
        self.on(Event::Instructed(instruction))
    }

    fn after(&mut self, millis: u64) -> Vec<Order> {
        self.now = self.now.plus(Duration::from_millis(millis));
        self.on(Event::Tick)
    }

    /// Up to the report, where nothing is processed at the moment.
    fn prepare(&mut self, attempt: u64) -> Vec<Order> {
        self.attempt = Attempt(attempt);
        let mut out = self.instruct(Instruction::Prepare { job: JOB, attempt: Attempt(attempt) });
        if out.iter().any(|c| matches!(c, Command::TakeBack { .. })) {
            out.extend(self.on(Event::TookBack { job: JOB, attempt: Attempt(attempt) }));
        }
        out
    }

    fn deploy(&mut self, deployment: Deployment) -> Vec<Order> {
        self.instruct(Instruction::Deploy(Box::new(deployment)))
    }

    fn restored(&mut self, key_group: KeyGroupId) -> Vec<Order> {
        self.on(Event::Restored { job: JOB, attempt: self.attempt, key_group })
    }

    fn all_restored(&mut self) -> Vec<Order> {
        let mut out = self.restored(X);
        out.extend(self.restored(Y));
        out
    }

    fn taken_over(&mut self, target: TargetId, rows: Ledger) -> Vec<Order> {
        let connection = ConnectionId(1);
        self.on(Event::TakenOver { job: JOB, attempt: self.attempt, target, connection, rows })
    }

    fn read(&mut self, target: TargetId, connection: u64, rows: Ledger) -> Vec<Order> {
        let connection = ConnectionId(connection);
        self.on(Event::LedgerRead { job: JOB, attempt: self.attempt, target, connection, rows })
    }

    /// Rows and barriers of both sources.
    fn arrive(&mut self, epoch: u64) -> Vec<Order> {
        let (job, attempt, stage) = (JOB, self.attempt, STAGE);
        let mut out = Vec::new();
        for from in [ME, PEER] {
            let (epoch, barrier) = (Epoch(epoch), Barrier { epoch: Epoch(epoch), watermark: EventTime(0) });
            out.extend(self.on(Event::Arrived { job, attempt, stage, from, epoch, payload: epoch.0 as u32 }));
            out.extend(self.on(Event::BarrierArrived { job, attempt, stage, from, barrier }));
        }
        out
    }

    /// Rows of these key groups in each target, `bytes` large.
    fn processed_with(&mut self, epoch: u64, outputs: &[(TargetId, &[KeyGroupId])], bytes: u64) -> Vec<Order> {
        let output = |(target, ids): &(TargetId, &[KeyGroupId])| {
            (*target, Output { rows: "rows", key_groups: ids.iter().copied().collect(), bytes })
        };
        let processed = Processed {
            outputs: outputs.iter().map(output).collect(),
            muted: BTreeMap::new(),
            counters: BTreeMap::from([(X, counters(1)), (Y, counters(2))]),
        };
        self.processed_as(epoch, processed)
    }

    fn processed_as(&mut self, epoch: u64, processed: Processed<&'static str>) -> Vec<Order> {
        let (job, attempt) = (JOB, self.attempt);
        self.on(Event::Processed { job, attempt, stage: STAGE, epoch: Epoch(epoch), processed })
    }

    fn processed(&mut self, epoch: u64, outputs: &[(TargetId, &[KeyGroupId])]) -> Vec<Order> {
        self.processed_with(epoch, outputs, 10)
    }

    fn seal(&mut self, epoch: u64, committed: u64) -> Vec<Order> {
        let (job, attempt) = (JOB, self.attempt);
        let hash = cut(epoch).hash();
        let seal = Seal { epoch: Epoch(epoch), hash, committed: Epoch(committed), last: false };
        self.instruct(Instruction::Seal { job, attempt, seal })
    }

    fn outcome(&mut self, target: TargetId, outcome: Outcome) -> Vec<Order> {
        self.on(Event::Transacted { job: JOB, attempt: self.attempt, target, outcome })
    }

    fn lose(&mut self, target: TargetId) -> Vec<Order> {
        self.on(Event::ConnectionLost { job: JOB, attempt: self.attempt, target, reason: "reset".into() })
    }

    /// An epoch with rows of X and Y in target A, up to its transaction.
    fn write(&mut self, epoch: u64) -> Vec<Order> {
        self.arrive(epoch);
        self.processed(epoch, &[(A, &[X, Y])]);
        self.seal(epoch, epoch - 1)
    }
}

fn reports(out: &[Order]) -> Vec<Report> {
    let report = |c: &Order| if let Command::Report(report) = c { Some(report.clone()) } else { None };
    out.iter().filter_map(report).collect()
}

fn failures(out: &[Order]) -> Vec<Failure> {
    let failure = |r: Report| if let Report::Failed { failure, .. } = r { Some(failure) } else { None };
    reports(out).into_iter().filter_map(failure).collect()
}

fn copies(out: &[Order]) -> Option<BTreeMap<KeyGroupId, Copy>> {
    reports(out).into_iter().find_map(|r| if let Report::Prepared { copies, .. } = r { Some(copies) } else { None })
}

/// Epochs reported as committed, and what they count.
fn committed(out: &[Order]) -> Vec<(u64, u64)> {
    let committed = |r| {
        if let Report::Committed { epoch, counters, .. } = r { Some((epoch.0, counters.written)) } else { None }
    };
    reports(out).into_iter().filter_map(committed).collect()
}

/// Guard as (key group, from, to), and epochs.
type Transaction = (Vec<(KeyGroupId, u64, u64)>, Vec<u64>);

/// The transactions that were ordered.
fn transactions(out: &[Order]) -> Vec<Transaction> {
    let one = |steps: &[Step]| {
        let mut transaction = (vec![], vec![]);
        for step in steps {
            match step {
                Step::Guard(guard) => {
                    let check = |g: &GuardRow| {
                        assert_eq!((g.from, g.to), (mark(g.from.epoch.0), mark(g.to.epoch.0)));
                        (g.key_group, g.from.epoch.0, g.to.epoch.0)
                    };
                    transaction.0 = guard.iter().map(check).collect();
                }
                Step::Rows(epochs) => transaction.1 = epochs.iter().map(|e| e.0).collect(),
                Step::Begin | Step::Commit => {}
            }
        }
        transaction
    };
    out.iter().filter_map(|c| if let Command::Transact { steps, .. } = c { Some(one(steps)) } else { None }).collect()
}

fn has(out: &[Order], what: impl Fn(&Order) -> bool) -> bool {
    out.iter().any(what)
}

fn processes(out: &[Order]) -> bool {
    has(out, |c| matches!(c, Command::Process { .. }))
}

fn registers(out: &[Order]) -> bool {
    has(out, |c| matches!(c, Command::Register { .. }))
}
