//! Model of the network: ordered one-way pipes with delays, partitions between any two processes, broken connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pulso_core::ids::{Instant, TargetId};

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    JobManager(usize),
    TaskManager(usize),
    Target(TargetId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PipeId(u64);

struct Pipe<A> {
    ends: (Node, Node),
    queue: VecDeque<A>,
    last: Instant,
    open: bool,
}

pub(crate) struct Network<A> {
    pipes: BTreeMap<PipeId, Pipe<A>>,
    made: u64,
    partitions: BTreeSet<(Node, Node)>,
}

/// What comes out of a pipe when its next arrival is due.
pub(crate) enum Arrival<A> {
    Here(A),
    /// The ends cannot reach each other now: look again later.
    Held,
    Nothing,
}

impl<A> Network<A> {
    pub(crate) fn new() -> Self {
        Self { pipes: BTreeMap::new(), made: 0, partitions: BTreeSet::new() }
    }

    pub(crate) fn pipe(&mut self, from: Node, to: Node) -> PipeId {
        self.made += 1;
        let id = PipeId(self.made);
        self.pipes.insert(id, Pipe { ends: (from, to), queue: VecDeque::new(), last: Instant(0), open: true });
        id
    }

    /// Time of arrival, never before what was sent earlier. `None`: the pipe is closed, the message is lost.
    pub(crate) fn send(&mut self, pipe: PipeId, action: A, at: Instant) -> Option<Instant> {
        let pipe = self.pipes.get_mut(&pipe).filter(|p| p.open)?;
        pipe.queue.push_back(action);
        pipe.last = pipe.last.max(at);
        Some(pipe.last)
    }

    pub(crate) fn arrive(&mut self, id: PipeId) -> Arrival<A> {
        let Some(pipe) = self.pipes.get_mut(&id) else { return Arrival::Nothing };
        if self.partitions.contains(&ordered(pipe.ends)) {
            return Arrival::Held;
        }
        let action = pipe.queue.pop_front();
        if !pipe.open && pipe.queue.is_empty() {
            self.pipes.remove(&id);
        }
        action.map_or(Arrival::Nothing, Arrival::Here)
    }

    /// Nothing more goes in; what is under way arrives (`drain`) or is lost.
    pub(crate) fn close(&mut self, id: PipeId, drain: bool) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.open = false;
        if !drain || pipe.queue.is_empty() {
            self.pipes.remove(&id);
        }
    }

    pub(crate) fn partition(&mut self, a: Node, b: Node) {
        self.partitions.insert(ordered((a, b)));
    }

    pub(crate) fn heal(&mut self, a: Node, b: Node) {
        self.partitions.remove(&ordered((a, b)));
    }

    pub(crate) fn heal_all(&mut self) {
        self.partitions.clear();
    }

    pub(crate) fn is_cut(&self, a: Node, b: Node) -> bool {
        self.partitions.contains(&ordered((a, b)))
    }
}

fn ordered((a, b): (Node, Node)) -> (Node, Node) {
    if a <= b { (a, b) } else { (b, a) }
}
