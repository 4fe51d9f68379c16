//! Mistakes that the simulation puts into the protocol on purpose, to show that it would notice them.
//!
//! Never set anywhere else. Each is looked at in one place of a machine; other mistakes the simulation makes by itself.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mistake {
    #[default]
    None,
    /// Epochs are processed before all takeovers have succeeded.
    EarlyProcessing,
    /// What an own lost COMMIT brought in stays in the queue.
    NoTrim,
    /// A takeover takes *p* from the ledger.
    MarkFromLedger,
    /// A checkpoint takes the newest sealed epoch, committed or not.
    UncommittedCheckpoint,
    /// The copy of a host that was away counts as current.
    StaleCopy,
    /// A key group that moves keeps the epoch of its old copy.
    KeptResume,
    /// A late own COMMIT is taken for that of another attempt.
    OwnCommitFences,
    /// The definition in force is deployed for whatever epochs there are to be processed.
    OneDefinition,
}
