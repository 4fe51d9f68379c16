//! Which TaskManager works on which split and key group.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{KeyGroupId, SplitId, TaskManagerId};

/// The placement of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Members and the address of their exchange, `host:port`.
    pub members: BTreeMap<TaskManagerId, String>,
    pub splits: BTreeMap<SplitId, TaskManagerId>,
    pub key_groups: BTreeMap<KeyGroupId, TaskManagerId>,
}
