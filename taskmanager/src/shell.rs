//! The loop that owns the worker: waits for one event, lets the worker decide, hands its commands to the tasks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pulso_core::ids::{Epoch, Instant, JobId, Stage, TargetId, TaskManagerId};
use pulso_core::message::{Deployment, Failure, Instruction, Report};
use pulso_core::worker::{Command, Settings, Worker};
use pulso_dataflow::batch::{Payload, TargetRows};
use pulso_dataflow::keyed::KeyedStage;
use pulso_job::spec::JobSpec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::exchange::{Exchange, Links};
use crate::figures::Figures;
use crate::memory::Budget;
use crate::session::{FromJobManager, Session};
use crate::source::{self, Lookups, SourceTask};
use crate::state::{Parts, SnapshotStorage, StateTask, Thread, Work};
use crate::target::{Order, TargetTask};

/// Events of the worker, with what rows are in this process.
pub(crate) type Event = pulso_core::worker::Event<Payload, TargetRows>;

/// How often time passes for the worker.
const TICK: Duration = Duration::from_millis(20);
/// How long a drain may take before the process ends all the same; what it hosted is then recovered like after a crash.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a drain goes on without a JobManager.
const ALONE: Duration = Duration::from_secs(3);
/// Events under way to the worker; a task that finds the queue full waits.
const EVENTS: usize = 1024;

/// Where tasks tell the worker what happened.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Event>);

/// The shell is gone: the process ends.
#[derive(Debug)]
pub(crate) struct ShellGone;

impl Events {
    pub(crate) async fn send(&self, event: Event) -> Result<(), ShellGone> {
        self.0.send(event).await.map_err(|_| ShellGone)
    }

    /// From a thread of its own, never from an asynchronous task.
    pub(crate) fn send_blocking(&self, event: Event) -> Result<(), ShellGone> {
        self.0.blocking_send(event).map_err(|_| ShellGone)
    }
}

/// A queue of events and its two ends.
pub(crate) fn events() -> (Events, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel(EVENTS);
    (Events(sender), receiver)
}

/// What one job has running here.
struct Runtime {
    /// From which epoch on its definition holds, and the definition's fingerprint: no other one of the job has both.
    definition: (Epoch, u64),
    spec: Arc<JobSpec>,
    storage: SnapshotStorage,
    state: StateTask,
    targets: BTreeMap<TargetId, TargetTask>,
    links: Option<Links>,
    source: Option<SourceTask>,
}

pub(crate) struct Shell {
    me: TaskManagerId,
    data_dir: PathBuf,
    budget: Budget,
    session: Session,
    exchange: Exchange,
    events: Events,
    storage: Option<SnapshotStorage>,
    figures: Figures,
    worker: Worker<Payload, TargetRows>,
    jobs: BTreeMap<JobId, Runtime>,
    /// Of state tasks, also of those that are told to end.
    threads: Vec<Thread>,
    started: std::time::Instant,
    /// Set once the process was told to end.
    drain: Option<Drain>,
}

/// The process was told to end.
struct Drain {
    until: std::time::Instant,
    /// What [`Session::given_up`] said when it was.
    given_up: u64,
}

impl Shell {
    pub(crate) fn new(
        me: TaskManagerId,
        data_dir: PathBuf,
        budget: Budget,
        session: Session,
        exchange: Exchange,
        events: Events,
        figures: Figures,
    ) -> Self {
        let settings = Settings { transaction_bytes: budget.transaction_bytes, ..Settings::default() };
        Self {
            me,
            data_dir,
            budget,
            session,
            exchange,
            events,
            storage: None,
            figures,
            worker: Worker::new(me, settings),
            jobs: BTreeMap::new(),
            threads: Vec::new(),
            started: std::time::Instant::now(),
            drain: None,
        }
    }

    /// Runs until `shutdown`, then drains.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut instructions: mpsc::Receiver<FromJobManager>,
        shutdown: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(message) = instructions.recv() => self.instructed(message),
                Some(event) = events.recv() => self.handle(event),
                _ = tick.tick() => {
                    self.handle(Event::Tick);
                    if self.has_drained() {
                        break;
                    }
                }
                () = shutdown.cancelled(), if self.drain.is_none() => {
                    tracing::info!(jobs = self.jobs.len(), "leaving: waiting until everything has moved away");
                    self.session.report(Report::Leaving);
                    let until = std::time::Instant::now() + DRAIN;
                    self.drain = Some(Drain { until, given_up: self.session.given_up() });
                }
            }
        }
        self.end(events).await;
    }

    /// Waits until no thread is inside of RocksDB any more.
    async fn end(mut self, events: mpsc::Receiver<Event>) {
        self.jobs.clear();
        // A thread that tells something finds nobody, instead of waiting for a place in the queue.
        drop(events);
        let joined = tokio::task::spawn_blocking(move || self.threads.into_iter().for_each(|t| drop(t.join())));
        if tokio::time::timeout(DRAIN, joined).await.is_err() {
            tracing::warn!("a task did not end in time");
        }
    }

    /// Told to end, and nothing is here that anybody waits for, or nobody is there who could take it.
    fn has_drained(&self) -> bool {
        let Some(drain) = &self.drain else { return false };
        self.jobs.is_empty()
            || self.session.given_up() > drain.given_up
            || self.session.silence() > ALONE
            || std::time::Instant::now() > drain.until
    }

    fn instructed(&mut self, message: FromJobManager) {
        match message {
            FromJobManager::Welcome { storage } => {
                match SnapshotStorage::open(&storage) {
                    Ok(opened) => self.storage = Some(opened),
                    Err(e) => tracing::error!(error = %e, "no access to the checkpoint storage"),
                }
                if self.drain.is_some() {
                    self.session.report(Report::Leaving);
                }
            }
            FromJobManager::Instruction(instruction) => {
                if let Instruction::Deploy(deployment) = &instruction
                    && let Err(failure) = self.prepare_runtime(deployment)
                {
                    tracing::error!(job = %deployment.job, ?failure, "cannot run this job");
                    let (job, attempt) = (deployment.job, deployment.attempt);
                    self.session.report(Report::Failed { job, attempt, failure });
                    return;
                }
                let ends = matches!(instruction, Instruction::Release { .. });
                self.handle(Event::Instructed(instruction));
                if ends {
                    self.drop_released();
                }
            }
        }
    }

    /// Ends the tasks of jobs that the worker has let go.
    fn drop_released(&mut self) {
        let hosted = self.worker.view();
        self.jobs.retain(|job, _| hosted.iter().any(|view| view.job == *job));
        self.figures.retain(|job| self.jobs.contains_key(job));
    }

    fn handle(&mut self, event: Event) {
        let now = Instant(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX));
        for command in self.worker.handle(event, now) {
            self.apply(command);
        }
    }

    /// Makes what the job needs before the worker gives orders for it. The same definition keeps what it has.
    /// Only what every TaskManager would say of the job is fatal to it.
    fn prepare_runtime(&mut self, deployment: &Deployment) -> Result<(), Failure> {
        let definition = &deployment.definition;
        let named = (deployment.since, definition.fingerprint);
        if self.jobs.get(&deployment.job).is_some_and(|runtime| runtime.definition == named) {
            return Ok(());
        }
        let fatal = |reason: String| Failure::Fatal { reason };
        let retry = |reason: String| Failure::Retry { reason };
        let submission =
            serde_json::from_str(&definition.submission).map_err(|e| fatal(format!("the submission: {e}")))?;
        let (spec, _warnings) =
            pulso_job::check(&submission, "job.toml").map_err(|mistakes| fatal(mistakes.render(false)))?;
        let spec = Arc::new(spec);
        let targets = self.targets(deployment, &spec);
        if let Some(runtime) = self.jobs.get_mut(&deployment.job).filter(|r| r.definition.0 == deployment.since) {
            // Other addresses or secrets: what was computed stays what it is.
            (runtime.definition, runtime.spec, runtime.targets) = (named, spec, targets);
            return Ok(());
        }
        let unreachable = || retry("the checkpoint storage cannot be reached from this TaskManager".into());
        let storage = self.storage.clone().ok_or_else(unreachable)?;
        // Its own: the task of an earlier attempt may be about to remove the one before.
        let folder = self.data_dir.join(format!("{}-{}", deployment.job, deployment.attempt));
        let stages = (0..definition.stages).map(|stage| KeyedStage::new(Arc::clone(&spec), Stage(stage)));
        let stages = stages.collect::<Result<_, _>>().map_err(|e| fatal(e.to_string()))?;
        let parts = Parts {
            job: deployment.job,
            folder,
            storage: storage.clone(),
            budget: self.budget.clone(),
            events: self.events.clone(),
            figures: self.figures.clone(),
        };
        let (state, thread) =
            StateTask::start(stages, &spec, parts).map_err(|e| retry(format!("starting the state task: {e}")))?;
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.push(thread);
        let runtime = Runtime { definition: named, spec, storage, state, targets, links: None, source: None };
        self.jobs.insert(deployment.job, runtime);
        Ok(())
    }

    /// One task for each target; they connect to nothing yet.
    fn targets(&self, deployment: &Deployment, spec: &Arc<JobSpec>) -> BTreeMap<TargetId, TargetTask> {
        let task = |target: TargetId| {
            let (events, figures) = (self.events.clone(), self.figures.clone());
            (target, TargetTask::start(deployment.job, target, Arc::clone(spec), events, figures))
        };
        let count = u16::try_from(deployment.definition.targets.len()).unwrap_or(u16::MAX);
        (0..count).map(TargetId).map(task).collect()
    }

    fn apply(&mut self, command: Command<Payload, TargetRows>) {
        match command {
            Command::Report(report) => self.session.report(report),
            Command::StartSource { deployment } => self.start_source(*deployment),
            Command::StopSource { job } => self.with(job, |runtime| runtime.source = None),
            Command::CloseEpoch { job, opening, .. } => self.source(job, |source| source.open(opening)),
            Command::Committed { job, committed, .. } => self.source(job, |source| source.committed(committed)),
            Command::AddFiles { job, files, .. } => self.source(job, |source| source.add_files(files)),
            Command::OpenLinks { job, deployment, .. } => {
                let links = self.exchange.open(self.me, &deployment, self.events.clone());
                self.with(job, |runtime| runtime.links = Some(links));
            }
            Command::CloseLinks { job } => {
                self.exchange.close(job);
                self.with(job, |runtime| runtime.links = None);
            }
            // After a release nothing is here that could be taken back.
            Command::TakeBack { job, attempt, .. } if !self.jobs.contains_key(&job) => {
                self.handle(Event::TookBack { job, attempt });
            }
            Command::TakeBack { job, attempt, key_groups } => self.state(job, Work::TakeBack { attempt, key_groups }),
            Command::Restore { job, attempt, key_group, restore } => {
                self.state(job, Work::Restore { attempt, key_group, restore });
            }
            Command::Drop { job, key_groups } => self.state(job, Work::Drop { key_groups }),
            Command::Process { job, attempt, stage, epoch, watermark, payloads, skip, muted } => {
                self.with(job, |runtime| {
                    let onward = runtime.links.clone().filter(|links| links.is_before_last(stage));
                    runtime.state.work(Work::Process {
                        attempt,
                        stage,
                        epoch,
                        watermark,
                        payloads,
                        skip,
                        muted,
                        onward,
                    });
                });
            }
            Command::Settle { job, upto, .. } => self.state(job, Work::Settle { upto }),
            Command::Snapshot { job, attempt, checkpoint, epoch, key_groups } => {
                self.state(job, Work::Snapshot { attempt, checkpoint, epoch, key_groups });
            }
            Command::CheckpointDone { job, checkpoint, .. } => self.state(job, Work::CheckpointDone { checkpoint }),
            Command::TakeOver { job, attempt, target, key_groups, create } => {
                self.order(job, target, Order::TakeOver { attempt, key_groups, create });
            }
            Command::Register { job, attempt, target, key_groups } => {
                self.order(job, target, Order::Register { attempt, key_groups });
            }
            Command::ReadLedger { job, attempt, target, key_groups, last } => {
                self.order(job, target, Order::ReadLedger { attempt, key_groups, last });
            }
            Command::Transact { job, attempt, target, steps, outputs } => {
                self.order(job, target, Order::Transact { attempt, steps, outputs });
            }
            Command::Disconnect { job, target } => self.with(job, |runtime| {
                if let Some(task) = runtime.targets.get_mut(&target) {
                    task.disconnect();
                }
            }),
        }
    }

    /// Does nothing for a job that has nothing running here: it was released.
    fn with(&mut self, job: JobId, change: impl FnOnce(&mut Runtime)) {
        if let Some(runtime) = self.jobs.get_mut(&job) {
            change(runtime);
        }
    }

    fn source(&mut self, job: JobId, tell: impl FnOnce(&SourceTask)) {
        self.with(job, |runtime| {
            if let Some(source) = &runtime.source {
                tell(source);
            }
        });
    }

    fn state(&mut self, job: JobId, work: Work) {
        self.with(job, |runtime| runtime.state.work(work));
    }

    fn order(&mut self, job: JobId, target: TargetId, order: Order) {
        self.with(job, |runtime| {
            if let Some(task) = runtime.targets.get(&target) {
                task.order(order);
            }
        });
    }

    fn start_source(&mut self, deployment: Deployment) {
        let (job, attempt) = (deployment.job, deployment.attempt);
        let Some(runtime) = self.jobs.get_mut(&job) else { return };
        let Some(links) = runtime.links.clone() else {
            tracing::error!(%job, %attempt, "a source was started before its links");
            return;
        };
        let parts = source::Parts {
            spec: Arc::clone(&runtime.spec),
            lookups: Lookups::new(job, Arc::clone(&runtime.spec), runtime.storage.clone()),
            links,
            buffer: self.budget.source_bytes,
            events: self.events.clone(),
            figures: self.figures.clone(),
        };
        match SourceTask::start(self.me, deployment, parts) {
            Ok(source) => runtime.source = Some(source),
            Err(e) => {
                let failure = Failure::Retry { reason: format!("starting the source thread: {e}") };
                self.session.report(Report::Failed { job, attempt, failure });
            }
        }
    }
}
