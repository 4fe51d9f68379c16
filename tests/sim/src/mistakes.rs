//! Mistakes put into the protocol on purpose, one at a time: each must make some seed fail, or the checks lack something.

/// DESIGN.md section 9, in its order.
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
}

impl Mistake {
    pub const ALL: [Self; 17] = [
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
    pub(crate) fn has(&self, mistake: Mistake) -> bool {
        self.0 == Some(mistake)
    }
}
