//! What the pages and figures show of a worker.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::{Attempt, CheckpointId, Epoch, JobId, KeyGroupId, TargetId};

/// A job that has something here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobView {
    pub job: JobId,
    pub attempt: Attempt,
    /// `freezing`, `prepared`, `deployed` or `halted`.
    pub state: &'static str,
    pub deployed: Option<DeployedView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeployedView {
    /// All takeovers and restores have succeeded.
    pub ready: bool,
    /// Hosted key groups and what each has committed in every target.
    pub key_groups: BTreeMap<KeyGroupId, Epoch>,
    /// Epochs of which rows or barriers are here and that are not worked off.
    pub gathering: usize,
    /// Epochs that are processed and not sealed.
    pub unsealed: usize,
    /// The newest epoch that is processed and sealed.
    pub recorded: Epoch,
    /// The newest epoch that is committed here in every target.
    pub committed: Epoch,
    /// *g*, as last heard.
    pub everywhere: Epoch,
    pub checkpoint: Option<CheckpointId>,
    pub writers: Vec<WriterView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WriterView {
    pub target: TargetId,
    /// What its connection does.
    pub state: &'static str,
    pub queued_epochs: usize,
    pub queued_bytes: u64,
    /// Tries since something was committed; 0: all is well.
    pub tries: u32,
    /// Why it is being tried again. May name a server, never a record.
    pub trouble: Option<String>,
}
