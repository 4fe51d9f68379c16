//! One transaction of a writer: the steps that the protocol names, in the order in which it names them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pulso_core::ids::Epoch;
use pulso_core::ledger::Step;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::TargetRows;
use pulso_job::spec::DeadLettersTo;

use super::ahead::{Ahead, Expected};
use super::error::{Failure, Kind, LOCK_NOT_AVAILABLE, MALFORMED};
use super::letters;
use super::quote;
use super::write::{Mode, Setback, SinkWriter};
use super::writer::PostgresWriter;
use crate::database::held::{Counts, Held};
use crate::database::refused::Refused;

/// A constraint that waits for COMMIT would be refused there, where no row can be told from another.
const BEGIN: [&str; 2] = ["BEGIN", "SET CONSTRAINTS ALL IMMEDIATE"];
/// How long a sink whose COPY met a key goes by staging before COPY is tried again.
const STAGED_FOR: Duration = Duration::from_secs(30);

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
                Ok(counts) => {
                    self.share.committed(counts.rows, counts.refused);
                    self.cautious = false;
                    return Ok(Outcome::Committed);
                }
                Err(Setback::Failed(failure)) if failure.kind == Kind::ConnectionLost => return Err(failure),
                Err(setback) => setback,
            };
            match (self.roll_back().await, &setback) {
                (Ok(()), _) => {}
                // COMMIT was not sent, so the end of the session settles it.
                (Err(_), Setback::Altered) => self.connection = None,
                (Err(_), Setback::Failed(failure)) if failure.kind == Kind::Fatal => self.connection = None,
                (Err(lost), Setback::Failed(failure)) => return Err(lost.during(&failure.text)),
                (Err(lost), _) => return Err(lost),
            }
            match setback {
                Setback::GuardMissed => {
                    let rows = self.ledger.read(self.connected()?, &self.hosted).await?;
                    return Ok(Outcome::GuardMissed { rows });
                }
                Setback::NotNew { sink } => {
                    tracing::warn!(job = %self.ledger.job, sink, "a key that should be new is there; staging for a while");
                    self.staged.insert(sink, now + STAGED_FOR);
                    mode.staged.insert(sink);
                }
                Setback::Altered => return self.look_again(None).await,
                Setback::Failed(failure) if failure.kind == Kind::Fatal && is_about_shape(&failure.code) => {
                    return self.look_again(Some(failure)).await;
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

    /// After a rollback: says which statement mends the tables, or lets the transaction be tried again where they will do
    /// as they are now.
    async fn look_again(&mut self, failure: Option<Failure>) -> Result<Outcome, Failure> {
        let kept = self.connection.is_some();
        if !kept {
            self.connect(self.attempt).await?;
        }
        let spec = Arc::clone(&self.spec);
        let checked = self.check(&spec, &self.sinks(&spec)).await;
        if kept {
            // Staging tables look like the tables did.
            self.connected()?.run("DISCARD TEMP").await?;
        } else {
            // It is not registered.
            self.connection = None;
        }
        match (checked, failure) {
            (Err(found), _) if found.kind == Kind::Fatal => Ok(Outcome::Failed { reason: found.text }),
            (Err(found), _) => Err(found),
            (Ok(_), Some(failure)) => Ok(Outcome::Failed { reason: failure.text }),
            (Ok(tables), None) => {
                self.tables = tables;
                let reason = "a table was altered; its new shape will do".to_owned();
                if kept { Ok(Outcome::RolledBack { reason }) } else { Err(Failure::lost(reason)) }
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
    ) -> Result<Counts, Setback> {
        let mut ahead = Ahead::default();
        let tried = self.take_steps(steps, outputs, mode, &mut ahead).await;
        self.cautious |= ahead.out_of_step;
        tried
    }

    async fn take_steps(
        &mut self,
        steps: &[Step],
        outputs: &[(Epoch, TargetRows)],
        mode: &Mode,
        ahead: &mut Ahead,
    ) -> Result<Counts, Setback> {
        let mut counts = Counts::default();
        for step in steps {
            match step {
                Step::Begin => BEGIN.into_iter().for_each(|sql| ahead.push(sql, "beginning a transaction")),
                Step::Guard(rows) if rows.is_empty() => {}
                Step::Guard(rows) => {
                    let expected = Expected::Guarded(rows.len() as u64);
                    ahead.expect(self.ledger.guard(self.attempt, rows), "the ledger's guard", expected);
                }
                Step::Rows(_) => counts = self.write_rows(&Held::of(steps, outputs), mode, ahead).await?,
                Step::Commit => {
                    let connection = self.connected()?;
                    // The guard was seen to be right; of other statements a failure is enough for COMMIT not to run.
                    if ahead.holds_guard() {
                        ahead.land(connection).await?;
                    }
                    ahead.push("COMMIT", "committing");
                    ahead.land(connection).await?;
                    return Ok(counts);
                }
            }
        }
        Err(Failure::fatal("a transaction without a commit").into())
    }

    /// Table by table in file order, then dead letters. Nothing is sent before all rows are reduced: from the guard on,
    /// the ledger's rows are locked.
    async fn write_rows(&mut self, held: &Held<'_>, mode: &Mode, ahead: &mut Ahead) -> Result<Counts, Setback> {
        // Empty where they go to another target: then there are none.
        let letters_table = match &self.spec.dead_letter.to {
            DeadLettersTo::Table(table) => quote::table(table),
            DeadLettersTo::Topic(_) | DeadLettersTo::Files => String::new(),
        };
        let sinks = held.by_table(&self.tables, |table| table.sink)?.into_iter();
        let sinks = sinks.map(|(table, parts)| SinkWriter::new(table, parts, mode)).collect::<Result<Vec<_>, _>>()?;
        let letters = held.letters();

        let connection = self.connection.as_mut().ok_or_else(no_connection)?;
        let mut locked: Vec<&str> = sinks.iter().map(SinkWriter::table).collect();
        locked.extend((!letters.is_empty()).then_some(letters_table.as_str()));
        lock(&locked, ahead);
        sinks.iter().for_each(|sink| sink.prove_shape(ahead));
        sinks.iter().filter(|_| !mode.bisect).for_each(|sink| sink.stage(ahead));
        if mode.bisect || self.cautious {
            ahead.land(connection).await?;
        }
        let mut refused: Vec<Refused> = Vec::new();
        for sink in &sinks {
            if mode.bisect {
                sink.write_what_is_taken(connection, (&self.share, held.count()), &mut refused).await?;
            } else {
                sink.write(connection, ahead).await?;
            }
        }
        let author = letters::Author { job: self.ledger.job, name: &self.spec.name };
        letters::write(connection, ahead, author, &letters_table, &letters).await?;
        letters::write_refused(connection, ahead, author, &refused).await?;
        Ok(held.counts(author.job, &refused))
    }
}

/// Here a lock is waited for in vain without a COPY under way. Of a partitioned table the COPY locks only the partitions
/// that it reaches.
fn lock(tables: &[&str], ahead: &mut Ahead) {
    if !tables.is_empty() {
        let list = tables.join(", ONLY ");
        ahead.push(format!("LOCK TABLE ONLY {list} IN ROW EXCLUSIVE MODE"), format!("locking {}", tables.join(", ")));
    }
}

/// Columns, types and privileges; and values that are no values of their column's type in binary form.
fn is_about_shape(code: &str) -> bool {
    code.starts_with("42") || MALFORMED.contains(&code)
}

pub(super) fn no_connection() -> Failure {
    Failure::lost("there is no connection")
}
