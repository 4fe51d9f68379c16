//! What can happen in the simulated world, and who it happens to.

use std::collections::BTreeMap;

use pulso_core::ids::{Attempt, ConnectionId, Epoch, SessionId, TargetId};
use pulso_core::message::{Deployment, Opening};
use pulso_core::{control_log, coordinator, worker};

use crate::database::{Reply, Request};
use crate::dedup::Row;
use crate::network::PipeId;
use crate::store::Rows;

pub(crate) type Payload = std::rc::Rc<Vec<Row>>;
pub(crate) type WorkerEvent = worker::Event<Payload, Rows>;
pub(crate) type WorkerCommand = worker::Command<Payload, Rows>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// A connection that both ends learn the loss of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Session(SessionId),
    Link(LinkId),
    Connection(ConnectionId),
}

#[derive(Debug)]
pub(crate) enum Action {
    Arrive(PipeId),
    JobManager(usize, JmMessage),
    TaskManager(usize, TmMessage),
    Database(TargetId, DbMessage),
    Storage(StorageMessage),
    /// Breaks the wire if its ends still cannot talk.
    KeepAlive(Wire),
    Produce,
    Remember,
    Fault,
    Heal(Heal),
    Quiet,
    Check,
}

#[derive(Debug)]
pub(crate) enum JmMessage {
    Tick,
    Discover,
    Log(control_log::Event),
    Coordinator(Box<coordinator::Event>),
}

#[derive(Debug)]
pub(crate) enum TmMessage {
    Tick,
    Heartbeat,
    /// Looks for a JobManager that leads.
    Connect,
    SessionClosed(SessionId),
    Worker(Box<WorkerEvent>),
    Source(SourceMessage),
    Poll(u64),
    Store(Box<WorkerCommand>),
    Reply(TargetId, ConnectionId, Reply),
    ConnectionEnded(TargetId, ConnectionId),
}

#[derive(Debug)]
pub(crate) enum SourceMessage {
    Start(Box<Deployment>),
    Stop,
    Close(Attempt, Opening),
    Committed(Attempt, Epoch),
}

#[derive(Debug)]
pub(crate) enum DbMessage {
    Request(ConnectionId, Request),
    /// A COMMIT whose connection broke while it was on its way.
    LateCommit(ConnectionId),
    LockTimeout(ConnectionId, u64),
    ClientGone(ConnectionId),
}

#[derive(Debug)]
pub(crate) enum StorageMessage {
    /// Reaches the storage; the answer was decided when it was sent.
    Put {
        jm: usize,
        number: u64,
        bytes: Vec<u8>,
        answered: bool,
    },
    Read {
        jm: usize,
        number: u64,
    },
    List {
        jm: usize,
    },
    Delete {
        numbers: Vec<u64>,
    },
}

#[derive(Debug)]
pub(crate) enum Heal {
    Resume(usize),
    ResumeJobManager(usize),
    Partition(crate::network::Node, crate::network::Node),
    /// Another TaskManager process starts.
    Restart,
    /// A TaskManager that no JobManager reached comes back, just as the others need another attempt.
    Return(usize),
    /// A TaskManager that leaves ends.
    Exit(usize),
    RestartJobManager(usize),
    TargetUp(TargetId),
    Kafka,
    Storage,
}

/// Rows on their way to one TaskManager.
pub(crate) type Outgoing = BTreeMap<usize, Vec<Row>>;
