//! A simulated TaskManager process: the real worker and source machines between models of everything they touch.

use std::collections::{BTreeMap, BTreeSet};

use pulso_core::ids::{Attempt, Epoch, EventTime, KeyGroupId, Position, SessionId, SplitId, TargetId, TaskManagerId};
use pulso_core::ledger::LedgerRow;
use pulso_core::message::Deployment;
use pulso_core::source::Source;
use pulso_core::worker::Worker;

use crate::action::{Action, LinkId, Outgoing, Payload};
use crate::network::PipeId;
use crate::store::{Rows, Store};
use crate::writer::Writer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Running,
    Paused,
    Dead,
}

pub(crate) struct TaskManager {
    pub(crate) id: TaskManagerId,
    pub(crate) life: Life,
    /// What waits for a paused process.
    pub(crate) held: Vec<Action>,
    pub(crate) worker: Worker<Payload, Rows>,
    pub(crate) store: Store,
    pub(crate) source: Option<SourceTask>,
    pub(crate) writers: BTreeMap<TargetId, Writer>,
    pub(crate) session: Option<SessionId>,
    pub(crate) connects: usize,
    pub(crate) links: BTreeMap<usize, LinkId>,
    /// Where each key group is hosted in the attempt whose links these are.
    pub(crate) hosts: BTreeMap<KeyGroupId, usize>,
    /// Orders of the worker to its own threads, in order each.
    pub(crate) store_lane: PipeId,
    pub(crate) source_lane: PipeId,
    /// SIGTERM came: tells every JobManager that it registers with.
    pub(crate) leaving: bool,
    /// From which epoch on its definition holds, and the fingerprint: what runs here is of no other.
    pub(crate) definition: Option<(Epoch, u64)>,
    /// How many it has.
    pub(crate) targets: u16,
    /// Attempt that was deployed last, and its key groups.
    pub(crate) attempt: Attempt,
    pub(crate) hosted: BTreeSet<KeyGroupId>,
    /// What was made of each epoch of that attempt that is not known to be sealed.
    pub(crate) unsealed: BTreeMap<Epoch, BTreeMap<TargetId, Rows>>,
    /// Last reading of every key group, for the mistake of not looking again.
    pub(crate) remembered: BTreeMap<(TargetId, KeyGroupId), Option<LedgerRow>>,
}

/// The source thread: reads Kafka as the source machine allows, decodes, sends rows and barriers.
pub(crate) struct SourceTask {
    /// A poll of another one does nothing.
    pub(crate) generation: u64,
    pub(crate) deployment: Box<Deployment>,
    pub(crate) machine: Source,
    /// Where each key group is hosted in this attempt.
    pub(crate) hosts: BTreeMap<KeyGroupId, usize>,
    pub(crate) next: BTreeMap<SplitId, Position>,
    /// Splits whose next record belongs to a later epoch.
    pub(crate) held: BTreeSet<SplitId>,
    pub(crate) greatest: BTreeMap<SplitId, EventTime>,
    pub(crate) outgoing: Outgoing,
}

impl TaskManager {
    pub(crate) fn runs(&self) -> bool {
        self.life == Life::Running
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.life != Life::Dead
    }
}

/// A session between a TaskManager and a JobManager.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) tm: usize,
    pub(crate) jm: usize,
    pub(crate) up: PipeId,
    pub(crate) down: PipeId,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) attempt: Attempt,
    pub(crate) pipe: PipeId,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    pub(crate) tm: usize,
    pub(crate) target: TargetId,
    pub(crate) requests: PipeId,
    pub(crate) replies: PipeId,
}
