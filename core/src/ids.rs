//! The numbers and names that everything else speaks of, each a type of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// One running job; made at submit, never used again.
    JobId(Uuid)
);
number!(
    /// One incarnation of a TaskManager process: a restarted process has another.
    TaskManagerId(Uuid)
);
number!(
    /// A split of a job: the partition's number for a Kafka topic.
    SplitId(u32)
);
number!(
    /// Number of a key group within its stage, `0..key_groups`.
    KeyGroup(u16)
);
number!(
    /// Number of a stage; the first exchange feeds stage 0.
    Stage(u8)
);
number!(
    /// Index of a target in the job's file.
    TargetId(u16)
);
number!(
    /// Number of an epoch. The first one with input is 1; 0 stands for "nothing yet".
    Epoch(u64)
);
number!(
    /// Number of a placement of a job; the first one is 1.
    Attempt(u64)
);
number!(
    /// Where the next record of a split begins: a Kafka offset or a byte offset.
    Position(i64)
);
number!(
    /// Microseconds since 1970 UTC of a record's own time, or a watermark over them.
    EventTime(i64)
);
number!(
    /// Microseconds since 1970 UTC of the JobManager's wall clock, as recorded in a cut.
    WallTime(i64)
);
number!(
    /// Microseconds of a monotonic clock with an arbitrary start; only differences mean something.
    Instant(u64)
);
number!(
    /// Number of a checkpoint within its job; the first one is 1.
    CheckpointId(u64)
);
number!(
    /// One `Session` stream between a TaskManager and this JobManager.
    SessionId(u64)
);
number!(
    /// A client's call that waits for an answer.
    RequestId(u64)
);
number!(
    /// One connection of a writer to its target; a reading of the ledger is valid only for the connection that made it.
    ConnectionId(u64)
);

impl Epoch {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Attempt {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl EventTime {
    /// The watermark before anything was read.
    pub const MIN: Self = Self(i64::MIN);
    /// The watermark behind the end of a finite input.
    pub const MAX: Self = Self(i64::MAX);
}

impl Instant {
    #[must_use]
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero where that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

number!(
    /// One version of the rows of all lookups of a job; made when they are read, never used again.
    LookupsId(Uuid)
);

/// A key group of a stage: what owns state, has a ledger row in every target and moves between TaskManagers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(into = "String", try_from = "String")]
pub struct KeyGroupId {
    pub stage: Stage,
    pub group: KeyGroup,
}

impl fmt::Display for KeyGroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stage, self.group)
    }
}

impl From<KeyGroupId> for String {
    fn from(id: KeyGroupId) -> Self {
        id.to_string()
    }
}

impl FromStr for KeyGroupId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stage, group) = text.split_once('/').ok_or_else(|| format!("`{text}` is not STAGE/KEY_GROUP"))?;
        let stage = stage.parse().map_err(|e| format!("stage `{stage}`: {e}"))?;
        let group = group.parse().map_err(|e| format!("key group `{group}`: {e}"))?;
        Ok(Self { stage: Stage(stage), group: KeyGroup(group) })
    }
}

impl TryFrom<String> for KeyGroupId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
