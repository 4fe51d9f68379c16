//! The loop that owns the coordinator and the appender: waits for one thing to happen, lets them decide, hands their
//! commands to tasks. The only place that reads a clock.

mod catalog;
mod handle;
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use object_store::ObjectStoreExt;
use pulso_core::control_log::{self, Appender};
use pulso_core::coordinator::{Answer, Call, Command, Coordinator, Event, Now, Settings};
use pulso_core::ids::{Instant, RequestId, SessionId, TaskManagerId, WallTime};
use pulso_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::catalog::Catalog;
pub(crate) use self::handle::{Handle, Input, NotLeading, Registration, Standing};
use self::session::Session;
pub(crate) use self::session::{SessionEnd, ToTaskManager};
use crate::discovery::{self, Discoveries};
use crate::log::Log;
use crate::overview::Overview;
use crate::storage::Objects;

/// How often time passes for the machines where nothing is due sooner.
const TICK: Duration = Duration::from_millis(20);
/// Never again before this.
const SOON: Duration = Duration::from_millis(1);
/// How often the overview is made anew for those who watch.
const OVERVIEW_EVERY: Duration = Duration::from_millis(500);
/// Inputs under way to the loop; a task that finds the queue full waits.
pub(crate) const INPUTS: usize = 4096;

/// What the loop is made of.
pub(crate) struct Parts {
    pub(crate) appender: Appender,
    pub(crate) settings: Settings,
    pub(crate) log: Log,
    pub(crate) answers: mpsc::Receiver<control_log::Event>,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) handle: Handle,
    pub(crate) checkpoints: Objects,
    pub(crate) overview: watch::Sender<Overview>,
    pub(crate) discovery_interval: Duration,
}

pub(crate) struct Shell {
    appender: Appender,
    settings: Settings,
    /// While this JobManager leads.
    leading: Option<Leading>,
    log: Log,
    checkpoints: Objects,
    figures: BTreeMap<TaskManagerId, v1::Figures>,
    overview: watch::Sender<Overview>,
    overview_due: Instant,
    handle: Handle,
    discovery_interval: Duration,
    /// Counts sessions and requests over all times of leading, so that no late answer meets another's number.
    numbers: u64,
    started: std::time::Instant,
    fatal: Option<String>,
}

/// What goes when this JobManager stops leading.
struct Leading {
    coordinator: Coordinator,
    catalog: Catalog,
    discoveries: Discoveries,
    sessions: BTreeMap<SessionId, Session>,
    requests: BTreeMap<RequestId, oneshot::Sender<Result<Answer, NotLeading>>>,
}

/// What is still to be handled before the loop waits again, in order.
enum Work {
    Coordinator(Box<Event>),
    Appender(control_log::Event),
}

impl Work {
    fn coordinator(event: Event) -> Self {
        Self::Coordinator(Box::new(event))
    }
}

/// Runs until `shutdown`, or until the control log needs a person.
pub(crate) async fn run(parts: Parts, shutdown: CancellationToken) -> Result<()> {
    let Parts { appender, settings, log, mut answers, mut inputs, handle, checkpoints, overview, discovery_interval } =
        parts;
    let mut shell = Shell {
        appender,
        settings,
        leading: None,
        log,
        checkpoints,
        figures: BTreeMap::new(),
        overview,
        overview_due: Instant::default(),
        handle,
        discovery_interval,
        numbers: 0,
        started: std::time::Instant::now(),
        fatal: None,
    };
    let mut next_tick = tokio::time::Instant::now();
    let mut due = next_tick;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            Some(answer) = answers.recv() => shell.handle([Work::Appender(answer)]),
            () = tokio::time::sleep_until(next_tick.min(due)) => {
                shell.tick();
                next_tick = tokio::time::Instant::now() + TICK;
            }
            Some(input) = inputs.recv() => shell.input(input),
        }
        let idle = shell.leading.as_ref().and_then(|leading| leading.coordinator.idle());
        due = idle.map_or(next_tick, |idle| tokio::time::Instant::now() + idle.max(SOON));
        if let Some(reason) = shell.fatal.take() {
            bail!("{reason}");
        }
    }
}

impl Shell {
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            instant: Instant(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)),
            wall: WallTime(i64::try_from(wall.as_micros()).unwrap_or(i64::MAX)),
        }
    }

    fn tick(&mut self) {
        self.handle([Work::Appender(control_log::Event::Tick), Work::coordinator(Event::Tick)]);
        let now = self.now().instant;
        if now >= self.overview_due {
            self.overview_due = now.plus(OVERVIEW_EVERY);
            if self.overview.receiver_count() > 0 {
                let overview = self.overview();
                self.overview.send_replace(overview);
            }
        }
    }

    fn overview(&self) -> Overview {
        match &self.leading {
            Some(leading) => Overview::new(&leading.coordinator.view(), &self.figures, self.now().wall),
            None => Overview::standby(),
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Register { registration, reply } => self.register(registration, reply),
            Input::Reported { session, report } => {
                self.handle([Work::coordinator(Event::Reported { session, report })]);
            }
            Input::Heartbeat { session, figures } => {
                let member = self.leading.as_ref().and_then(|leading| leading.sessions.get(&session));
                if let (Some(member), Some(figures)) = (member, figures) {
                    self.figures.insert(member.task_manager, figures);
                }
                self.handle([Work::coordinator(Event::Alive { session })]);
            }
            Input::SessionLost { session } => self.session_lost(session),
            Input::SplitsFound { job, of, splits } => {
                self.handle([Work::coordinator(Event::SplitsFound { job, of, splits })]);
            }
            Input::FilesFound { job, of, found, gone, complete } => {
                self.handle([Work::coordinator(Event::FilesFound { job, of, found, gone, complete })]);
            }
            Input::FilesRetired { job, files, all } => {
                self.handle([Work::coordinator(Event::FilesRetired { job, files, all })]);
            }
            Input::LookupsRead { job, of, version } => {
                self.handle([Work::coordinator(Event::LookupsRead { job, of, version })]);
            }
            Input::LookupsTried { job, trouble } => {
                self.handle([Work::coordinator(Event::LookupsTried { job, trouble })]);
            }
            Input::Lookups { job, reply } => {
                let lookups = self.leading.as_ref().and_then(|leading| leading.coordinator.lookups(job)).cloned();
                reply.send(lookups).ok();
            }
            Input::Files { job, reply } => {
                let files = self.leading.as_ref().and_then(|leading| leading.coordinator.files(job)).cloned();
                reply.send(files).ok();
            }
            Input::Call { call, reply } => self.call(call, reply),
            Input::Overview { reply } => {
                reply.send(self.overview()).ok();
            }
            Input::Standing { name, reply } => {
                let standing = self.leading.as_ref().map(|leading| {
                    let found = leading.catalog.find(&name)?;
                    leading.coordinator.state(found.id).map(Standing::of)
                });
                reply.send(standing.ok_or(NotLeading)).ok();
            }
            Input::Find { name, reply } => {
                let found = self.leading.as_ref().map(|leading| leading.catalog.find(&name)).ok_or(NotLeading);
                reply.send(found).ok();
            }
        }
    }

    fn register(&mut self, registration: Registration, reply: oneshot::Sender<Result<SessionEnd, NotLeading>>) {
        let Some(leading) = &mut self.leading else {
            reply.send(Err(NotLeading)).ok();
            return;
        };
        self.numbers += 1;
        let id = SessionId(self.numbers);
        let Registration { task_manager, name, exchange } = registration;
        let (session, end) = session::pair(id, task_manager);
        if reply.send(Ok(end)).is_err() {
            return;
        }
        tracing::info!(session = %id, %task_manager, name, exchange, "TaskManager registered");
        leading.sessions.insert(id, session);
        self.handle([Work::coordinator(Event::Registered { session: id, task_manager, name, exchange })]);
    }

    fn session_lost(&mut self, session: SessionId) {
        let Some(lost) = self.leading.as_mut().and_then(|leading| leading.sessions.remove(&session)) else { return };
        tracing::info!(%session, task_manager = %lost.task_manager, "session lost");
        self.forget_figures(lost.task_manager);
        self.handle([Work::coordinator(Event::SessionLost { session })]);
    }

    /// Unless a newer session of the same TaskManager is there.
    fn forget_figures(&mut self, task_manager: TaskManagerId) {
        let sessions = self.leading.iter().flat_map(|leading| leading.sessions.values());
        if !sessions.into_iter().any(|session| session.task_manager == task_manager) {
            self.figures.remove(&task_manager);
        }
    }

    fn call(&mut self, call: Call, reply: oneshot::Sender<Result<Answer, NotLeading>>) {
        let Some(leading) = &mut self.leading else {
            reply.send(Err(NotLeading)).ok();
            return;
        };
        // A caller that went away (a healthctl that was interrupted) is not waited for.
        leading.requests.retain(|_, reply| !reply.is_closed());
        self.numbers += 1;
        let request = RequestId(self.numbers);
        leading.requests.insert(request, reply);
        self.handle([Work::coordinator(Event::Called { request, call })]);
    }

    /// Lets the machines decide until nothing is left to be decided now.
    fn handle<const N: usize>(&mut self, work: [Work; N]) {
        let mut queue = VecDeque::from(work);
        while let Some(work) = queue.pop_front() {
            let now = self.now();
            match work {
                Work::Appender(event) => {
                    for command in self.appender.handle(event, now.instant) {
                        self.apply_log(command, &mut queue);
                    }
                }
                Work::Coordinator(event) => {
                    let Some(leading) = &mut self.leading else { continue };
                    for command in leading.coordinator.handle(*event, now) {
                        self.apply(command, &mut queue);
                    }
                }
            }
        }
        if let Some(leading) = &mut self.leading {
            leading.discoveries.adjust(&leading.catalog, &self.handle, &self.checkpoints, self.discovery_interval);
        }
    }

    fn apply_log(&mut self, command: control_log::Command, queue: &mut VecDeque<Work>) {
        match command {
            control_log::Command::Put { number, bytes } => self.log.put(number, bytes),
            control_log::Command::Read { number } => self.log.read(number),
            control_log::Command::List => self.log.list(),
            control_log::Command::Delete { numbers } => self.log.delete(numbers),
            control_log::Command::Appended => queue.push_back(Work::coordinator(Event::Appended)),
            control_log::Command::Lead { state } => {
                tracing::info!(jobs = state.jobs.len(), "leading");
                let catalog = Catalog::new(&state);
                self.leading = Some(Leading {
                    coordinator: Coordinator::new(self.settings.clone(), *state, self.now()),
                    catalog,
                    discoveries: Discoveries::default(),
                    sessions: BTreeMap::new(),
                    requests: BTreeMap::new(),
                });
            }
            control_log::Command::StepDown { reason, fatal } => self.step_down(reason, fatal),
        }
    }

    fn step_down(&mut self, reason: String, fatal: bool) {
        // Dropping the sessions closes their streams, dropping the requests answers them: the TaskManagers and
        // healthctl turn to the JobManager that leads.
        self.leading = None;
        self.figures.clear();
        if fatal {
            tracing::error!(reason, "the control log needs a person");
            self.fatal = Some(reason);
        } else {
            tracing::warn!(reason, "another JobManager leads");
        }
    }

    fn apply(&mut self, command: Command, queue: &mut VecDeque<Work>) {
        let Some(leading) = &mut self.leading else { return };
        match command {
            Command::Append(records) => {
                leading.catalog.note(&records);
                queue.push_back(Work::Appender(control_log::Event::Append(records)));
            }
            Command::Send { session, instruction } => {
                let Some(to) = leading.sessions.get(&session) else { return };
                if to.send(instruction).is_err() {
                    // It reads nothing any more: given up like one whose stream broke.
                    tracing::warn!(%session, task_manager = %to.task_manager, "instruction queue full: session closed");
                    if let Some(closed) = leading.sessions.remove(&session) {
                        self.forget_figures(closed.task_manager);
                    }
                    queue.push_back(Work::coordinator(Event::SessionLost { session }));
                }
            }
            Command::CloseSession { session, reason } => {
                let Some(closed) = leading.sessions.remove(&session) else { return };
                tracing::warn!(%session, task_manager = %closed.task_manager, reason, "session closed");
                closed.close(&reason);
                self.forget_figures(closed.task_manager);
            }
            Command::Reply { request, answer } => {
                if let Some(reply) = leading.requests.remove(&request) {
                    reply.send(Ok(answer)).ok();
                }
            }
            Command::RetireFiles { job, files } => {
                if let Some(definition) = leading.catalog.definition(job) {
                    tokio::spawn(discovery::files::tidy(definition.clone(), files, self.handle.clone()));
                }
            }
            Command::DeleteObjects(names) => self.delete_objects(names),
        }
    }

    fn delete_objects(&self, names: Vec<String>) {
        let objects = self.checkpoints.clone();
        tokio::spawn(async move {
            for name in names {
                let Some(path) = objects.path(&name) else {
                    tracing::error!(object = name, "an object outside the checkpoint storage was to be deleted");
                    continue;
                };
                match objects.store.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => {
                        tracing::warn!(object = name, error = %e, "could not delete an object of a given-up checkpoint")
                    }
                }
            }
        });
    }
}
