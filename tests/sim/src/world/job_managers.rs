//! The JobManager's shell: the appender's storage, the coordinator's sessions and calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use pulso_core::control_log::{self, Appender, PutAnswer, unframe};
use pulso_core::coordinator::{self, Answer, Call, Coordinator, DefinitionId, NewJob, Now};
use pulso_core::ids::{Attempt, Epoch, RequestId};
use pulso_core::lookups::{LookupsVersion, object};
use pulso_core::message::{Counters, Instruction, Seal};
use pulso_core::record::{Change, JobDefinition, Record, Redefinition};
use pulso_core::worker::Event as Worker;

use super::{GOES_BACK, JOB, World, target_names};
use crate::action::{Action, JmMessage, StorageMessage, TmMessage, WorkerEvent};
use crate::coverage::Sight;
use crate::dedup::State;
use crate::invariants::Seen;
use crate::job_manager::JobManager;
use crate::lookups;
use crate::mistakes::Mistake;
use crate::task_manager::Life;

const TICK: u64 = 5_000;
const DISCOVER: u64 = 400_000;

impl World {
    /// Starts a process of JobManager `host`.
    pub(crate) fn start_job_manager(&mut self, host: usize) {
        let jm = self.jms.len();
        let settings = control_log::Settings { base_every: 60, ..control_log::Settings::default() };
        let nonce = self.chance.uuid();
        self.jms.push(JobManager {
            life: Life::Running,
            held: Vec::new(),
            appender: Appender::new(settings, format!("jm{host}"), nonce),
            coordinator: None,
            sessions: BTreeSet::new(),
            appends: VecDeque::new(),
            host,
            ticks: 0,
        });
        self.schedule.after(0, Action::JobManager(jm, JmMessage::Tick));
        self.schedule.after(DISCOVER, Action::JobManager(jm, JmMessage::Discover));
    }

    fn coordinator_settings(&self) -> coordinator::Settings {
        coordinator::Settings {
            window: 6,
            mistake: self.mistakes.in_core(),
            checkpoint_interval: Duration::from_micros(self.scenario.checkpoint_every),
            checkpoint_timeout: Duration::from_millis(1_500),
            ..coordinator::Settings::default()
        }
    }

    fn now(&self) -> Now {
        Now { instant: self.schedule.now(), wall: self.wall() }
    }

    pub(crate) fn job_manager(&mut self, jm: usize, message: JmMessage) {
        match message {
            JmMessage::Tick => {
                self.schedule.after(TICK, Action::JobManager(jm, JmMessage::Tick));
                self.jms[jm].ticks += 1;
                if self.jms[jm].ticks.is_multiple_of(5) {
                    self.appender(jm, control_log::Event::Tick);
                }
                self.coordinator(jm, coordinator::Event::Tick);
            }
            JmMessage::Discover => {
                self.schedule.after(DISCOVER, Action::JobManager(jm, JmMessage::Discover));
                let state = self.jms[jm].coordinator.as_ref().and_then(|coordinator| coordinator.state(JOB));
                let Some(of) = state.map(|state| state.definition.fingerprint) else { return };
                if self.kafka_up {
                    let splits = self.kafka.start.clone();
                    self.coordinator(jm, coordinator::Event::SplitsFound { job: JOB, of, splits });
                }
                if self.scenario.lookups_change && self.chance.per_mille(400) {
                    let version = self.read_lookups();
                    self.coordinator(jm, coordinator::Event::LookupsRead { job: JOB, of, version });
                }
            }
            JmMessage::Log(event) => self.appender(jm, event),
            JmMessage::Coordinator(event) => self.coordinator(jm, *event),
        }
    }

    pub(crate) fn coordinator(&mut self, jm: usize, event: coordinator::Event) {
        let now = self.now();
        if self.jms[jm].coordinator.is_none() {
            return;
        }
        if !matches!(event, coordinator::Event::Tick | coordinator::Event::Alive { .. }) {
            self.trace.note(now.instant, ("jm", jm), &event);
        }
        let Some(coordinator) = self.jms[jm].coordinator.as_mut() else { return };
        for command in coordinator.handle(event, now) {
            self.carry(jm, command);
        }
    }

    fn carry(&mut self, jm: usize, command: coordinator::Command) {
        self.trace.note(self.schedule.now(), ("->jm", jm), &command);
        match command {
            coordinator::Command::Append(records) => {
                let believed = self.believed(&records);
                self.jms[jm].appends.push_back(believed);
                if believed {
                    self.schedule.after(0, Self::to_coordinator(jm, coordinator::Event::Appended));
                }
                self.appender(jm, control_log::Event::Append(records));
            }
            coordinator::Command::Send { session, instruction } => {
                self.see(&Seen::Sent(&instruction));
                if let Instruction::TakeCheckpoint { .. } = &instruction {
                    self.retained.begun();
                }
                if matches!(&instruction, Instruction::Deploy(deployment) if deployment.until.is_some()) {
                    self.sight(Sight::Past);
                }
                let Some(s) = self.sessions.get(&session).copied() else { return };
                if let (Instruction::Seal { seal, .. }, true) = (&instruction, self.mistakes.has(Mistake::ForeignSeal))
                {
                    self.everybody(*seal);
                }
                let event = Worker::Instructed(instruction);
                self.send(s.down, Action::TaskManager(s.tm, TmMessage::Worker(Box::new(event))));
            }
            coordinator::Command::CloseSession { session, .. } => self.break_session(session),
            coordinator::Command::Reply { answer, .. } => self.answered(&answer),
            // The simulated job reads a topic.
            coordinator::Command::RetireFiles { .. } => {}
            coordinator::Command::DeleteObjects(names) => {
                for name in names {
                    self.see(&Seen::Deleted(&name));
                    self.objects.delete(&name);
                }
            }
        }
    }

    /// Mistakes: what the coordinator takes for durable although it is not yet.
    fn believed(&self, records: &[Record]) -> bool {
        let cut = records.iter().any(|r| matches!(r, Record::Cut { .. }));
        let attempt = records.iter().any(|r| matches!(r, Record::Attempt { .. }));
        cut && self.mistakes.has(Mistake::SealBeforeDurable) || attempt && self.mistakes.has(Mistake::LateAttempt)
    }

    /// A mistake: every receiver takes the Seal, whatever its attempt is and whether the JobManager still reaches it.
    fn everybody(&mut self, seal: Seal) {
        for tm in 0..self.tms.len() {
            let attempt = self.tms[tm].attempt;
            let event = Worker::Instructed(Instruction::Seal { job: JOB, attempt, seal });
            let delay = self.chance.below(3_000);
            self.schedule.after(delay, Action::TaskManager(tm, TmMessage::Worker(Box::new(event))));
        }
    }

    /// A mistake: what is processed counts as sealed.
    pub(crate) fn pretended_seal(&self, attempt: Attempt, epoch: Epoch) -> Option<WorkerEvent> {
        if self.oracle.cuts.contains_key(&epoch) {
            return None;
        }
        let hash = pulso_core::cut::CutHash(u128::from(epoch.0));
        let seal = Seal { epoch, hash, committed: Epoch::ZERO, last: false };
        Some(Worker::Instructed(Instruction::Seal { job: JOB, attempt, seal }))
    }

    fn answered(&mut self, answer: &Answer) {
        match answer {
            // Asked again by the next check.
            Answer::Refused(_) if self.stopping => self.stopping = false,
            Answer::Stopped { .. }
            | Answer::Submitted { .. }
            | Answer::Changing { .. }
            | Answer::SavepointTaken { .. }
            | Answer::Cancelled
            | Answer::Resumed
            | Answer::Refused(_) => {}
        }
    }

    fn call(&mut self, jm: usize, call: Call) {
        let request = RequestId(self.number());
        self.schedule.after(0, Self::to_coordinator(jm, coordinator::Event::Called { request, call }));
    }

    pub(crate) fn stop(&mut self) {
        if let (Some(jm), false) = (self.leader, self.stopping) {
            self.stopping = true;
            self.call(jm, Call::Stop { job: JOB });
        }
    }

    pub(crate) fn savepoint(&mut self) {
        if let Some(jm) = self.leader {
            self.call(jm, Call::Savepoint { job: JOB });
        }
    }

    /// Another definition, which computes the same, for one target more or less; or the same with another password.
    pub(crate) fn change(&mut self) {
        let Some(jm) = self.leader else { return };
        let state = self.jms[jm].coordinator.as_ref().and_then(|coordinator| coordinator.state(JOB));
        let Some((from, before)) = state.map(|state| (DefinitionId::of(state), state.definition.clone())) else {
            return;
        };
        let mut definition = JobDefinition { fingerprint: self.number(), ..before };
        if self.chance.per_mille(200) {
            let definitions = Redefinition { definition, next: None, before: BTreeMap::new() };
            return self.call(jm, Call::Redefine { from, definitions: Box::new(definitions) });
        }
        self.retained.begun();
        if self.scenario.targets > 1 && self.chance.per_mille(500) {
            definition.targets = target_names(3 - definition.targets.len() as u16);
        }
        let lookups = Some(self.read_lookups());
        let change = Box::new(Change { definition, source: None, time: false, lookups, before: BTreeMap::new() });
        self.call(jm, Call::Change { from, change });
    }

    pub(crate) fn appender(&mut self, jm: usize, event: control_log::Event) {
        let now = self.schedule.now();
        for command in self.jms[jm].appender.handle(event, now) {
            self.log_command(jm, command);
        }
    }

    fn log_command(&mut self, jm: usize, command: control_log::Command) {
        let delay = self.chance.between(100..2_500);
        match command {
            control_log::Command::Put { number, bytes } => self.put(jm, number, bytes),
            control_log::Command::Read { number } => {
                self.schedule.after(delay, Action::Storage(StorageMessage::Read { jm, number }));
            }
            control_log::Command::List => self.schedule.after(delay, Action::Storage(StorageMessage::List { jm })),
            control_log::Command::Delete { numbers } => {
                self.schedule.after(delay, Action::Storage(StorageMessage::Delete { numbers }));
            }
            control_log::Command::Appended => {
                if self.jms[jm].appends.pop_front() == Some(false) {
                    self.coordinator(jm, coordinator::Event::Appended);
                }
            }
            control_log::Command::Lead { state } => self.lead(jm, *state),
            control_log::Command::StepDown { reason, fatal } => {
                self.trace.note(self.schedule.now(), ("jm", jm), &format!("steps down: {reason}"));
                if fatal {
                    self.violation.get_or_insert(format!("the control log is broken: {reason}"));
                }
                self.jms[jm].coordinator = None;
                self.jms[jm].appends.clear();
                for session in std::mem::take(&mut self.jms[jm].sessions) {
                    self.break_session(session);
                }
            }
        }
    }

    fn lead(&mut self, jm: usize, state: control_log::LogState) {
        self.trace.note(self.schedule.now(), ("jm", jm), &"leads");
        match self.leader {
            Some(old) if self.jms[old].host != self.jms[jm].host => self.sight(Sight::Takeover),
            Some(_) => self.sight(Sight::JobManagerRestart),
            None => {}
        }
        self.leader = Some(jm);
        self.stopping = false;
        let known = state.jobs.contains_key(&JOB);
        let (settings, now) = (self.coordinator_settings(), self.now());
        self.jms[jm].coordinator = Some(Coordinator::new(settings, state, now));
        if !known {
            let (definition, mut start) = (self.definition(), self.start_cut());
            let version = self.read_lookups();
            start.lookups = Some(version.id);
            self.call(jm, Call::Submit(Box::new(NewJob { definition, start, lookups: Some(version) })));
        }
    }

    /// What is in the table changes from time to time, and whatever was read is stored.
    fn read_lookups(&mut self) -> LookupsVersion {
        // Of any order, as random ones are; and other rows in half of the cases.
        let number = u128::from(self.number());
        let version = lookups::version(number.reverse_bits() | number, (number / 2 % 7) as u64, self.wall());
        self.objects.write(&object(JOB, version.id), State::default());
        version
    }

    /// A put: done and answered; or with an unclear answer, and then done, not done, or done later.
    fn put(&mut self, jm: usize, number: u64, bytes: Vec<u8>) {
        let delay = self.chance.between(200..3_000);
        let unclear = !self.storage_up || self.rough && self.chance.per_mille(8);
        if !unclear {
            self.schedule.after(delay, Action::Storage(StorageMessage::Put { jm, number, bytes, answered: true }));
            return;
        }
        self.sight(Sight::UnclearPut);
        if self.chance.per_mille(if self.storage_up { 600 } else { 100 }) {
            let late = if self.chance.per_mille(500) { delay } else { self.chance.between(1_000..900_000) };
            self.schedule.after(late, Action::Storage(StorageMessage::Put { jm, number, bytes, answered: false }));
        }
        let answer = control_log::Event::PutAnswered { number, answer: PutAnswer::Unclear };
        let patience = self.chance.between(3_000..200_000);
        self.schedule.after(patience, Action::JobManager(jm, JmMessage::Log(answer)));
    }

    pub(crate) fn storage(&mut self, message: StorageMessage) {
        let back = self.chance.between(100..1_000);
        match message {
            StorageMessage::Put { jm, number, bytes, answered } => {
                let done = self.log.put(number, bytes.clone());
                if done && self.log.extends(number) {
                    self.logged(&bytes);
                }
                if answered {
                    let answer = if done { PutAnswer::Created } else { PutAnswer::Exists };
                    let event = control_log::Event::PutAnswered { number, answer };
                    self.schedule.after(back, Action::JobManager(jm, JmMessage::Log(event)));
                }
            }
            StorageMessage::Read { jm, number } => {
                if !self.storage_up {
                    return self.schedule.after(50_000, Action::Storage(StorageMessage::Read { jm, number }));
                }
                let event = control_log::Event::ReadAnswered { number, bytes: self.log.read(number) };
                self.schedule.after(back, Action::JobManager(jm, JmMessage::Log(event)));
            }
            StorageMessage::List { jm } => {
                if !self.storage_up {
                    return self.schedule.after(50_000, Action::Storage(StorageMessage::List { jm }));
                }
                let event = control_log::Event::Listed { numbers: self.log.list().into_iter().collect() };
                self.schedule.after(back, Action::JobManager(jm, JmMessage::Log(event)));
            }
            StorageMessage::Delete { numbers } => numbers.into_iter().for_each(|n| self.log.delete(n)),
        }
    }

    /// An object of the log is durable.
    fn logged(&mut self, bytes: &[u8]) {
        let Ok(frame) = unframe(bytes) else {
            self.violation.get_or_insert("an object of the control log cannot be read".to_owned());
            return;
        };
        for record in &frame.records {
            if !matches!(record, Record::Alive | Record::Base(_)) {
                self.trace.note(self.schedule.now(), "log", record);
            }
            let folded = self.folded.apply(record).map_err(|e| e.to_string());
            self.violated("log-folds", folded);
            self.durable(record);
        }
    }

    fn durable(&mut self, record: &Record) {
        match record {
            Record::Submitted { start, .. } => {
                self.oracle.start(start.clone());
                let named = self.lookups.sealed(start);
                self.violated("lookups-agree", named);
            }
            Record::Cut { cut, .. } => {
                let since = self.folded.jobs.get(&JOB).map(|job| job.since).unwrap_or_default();
                let agrees = self.oracle.seal(cut, since, &self.kafka);
                self.violated("cuts-agree", agrees);
                let named = self.lookups.sealed(cut);
                self.violated("lookups-agree", named);
            }
            Record::Attempt { attempt, .. } => self.lookups.attempt(*attempt),
            Record::CheckpointDone { manifest, .. } => {
                self.retained.done(manifest);
                self.sight(Sight::CheckpointDone);
            }
            Record::Pinned { checkpoint, .. } => self.retained.pinned(*checkpoint),
            Record::Collect { checkpoints, .. } => self.retained.collected(checkpoints),
            Record::Finished { .. } => self.finished = true,
            Record::SplitsJoined { .. } => self.sight(Sight::SplitAdded),
            Record::Leader { .. }
            | Record::Alive
            | Record::Base(_)
            | Record::Plan { .. }
            | Record::Stopping { .. }
            | Record::Changing { .. }
            | Record::Redefined { .. }
            | Record::Cancelled { .. }
            | Record::Failed { .. }
            | Record::Resumed { .. }
            | Record::FilesFound { .. }
            | Record::FilesRetired { .. }
            | Record::LookupsRead { .. } => {}
            Record::LookupsGone { .. } => self.sight(Sight::LookupsGone),
            Record::Changed { .. } => self.changed(),
        }
        self.see(&Seen::Logged(record));
    }

    /// The change has a cut and a checkpoint of its own.
    fn changed(&mut self) {
        self.sight(Sight::Changed);
        let Some(job) = self.folded.jobs.get(&JOB) else { return };
        self.oracle.targets = job.definition.targets.len().try_into().unwrap_or(u16::MAX);
        let (cut, manifest) = (job.newest_cut().clone(), job.checkpoints.last().map(|c| c.manifest.clone()));
        self.durable(&Record::Cut { job: JOB, cut });
        if let Some(manifest) = manifest {
            self.durable(&Record::CheckpointDone { job: JOB, manifest });
        }
        if self.rough && self.scenario.kinds >> GOES_BACK & 1 == 1 && self.chance.per_mille(300) {
            self.go_back();
        }
    }

    pub(crate) fn violated(&mut self, rule: &str, holds: Result<(), String>) {
        if let Err(what) = holds {
            self.violation.get_or_insert(format!("{rule}: {what}"));
        }
    }

    /// SIGKILL of a JobManager.
    pub(crate) fn kill_job_manager(&mut self, jm: usize) {
        self.jms[jm].life = Life::Dead;
        self.jms[jm].held.clear();
        self.jms[jm].coordinator = None;
        for session in std::mem::take(&mut self.jms[jm].sessions) {
            self.break_session(session);
        }
    }

    /// What the coordinator in charge counts.
    pub(crate) fn counted(&self) -> Option<Counters> {
        let view = self.jms[self.leader?].coordinator.as_ref()?.view();
        let job = view.jobs.iter().find(|j| j.id == JOB)?;
        Some(job.counters)
    }
}
