//! The JobManager's decisions: membership, placement, cuts, checkpoints, attempts.

mod attempts;
mod calls;
mod changes;
mod checkpoints;
mod cutting;
mod epochs;
mod files;
mod job;
mod journal;
mod lookups;
mod members;
mod recovery;
mod running;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use self::calls::Submitting;
use self::job::{Context, Job, Phase, Waiting};
use self::journal::{Done, Journal, Then};
use self::members::Members;
pub use self::view::{
    AttemptView, CheckpointView, ClusterView, EpochsView, JobView, KeyGroupView, LookupsView, PhaseView, SplitView,
};
use crate::control_log::{JobState, LogState};
use crate::cut::Cut;
use crate::files::{FileNumber, FoundFile, PlacedFile};
use crate::ids::{
    CheckpointId, Epoch, Instant, JobId, Position, RequestId, SessionId, SplitId, TaskManagerId, WallTime,
};
use crate::lookups::LookupsVersion;
use crate::message::{Instruction, Report};
use crate::mistake::Mistake;
use crate::record::{Change, JobDefinition, Record, Redefinition};

/// Everything that can happen to the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time passed; sent when [`Coordinator::idle`] says, and at least every 100 ms.
    Tick,
    /// The records of the oldest outstanding `Append` are durable.
    Appended,
    /// A TaskManager opened a session. `exchange` is the address that others reach it at.
    Registered {
        session: SessionId,
        task_manager: TaskManagerId,
        name: String,
        exchange: String,
    },
    /// The stream of a session broke.
    SessionLost {
        session: SessionId,
    },
    /// A heartbeat; reports count as one too.
    Alive {
        session: SessionId,
    },
    Reported {
        session: SessionId,
        report: Report,
    },
    /// Splits that exist now and where a split that is new to the job starts.
    SplitsFound {
        /// The fingerprint of the definition whose source was asked.
        of: u64,
        job: JobId,
        splits: BTreeMap<SplitId, Position>,
    },
    /// A look into the folder of a job that reads files: what is new, in the order of reading; hashes of paths that are
    /// not there any more; whether nothing will ever come.
    FilesFound {
        of: u64,
        job: JobId,
        found: Vec<FoundFile>,
        gone: Vec<u64>,
        complete: bool,
    },
    /// Answer to `RetireFiles`: each file was moved away or (true) stays. `all`: none is left that could not be moved.
    FilesRetired {
        job: JobId,
        files: Vec<(SplitId, FileNumber, bool)>,
        all: bool,
    },
    /// The rows of a job's lookups are others than before; they are stored.
    LookupsRead {
        of: u64,
        job: JobId,
        version: LookupsVersion,
    },
    /// Whether a job's lookups can be read now, and if not, why.
    LookupsTried {
        job: JobId,
        trouble: Option<String>,
    },
    Called {
        request: RequestId,
        call: Call,
    },
}

/// What a person asks for. The edge has checked the job and resolved its start positions before.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Submit(Box<NewJob>),
    /// Another definition for a job that there is; `from` names the one that it was compared with.
    Change {
        from: DefinitionId,
        change: Box<Change>,
    },
    /// The same with other addresses or secrets: in force with the next attempt, which begins at once.
    Redefine {
        from: DefinitionId,
        definitions: Box<Redefinition>,
    },
    /// Takes a checkpoint and pins it.
    Savepoint {
        job: JobId,
    },
    /// Drains, takes a savepoint, finishes.
    Stop {
        job: JobId,
    },
    Cancel {
        job: JobId,
    },
    /// Goes on after `Failed`, `Finished` or `Cancelled`, from the newest checkpoint.
    Resume {
        job: JobId,
    },
}

/// One of the definitions that a job has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefinitionId {
    pub since: Epoch,
    pub fingerprint: u64,
}

impl DefinitionId {
    /// That of the definition in force.
    #[must_use]
    pub fn of(state: &JobState) -> Self {
        Self { since: state.since, fingerprint: state.definition.fingerprint }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    pub definition: JobDefinition,
    pub start: Cut,
    /// Of a job with lookups: those that `start` names.
    pub lookups: Option<LookupsVersion>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `known`: the same file runs already under this name.
    Submitted {
        job: JobId,
        known: bool,
    },
    /// Durable: it is in force once everything before it is committed.
    Changing {
        job: JobId,
    },
    SavepointTaken {
        checkpoint: CheckpointId,
        epoch: Epoch,
    },
    Stopped {
        checkpoint: CheckpointId,
        epoch: Epoch,
    },
    Cancelled,
    Resumed,
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another job of this name runs, from another file.
    NameTaken {
        job: JobId,
    },
    NoSuchJob,
    /// The call does not fit the job's state; says which state that is and what to do.
    WrongState {
        reason: String,
    },
    /// The job failed while the call waited.
    JobFailed {
        reason: String,
    },
}

/// What the shell carries out, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Append to the control log; answered by `Appended`. The coordinator has one outstanding at a time.
    Append(Vec<Record>),
    Send {
        session: SessionId,
        instruction: Instruction,
    },
    /// The TaskManager of this session is given up: close the stream.
    CloseSession {
        session: SessionId,
        reason: String,
    },
    Reply {
        request: RequestId,
        answer: Answer,
    },
    /// No replay needs these files: move them away where the job says so. May be repeated; answered by `FilesRetired`.
    RetireFiles {
        job: JobId,
        files: Vec<PlacedFile>,
    },
    /// Delete objects of the checkpoint storage; best effort, may be repeated.
    DeleteObjects(Vec<String>),
}

/// The intervals and bounds of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// An epoch with input is opened no sooner than this after the one before, unless it is full.
    pub epoch_age: Duration,
    /// *K*: epochs in flight.
    pub window: u64,
    /// A TaskManager that says nothing for this long is given up.
    pub session_timeout: Duration,
    /// How long `Prepare` waits for the TaskManagers of an attempt.
    pub prepare_timeout: Duration,
    /// After a (re)start: how long TaskManagers of the last plan are waited for.
    pub settle: Duration,
    pub checkpoint_interval: Duration,
    /// Records after which a checkpoint is due before the interval has passed.
    pub checkpoint_records: u64,
    pub checkpoint_timeout: Duration,
    /// Completed checkpoints kept, besides pinned ones.
    pub retained: usize,
    /// Sealed epochs that a recovery may have to replay: no more are opened until a checkpoint has been taken. One is due
    /// at half of them.
    pub most_epochs: u64,
    /// Between an attempt that failed and the next one; doubles up to 32 times this.
    pub retry_backoff: Duration,
    #[doc(hidden)]
    pub mistake: Mistake,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            epoch_age: Duration::from_millis(10),
            window: 16,
            session_timeout: Duration::from_millis(1500),
            prepare_timeout: Duration::from_millis(1000),
            settle: Duration::from_millis(1500),
            checkpoint_interval: Duration::from_secs(10),
            checkpoint_records: 500_000,
            checkpoint_timeout: Duration::from_secs(60),
            retained: 3,
            most_epochs: 50_000,
            retry_backoff: Duration::from_millis(50),
            mistake: Mistake::None,
        }
    }
}

/// The time at which an event is handled: monotonic for deadlines, wall clock for what cuts record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub instant: Instant,
    pub wall: WallTime,
}

/// A registered TaskManager, as the pages show it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MemberView {
    pub task_manager: TaskManagerId,
    pub name: String,
    pub exchange: String,
    pub leaving: bool,
}

/// More than this between two events means that this process stood still: it heard nobody, so nobody is late.
const STALL: Duration = Duration::from_millis(250);

/// The machine of the leading JobManager.
#[derive(Debug)]
pub struct Coordinator {
    jobs: BTreeMap<JobId, Job>,
    submitting: BTreeMap<JobId, Submitting>,
    context: Context,
    /// The last event, and all standing still before it.
    last: Instant,
    stalled: Duration,
}

impl Coordinator {
    /// `state` is the fold over all records of the control log.
    #[must_use]
    pub fn new(settings: Settings, state: LogState, now: Now) -> Self {
        let settle = Some(now.instant.plus(settings.settle));
        let job = |(id, state): (&JobId, &crate::control_log::JobState)| {
            let phase = if state.status.is_active() {
                let reason = "the JobManager started".to_owned();
                Phase::Waiting(Waiting { reason, not_before: now.instant, settle })
            } else {
                Phase::Ended
            };
            (*id, Job::new(*id, state, phase, now.instant))
        };
        let jobs = state.jobs.iter().map(job).collect();
        let context = Context {
            settings,
            journal: Journal::new(state),
            members: Members::default(),
            commands: Vec::new(),
            expelled: Vec::new(),
            now,
        };
        Self { jobs, submitting: BTreeMap::new(), context, last: now.instant, stalled: Duration::ZERO }
    }

    /// Takes an event in and says what to do, in this order. Never fails; what does not fit is ignored.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Command> {
        let gap = now.instant.since(self.last);
        if gap > STALL {
            self.stalled += gap;
        }
        self.last = now.instant.max(self.last);
        let stalled = u64::try_from(self.stalled.as_micros()).unwrap_or(u64::MAX);
        self.context.now = Now { instant: Instant(self.last.0.saturating_sub(stalled)), wall: now.wall };
        self.take_in(event);
        for job in self.jobs.values_mut() {
            job.advance(&mut self.context);
        }
        for (session, reason) in std::mem::take(&mut self.context.expelled) {
            self.give_up(session, &reason);
        }
        self.release_leaving();
        self.context.journal.flush(&mut self.context.commands);
        std::mem::take(&mut self.context.commands)
    }

    /// What is durable of a job.
    #[must_use]
    pub fn state(&self, job: JobId) -> Option<&JobState> {
        self.context.journal.state().jobs.get(&job)
    }

    /// How long nothing is due but what every tick looks at.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        let due = |job: &Job| {
            let Phase::Running(running) = &job.phase else { return None };
            running.deployed.epochs.due(self.context.journal.job(job.id), &self.context.settings)
        };
        self.jobs.values().filter_map(due).min().map(|at| at.since(self.context.now.instant))
    }

    fn take_in(&mut self, event: Event) {
        let now = self.context.now.instant;
        match event {
            Event::Tick => {
                for session in self.context.members.silent(now, self.context.settings.session_timeout) {
                    self.give_up(session, "nothing was heard for too long");
                }
            }
            Event::Appended => {
                for (job, done) in self.context.journal.appended() {
                    self.done(job, done);
                }
            }
            Event::Registered { session, task_manager, name, exchange } => {
                self.registered(session, task_manager, name, exchange);
            }
            Event::SessionLost { session } => self.session_lost(session),
            Event::Alive { session } => {
                self.context.members.heard(session, now);
            }
            Event::Reported { session, report } => {
                if let Some(from) = self.context.members.heard(session, now) {
                    self.reported(from, report);
                }
            }
            Event::SplitsFound { job, of, splits } => self.splits_found(job, of, &splits),
            Event::FilesFound { job, of, found, gone, complete } => {
                self.files_found(job, of, &found, &gone, complete);
            }
            Event::FilesRetired { job, files, all } => self.files_retired(job, files, all),
            Event::LookupsRead { job, of, version } => self.lookups_read(job, of, version),
            Event::LookupsTried { job, trouble } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.lookup_trouble = trouble;
                }
            }
            Event::Called { request, call } => self.called(request, call),
        }
    }

    fn done(&mut self, id: JobId, done: Done) {
        if let Done::Submitted(_) = done {
            return self.submitted(id);
        }
        let cx = &mut self.context;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match done {
            Done::Submitted(_) | Done::Stopping(_) => {}
            Done::Attempt(logged) => job.attempt_logged(cx, logged),
            Done::Plan(logged) => job.plan_logged(cx, logged),
            Done::Cut(logged) => job.cut_logged(cx, &logged),
            Done::SplitsJoined(_) => {
                if let Phase::Running(running) = &mut job.phase {
                    running.look_at_plan = true;
                }
            }
            Done::FilesFound(logged) => job.files_logged(cx, logged),
            Done::FilesRetired(_) => job.files_retired(),
            Done::LookupsRead(_) => {}
            Done::LookupsGone(logged) => job.lookups_gone(cx, logged),
            Done::Checkpoint(logged) => job.checkpoint_logged(cx, logged),
            Done::Pin(logged) => Job::pin_logged(cx, logged),
            Done::Collect(logged) => job.collect_logged(cx, logged),
            Done::Changing(logged) => job.changing(cx, logged),
            Done::Changed(logged) => job.changed(cx, logged),
            Done::Redefined(_) => job.redefined(cx),
            Done::Ended(logged) => job.ended(cx, logged),
            Done::Resumed(logged) => job.resumed(cx, logged),
        }
    }

    fn registered(&mut self, session: SessionId, task_manager: TaskManagerId, name: String, exchange: String) {
        let now = self.context.now.instant;
        let replaced = self.context.members.register(session, task_manager, name, exchange, now);
        if let Some(replaced) = replaced.filter(|replaced| *replaced != session) {
            let reason = "the TaskManager opened another session".to_owned();
            self.context.commands.push(Command::CloseSession { session: replaced, reason });
        }
        for job in self.jobs.values_mut() {
            if replaced.is_some() {
                job.member_lost(&self.context, task_manager);
            }
            job.member_joined(&mut self.context, task_manager);
        }
    }

    fn session_lost(&mut self, session: SessionId) {
        if let Some(task_manager) = self.context.members.lose(session) {
            for job in self.jobs.values_mut() {
                job.member_lost(&self.context, task_manager);
            }
        }
    }

    fn give_up(&mut self, session: SessionId, reason: &str) {
        self.context.commands.push(Command::CloseSession { session, reason: reason.to_owned() });
        self.session_lost(session);
    }

    fn reported(&mut self, from: TaskManagerId, report: Report) {
        let job = match &report {
            Report::Leaving => {
                self.context.members.leave(from);
                for job in self.jobs.values_mut() {
                    if let Phase::Running(running) = &mut job.phase {
                        running.look_at_plan = true;
                    }
                }
                return;
            }
            Report::Prepared { job, .. }
            | Report::TakenOver { job, .. }
            | Report::Ready { job, .. }
            | Report::InputWaiting { job, .. }
            | Report::CutReported { job, .. }
            | Report::Committed { job, .. }
            | Report::SnapshotTaken { job, .. }
            | Report::CheckpointFailed { job, .. }
            | Report::Failed { job, .. } => *job,
        };
        if let Some(job) = self.jobs.get_mut(&job) {
            job.reported(&mut self.context, from, report);
        }
    }

    /// Splits that are new get their place by a record; the next attempt reads them.
    fn splits_found(&mut self, id: JobId, of: u64, found: &BTreeMap<SplitId, Position>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let over = matches!(job.phase, Phase::Changing | Phase::Ending(_) | Phase::Ended | Phase::Resuming);
        let state = self.context.journal.job(id);
        let running = state.status == crate::control_log::JobStatus::Running && state.change.is_none();
        if over || !running || state.definition.fingerprint != of {
            return;
        }
        let splits: BTreeMap<_, _> =
            found.iter().filter(|(split, _)| !state.knows(**split)).map(|(s, p)| (*s, *p)).collect();
        if !splits.is_empty() {
            let record = Record::SplitsJoined { job: id, splits };
            self.context.journal.append(id, vec![record], Then::SplitsJoined(()));
        }
    }

    /// Tells TaskManagers that want to leave that everything has moved away.
    fn release_leaving(&mut self) {
        for member in self.context.members.leaving() {
            if self.jobs.values().all(|job| job.can_do_without(&self.context, member))
                && let Some(session) = self.context.members.session(member)
            {
                self.give_up(session, "everything has moved away");
            }
        }
    }
}
