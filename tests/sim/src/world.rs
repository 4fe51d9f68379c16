//! The simulated cluster: all processes and models, and the loop that lets one thing happen after another.

mod faults;
mod job_managers;
mod sources;
mod stores;
mod targets;
mod task_managers;
mod wires;

use std::collections::{BTreeMap, BTreeSet};

use pulso_core::control_log::LogState;
use pulso_core::cut::{Cut, CutHash};
use pulso_core::ids::{ConnectionId, Epoch, EventTime, JobId, SessionId, SplitId, TargetId, WallTime};
use pulso_core::record::JobDefinition;
use uuid::Uuid;

use crate::action::{Action, DbMessage, LinkId};
use crate::chance::Chance;
use crate::coverage::{Coverage, Sight};
use crate::database::Database;
use crate::invariants::{Facts, Invariant, Progress, Seen};
use crate::job_manager::JobManager;
use crate::kafka::Kafka;
use crate::lookups::Lookups;
use crate::mistakes::{Mistake, Mistakes};
use crate::network::{Arrival, Network};
use crate::oracle::Oracle;
use crate::retained::Retained;
use crate::scenario::Scenario;
use crate::schedule::Schedule;
use crate::storage::{LogObjects, Objects};
use crate::task_manager::{Connection, Life, Link, Session, TaskManager};
use crate::trace::Trace;

pub(crate) use faults::{CHANGE, GOES_BACK};

pub(crate) const JOB: JobId = JobId(Uuid::from_u128(0x5eed));

pub(crate) struct World {
    pub(crate) schedule: Schedule<Action>,
    pub(crate) chance: Chance,
    pub(crate) scenario: Scenario,
    pub(crate) mistakes: Mistakes,
    pub(crate) network: Network<Action>,
    pub(crate) kafka: Kafka,
    pub(crate) kafka_up: bool,
    pub(crate) databases: BTreeMap<TargetId, Database>,
    pub(crate) log: LogObjects,
    /// What the records of the log add up to.
    pub(crate) folded: LogState,
    pub(crate) objects: Objects,
    pub(crate) lookups: Lookups,
    pub(crate) storage_up: bool,
    pub(crate) jms: Vec<JobManager>,
    pub(crate) tms: Vec<TaskManager>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// Numbers given out, for every kind of id.
    pub(crate) given: u64,
    /// Faults may happen.
    pub(crate) rough: bool,
    pub(crate) oracle: Oracle,
    pub(crate) invariants: Vec<Box<dyn Invariant>>,
    pub(crate) violation: Option<String>,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    pub(crate) deadline: pulso_core::ids::Instant,
    pub(crate) started: pulso_core::ids::Instant,
    pub(crate) leader: Option<usize>,
    pub(crate) retained: Retained,
    pub(crate) went_back: Option<pulso_core::ids::Instant>,
    pub(crate) stopping: bool,
    pub(crate) finished: bool,
    pub(crate) done: bool,
}

/// A definition has the first ones, so that each has one number in all of them.
pub(crate) fn target_names(count: u16) -> Vec<String> {
    (0..count).map(|target| format!("target{target}")).collect()
}

/// What a run of one seed came to.
#[derive(Debug)]
pub struct Run {
    pub violation: Option<String>,
    pub trace: u64,
    pub coverage: Coverage,
    /// Virtual time that passed, in milliseconds.
    pub millis: u64,
    pub records: u64,
    pub epochs: u64,
}

impl World {
    pub(crate) fn new(seed: u64, mistake: Option<Mistake>, print: bool) -> Self {
        let mut chance = Chance::new(seed);
        let scenario = Scenario::draw(seed, &mut chance);
        let oracle = Oracle::new(scenario.targets, scenario.key_groups, scenario.stages);
        let mut world = Self {
            schedule: Schedule::new(),
            databases: (0..scenario.targets).map(|t| (TargetId(t), Database::new(TargetId(t)))).collect(),
            chance,
            mistakes: Mistakes(mistake),
            network: Network::new(),
            kafka: Kafka::default(),
            kafka_up: true,
            log: LogObjects::default(),
            folded: LogState::default(),
            objects: Objects::default(),
            lookups: Lookups::default(),
            storage_up: true,
            jms: Vec::new(),
            tms: Vec::new(),
            sessions: BTreeMap::new(),
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            given: 0,
            rough: true,
            oracle,
            invariants: crate::invariants::all(),
            violation: None,
            coverage: Coverage::default(),
            trace: Trace::new(print),
            deadline: pulso_core::ids::Instant(u64::MAX),
            started: pulso_core::ids::Instant(0),
            leader: None,
            retained: Retained::default(),
            went_back: None,
            stopping: false,
            finished: false,
            done: false,
            scenario,
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        self.started = self.schedule.now();
        for _ in 0..self.scenario.splits {
            self.kafka.add_split(&mut self.chance);
        }
        for jm in 0..self.scenario.job_managers {
            self.start_job_manager(jm);
        }
        for _ in 0..self.scenario.task_managers {
            self.start_task_manager();
        }
        self.schedule.after(1_000, Action::Produce);
        self.schedule.after(50_000, Action::Remember);
        self.schedule.after(self.scenario.first_fault, Action::Fault);
        self.schedule.after(self.scenario.rough_for, Action::Quiet);
    }

    /// Runs to the end and says what was found.
    pub(crate) fn run(mut self) -> Run {
        let start = self.schedule.now();
        while !self.done && self.violation.is_none() {
            let Some(action) = self.schedule.pop() else {
                self.violation = Some("nothing is left to happen".to_owned());
                break;
            };
            self.dispatch(action);
        }
        if self.violation.is_none() {
            self.see(&Seen::End);
        }
        Run {
            violation: self.violation.take(),
            trace: self.trace.hash(),
            millis: self.schedule.now().since(start).as_millis().try_into().unwrap_or(u64::MAX),
            records: self.kafka.count(),
            epochs: self.oracle.sealed().0,
            coverage: self.coverage,
        }
    }

    pub(crate) fn dispatch(&mut self, action: Action) {
        match action {
            Action::Arrive(pipe) => match self.network.arrive(pipe) {
                Arrival::Here(action) => self.dispatch(action),
                Arrival::Held => self.schedule.after(10_000, Action::Arrive(pipe)),
                Arrival::Nothing => {}
            },
            Action::JobManager(jm, message) => match self.jms[jm].life {
                Life::Running => self.job_manager(jm, message),
                Life::Paused => self.jms[jm].held.push(Action::JobManager(jm, message)),
                Life::Dead => {}
            },
            Action::TaskManager(tm, message) => match self.tms[tm].life {
                Life::Running => self.task_manager(tm, message),
                Life::Paused => self.tms[tm].held.push(Action::TaskManager(tm, message)),
                Life::Dead => {}
            },
            Action::Database(target, message) => self.database(target, message),
            Action::Storage(message) => self.storage(message),
            Action::KeepAlive(wire) => self.keep_alive(wire),
            Action::Produce => self.produce(),
            Action::Remember => self.remember(),
            Action::Fault => self.fault(),
            Action::Heal(heal) => self.heal(heal),
            Action::Quiet => self.quiet(),
            Action::Check => self.check(),
        }
    }

    /// Shows something to every invariant; the first that is broken ends the run.
    pub(crate) fn see(&mut self, seen: &Seen<'_>) {
        let facts = Facts {
            oracle: &self.oracle,
            kafka: &self.kafka,
            databases: &self.databases,
            objects: &self.objects,
            counted: matches!(seen, Seen::End).then(|| self.counted()).flatten(),
            now: self.schedule.now(),
        };
        for invariant in &mut self.invariants {
            if let Err(what) = invariant.observe(seen, &facts) {
                let found = format!("{}: {what} (at {} ms)", invariant.name(), facts.now.0 / 1000);
                self.violation.get_or_insert(found);
            }
        }
    }

    pub(crate) fn sight(&mut self, sight: Sight) {
        self.coverage.add(sight);
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.given += 1;
        self.given
    }

    pub(crate) fn definition(&self) -> JobDefinition {
        JobDefinition {
            id: JOB,
            name: "simulated".to_owned(),
            submission: String::new(),
            fingerprint: 1,
            key_groups: self.scenario.key_groups,
            stages: self.scenario.stages,
            targets: target_names(self.scenario.targets),
            delay: 200_000,
            idle_after: 400_000,
            has_windows: false,
        }
    }

    /// Cut(0): where splits start.
    pub(crate) fn start_cut(&self) -> Cut {
        let at = |position| pulso_core::cut::SplitCut { end: position, count: 0, hash: 0, greatest: None };
        let splits: BTreeMap<SplitId, _> =
            self.kafka.start.iter().map(|(split, position)| (*split, at(*position))).collect();
        Cut {
            epoch: Epoch::ZERO,
            clock: self.wall(),
            splits,
            watermark: EventTime::MIN,
            idle: BTreeSet::new(),
            last: false,
            lookups: None,
            previous: CutHash::default(),
        }
    }

    pub(crate) fn wall(&self) -> WallTime {
        WallTime(i64::try_from(self.schedule.now().0).unwrap_or(i64::MAX))
    }

    fn produce(&mut self) {
        if self.schedule.now().0 > self.started.0 + self.scenario.rough_for - self.scenario.calm {
            return;
        }
        let narrow = self.schedule.now().0 - self.started.0 > self.scenario.narrow_after;
        // One key at a time.
        let turn = self.schedule.now().0 / self.scenario.narrow_for % self.scenario.keys;
        let keys = if narrow { turn..turn + 1 } else { 0..self.scenario.keys };
        for _ in 0..=self.chance.below(self.scenario.burst) {
            self.kafka.produce(self.schedule.now(), keys.clone(), &mut self.chance);
        }
        // Now and then a pause, so that splits and key groups go idle.
        let pause = if self.chance.per_mille(15) { 600_000 } else { self.scenario.produce_every };
        self.schedule.after(pause, Action::Produce);
    }

    fn remember(&mut self) {
        let now = self.schedule.now();
        for database in self.databases.values_mut() {
            database.remember(now);
        }
        if self.rough {
            self.schedule.after(100_000, Action::Remember);
        }
    }

    fn quiet(&mut self) {
        self.rough = false;
        self.trace.note(self.schedule.now(), "world", &"faults end");
        self.heal_everything();
        self.deadline = pulso_core::ids::Instant(self.schedule.now().0 + self.scenario.patience);
        self.schedule.after(100_000, Action::Check);
    }

    /// Is everything committed, and is the job stopped where that was asked for?
    fn check(&mut self) {
        let progress = Progress {
            records: self.kafka.count(),
            sealed: self.oracle.counters.total(),
            due: self.oracle.rows.values().map(Vec::len).sum(),
            committed: self.databases.values().map(|d| d.contents.appended.values().map(Vec::len).sum::<usize>()).sum(),
            counted: self.counted().map(|c| c.total()),
            deadline: self.deadline,
        };
        self.see(&Seen::Waiting(&progress));
        if progress.is_complete() {
            if self.scenario.stops && !self.finished {
                self.stop();
            } else {
                self.done = true;
            }
        }
        self.schedule.after(50_000, Action::Check);
    }

    pub(crate) fn request_later(&mut self, target: TargetId, delay: u64, message: DbMessage) {
        self.schedule.after(delay, Action::Database(target, message));
    }
}
