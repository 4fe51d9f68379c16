//! Appenders against a model of the storage: delayed, lost and repeated operations, pauses, restarts, rivals.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::control_log::{JobStatus, unframe};
use crate::ids::JobId;

/// A small generator; the seed is what proptest shrinks.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn settings() -> Settings {
    Settings { base_every: 7, read_batch: 3, ..Settings::default() }
}

/// The nth record that anybody appends; the newest one can be read off the state.
fn record(n: u64) -> Record {
    Record::Failed { job: JobId(Uuid::from_u128(1)), reason: n.to_string() }
}

fn submitted() -> Record {
    let definition = crate::record::JobDefinition {
        id: JobId(Uuid::from_u128(1)),
        name: "a".into(),
        submission: String::new(),
        fingerprint: 0,
        key_groups: 1,
        stages: 1,
        targets: vec![],
        delay: 0,
        idle_after: 0,
        has_windows: false,
    };
    let start = crate::cut::Cut {
        epoch: crate::ids::Epoch::ZERO,
        clock: crate::ids::WallTime(0),
        splits: BTreeMap::new(),
        watermark: crate::ids::EventTime::MIN,
        idle: std::collections::BTreeSet::new(),
        last: false,
        lookups: None,
        previous: crate::cut::CutHash(0),
    };
    Record::Submitted { definition, start }
}

fn newest_record(state: &LogState) -> Option<u64> {
    let reason = |status: &JobStatus| match status {
        JobStatus::Failed { reason } => reason.parse().ok(),
        JobStatus::Running | JobStatus::Stopping | JobStatus::Finished | JobStatus::Cancelled => None,
    };
    state.jobs.values().find_map(|job| reason(&job.status))
}

struct Process {
    appender: Appender,
    inbox: VecDeque<Event>,
    paused: u64,
    /// Set while it leads: what it has appended and not seen confirmed.
    leading: Option<VecDeque<u64>>,
    /// Its state holds the job.
    submitted: bool,
    life: u64,
}

struct World {
    chance: Chance,
    now: Instant,
    objects: BTreeMap<u64, Vec<u8>>,
    /// Operations under way: of which process and life.
    operations: Vec<(usize, u64, Command)>,
    processes: Vec<Process>,
    /// All records that were confirmed to a leader, in order.
    confirmed: Vec<u64>,
    next_record: u64,
    leaders: u64,
    /// What was first put at each number, collected or not: the one history.
    history: BTreeMap<u64, Vec<u8>>,
}

impl World {
    fn new(seed: u64, processes: usize) -> Self {
        let mut world = Self {
            chance: Chance(seed),
            now: Instant(0),
            objects: BTreeMap::new(),
            operations: Vec::new(),
            processes: Vec::new(),
            confirmed: Vec::new(),
            next_record: 0,
            leaders: 0,
            history: BTreeMap::new(),
        };
        for i in 0..processes {
            world.processes.push(Process {
                appender: Appender::new(settings(), format!("jm{i}"), Uuid::from_u128(i as u128 + 1)),
                inbox: VecDeque::new(),
                paused: 0,
                leading: None,
                submitted: false,
                life: 0,
            });
        }
        world
    }

    fn feed(&mut self, i: usize, event: Event) {
        let commands = self.processes[i].appender.handle(event, self.now);
        for command in commands {
            match command {
                Command::Appended => {
                    let n = self.processes[i].leading.as_mut().unwrap().pop_front().unwrap();
                    self.confirmed.push(n);
                }
                Command::Lead { state } => {
                    self.leaders += 1;
                    self.processes[i].leading = Some(VecDeque::new());
                    self.processes[i].submitted = !state.jobs.is_empty();
                }
                Command::StepDown { reason, fatal } => {
                    assert!(!fatal, "{reason}");
                    self.processes[i].leading = None;
                }
                Command::Put { .. } | Command::Read { .. } | Command::List | Command::Delete { .. } => {
                    let life = self.processes[i].life;
                    self.operations.push((i, life, command));
                }
            }
        }
    }

    /// Executes one operation; the answer may be lost (unclear), and the operation may come to pass only later.
    fn storage(&mut self) {
        if self.operations.is_empty() {
            return;
        }
        let at = self.chance.below(self.operations.len() as u64) as usize;
        let (i, life, command) = self.operations.swap_remove(at);
        let unclear = self.chance.below(6);
        let answer = match command {
            Command::Put { number, bytes } => {
                if unclear == 0 {
                    // Answered as unclear, still under way: it happens later or never.
                    if self.chance.below(2) == 0 {
                        self.operations.push((i, u64::MAX, Command::Put { number, bytes }));
                    }
                    Event::PutAnswered { number, answer: PutAnswer::Unclear }
                } else {
                    let exists = self.objects.contains_key(&number);
                    self.history.entry(number).or_insert_with(|| bytes.clone());
                    self.objects.entry(number).or_insert(bytes);
                    let answer = match (unclear, exists) {
                        (1, _) => PutAnswer::Unclear,
                        (_, true) => PutAnswer::Exists,
                        (_, false) => PutAnswer::Created,
                    };
                    Event::PutAnswered { number, answer }
                }
            }
            Command::Read { number } => Event::ReadAnswered { number, bytes: self.objects.get(&number).cloned() },
            Command::List => Event::Listed { numbers: self.objects.keys().rev().copied().collect() },
            Command::Delete { numbers } => {
                if self.chance.below(20) > 0 {
                    self.objects.retain(|number, _| !numbers.contains(number));
                }
                return;
            }
            Command::Appended | Command::Lead { .. } | Command::StepDown { .. } => unreachable!(),
        };
        if life == self.processes[i].life {
            self.processes[i].inbox.push_back(answer);
        }
    }

    fn step(&mut self, faults: bool) {
        self.now = self.now.plus(Duration::from_millis(self.chance.below(20)));
        for _ in 0..3 {
            self.storage();
        }
        for i in 0..self.processes.len() {
            if self.processes[i].paused > self.now.0 {
                continue;
            }
            self.feed(i, Event::Tick);
            while let Some(event) = self.processes[i].inbox.pop_front() {
                self.feed(i, event);
            }
            let idle = self.processes[i].leading.as_ref().is_some_and(VecDeque::is_empty);
            if idle && self.chance.below(2) == 0 {
                let n = self.next_record;
                self.next_record += 1;
                self.processes[i].leading.as_mut().unwrap().push_back(n);
                let mut records = vec![record(n)];
                if !std::mem::replace(&mut self.processes[i].submitted, true) {
                    records.insert(0, submitted());
                }
                self.feed(i, Event::Append(records));
            }
            if faults && self.chance.below(150) == 0 {
                self.processes[i].paused = self.now.0 + self.chance.below(6_000_000);
            }
            if faults && self.chance.below(200) == 0 {
                let life = self.processes[i].life + 1;
                let nonce = Uuid::from_u128(u128::from(life) * 100 + i as u128);
                self.processes[i] = Process {
                    appender: Appender::new(settings(), format!("jm{i}"), nonce),
                    inbox: VecDeque::new(),
                    paused: 0,
                    leading: None,
                    submitted: false,
                    life,
                };
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_was_confirmed_stays_and_is_in_order(seed: u64, processes in 1..4_usize) {
        let mut world = World::new(seed, processes);
        for _ in 0..1500 {
            world.step(true);
        }
        let before = world.confirmed.len();
        for _ in 0..1500 {
            world.step(false);
        }
        prop_assert!(world.leaders > 0);
        prop_assert!(world.confirmed.len() > before, "nobody leads once the faults are over");
        let newest = world.objects.keys().copied().max().unwrap();
        prop_assert!(world.objects.len() < 200 + world.leaders as usize, "{} objects", world.objects.len());
        // Whoever reads the log from scratch finds the newest confirmed record.
        let base = (1..=newest).rev().find(|n| {
            world.objects.get(n).is_some_and(|b| matches!(unframe(b).unwrap().records[..], [Record::Base(_)]))
        });
        let mut state = LogState::default();
        for number in base.unwrap_or(1)..=newest {
            let frame = unframe(world.objects.get(&number).expect("no gap above the base")).unwrap();
            state.apply_object(number, &frame.records).unwrap();
        }
        for claim in &state.claims {
            prop_assert!(world.objects.contains_key(claim), "claim {claim} was removed");
        }
        let mut written = Vec::new();
        for object in world.history.values() {
            for record in unframe(object).unwrap().records {
                if let Record::Failed { reason, .. } = record {
                    written.push(reason.parse::<u64>().unwrap());
                }
            }
        }
        prop_assert_eq!(newest_record(&state), written.last().copied());
        for n in &world.confirmed {
            prop_assert_eq!(written.iter().filter(|w| *w == n).count(), 1, "{} in the log", n);
        }
    }
}

/// Answers everything truthfully and at once, until nothing is under way.
fn settle_all(
    appender: &mut Appender,
    objects: &mut BTreeMap<u64, Vec<u8>>,
    commands: Vec<Command>,
    now: Instant,
) -> Vec<Command> {
    let mut queue: VecDeque<Command> = commands.into();
    let mut said = Vec::new();
    while let Some(command) = queue.pop_front() {
        let event = match command {
            Command::Put { number, bytes } => {
                let exists = objects.contains_key(&number);
                objects.entry(number).or_insert(bytes);
                Event::PutAnswered { number, answer: if exists { PutAnswer::Exists } else { PutAnswer::Created } }
            }
            Command::Read { number } => Event::ReadAnswered { number, bytes: objects.get(&number).cloned() },
            Command::List => Event::Listed { numbers: objects.keys().copied().collect() },
            Command::Delete { numbers } => {
                objects.retain(|n, _| !numbers.contains(n));
                continue;
            }
            Command::Appended | Command::Lead { .. } | Command::StepDown { .. } => {
                said.push(command);
                continue;
            }
        };
        queue.extend(appender.handle(event, now));
    }
    said
}

fn run(appender: &mut Appender, objects: &mut BTreeMap<u64, Vec<u8>>, from: u64, millis: u64) -> Vec<(u64, Command)> {
    let mut said = Vec::new();
    for ms in from..from + millis {
        let now = Instant(ms * 1000);
        let commands = appender.handle(Event::Tick, now);
        said.extend(settle_all(appender, objects, commands, now).into_iter().map(|c| (ms - from, c)));
    }
    said
}

fn leads(said: &[(u64, Command)]) -> Option<u64> {
    said.iter().find(|(_, c)| matches!(c, Command::Lead { .. })).map(|(ms, _)| *ms)
}

#[test]
fn a_restart_leads_at_once_and_a_standby_after_silence() {
    let mut objects = BTreeMap::new();
    let mut first = Appender::new(settings(), "a".into(), Uuid::from_u128(1));
    assert!(leads(&run(&mut first, &mut objects, 0, 20)).unwrap() < 5);
    let mut restarted = Appender::new(settings(), "a".into(), Uuid::from_u128(2));
    assert!(leads(&run(&mut restarted, &mut objects, 20, 20)).unwrap() < 5);
    let mut standby = Appender::new(settings(), "b".into(), Uuid::from_u128(3));
    let after = leads(&run(&mut standby, &mut objects, 40, 4000)).unwrap();
    assert!((2000..2600).contains(&after), "{after} ms");
    // The first one wakes up and meets the claim of the second.
    let commands = first.handle(Event::Append(vec![submitted()]), Instant(9_000_000));
    let said = settle_all(&mut first, &mut objects, commands, Instant(9_000_000));
    assert!(matches!(said[..], [Command::StepDown { fatal: false, .. }]), "{said:?}");
}

#[test]
fn a_live_leader_is_left_alone() {
    let mut objects = BTreeMap::new();
    let mut leader = Appender::new(settings(), "a".into(), Uuid::from_u128(1));
    let mut standby = Appender::new(settings(), "b".into(), Uuid::from_u128(3));
    for ms in 0..20 {
        run(&mut leader, &mut objects, ms * 500, 499);
        assert_eq!(leads(&run(&mut standby, &mut objects, ms * 500 + 499, 1)), None);
    }
    assert!(leader.is_leading());
}

#[test]
fn a_damaged_or_missing_record_stops_everything() {
    let mut objects = BTreeMap::new();
    let mut leader = Appender::new(settings(), "a".into(), Uuid::from_u128(1));
    run(&mut leader, &mut objects, 0, 2000);
    let mut damaged = objects.clone();
    let last = *damaged.keys().last().unwrap();
    damaged.get_mut(&last).unwrap()[20] ^= 1;
    let mut gap = objects.clone();
    gap.remove(&(last - 1));
    for mut log in [damaged, gap] {
        let mut next = Appender::new(settings(), "a".into(), Uuid::from_u128(2));
        let said = run(&mut next, &mut log, 0, 1000);
        assert!(matches!(said[..], [(_, Command::StepDown { fatal: true, .. })]), "{said:?}");
    }
}

#[test]
fn a_taken_number_that_is_gone_is_not_put_again() {
    let mut objects = BTreeMap::new();
    let mut leader = Appender::new(settings(), "a".into(), Uuid::from_u128(1));
    run(&mut leader, &mut objects, 0, 20);
    let now = Instant(20_000);
    let put = leader.handle(Event::Append(vec![submitted()]), now);
    let [Command::Put { number, .. }] = put[..] else { panic!("{put:?}") };
    leader.handle(Event::PutAnswered { number, answer: PutAnswer::Exists }, now);
    let said = leader.handle(Event::ReadAnswered { number, bytes: None }, now);
    assert!(matches!(said[..], [Command::StepDown { fatal: false, .. }]), "{said:?}");
}

#[test]
fn an_unclear_put_that_is_absent_is_repeated_byte_for_byte() {
    let mut objects = BTreeMap::new();
    let mut leader = Appender::new(settings(), "a".into(), Uuid::from_u128(1));
    run(&mut leader, &mut objects, 0, 20);
    let now = Instant(20_000);
    let first = leader.handle(Event::Append(vec![submitted()]), now);
    let [Command::Put { number, .. }] = first[..] else { panic!("{first:?}") };
    leader.handle(Event::PutAnswered { number, answer: PutAnswer::Unclear }, now);
    // Whatever waits stays behind it.
    assert_eq!(leader.handle(Event::Append(vec![record(1)]), now), vec![]);
    assert_eq!(leader.handle(Event::ReadAnswered { number, bytes: None }, now), first);
}
