//! What the writers of all kinds of targets have in common, and the one that a target's kind asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pulso_core::ids::{Attempt, ConnectionId, Epoch, JobId, KeyGroupId, TargetId};
use pulso_core::ledger::{LedgerRow, Step};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::TargetRows;
use pulso_job::spec::{JobSpec, TargetKind};
use thiserror::Error;

use crate::files::FilesWriter;
use crate::kafka::KafkaWriter;
use crate::mysql::MySqlWriter;
use crate::postgres::PostgresWriter;

/// What the ledger says of each key group asked for; `None` where the row is missing.
pub type Rows = BTreeMap<KeyGroupId, Option<LedgerRow>>;

/// Why a target cannot be written or read, by what the caller does about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetError {
    /// There is no connection any more; what was under way on it has an unknown outcome.
    #[error("connection lost: {reason}")]
    ConnectionLost { reason: String },
    /// Refused for now: a lock, too many connections, a server that starts. Worth another try.
    #[error("{reason}")]
    Retry { reason: String },
    /// Only a person can mend it; the text says how.
    #[error("{reason}")]
    Fatal { reason: String },
}

/// What is wrong, and with the table of which sink; else with what Pulso keeps in the database itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFinding {
    /// Index into `JobSpec::sinks`.
    pub sink: Option<usize>,
    pub text: String,
}

/// What a look at the tables of a database found; nothing is changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    pub findings: Vec<TableFinding>,
    /// Tables that the first start of the job makes, quoted.
    pub to_be_made: Vec<String>,
}

/// Executes the target commands of `pulso_core::worker::Command` on one target.
///
/// Dropping it, or a future of it that is not done, closes the connection at once; the outcome is then unknown.
pub enum TargetWriter {
    Postgres(Box<PostgresWriter>),
    MySql(Box<MySqlWriter>),
    Files(Box<FilesWriter>),
    Kafka(Box<KafkaWriter>),
}

macro_rules! each {
    ($self:ident, $writer:ident => $call:expr) => {
        match $self {
            TargetWriter::Postgres($writer) => $call,
            TargetWriter::MySql($writer) => $call,
            TargetWriter::Files($writer) => $call,
            TargetWriter::Kafka($writer) => $call,
        }
    };
}

impl TargetWriter {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// `Fatal` where the job has no such target, or nothing can be made of its address.
    pub fn new(job: JobId, target: TargetId, spec: Arc<JobSpec>) -> Result<Self, TargetError> {
        let Some(found) = spec.targets.get(usize::from(target.0)) else {
            return Err(TargetError::Fatal { reason: format!("the job has no target number {target}") });
        };
        Ok(match found.kind {
            TargetKind::Postgres { .. } => Self::Postgres(Box::new(PostgresWriter::new(job, target, spec)?)),
            TargetKind::MySql { .. } => Self::MySql(Box::new(MySqlWriter::new(job, target, spec)?)),
            TargetKind::Files { .. } => Self::Files(Box::new(FilesWriter::new(job, target, &spec)?)),
            TargetKind::Kafka { .. } => Self::Kafka(Box::new(KafkaWriter::new(job, target, spec)?)),
        })
    }

    /// The connection there is, else the last one there was.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        each!(self, writer => writer.connection())
    }

    /// Waits until the connection ends by itself, and says why; for ever where there is none.
    pub async fn closed(&mut self) -> String {
        each!(self, writer => writer.closed().await)
    }

    /// Connects where there is no connection, makes sure that whoever wrote under the rows' older attempts writes no more,
    /// makes the rows this attempt's and this connection's, and returns them; a row of a newer attempt as it is, a
    /// missing one as `None`.
    ///
    /// `create`: rows, and what the job says that may be made, may be made, because nothing was ever committed.
    ///
    /// # Errors
    /// Every [`TargetError`]; after `ConnectionLost` the next call connects anew.
    pub async fn take_over(
        &mut self,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
        create: bool,
    ) -> Result<Rows, TargetError> {
        each!(self, writer => writer.take_over(attempt, key_groups, create).await)
    }

    /// Connects anew, makes sure that the connection before it writes no more, makes this one the rows', and returns
    /// them; rows of another attempt as they are.
    ///
    /// # Errors
    /// Every [`TargetError`].
    pub async fn register(&mut self, attempt: Attempt, key_groups: &BTreeSet<KeyGroupId>) -> Result<Rows, TargetError> {
        each!(self, writer => writer.register(attempt, key_groups).await)
    }

    /// The rows as they are, on the connection there is.
    ///
    /// # Errors
    /// `ConnectionLost` also where there is none.
    pub async fn read_ledger(&mut self, key_groups: &BTreeSet<KeyGroupId>) -> Result<Rows, TargetError> {
        each!(self, writer => writer.read_ledger(key_groups).await)
    }

    /// Nothing more will come: what is committed becomes visible to readers, where a commit alone does not do that.
    ///
    /// # Errors
    /// Every [`TargetError`].
    pub async fn finish(&mut self) -> Result<(), TargetError> {
        match self {
            Self::Postgres(_) | Self::MySql(_) | Self::Kafka(_) => Ok(()),
            Self::Files(writer) => writer.finish().await,
        }
    }

    /// Executes the steps; `outputs` are the rows of the epochs that [`Step::Rows`] names.
    ///
    /// # Errors
    /// `ConnectionLost`, and then the outcome is unknown: register, read, compare.
    pub async fn transact(&mut self, steps: &[Step], outputs: &[(Epoch, TargetRows)]) -> Result<Outcome, TargetError> {
        each!(self, writer => writer.transact(steps, outputs).await)
    }
}
