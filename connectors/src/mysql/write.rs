//! The rows of one transaction, table by table; row by row only where the database refused some.

use pulso_dataflow::batch::SinkRows;

use super::connect::Connection;
use super::error::{Failure, Kind};
use super::literal::{Form, Literals};
use super::quote;
use super::statement::{Around, send};
use super::table::Table;
use crate::database::reduce::{self, Fates, RowRef};
use crate::database::refused::{Refused, RefusedShare};

/// Why the rows could not be written as tried.
#[derive(Debug)]
pub(crate) enum Setback {
    /// The ledger is not where the guard expects it.
    GuardMissed,
    /// A table is not what it was when it was checked: rows would be refused, or be taken for others.
    Altered,
    /// More rows are refused than the job puts up with.
    TooManyRefused {
        table: String,
        reason: String,
    },
    Failed(Failure),
}

impl From<Failure> for Setback {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Delete,
    Write,
}

/// One sink's rows of all epochs of a transaction, reduced: everything that can be done before the transaction is open.
pub(crate) struct SinkWriter<'a> {
    pub(crate) table: &'a Table,
    parts: Vec<&'a SinkRows>,
    /// One a part.
    all: Vec<Literals<'a>>,
    keys: Vec<Literals<'a>>,
    fates: Fates,
    /// What stands before rows that are written, and behind them.
    around: (String, String),
}

impl<'a> SinkWriter<'a> {
    pub(crate) fn new(table: &'a Table, parts: Vec<&'a SinkRows>) -> Result<Self, Failure> {
        let invalid = |text: String| Failure::fatal(format!("table {}: {text}", table.name));
        // Nothing is new for certain: one statement inserts and overwrites.
        let fates = match &table.keyed {
            None => Fates { new: reduce::in_order(parts.iter().map(|part| &part.batch)), ..Fates::default() },
            Some(keyed) => reduce::reduce(&table.key, keyed, &parts, true).map_err(|e| invalid(e.to_string()))?,
        };
        let columns = |indexes: Vec<usize>| -> Result<Vec<Literals<'a>>, Failure> {
            let forms: Vec<(usize, Form)> =
                indexes.into_iter().filter_map(|i| Some((i, *table.forms.get(i)?))).collect();
            let literals = |part: &&'a SinkRows| Literals::new(&part.batch, forms.iter().copied(), &table.zone);
            parts.iter().map(|part| literals(part).map_err(invalid)).collect()
        };
        let (all, keys) = (columns((0..table.columns.len()).collect())?, columns(table.key.clone())?);
        let around = (table.insert(), table.on_duplicate());
        Ok(Self { table, parts, all, keys, fates, around })
    }

    /// Deletes first: a row that goes may stand in the way of one that comes. New rows of a keyed table are those with a
    /// null in their key.
    fn work(&self) -> impl Iterator<Item = (Part, &[RowRef])> {
        let Fates { new, merge, delete, .. } = &self.fates;
        let parts = [(Part::Delete, delete), (Part::Write, merge), (Part::Write, new)];
        parts.into_iter().filter(|(_, rows)| !rows.is_empty()).map(|(part, rows)| (part, rows.as_slice()))
    }

    pub(crate) async fn write(&self, connection: &Connection) -> Result<(), Setback> {
        for (part, rows) in self.work() {
            self.apply(connection, part, rows).await.map_err(|failure| self.during(failure))?;
        }
        Ok(())
    }

    /// Writes what the database takes; `refused` grows by what it does not take. `share`: of a transaction of so many
    /// rows.
    pub(crate) async fn write_what_is_taken(
        &self,
        connection: &Connection,
        share: (&RefusedShare, u64),
        refused: &mut Vec<Refused>,
    ) -> Result<(), Setback> {
        for (part, rows) in self.work() {
            self.bisect(connection, part, rows, share, refused).await?;
        }
        Ok(())
    }

    fn during(&self, failure: Failure) -> Setback {
        Setback::Failed(failure.during(&format!("writing table {}", self.table.name)))
    }

    async fn apply(&self, connection: &Connection, part: Part, rows: &[RowRef]) -> Result<(), Failure> {
        match part {
            Part::Delete => {
                let mut put = |row: usize, out: &mut String| {
                    let at = rows[row];
                    let keys = &self.keys[at.part as usize];
                    self.table.delete(|column, out| keys.put_one(column, at.row as usize, out), out);
                };
                send(connection, &Around { head: "", between: "; ", tail: "" }, rows.len(), &mut put).await
            }
            Part::Write => {
                let mut put = |row: usize, out: &mut String| {
                    let at = rows[row];
                    out.push('(');
                    self.all[at.part as usize].put(at.row as usize, out);
                    if self.table.marked {
                        out.push(',');
                        out.push_str(&self.mark(at).map_or("NULL".to_owned(), quote::literal));
                    }
                    out.push(')');
                };
                let (head, tail) = (&*self.around.0, &*self.around.1);
                send(connection, &Around { head, between: ",", tail }, rows.len(), &mut put).await
            }
        }
    }

    fn mark(&self, at: RowRef) -> Option<&'static str> {
        self.parts[at.part as usize].changes.get(at.row as usize)?.mark()
    }

    /// Writes what the database takes of these rows. A savepoint before each half: going back to it keeps the guard.
    async fn bisect(
        &self,
        connection: &Connection,
        part: Part,
        rows: &[RowRef],
        (share, total): (&RefusedShare, u64),
        refused: &mut Vec<Refused>,
    ) -> Result<(), Setback> {
        let mut waiting = vec![rows];
        while let Some(rows) = waiting.pop() {
            connection.run("SAVEPOINT pulso_half").await?;
            let failure = match self.apply(connection, part, rows).await {
                Ok(()) => {
                    connection.run("RELEASE SAVEPOINT pulso_half").await?;
                    continue;
                }
                Err(failure) if failure.kind == Kind::Refused => failure,
                Err(failure) => return Err(self.during(failure)),
            };
            connection.run("ROLLBACK TO SAVEPOINT pulso_half; RELEASE SAVEPOINT pulso_half").await?;
            match rows {
                [] => {}
                [at] => {
                    let batch = &self.parts[at.part as usize].batch;
                    let row = at.row as usize;
                    refused.push(Refused::new(&self.table.name, &failure, batch, row, part == Part::Delete));
                    if share.is_exceeded_by(total, refused.len() as u64) {
                        return Err(Setback::TooManyRefused { table: self.table.name.clone(), reason: failure.text });
                    }
                }
                _ => {
                    let (first, second) = rows.split_at(rows.len() / 2);
                    waiting.extend([second, first]);
                }
            }
        }
        Ok(())
    }
}
