//! The ledger as the machines see it: rows in the target that say which epoch of a key group is committed.

use serde::{Deserialize, Serialize};

use crate::cut::CutHash;
use crate::ids::{Attempt, Epoch, KeyGroupId};

/// An epoch that had rows, and the hash of its cut. `p` of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Mark {
    pub epoch: Epoch,
    pub hash: CutHash,
}

impl Mark {
    /// Nothing with rows was committed yet; what a new ledger row says.
    pub const NOTHING: Self = Self { epoch: Epoch(0), hash: CutHash(0) };
}

/// What the target says of one key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    pub attempt: Attempt,
    pub mark: Mark,
}

/// One row of the guard: `UPDATE ledger SET mark = to WHERE key group AND attempt = mine AND epoch = from.epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardRow {
    pub key_group: KeyGroupId,
    pub from: Mark,
    pub to: Mark,
}

/// One step of a transaction. Whoever executes it stops at the first step that does not do what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Begin,
    /// All rows in one statement; its count must equal the number of rows.
    Guard(Vec<GuardRow>),
    /// The rows of these epochs, in this order.
    Rows(Vec<Epoch>),
    Commit,
}

/// The steps of a transaction: the guard comes first, so that its row locks keep every other attempt out while rows flow.
#[must_use]
pub fn transaction(guard: Vec<GuardRow>, epochs: Vec<Epoch>) -> Vec<Step> {
    vec![Step::Begin, Step::Guard(guard), Step::Rows(epochs), Step::Commit]
}
