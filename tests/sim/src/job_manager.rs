//! A simulated JobManager process: the real appender and, while it leads, the real coordinator.

use std::collections::{BTreeSet, VecDeque};

use pulso_core::control_log::Appender;
use pulso_core::coordinator::Coordinator;
use pulso_core::ids::SessionId;

use crate::action::Action;
use crate::task_manager::Life;

pub(crate) struct JobManager {
    pub(crate) life: Life,
    pub(crate) held: Vec<Action>,
    pub(crate) appender: Appender,
    pub(crate) coordinator: Option<Coordinator>,
    pub(crate) sessions: BTreeSet<SessionId>,
    /// Appends under way; true: the coordinator believes that it is durable, by mistake.
    pub(crate) appends: VecDeque<bool>,
    /// Which of the JobManagers of the cluster: a restarted one is another process of the same.
    pub(crate) host: usize,
    pub(crate) ticks: u64,
}
