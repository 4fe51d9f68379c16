//! Connections between processes: how they open, break, and when their ends notice.

use pulso_core::coordinator;
use pulso_core::ids::{Attempt, ConnectionId, Instant, SessionId, TargetId};
use pulso_core::worker;

use super::{JOB, World};
use crate::action::{Action, DbMessage, JmMessage, LinkId, TmMessage, Wire};
use crate::network::{Node, PipeId};
use crate::task_manager::{Connection, Life, Link, Session};

/// Microseconds until a silent connection is given up.
const KEEP_ALIVE: std::ops::Range<u64> = 800_000..1_500_000;

impl World {
    /// Sends over a pipe: usually fast, now and then slow.
    pub(crate) fn send(&mut self, pipe: PipeId, action: Action) {
        let delay = if self.rough && self.chance.per_mille(10) {
            self.chance.between(2_000..60_000)
        } else {
            self.chance.between(50..1_000)
        };
        self.send_late(pipe, action, delay);
    }

    pub(crate) fn send_late(&mut self, pipe: PipeId, action: Action, delay: u64) {
        let at = Instant(self.schedule.now().0 + delay);
        if let Some(at) = self.network.send(pipe, action, at) {
            self.schedule.at(at, Action::Arrive(pipe));
        }
    }

    pub(crate) fn to_coordinator(jm: usize, event: coordinator::Event) -> Action {
        Action::JobManager(jm, JmMessage::Coordinator(Box::new(event)))
    }

    pub(crate) fn open_session(&mut self, tm: usize, jm: usize) {
        let session = SessionId(self.number());
        let up = self.network.pipe(Node::TaskManager(tm), Node::JobManager(jm));
        let down = self.network.pipe(Node::JobManager(jm), Node::TaskManager(tm));
        self.sessions.insert(session, Session { tm, jm, up, down });
        self.tms[tm].session = Some(session);
        self.jms[jm].sessions.insert(session);
        let task_manager = self.tms[tm].id;
        let (name, exchange) = (format!("tm{tm}"), format!("tm{tm}:1"));
        let registered = coordinator::Event::Registered { session, task_manager, name, exchange };
        self.send(up, Self::to_coordinator(jm, registered));
        if self.tms[tm].leaving {
            self.report(tm, pulso_core::message::Report::Leaving);
        }
    }

    pub(crate) fn report(&mut self, tm: usize, report: pulso_core::message::Report) {
        let Some(session) = self.tms[tm].session else { return };
        let Some(Session { jm, up, .. }) = self.sessions.get(&session).copied() else { return };
        self.send(up, Self::to_coordinator(jm, coordinator::Event::Reported { session, report }));
    }

    /// Both ends learn of it, each in its own time.
    pub(crate) fn break_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.network.close(session.up, false);
        self.network.close(session.down, false);
        self.jms[session.jm].sessions.remove(&id);
        let (soon, later) = (self.chance.below(5_000), self.chance.below(5_000));
        self.schedule.after(soon, Action::TaskManager(session.tm, TmMessage::SessionClosed(id)));
        let lost = coordinator::Event::SessionLost { session: id };
        self.schedule.after(later, Self::to_coordinator(session.jm, lost));
    }

    pub(crate) fn open_link(&mut self, from: usize, to: usize, attempt: Attempt) {
        if !self.tms[to].is_alive() {
            self.link_lost(from, to, attempt);
            return;
        }
        let id = LinkId(self.number());
        let pipe = self.network.pipe(Node::TaskManager(from), Node::TaskManager(to));
        self.links.insert(id, Link { from, to, attempt, pipe });
        self.tms[from].links.insert(to, id);
        let ends = (Node::TaskManager(from), Node::TaskManager(to));
        if self.network.is_cut(ends.0, ends.1) || self.tms[to].life == Life::Paused {
            self.watch(Wire::Link(id));
        }
    }

    pub(crate) fn break_link(&mut self, id: LinkId, drain: bool) {
        let Some(link) = self.links.remove(&id) else { return };
        self.network.close(link.pipe, drain);
        if self.tms[link.from].links.get(&link.to) == Some(&id) {
            self.tms[link.from].links.remove(&link.to);
        }
        self.link_lost(link.from, link.to, link.attempt);
        self.link_lost(link.to, link.from, link.attempt);
    }

    fn link_lost(&mut self, at: usize, peer: usize, attempt: Attempt) {
        let peer = self.tms[peer].id;
        let event = worker::Event::LinkLost { job: JOB, attempt, peer, reason: "connection reset".to_owned() };
        let delay = self.chance.below(8_000);
        self.schedule.after(delay, Action::TaskManager(at, TmMessage::Worker(Box::new(event))));
    }

    pub(crate) fn open_connection(&mut self, tm: usize, target: TargetId) -> ConnectionId {
        let id = ConnectionId(self.number());
        let requests = self.network.pipe(Node::TaskManager(tm), Node::Target(target));
        let replies = self.network.pipe(Node::Target(target), Node::TaskManager(tm));
        self.connections.insert(id, Connection { tm, target, requests, replies });
        if self.network.is_cut(Node::TaskManager(tm), Node::Target(target)) {
            self.watch(Wire::Connection(id));
        }
        id
    }

    /// The client's end is closed or lost: the server notices sometime, and may yet execute what is on its way.
    pub(crate) fn close_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        let drain = self.chance.per_mille(500);
        self.network.close(connection.requests, drain);
        self.network.close(connection.replies, false);
        let later = if self.chance.per_mille(300) { self.chance.below(1_500_000) } else { self.chance.below(5_000) };
        self.request_later(connection.target, later, DbMessage::ClientGone(id));
    }

    /// Breaks under both ends: the client is told, the server notices later.
    pub(crate) fn break_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id).copied() else { return };
        self.close_connection(id);
        let delay = self.chance.below(5_000);
        self.schedule
            .after(delay, Action::TaskManager(connection.tm, TmMessage::ConnectionEnded(connection.target, id)));
    }

    pub(crate) fn watch(&mut self, wire: Wire) {
        // Now and then late, so that a session outlives the leadership of the JobManager at its end.
        let late = if self.chance.per_mille(150) { 3_000_000 } else { 0 };
        let delay = self.chance.between(KEEP_ALIVE) + late;
        self.schedule.after(delay, Action::KeepAlive(wire));
    }

    /// Watches every wire that one of these ends cannot serve now.
    pub(crate) fn watch_all(&mut self, concerns: impl Fn(Node, Node) -> bool) {
        let mut wires = Vec::new();
        for (id, s) in &self.sessions {
            if concerns(Node::JobManager(s.jm), Node::TaskManager(s.tm)) {
                wires.push(Wire::Session(*id));
            }
        }
        for (id, l) in &self.links {
            if concerns(Node::TaskManager(l.from), Node::TaskManager(l.to)) {
                wires.push(Wire::Link(*id));
            }
        }
        for (id, c) in &self.connections {
            if concerns(Node::Target(c.target), Node::TaskManager(c.tm)) {
                wires.push(Wire::Connection(*id));
            }
        }
        for wire in wires {
            self.watch(wire);
        }
    }

    pub(crate) fn keep_alive(&mut self, wire: Wire) {
        match wire {
            Wire::Session(id) => {
                let Some(s) = self.sessions.get(&id).copied() else { return };
                let cut = self.network.is_cut(Node::JobManager(s.jm), Node::TaskManager(s.tm));
                if cut || self.jms[s.jm].life != Life::Running || self.tms[s.tm].life != Life::Running {
                    self.break_session(id);
                }
            }
            Wire::Link(id) => {
                let Some(l) = self.links.get(&id).copied() else { return };
                let cut = self.network.is_cut(Node::TaskManager(l.from), Node::TaskManager(l.to));
                if cut || self.tms[l.from].life != Life::Running || self.tms[l.to].life != Life::Running {
                    self.break_link(id, false);
                }
            }
            // A paused client keeps its connection: its kernel answers.
            Wire::Connection(id) => {
                let Some(c) = self.connections.get(&id).copied() else { return };
                let cut = self.network.is_cut(Node::Target(c.target), Node::TaskManager(c.tm));
                if cut || self.tms[c.tm].life == Life::Dead {
                    self.break_connection(id);
                }
            }
        }
    }
}
