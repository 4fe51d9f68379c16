//! One transaction of a writer: the steps that the protocol names, in the order in which it names them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use pulso_core::ids::Epoch;
use pulso_core::ledger::{GuardRow, Step};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{SinkRows, TargetRows};

use super::error::{Failure, Kind, LOCK_NOT_AVAILABLE, READ_ONLY};
use super::letters;
use super::quote;
use super::refused::Refused;
use super::write::{Mode, Setback, write_sink};
use super::writer::PostgresWriter;

/// A constraint that waits for COMMIT would be refused there, where no row can be told from another.
const BEGIN: &str = "BEGIN; SET CONSTRAINTS ALL IMMEDIATE";
/// How long a sink whose COPY met a key goes by staging before COPY is tried again.
const STAGED_FOR: Duration = Duration::from_secs(30);

/// How one try of a transaction ended.
enum Tried {
    Committed { rows: u64, refused: u64 },
    GuardMissed(BTreeSet<pulso_core::ids::KeyGroupId>),
}

impl PostgresWriter {
    /// Tries until the transaction is committed or that is up to somebody else. `Err` only where the connection is gone.
    pub(super) async fn run_transaction(
        &mut self,
        steps: &[Step],
        outputs: &[(Epoch, TargetRows)],
    ) -> Result<Outcome, Failure> {
        let now = Instant::now();
        self.staged.retain(|_, until| *until > now);
        let mut mode = Mode { staged: self.staged.keys().copied().collect(), bisect: false };
        loop {
            let setback = match self.try_transaction(steps, outputs, &mode).await {
                Ok(Tried::Committed { rows, refused }) => {
                    self.share.committed(rows, refused);
                    return Ok(Outcome::Committed);
                }
                Ok(Tried::GuardMissed(key_groups)) => {
                    self.roll_back().await?;
                    let rows = self.ledger.read(self.connected()?, &key_groups).await?;
                    return Ok(Outcome::GuardMissed { rows });
                }
                Err(Setback::Failed(failure)) if failure.kind == Kind::ConnectionLost => return Err(failure),
                Err(setback) => setback,
            };
            match (self.roll_back().await, &setback) {
                (Ok(()), _) => {}
                // COMMIT was not sent, so the end of the session settles it.
                (Err(_), Setback::Failed(failure)) if failure.kind == Kind::Fatal => {
                    self.connection = None;
                    return Ok(Outcome::Failed { reason: failure.text.clone() });
                }
                (Err(lost), Setback::Failed(failure)) => return Err(lost.during(&failure.text)),
                (Err(lost), _) => return Err(lost),
            }
            match setback {
                Setback::NotNew { sink } => {
                    tracing::warn!(job = %self.ledger.job, sink, "a key that should be new is there; staging for a while");
                    self.staged.insert(sink, now + STAGED_FOR);
                    mode.staged.insert(sink);
                }
                Setback::Failed(failure) if failure.kind == Kind::Refused && !mode.bisect => mode.bisect = true,
                Setback::Failed(failure) => return self.given_up(failure).await,
                Setback::TooManyRefused { table, reason } => {
                    let reason = format!(
                        "the database refuses too many rows of table {table} ({reason}); mend the table or the job, or \
                         raise max_refused"
                    );
                    return Ok(Outcome::Failed { reason });
                }
            }
        }
    }

    async fn roll_back(&mut self) -> Result<(), Failure> {
        self.connection.as_mut().ok_or_else(no_connection)?.roll_back("ROLLBACK").await
    }

    /// What a transaction that was rolled back for certain means to the caller.
    async fn given_up(&mut self, failure: Failure) -> Result<Outcome, Failure> {
        let reason = failure.text.clone();
        match failure.kind {
            // A server that became a standby: the one to write to is elsewhere, a new connection finds it.
            Kind::Retry if failure.code == READ_ONLY => Err(Failure::lost(reason)),
            Kind::Retry => {
                if failure.code == LOCK_NOT_AVAILABLE {
                    let attempt = self.attempt;
                    self.ledger.end_older(self.connected()?, attempt).await?;
                }
                Ok(Outcome::RolledBack { reason })
            }
            Kind::ConnectionLost => Err(failure),
            // Refused although every row was tried by itself: what is refused is a dead letter, and those must not be lost.
            Kind::Fatal | Kind::Refused => Ok(Outcome::Failed { reason }),
        }
    }

    async fn try_transaction(
        &mut self,
        steps: &[Step],
        outputs: &[(Epoch, TargetRows)],
        mode: &Mode,
    ) -> Result<Tried, Setback> {
        let mut begun = false;
        let mut counts = (0, 0);
        let mut steps = steps.iter().peekable();
        while let Some(step) = steps.next() {
            match step {
                // BEGIN goes in one flight with a guard that follows it.
                Step::Begin if matches!(steps.peek(), Some(Step::Guard(rows)) if !rows.is_empty()) => begun = true,
                Step::Begin => self.connected()?.run(BEGIN).await?,
                Step::Guard(rows) => {
                    if !self.guard(rows, std::mem::take(&mut begun)).await? {
                        return Ok(Tried::GuardMissed(rows.iter().map(|row| row.key_group).collect()));
                    }
                }
                Step::Rows(epochs) => counts = self.write_rows(epochs, outputs, mode).await?,
                Step::Commit => {
                    self.connected()?.run("COMMIT").await.map_err(|failure| failure.during("committing"))?;
                    let (rows, refused) = counts;
                    return Ok(Tried::Committed { rows, refused });
                }
            }
        }
        Err(Failure::fatal("a transaction without a commit").into())
    }

    /// True where every row was as the guard expects it.
    async fn guard(&mut self, rows: &[GuardRow], with_begin: bool) -> Result<bool, Setback> {
        if rows.is_empty() {
            return Ok(true);
        }
        let guard = self.ledger.guard(self.attempt, rows);
        let sql = if with_begin { format!("{BEGIN}; {guard}") } else { guard };
        let count =
            self.connected()?.simple_count(&sql).await.map_err(|failure| failure.during("the ledger's guard"))?;
        Ok(count == rows.len() as u64)
    }

    /// Table by table in file order, then dead letters. Returns how many rows there were and how many were refused.
    async fn write_rows(
        &mut self,
        epochs: &[Epoch],
        outputs: &[(Epoch, TargetRows)],
        mode: &Mode,
    ) -> Result<(u64, u64), Setback> {
        let of_epochs: Vec<&TargetRows> = epochs
            .iter()
            .flat_map(|epoch| outputs.iter().filter(move |(of, _)| of == epoch))
            .map(|(_, rows)| rows)
            .collect();
        let total = of_epochs.iter().map(|rows| rows.rows_count() as u64).sum();
        let mut refused: Vec<Refused> = Vec::new();
        let letters_table = quote::table(&self.spec.dead_letter.table);
        let author = letters::Author { job: self.ledger.job, name: &self.spec.name };
        let is_strange = |rows: &&SinkRows| !self.tables.iter().any(|table| table.sink == rows.sink);
        if let Some(rows) = of_epochs.iter().flat_map(|rows| &rows.sinks).find(is_strange) {
            return Err(
                Failure::fatal(format!("there are rows for sink {}, which is not of this target", rows.sink)).into()
            );
        }
        let connection = self.connection.as_mut().ok_or_else(no_connection)?;
        for table in &self.tables {
            let parts: Vec<&SinkRows> =
                of_epochs.iter().flat_map(|rows| &rows.sinks).filter(|rows| rows.sink == table.sink).collect();
            if !parts.is_empty() {
                write_sink(connection, table, &parts, mode, (&self.share, total), &mut refused).await?;
            }
        }
        let letters: Vec<&RecordBatch> = of_epochs.iter().filter_map(|rows| rows.letters.as_ref()).collect();
        letters::write(connection, author, &letters_table, &letters).await?;
        letters::write_refused(connection, author, &refused).await?;
        if let Some(first) = refused.first() {
            let (count, table) = (refused.len(), &first.table);
            tracing::warn!(job = %author.job, count, %table, reason = %first.reason, "rows refused, kept as dead letters");
        }
        Ok((total, refused.len() as u64))
    }
}

pub(super) fn no_connection() -> Failure {
    Failure::lost("there is no connection")
}
