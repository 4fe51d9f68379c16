//! Mistakes put into the protocol on purpose, one at a time: each must make some seed fail, or the checks lack something.

use pulso_core::mistake as core;

/// DESIGN.md section 9, in its order; the last is that of a changed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mistake {
    CommitOnProcessing,
    SealBeforeDurable,
    NoPrepare,
    EarlyProcessing,
    NoTrim,
    OneMuteLevel,
    MarkFromLedger,
    GuardBehindRows,
    NoRegister,
    UncommittedCheckpoint,
    FlushAhead,
    StaleCopy,
    KeptResume,
    ForeignSeal,
    LateAttempt,
    OwnCommitFences,
    IdleForgets,
    OneDefinition,
}

impl Mistake {
    pub const ALL: [Self; 18] = [
        Self::CommitOnProcessing,
        Self::SealBeforeDurable,
        Self::NoPrepare,
        Self::EarlyProcessing,
        Self::NoTrim,
        Self::OneMuteLevel,
        Self::MarkFromLedger,
        Self::GuardBehindRows,
        Self::NoRegister,
        Self::UncommittedCheckpoint,
        Self::FlushAhead,
        Self::StaleCopy,
        Self::KeptResume,
        Self::ForeignSeal,
        Self::LateAttempt,
        Self::OwnCommitFences,
        Self::IdleForgets,
        Self::OneDefinition,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CommitOnProcessing => "commit-on-processing",
            Self::SealBeforeDurable => "seal-before-durable",
            Self::NoPrepare => "no-prepare",
            Self::EarlyProcessing => "early-processing",
            Self::NoTrim => "no-trim",
            Self::OneMuteLevel => "one-mute-level",
            Self::MarkFromLedger => "mark-from-ledger",
            Self::GuardBehindRows => "guard-behind-rows",
            Self::NoRegister => "no-register",
            Self::UncommittedCheckpoint => "uncommitted-checkpoint",
            Self::FlushAhead => "flush-ahead",
            Self::StaleCopy => "stale-copy",
            Self::KeptResume => "kept-resume",
            Self::ForeignSeal => "foreign-seal",
            Self::LateAttempt => "late-attempt",
            Self::OwnCommitFences => "own-commit-fences",
            Self::IdleForgets => "idle-forgets",
            Self::OneDefinition => "one-definition",
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }
}

/// The mistakes of one run: none, or one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mistakes(pub(crate) Option<Mistake>);

impl Mistakes {
    /// The switch inside the machines, for what only they can get wrong.
    pub(crate) fn in_core(&self) -> core::Mistake {
        match self.0 {
            Some(Mistake::EarlyProcessing) => core::Mistake::EarlyProcessing,
            Some(Mistake::NoTrim) => core::Mistake::NoTrim,
            Some(Mistake::MarkFromLedger) => core::Mistake::MarkFromLedger,
            Some(Mistake::UncommittedCheckpoint) => core::Mistake::UncommittedCheckpoint,
            Some(Mistake::StaleCopy) => core::Mistake::StaleCopy,
            Some(Mistake::KeptResume) => core::Mistake::KeptResume,
            Some(Mistake::OwnCommitFences) => core::Mistake::OwnCommitFences,
            Some(Mistake::OneDefinition) => core::Mistake::OneDefinition,
            Some(
                Mistake::CommitOnProcessing
                | Mistake::SealBeforeDurable
                | Mistake::NoPrepare
                | Mistake::OneMuteLevel
                | Mistake::GuardBehindRows
                | Mistake::NoRegister
                | Mistake::FlushAhead
                | Mistake::ForeignSeal
                | Mistake::LateAttempt
                | Mistake::IdleForgets,
            )
            | None => core::Mistake::None,
        }
    }

    pub(crate) fn has(&self, mistake: Mistake) -> bool {
        self.0 == Some(mistake)
    }
}
