//! Statements that need no flight of their own: they go with the start of the next COPY.

use bytes::Bytes;
use futures::future::join;
use tokio_postgres::CopyInSink;

use super::connect::{Answer, Connection};
use super::error::{Failure, Kind};
use super::write::Setback;

/// What the answer to a statement must be for the transaction to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    Anything,
    /// It is the guard, and touches this many rows.
    Guarded(u64),
    /// The table looks like this.
    Shape(String),
    /// The table may refuse a row.
    Taken,
}

#[derive(Debug)]
struct Statement {
    sql: String,
    /// What it does, for who reads of its failure.
    what: String,
    expected: Expected,
}

/// Statements in their order. Where one fails those behind it do not run, and neither does a COPY sent along: the
/// transaction is void.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    statements: Vec<Statement>,
    /// A COPY was sent along that the server cannot have taken: its answers are out of step.
    pub(crate) out_of_step: bool,
}

impl Ahead {
    pub(crate) fn push(&mut self, sql: impl Into<String>, what: impl Into<String>) {
        self.expect(sql, what, Expected::Anything);
    }

    /// `sql` is one statement.
    pub(crate) fn expect(&mut self, sql: impl Into<String>, what: impl Into<String>, expected: Expected) {
        self.statements.push(Statement { sql: sql.into(), what: what.into(), expected });
    }

    /// Sends what waits and takes its answers.
    pub(crate) async fn land(&mut self, connection: &Connection) -> Result<(), Setback> {
        if self.statements.is_empty() {
            return Ok(());
        }
        let statements = std::mem::take(&mut self.statements);
        judge(&statements, connection.answers(&together(&statements)).await)
    }

    /// True where the guard waits to be sent.
    pub(crate) fn holds_guard(&self) -> bool {
        self.statements.iter().any(|statement| matches!(statement.expected, Expected::Guarded(_)))
    }

    /// Starts a COPY in one flight with what waits. `Err`: something that went ahead of it came to nothing.
    pub(crate) async fn start(
        &mut self,
        connection: &mut Connection,
        sql: &str,
    ) -> Result<Result<CopyInSink<Bytes>, Failure>, Setback> {
        let statement = connection.copy_statement(sql).await?;
        if self.statements.iter().any(|statement| statement.expected == Expected::Taken) {
            // A COPY that was sent along in vain costs the connection: refused rows are too common for that.
            self.land(connection).await?;
        }
        if self.statements.is_empty() {
            return Ok(connection.start_copy(&statement).await);
        }
        let statements = std::mem::take(&mut self.statements);
        let sql = together(&statements);
        // In this order: each is on its way as soon as it is polled for the first time.
        let (answers, started) = join(connection.answers(&sql), connection.start_copy(&statement)).await;
        self.out_of_step |= answers.is_err() && started.is_err();
        judge(&statements, answers)?;
        Ok(started)
    }
}

fn together(statements: &[Statement]) -> String {
    statements.iter().map(|statement| statement.sql.as_str()).collect::<Vec<_>>().join("; ")
}

/// `answers`: one a statement, or how many there were before the failure.
fn judge(statements: &[Statement], answers: Result<Vec<Answer>, (usize, Failure)>) -> Result<(), Setback> {
    let answers = match answers {
        Ok(answers) => answers,
        // Its text goes into a dead letter as it is.
        Err((_, failure)) if failure.kind == Kind::Refused => return Err(failure.into()),
        Err((at, failure)) => {
            let what = statements.get(at).map_or("a transaction", |statement| statement.what.as_str());
            return Err(failure.during(what).into());
        }
    };
    if answers.len() != statements.len() {
        return Err(Failure::lost("the server's answers are out of step").into());
    }
    for (statement, answer) in statements.iter().zip(&answers) {
        match &statement.expected {
            Expected::Anything | Expected::Taken => {}
            Expected::Guarded(rows) if answer.count == *rows => {}
            Expected::Shape(shape) if answer.rows.concat().concat() == *shape => {}
            Expected::Shape(_) => return Err(Setback::Altered),
            Expected::Guarded(_) => return Err(Setback::GuardMissed),
        }
    }
    Ok(())
}
