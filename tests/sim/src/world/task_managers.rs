//! The TaskManager's shell: messages become events of the worker, its commands go to source, store, writers, session.

use std::collections::{BTreeMap, BTreeSet};

use pulso_core::coordinator;
use pulso_core::ids::{Attempt, Epoch, SessionId, TaskManagerId};
use pulso_core::message::{Deployment, Failure, Instruction, Report};
use pulso_core::worker::{Command, Event, Processed, Settings, Worker};

use super::World;
use crate::action::{Action, SourceMessage, TmMessage, Wire, WorkerCommand, WorkerEvent};
use crate::invariants::Seen;
use crate::mistakes::Mistake;
use crate::network::Node;
use crate::store::{Rows, Store};
use crate::task_manager::{Life, TaskManager};
use crate::writer::Operation;

const TICK: u64 = 20_000;
const HEARTBEAT: u64 = 300_000;

impl World {
    pub(crate) fn start_task_manager(&mut self) {
        let index = self.tms.len();
        let id = TaskManagerId(self.chance.uuid());
        let me = Node::TaskManager(index);
        let settings = Settings { transaction_bytes: 5_000, mistake: self.mistakes.in_core(), ..Settings::default() };
        self.tms.push(TaskManager {
            id,
            life: Life::Running,
            held: Vec::new(),
            worker: Worker::new(id, settings),
            store: Store::default(),
            source: None,
            writers: BTreeMap::new(),
            session: None,
            connects: 0,
            links: BTreeMap::new(),
            hosts: BTreeMap::new(),
            store_lane: self.network.pipe(me, me),
            source_lane: self.network.pipe(me, me),
            leaving: false,
            definition: None,
            targets: 0,
            attempt: Attempt::default(),
            hosted: BTreeSet::new(),
            unsealed: BTreeMap::new(),
            remembered: BTreeMap::new(),
        });
        for message in [TmMessage::Tick, TmMessage::Heartbeat, TmMessage::Connect] {
            let delay = self.chance.below(TICK);
            self.schedule.after(delay, Action::TaskManager(index, message));
        }
    }

    pub(crate) fn task_manager(&mut self, tm: usize, message: TmMessage) {
        match message {
            TmMessage::Tick => {
                self.schedule.after(TICK, Action::TaskManager(tm, TmMessage::Tick));
                self.worker(tm, Event::Tick);
            }
            TmMessage::Heartbeat => {
                self.schedule.after(HEARTBEAT, Action::TaskManager(tm, TmMessage::Heartbeat));
                let session = self.tms[tm].session;
                if let Some((id, s)) = session.and_then(|id| Some((id, *self.sessions.get(&id)?))) {
                    self.send(s.up, Self::to_coordinator(s.jm, coordinator::Event::Alive { session: id }));
                }
            }
            TmMessage::Connect => self.connect(tm),
            TmMessage::SessionClosed(id) => self.session_closed(tm, id),
            TmMessage::Worker(event) => self.worker(tm, *event),
            TmMessage::Source(message) => self.source(tm, message),
            TmMessage::Poll(generation) => self.poll(tm, generation),
            TmMessage::Store(message) => self.store(tm, *message),
            TmMessage::Reply(target, connection, reply) => self.db_reply(tm, target, connection, reply),
            TmMessage::ConnectionEnded(target, connection) => self.connection_ended(tm, target, connection),
        }
    }

    fn session_closed(&mut self, tm: usize, id: SessionId) {
        if self.tms[tm].session == Some(id) {
            self.tms[tm].session = None;
            let delay = self.chance.between(1_000..40_000);
            self.schedule.after(delay, Action::TaskManager(tm, TmMessage::Connect));
        }
    }

    /// Tries the JobManagers in turn until one that leads answers.
    fn connect(&mut self, tm: usize) {
        if self.tms[tm].session.is_some() {
            return;
        }
        let leading: Vec<usize> = (0..self.jms.len())
            .filter(|jm| self.jms[*jm].life == Life::Running && self.jms[*jm].coordinator.is_some())
            .filter(|jm| !self.network.is_cut(Node::JobManager(*jm), Node::TaskManager(tm)))
            .collect();
        self.tms[tm].connects += 1;
        match leading.get(self.tms[tm].connects % leading.len().max(1)) {
            Some(jm) => self.open_session(tm, *jm),
            None => self.schedule.after(50_000, Action::TaskManager(tm, TmMessage::Connect)),
        }
    }

    /// One event for the worker, and what it wants done about it.
    pub(crate) fn worker(&mut self, tm: usize, event: WorkerEvent) {
        let now = self.schedule.now();
        if !matches!(event, Event::Tick) {
            self.trace.note(now, Node::TaskManager(tm), &event);
        }
        let mut early = None;
        if let (Event::Processed { epoch, attempt, .. }, true) =
            (&event, self.mistakes.has(Mistake::CommitOnProcessing))
        {
            early = self.pretended_seal(*attempt, *epoch);
        }
        if let Event::Instructed(Instruction::Deploy(deployment)) = &event {
            self.deployed(tm, deployment);
        }
        let sealing = matches!(event, Event::Processed { .. } | Event::Instructed(Instruction::Seal { .. }));
        if let Event::Processed { attempt, epoch, processed, .. } = &event {
            self.remember_output(tm, *attempt, *epoch, processed);
        }
        let commands = self.tms[tm].worker.handle(event, now);
        if sealing {
            self.look_at_sealed(tm);
        }
        self.look_for_fencing(&commands);
        for command in commands {
            self.command(tm, command);
        }
        if let Some(seal) = early {
            self.worker(tm, seal);
        }
    }

    fn remember_output(&mut self, tm: usize, attempt: Attempt, epoch: Epoch, processed: &Processed<Rows>) {
        if attempt == self.tms[tm].attempt {
            let outputs = processed.outputs.iter().map(|(target, output)| (*target, output.rows.clone()));
            self.tms[tm].unsealed.insert(epoch, outputs.collect());
        }
    }

    fn look_at_sealed(&mut self, tm: usize) {
        let attempt = self.tms[tm].attempt;
        let view = self.tms[tm].worker.view().into_iter().find(|v| v.attempt == attempt);
        let Some(recorded) = view.and_then(|v| v.deployed).map(|d| d.recorded) else { return };
        let rest = self.tms[tm].unsealed.split_off(&recorded.next());
        for (epoch, outputs) in std::mem::replace(&mut self.tms[tm].unsealed, rest) {
            self.see(&Seen::TakenForSealed { attempt, epoch, outputs: &outputs });
        }
    }

    /// A worker that reports a failure and drops everything at once takes itself for a zombie. Not so where it takes a
    /// deployment on: that drops what is elsewhere now, and may fail at once for a link that was lost before it came.
    fn look_for_fencing(&mut self, commands: &[WorkerCommand]) {
        let deploys = commands.iter().any(|c| matches!(c, Command::OpenLinks { .. }));
        let drops = !deploys && commands.iter().any(|c| matches!(c, Command::Drop { .. }));
        for command in commands.iter().filter(|_| drops) {
            if let Command::Report(Report::Failed { attempt, failure: Failure::Retry { .. }, .. }) = command {
                self.see(&Seen::GaveUp { attempt: *attempt });
            }
        }
    }

    fn deployed(&mut self, tm: usize, deployment: &Deployment) {
        let definition = Some((deployment.since, deployment.definition.fingerprint));
        self.tms[tm].targets = deployment.definition.targets.len().try_into().unwrap_or(u16::MAX);
        let before = std::mem::replace(&mut self.tms[tm].definition, definition);
        if before.map(|(since, _)| since) != Some(deployment.since) {
            self.tms[tm].store = Store::default();
        }
        if before != definition {
            for target in self.tms[tm].writers.keys().copied().collect::<Vec<_>>() {
                self.disconnect(tm, target);
            }
        }
        if deployment.attempt > self.tms[tm].attempt {
            self.tms[tm].attempt = deployment.attempt;
            self.tms[tm].unsealed.clear();
            self.tms[tm].hosted = deployment.restore.keys().copied().collect();
        }
    }

    fn command(&mut self, tm: usize, command: WorkerCommand) {
        self.trace.note(self.schedule.now(), ("->", tm), &command);
        match command {
            Command::Report(report) => self.reported(tm, report),
            Command::StartSource { deployment } => self.order_source(tm, SourceMessage::Start(deployment)),
            Command::StopSource { .. } => self.order_source(tm, SourceMessage::Stop),
            Command::CloseEpoch { attempt, opening, .. } => {
                self.order_source(tm, SourceMessage::Close(attempt, opening))
            }
            Command::Committed { attempt, committed, .. } => {
                self.order_source(tm, SourceMessage::Committed(attempt, committed));
            }
            Command::OpenLinks { attempt, deployment, .. } => self.open_links(tm, attempt, &deployment),
            Command::CloseLinks { .. } => self.close_links(tm),
            Command::TakeBack { .. }
            | Command::Restore { .. }
            | Command::Drop { .. }
            | Command::Process { .. }
            | Command::Settle { .. }
            | Command::Snapshot { .. }
            | Command::CheckpointDone { .. } => self.order_store(tm, command),
            Command::TakeOver { attempt, target, key_groups, create, .. } => {
                let key_groups = key_groups.into_iter().collect();
                self.operate(tm, target, Operation::TakeOver { attempt, key_groups, create });
            }
            Command::Register { attempt, target, key_groups, .. } => {
                let key_groups = key_groups.into_iter().collect();
                self.operate(tm, target, Operation::Register { attempt, key_groups });
            }
            Command::ReadLedger { attempt, target, key_groups, .. } => {
                let key_groups = key_groups.into_iter().collect();
                self.operate(tm, target, Operation::Read { attempt, key_groups });
            }
            Command::Transact { attempt, target, steps, outputs, .. } => {
                let hosted = self.tms[tm].hosted.iter().copied().collect();
                let rows: Vec<_> = outputs.into_iter().map(|(_, rows)| rows).collect();
                self.see(&Seen::Transacting { target, attempt, rows: &rows });
                self.operate(tm, target, Operation::Transact { attempt, hosted, steps: steps.into(), rows });
            }
            Command::Disconnect { target, .. } => self.disconnect(tm, target),
            // The simulated job reads a topic.
            Command::AddFiles { .. } => {}
        }
    }

    fn order_store(&mut self, tm: usize, command: WorkerCommand) {
        self.send_inside(self.tms[tm].store_lane, TmMessage::Store(Box::new(command)), tm, 2_000);
    }

    fn order_source(&mut self, tm: usize, message: SourceMessage) {
        self.send_inside(self.tms[tm].source_lane, TmMessage::Source(message), tm, 300);
    }

    /// Orders inside a process: in order, each after some work.
    fn send_inside(&mut self, lane: crate::network::PipeId, message: TmMessage, tm: usize, work: u64) {
        let delay = self.chance.below(work);
        let at = pulso_core::ids::Instant(self.schedule.now().0 + delay);
        if let Some(at) = self.network.send(lane, Action::TaskManager(tm, message), at) {
            self.schedule.at(at, Action::Arrive(lane));
        }
    }

    fn open_links(&mut self, tm: usize, attempt: Attempt, deployment: &Deployment) {
        self.close_links(tm);
        let hosts = deployment.plan.key_groups.iter();
        let hosts = hosts.filter_map(|(id, owner)| Some((*id, self.tms.iter().position(|t| t.id == *owner)?)));
        self.tms[tm].hosts = hosts.collect();
        let me = self.tms[tm].id;
        let feeds_second = self.scenario.stages > 1 && deployment.plan.key_groups.values().any(|owner| *owner == me);
        if !feeds_second && !deployment.plan.splits.values().any(|owner| *owner == me) {
            return;
        }
        let hosts: BTreeSet<TaskManagerId> = deployment.plan.key_groups.values().copied().collect();
        for to in (0..self.tms.len()).filter(|to| hosts.contains(&self.tms[*to].id)).collect::<Vec<_>>() {
            self.open_link(tm, to, attempt);
        }
    }

    fn close_links(&mut self, tm: usize) {
        for link in std::mem::take(&mut self.tms[tm].links).into_values() {
            self.break_link(link, true);
        }
    }

    fn reported(&mut self, tm: usize, report: Report) {
        if let Report::CheckpointFailed { .. } = &report {
            self.sight(crate::coverage::Sight::CheckpointFailed);
        }
        self.report(tm, report);
    }

    /// SIGKILL: what is inside is gone, the kernel closes the connections (or, with the whole machine gone, nobody does).
    pub(crate) fn kill_task_manager(&mut self, tm: usize, silently: bool) {
        self.tms[tm].life = Life::Dead;
        self.tms[tm].held.clear();
        let session = self.tms[tm].session.take();
        let links: Vec<_> = self.links.iter().filter(|(_, l)| l.from == tm || l.to == tm).map(|(id, _)| *id).collect();
        let connections: Vec<_> = self.connections.iter().filter(|(_, c)| c.tm == tm).map(|(id, _)| *id).collect();
        if silently {
            // As a partition from everybody that never heals.
            self.isolate(Node::TaskManager(tm));
            session.into_iter().for_each(|id| self.watch(Wire::Session(id)));
            links.into_iter().for_each(|id| self.watch(Wire::Link(id)));
            connections.into_iter().for_each(|id| self.watch(Wire::Connection(id)));
        } else {
            session.into_iter().for_each(|id| self.break_session(id));
            links.into_iter().for_each(|id| self.break_link(id, false));
            connections.into_iter().for_each(|id| self.close_connection(id));
        }
    }

    fn isolate(&mut self, node: Node) {
        for jm in 0..self.jms.len() {
            self.network.partition(node, Node::JobManager(jm));
        }
        for tm in 0..self.tms.len() {
            if node != Node::TaskManager(tm) {
                self.network.partition(node, Node::TaskManager(tm));
            }
        }
        for target in self.databases.keys() {
            self.network.partition(node, Node::Target(*target));
        }
    }
}
