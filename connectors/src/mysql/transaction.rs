//! One transaction of a writer: the steps that the protocol names, in the order in which it names them.

use std::sync::Arc;

use pulso_core::ids::Epoch;
use pulso_core::ledger::{GuardRow, Step};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::TargetRows;
use pulso_job::spec::DeadLettersTo;

use super::connect::Connection;
use super::error::{DEADLOCK, Failure, Kind, LOCK_WAIT_TIMEOUT};
use super::letters;
use super::quote;
use super::table::{ask_shape, shape};
use super::write::{Setback, SinkWriter};
use super::writer::MySqlWriter;
use crate::database::held::{Counts, Held};
use crate::database::refused::Refused;

impl MySqlWriter {
    /// Tries until the transaction is committed or that is up to somebody else. `Err` only where the connection is gone.
    pub(super) async fn run_transaction(
        &mut self,
        steps: &[Step],
        outputs: &[(Epoch, TargetRows)],
    ) -> Result<Outcome, Failure> {
        let mut bisect = false;
        loop {
            let setback = match self.take_steps(steps, outputs, bisect).await {
                Ok(counts) => {
                    self.share.committed(counts.rows, counts.refused);
                    return Ok(Outcome::Committed);
                }
                Err(Setback::Failed(failure)) if failure.kind == Kind::ConnectionLost => return Err(failure),
                Err(setback) => setback,
            };
            // Whatever the server rolled back by itself: a lock time-out is one statement's, a deadlock the transaction's.
            let rolled_back = self.connected()?.run("ROLLBACK").await;
            if let Err(lost) = rolled_back {
                let text = match setback {
                    Setback::Failed(failure) => failure.text,
                    Setback::GuardMissed | Setback::Altered | Setback::TooManyRefused { .. } => {
                        "rolling back".to_owned()
                    }
                };
                return Err(Failure::lost(lost.text).during(&text));
            }
            match setback {
                Setback::GuardMissed => {
                    let rows = self.ledger.read(self.connected()?, &self.hosted).await?;
                    return Ok(Outcome::GuardMissed { rows });
                }
                Setback::Altered => return self.look_again(None).await,
                Setback::Failed(failure) if failure.kind == Kind::Fatal => return self.look_again(Some(failure)).await,
                Setback::Failed(failure) if failure.kind == Kind::Refused && !bisect => bisect = true,
                Setback::Failed(failure) => return given_up(failure),
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

    /// After a rollback: says which statement mends the tables, or lets the transaction be tried again where they will do
    /// as they are now.
    async fn look_again(&mut self, failure: Option<Failure>) -> Result<Outcome, Failure> {
        let spec = Arc::clone(&self.spec);
        let checked = self.check(&spec, &self.sinks(&spec)).await;
        match (checked, failure) {
            (Err(found), _) if found.kind == Kind::Fatal => Ok(Outcome::Failed { reason: found.text }),
            (Err(found), _) => Err(found),
            (Ok(_), Some(failure)) => Ok(Outcome::Failed { reason: failure.text }),
            (Ok(tables), None) => {
                self.tables = tables;
                Ok(Outcome::RolledBack { reason: "a table was altered; its new shape will do".to_owned() })
            }
        }
    }

    async fn take_steps(
        &mut self,
        steps: &[Step],
        outputs: &[(Epoch, TargetRows)],
        bisect: bool,
    ) -> Result<Counts, Setback> {
        let connection = self.connection.as_ref().ok_or_else(no_connection)?;
        // From the guard on the ledger's rows are locked: what needs no database is done before.
        let held = Held::of(steps, outputs);
        let sinks = held.by_table(&self.tables, |table| table.sink)?.into_iter();
        let sinks = sinks.map(|(table, parts)| SinkWriter::new(table, parts)).collect::<Result<Vec<_>, _>>()?;
        let (mut counts, mut guard) = (Counts::default(), &[][..]);
        for step in steps {
            match step {
                // Goes with the guard.
                Step::Begin => {}
                Step::Guard(rows) => {
                    guard = rows;
                    if !self.ledger.guard(connection, self.attempt, rows).await? {
                        return Err(Setback::GuardMissed);
                    }
                }
                Step::Rows(_) => counts = self.write_rows(connection, &held, &sinks, bisect).await?,
                Step::Commit => {
                    self.advance(connection, guard, &sinks).await?;
                    connection.run("COMMIT").await.map_err(of_commit)?;
                    return Ok(counts);
                }
            }
        }
        Err(Failure::fatal("a transaction without a commit").into())
    }

    /// Moves the ledger's rows, and looks whether the tables are what they were: those written to stay so until the end of
    /// the transaction.
    async fn advance(
        &self,
        connection: &Connection,
        guard: &[GuardRow],
        written: &[SinkWriter<'_>],
    ) -> Result<(), Setback> {
        let mut statements: Vec<String> = Vec::new();
        if !guard.is_empty() {
            statements.push(self.ledger.advance(self.attempt, guard));
        }
        statements.extend(written.iter().map(|sink| ask_shape(&sink.table.name)));
        if statements.is_empty() {
            return Ok(());
        }
        let found = connection.ask(statements.join("; ")).await.map_err(|failure| failure.during("the ledger"))?;
        let is_same = |(sink, rows): (&SinkWriter<'_>, &super::connect::RowSet)| {
            rows.first().is_some_and(|row| shape(row) == sink.table.shape)
        };
        if found.len() == written.len() && written.iter().zip(&found).all(is_same) {
            return Ok(());
        }
        Err(Setback::Altered)
    }

    /// Table by table in file order, then dead letters.
    async fn write_rows(
        &self,
        connection: &Connection,
        held: &Held<'_>,
        sinks: &[SinkWriter<'_>],
        bisect: bool,
    ) -> Result<Counts, Setback> {
        let mut refused: Vec<Refused> = Vec::new();
        for sink in sinks {
            if bisect {
                sink.write_what_is_taken(connection, (&self.share, held.count()), &mut refused).await?;
            } else {
                sink.write(connection).await?;
            }
        }
        let author = letters::Author { job: self.ledger.job, name: &self.spec.name };
        // Empty where they go to another target: then there are none.
        let table = match &self.spec.dead_letter.to {
            DeadLettersTo::Table(table) => quote::table(table),
            DeadLettersTo::Topic(_) | DeadLettersTo::Files => String::new(),
        };
        letters::write(connection, author, &table, &held.letters()).await?;
        letters::write_refused(connection, author, &refused).await?;
        Ok(held.counts(author.job, &refused))
    }
}

/// What a transaction that was rolled back for certain means to the caller.
fn given_up(failure: Failure) -> Result<Outcome, Failure> {
    let reason = failure.text.clone();
    match failure.kind {
        Kind::Retry => Ok(Outcome::RolledBack { reason }),
        Kind::ConnectionLost => Err(failure),
        // Refused although every row was tried by itself: what is refused is a dead letter, and those must not be lost.
        Kind::Fatal | Kind::Refused => Ok(Outcome::Failed { reason }),
    }
}

/// Of a COMMIT that the server refuses only a deadlock or a lock time-out says that nothing was committed.
fn of_commit(failure: Failure) -> Failure {
    let failure = failure.during("committing");
    if [DEADLOCK, LOCK_WAIT_TIMEOUT].contains(&failure.code.as_str()) { failure } else { Failure::lost(failure.text) }
}

pub(super) fn no_connection() -> Failure {
    Failure::lost("there is no connection")
}
