//! What happened in a run: seeds in which nothing went wrong prove nothing.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// A key group came back from a checkpoint.
    Restore,
    /// A COMMIT without an answer that came through.
    CommitUnknownDone,
    /// A COMMIT without an answer that did not.
    CommitUnknownLost,
    /// A write or takeover of an older attempt that the ledger refused.
    Fenced,
    CheckpointDone,
    CheckpointFailed,
    /// An epoch processed with output that is committed already.
    MutedReplay,
    /// Another JobManager took over.
    Takeover,
    JobManagerRestart,
    /// A target went back, and was noticed.
    WentBack,
    BadSnapshot,
    UnclearPut,
    SplitAdded,
    LookupsGone,
    Copied,
    RolledBack,
    Correction,
    /// Another definition came in force.
    Changed,
    /// A target went back behind that, and the definition before was deployed once more.
    Past,
}

impl Sight {
    pub const ALL: [Self; 19] = [
        Self::Restore,
        Self::CommitUnknownDone,
        Self::CommitUnknownLost,
        Self::Fenced,
        Self::CheckpointDone,
        Self::CheckpointFailed,
        Self::MutedReplay,
        Self::Takeover,
        Self::JobManagerRestart,
        Self::WentBack,
        Self::BadSnapshot,
        Self::UnclearPut,
        Self::SplitAdded,
        Self::LookupsGone,
        Self::Copied,
        Self::RolledBack,
        Self::Correction,
        Self::Changed,
        Self::Past,
    ];
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<Sight, u64>);

impl Coverage {
    pub(crate) fn add(&mut self, sight: Sight) {
        *self.0.entry(sight).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        for (sight, count) in &other.0 {
            *self.0.entry(*sight).or_default() += count;
        }
    }

    #[must_use]
    pub fn count(&self, sight: Sight) -> u64 {
        self.0.get(&sight).copied().unwrap_or(0)
    }

    /// What did not happen at all.
    #[must_use]
    pub fn missing(&self) -> Vec<Sight> {
        Sight::ALL.into_iter().filter(|s| self.count(*s) == 0).collect()
    }
}
