//! A coordinator among honest TaskManagers that a test may lose, pause, garble and restart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use pulso_core::coordinator::{Answer, Call, Command, Coordinator, Event, JobView, Now, Settings};
use pulso_core::cut::{Cut, CutHash, SplitCut};
use pulso_core::files::PlacedFile;
use pulso_core::ids::{
    Attempt, Epoch, EventTime, Instant, JobId, KeyGroupId, Position, RequestId, SessionId, SplitId, TargetId,
    TaskManagerId, WallTime,
};
use pulso_core::ledger::Mark;
use pulso_core::message::{
    Copy, Counters, Deployment, Instruction, Report, Restore, Snapshot, SnapshotFile, SplitReport, Verdict,
};
use pulso_core::record::JobDefinition;
use uuid::Uuid;

use crate::checker::Checker;

pub(crate) const TARGET: TargetId = TargetId(0);

/// A small generator; the seed is what proptest shrinks.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub(crate) fn job_id(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

pub(crate) fn definition(n: u128, name: &str) -> JobDefinition {
    JobDefinition {
        id: job_id(n),
        name: name.into(),
        submission: String::new(),
        fingerprint: n as u64,
        key_groups: 5,
        stages: 1,
        targets: vec!["warehouse".into()],
        delay: 10,
        idle_after: 0,
        has_windows: true,
    }
}

pub(crate) fn start(splits: u32) -> Cut {
    let split = |id| (SplitId(id), SplitCut { end: Position(100), count: 0, hash: 0, greatest: None });
    Cut {
        epoch: Epoch::ZERO,
        clock: WallTime(0),
        splits: (0..splits).map(split).collect(),
        watermark: EventTime::MIN,
        idle: BTreeSet::new(),
        last: false,
        lookups: None,
        previous: CutHash(0),
    }
}

pub(crate) struct TaskManager {
    pub(crate) id: TaskManagerId,
    pub(crate) session: Option<SessionId>,
    inbox: VecDeque<Instruction>,
    outbox: VecDeque<Report>,
    pub(crate) jobs: BTreeMap<JobId, Hosted>,
    pub(crate) paused: bool,
    /// Answers `TakeCheckpoint`.
    pub(crate) checkpoints: bool,
    /// Commits what is sealed.
    pub(crate) commits: bool,
    /// The database's ledger marks that it finds at its next takeover, where they are less than what it brings.
    pub(crate) ledger: BTreeMap<KeyGroupId, Mark>,
}

#[derive(Default)]
pub(crate) struct Hosted {
    pub(crate) attempt: Attempt,
    pub(crate) deployment: Option<Deployment>,
    pub(crate) ready: bool,
    sealed: Epoch,
    pub(crate) committed: Epoch,
    ends: BTreeMap<SplitId, Position>,
    /// Of a job that reads files: where those that it was told of end.
    files: BTreeMap<SplitId, Position>,
    /// The running epoch, and whether it was said that it has input.
    running: (Epoch, bool),
    copies: BTreeMap<KeyGroupId, Copy>,
}

pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) settings: Settings,
    pub(crate) now: u64,
    pub(crate) coordinator: Coordinator,
    pub(crate) checker: Checker,
    pub(crate) task_managers: Vec<TaskManager>,
    /// Sessions that the coordinator may believe in, also broken ones that it has not heard of.
    sessions: BTreeMap<SessionId, TaskManagerId>,
    next: u64,
    pub(crate) answers: BTreeMap<RequestId, Answer>,
    /// Files that were to be moved away, not yet answered.
    retiring: Vec<(JobId, Vec<PlacedFile>)>,
    /// How many were.
    pub(crate) retired: usize,
    pub(crate) deleted: BTreeSet<String>,
    /// Every instruction, in order.
    pub(crate) sent: Vec<(TaskManagerId, Instruction)>,
    /// In one of so many steps the control log is durable.
    pub(crate) log_takes: u64,
    /// In one of so many steps a source has input.
    pub(crate) input: u64,
    pub(crate) reconnects: bool,
}

impl World {
    pub(crate) fn new(seed: u64, task_managers: usize) -> Self {
        let settings = Settings { window: 4, checkpoint_interval: Duration::from_millis(200), ..Settings::default() };
        let checker = Checker::default();
        let now = Now { instant: Instant(0), wall: WallTime(1_000_000) };
        let mut world = Self {
            chance: Chance(seed),
            coordinator: Coordinator::new(settings.clone(), checker.durable.clone(), now),
            settings,
            now: 0,
            checker,
            task_managers: Vec::new(),
            sessions: BTreeMap::new(),
            next: 1,
            answers: BTreeMap::new(),
            retiring: Vec::new(),
            retired: 0,
            deleted: BTreeSet::new(),
            sent: Vec::new(),
            log_takes: 1,
            input: 3,
            reconnects: true,
        };
        for _ in 0..task_managers {
            world.add();
        }
        world
    }

    pub(crate) fn now(&self) -> Now {
        Now { instant: Instant(self.now), wall: WallTime(1_000_000 + self.now as i64) }
    }

    /// A new process.
    pub(crate) fn add(&mut self) -> usize {
        self.next += 1;
        self.task_managers.push(TaskManager {
            id: TaskManagerId(Uuid::from_u128(u128::from(self.next))),
            session: None,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            jobs: BTreeMap::new(),
            paused: false,
            checkpoints: true,
            commits: true,
            ledger: BTreeMap::new(),
        });
        let i = self.task_managers.len() - 1;
        self.connect(i);
        i
    }

    pub(crate) fn connect(&mut self, i: usize) {
        self.next += 1;
        let session = SessionId(self.next);
        let task_manager = &mut self.task_managers[i];
        task_manager.session = Some(session);
        task_manager.inbox.clear();
        task_manager.outbox.clear();
        let id = task_manager.id;
        self.sessions.insert(session, id);
        self.event(Event::Registered {
            session,
            task_manager: id,
            name: format!("tm{i}"),
            exchange: format!("h{i}:1"),
        });
    }

    /// The stream breaks and the coordinator hears of it.
    pub(crate) fn lose(&mut self, i: usize) {
        if let Some(session) = self.task_managers[i].session.take() {
            self.event(Event::SessionLost { session });
        }
    }

    /// The process dies.
    pub(crate) fn kill(&mut self, i: usize) {
        self.lose(i);
        self.task_managers.remove(i);
    }

    pub(crate) fn event(&mut self, event: Event) {
        let commands = self.coordinator.handle(event, self.now());
        for command in commands {
            self.checker.check(&command, &self.sessions, self.settings.window);
            match command {
                Command::Send { session, instruction } => {
                    let id = self.sessions[&session];
                    self.sent.push((id, instruction.clone()));
                    if let Some(tm) = self.task_managers.iter_mut().find(|tm| tm.session == Some(session)) {
                        tm.inbox.push_back(instruction);
                    }
                }
                Command::CloseSession { session, .. } => {
                    if let Some(tm) = self.task_managers.iter_mut().find(|tm| tm.session == Some(session)) {
                        tm.session = None;
                    }
                }
                Command::Reply { request, answer } => {
                    assert!(self.answers.insert(request, answer).is_none(), "two answers to one call");
                }
                Command::RetireFiles { job, files } => self.retiring.push((job, files)),
                Command::DeleteObjects(objects) => self.deleted.extend(objects),
                Command::Append(_) => {}
            }
        }
    }

    pub(crate) fn call(&mut self, call: Call) -> RequestId {
        self.next += 1;
        let request = RequestId(self.next);
        self.event(Event::Called { request, call });
        request
    }

    /// The JobManager dies and another one reads the log; an append that was under way may have landed.
    pub(crate) fn restart(&mut self, landed: bool) {
        self.checker.restarted(landed);
        // What lives only in JSON between two processes must survive it.
        let written = serde_json::to_vec(&self.checker.durable).unwrap();
        self.checker.durable = serde_json::from_slice(&written).unwrap();
        self.coordinator = Coordinator::new(self.settings.clone(), self.checker.durable.clone(), self.now());
        self.sessions.clear();
        for i in 0..self.task_managers.len() {
            if self.task_managers[i].session.is_some() {
                self.connect(i);
            }
        }
    }

    pub(crate) fn appended(&mut self) {
        if self.checker.outstanding.is_some() {
            self.checker.appended();
            self.event(Event::Appended);
        }
    }

    /// A few milliseconds of everybody doing what is to be done.
    pub(crate) fn step(&mut self) {
        self.now += 2_000;
        self.event(Event::Tick);
        for (job, files) in std::mem::take(&mut self.retiring) {
            self.retired += files.len();
            let files = files.into_iter().map(|placed| (placed.split, placed.number, false)).collect();
            self.event(Event::FilesRetired { job, files, all: true });
        }
        for i in 0..self.task_managers.len() {
            if self.task_managers[i].paused {
                continue;
            }
            let Some(session) = self.task_managers[i].session else {
                // Whoever was given up registers anew.
                if self.reconnects && self.chance.one_in(30) {
                    self.connect(i);
                }
                continue;
            };
            if self.now.is_multiple_of(100_000) {
                self.event(Event::Alive { session });
            }
            self.task_managers[i].work(&mut self.chance, self.input);
            while self.task_managers[i].session == Some(session)
                && let Some(report) = self.task_managers[i].outbox.pop_front()
            {
                self.report(i, session, report);
            }
        }
        if self.chance.below(self.log_takes) == 0 {
            self.appended();
        }
    }

    pub(crate) fn idle(&self) -> Option<Duration> {
        self.coordinator.idle()
    }

    pub(crate) fn report(&mut self, i: usize, session: SessionId, report: Report) {
        if let Report::Committed { job, attempt, epoch, .. } = &report {
            let key = (*job, *attempt, self.task_managers[i].id);
            let before = self.checker.committed.entry(key).or_default();
            *before = (*epoch).max(*before);
        }
        self.event(Event::Reported { session, report });
    }

    pub(crate) fn run(&mut self, millis: u64) {
        for _ in 0..millis / 2 {
            self.step();
        }
    }

    /// Steps until it holds.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                return;
            }
            self.step();
        }
        panic!("never came: {what}\n{:?}", self.coordinator.view());
    }

    pub(crate) fn job(&self, n: u128) -> JobView {
        let view = self.coordinator.view();
        view.jobs.into_iter().find(|job| job.id == job_id(n)).expect("a job")
    }

    /// Instructions since `mark` that `of` picks.
    pub(crate) fn count(&self, mark: usize, of: impl Fn(&Instruction) -> bool) -> usize {
        self.sent[mark..].iter().filter(|(_, instruction)| of(instruction)).count()
    }
}

impl TaskManager {
    /// Reports something of its own.
    pub(crate) fn say(&mut self, report: Report) {
        self.outbox.push_back(report);
    }

    fn work(&mut self, chance: &mut Chance, input: u64) {
        while let Some(instruction) = self.inbox.pop_front() {
            self.instructed(instruction, chance);
        }
        let (id, commits) = (self.id, self.commits);
        for (job, hosted) in self.jobs.iter_mut().filter(|(_, hosted)| hosted.ready) {
            let (job, attempt) = (*job, hosted.attempt);
            let hosts = hosted.deployment.as_ref().is_some_and(|d| d.plan.key_groups_of(id).next().is_some());
            if commits && hosted.committed < hosted.sealed && chance.one_in(2) && hosts {
                hosted.committed = hosted.committed.next();
                let counters = Counters { written: hosted.committed.0, ..Counters::default() };
                let epoch = hosted.committed;
                self.outbox.push_back(Report::Committed { job, attempt, epoch, counters });
            }
            let unread = hosted.files.iter().any(|(split, end)| hosted.ends[split] < *end);
            let (epoch, said) = &mut hosted.running;
            if !*said && !hosted.ends.is_empty() && (unread || chance.below(input) == 0) {
                *said = true;
                let full = chance.one_in(4);
                self.outbox.push_back(Report::InputWaiting { job, attempt, epoch: *epoch, full });
            }
        }
    }

    fn instructed(&mut self, instruction: Instruction, chance: &mut Chance) {
        match instruction {
            Instruction::Prepare { job, attempt } => {
                let hosted = self.jobs.entry(job).or_default();
                if attempt <= hosted.attempt {
                    return;
                }
                let copies = hosted.freeze(self.id);
                *hosted = Hosted { attempt, copies: copies.clone(), ..Hosted::default() };
                self.outbox.push_back(Report::Prepared { job, attempt, copies });
            }
            Instruction::Deploy(deployment) => self.deploy(*deployment),
            Instruction::OpenCut { job, attempt, opening } => {
                let hosted = self.jobs.get_mut(&job).filter(|h| h.attempt == attempt).expect("a deployed job");
                let mut splits = BTreeMap::new();
                for (split, end) in &mut hosted.ends {
                    let file = hosted.files.get(split).filter(|file| **file > *end);
                    let count = if hosted.running.1 { chance.below(3) } else { 0 };
                    let count = if file.is_some() { 1 } else { count };
                    *end = file.copied().unwrap_or(Position(end.0 + count as i64));
                    let greatest = (count > 0).then_some(EventTime(end.0));
                    splits.insert(*split, SplitReport { end: *end, count, hash: 7, greatest });
                }
                hosted.running = (opening.epoch.next(), false);
                self.outbox.push_back(Report::CutReported { job, attempt, epoch: opening.epoch, splits });
            }
            Instruction::Seal { job, attempt, seal } => {
                if let Some(hosted) = self.jobs.get_mut(&job).filter(|h| h.attempt == attempt) {
                    hosted.sealed = seal.epoch;
                }
            }
            Instruction::TakeCheckpoint { job, attempt, checkpoint, epoch } => {
                let hosted = &self.jobs[&job];
                if !self.checkpoints {
                    return;
                }
                for key_group in hosted.deployment.as_ref().expect("deployed").plan.key_groups_of(self.id) {
                    // One file that the last one had too, and a new one.
                    let file = |n: u64| SnapshotFile {
                        name: format!("{n}.sst"),
                        object: format!("{job}/{key_group}/{n}"),
                        bytes: 1,
                        checksum: 0,
                    };
                    let files = vec![file(checkpoint.0.saturating_sub(1)), file(checkpoint.0)];
                    let marks = BTreeMap::from([(TARGET, Mark { epoch, hash: CutHash(u128::from(epoch.0)) })]);
                    let snapshot = Snapshot { epoch, marks, counters: Counters::default(), files };
                    self.outbox.push_back(Report::SnapshotTaken { job, attempt, checkpoint, key_group, snapshot });
                }
            }
            Instruction::Release { job, attempt } => {
                self.jobs.retain(|id, hosted| *id != job || hosted.attempt > attempt);
            }
            Instruction::Files { job, attempt, files } => {
                if let Some(hosted) = self.jobs.get_mut(&job).filter(|h| h.attempt == attempt) {
                    hosted.told(&files);
                }
            }
            Instruction::Progress { .. } | Instruction::CheckpointDone { .. } => {}
        }
    }

    fn deploy(&mut self, deployment: Deployment) {
        let (job, attempt) = (deployment.job, deployment.attempt);
        let hosted = self.jobs.get_mut(&job).filter(|h| h.attempt == attempt).expect("Deploy only after Prepare");
        for (key_group, restore) in &deployment.restore {
            if matches!(restore, Restore::Copy) {
                assert_eq!(hosted.copies[key_group].epoch, deployment.resume[key_group]);
            }
        }
        let p = |key_group: &KeyGroupId, restore: &Restore| match restore {
            Restore::Fresh => Mark::NOTHING,
            Restore::Copy => hosted.copies[key_group].marks[&TARGET],
            Restore::Snapshot(snapshot) => snapshot.marks.get(&TARGET).copied().unwrap_or(Mark::NOTHING),
        };
        let found = |id: &KeyGroupId| self.ledger.get(id).copied();
        let low = |(id, restore): (&KeyGroupId, &Restore)| found(id).is_some_and(|m| m.epoch < p(id, restore).epoch);
        let verdict = if deployment.restore.iter().any(low) {
            let reading = |(id, restore): (&KeyGroupId, &Restore)| (*id, found(id).unwrap_or(p(id, restore)));
            Verdict::Behind { readings: deployment.restore.iter().map(reading).collect() }
        } else {
            Verdict::Consistent
        };
        hosted.ready = verdict == Verdict::Consistent;
        self.outbox.push_back(Report::TakenOver { job, attempt, target: TARGET, verdict });
        let ends = deployment.newest();
        let own = deployment.plan.splits.iter().filter(|(_, owner)| **owner == self.id);
        let end = |split: &SplitId| ends.splits.get(split).map_or_else(|| deployment.joined[split], |cut| cut.end);
        hosted.ends = own.map(|(split, _)| (*split, end(split))).collect();
        hosted.told(&deployment.files);
        hosted.sealed = deployment.sealed();
        hosted.committed = deployment.start.epoch;
        hosted.running = (deployment.sealed().next(), false);
        if hosted.ready {
            self.outbox.push_back(Report::Ready { job, attempt });
            let epoch = hosted.committed;
            self.outbox.push_back(Report::Committed { job, attempt, epoch, counters: Counters::default() });
        }
        hosted.deployment = Some(deployment);
    }
}

impl Hosted {
    fn told(&mut self, files: &[PlacedFile]) {
        for placed in files {
            let end = self.files.entry(placed.split).or_default();
            *end = placed.number.next().position(0).max(*end);
        }
    }

    fn freeze(&mut self, id: TaskManagerId) -> BTreeMap<KeyGroupId, Copy> {
        let Some(deployment) = self.deployment.take() else { return std::mem::take(&mut self.copies) };
        let copy = |key_group: KeyGroupId| {
            let epoch = deployment.resume[&key_group].max(self.committed);
            let mark = Mark { epoch, hash: CutHash(u128::from(epoch.0)) };
            (key_group, Copy { epoch, marks: BTreeMap::from([(TARGET, mark)]) })
        };
        deployment.plan.key_groups_of(id).map(copy).collect()
    }
}
