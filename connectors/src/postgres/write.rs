//! The rows of one transaction, table by table; row by row only where the database refused some.

use std::collections::BTreeSet;

use bytes::{BufMut, BytesMut};
use pulso_dataflow::batch::{Change, SinkRows};

use super::connect::Connection;
use super::copy::copy;
use super::encode::{Encoder, Wire, optional_text, row_start};
use super::error::{Failure, Kind, UNIQUE_VIOLATION};
use super::reduce::{self, Fates, RowRef};
use super::refused::{Refused, RefusedShare};
use super::table::{Keyed, Table};

/// How a transaction is carried out: each further try of it knows more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mode {
    /// Sinks whose new rows go by staging too, because a COPY met a key that was there.
    pub(crate) staged: BTreeSet<usize>,
    /// Some row is refused: find it, by halves, under savepoints.
    pub(crate) bisect: bool,
}

/// Why the rows could not be written as tried.
#[derive(Debug)]
pub(crate) enum Setback {
    /// A COPY of new rows met a key that is there: this sink goes by staging.
    NotNew {
        sink: usize,
    },
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
    Merge,
    /// Straight into the table.
    Copy,
}

/// Writes one sink's rows of all epochs of the transaction. `refused` grows by what the database does not take;
/// `rows` is how many rows the whole transaction has.
pub(crate) async fn write_sink(
    connection: &mut Connection,
    table: &Table,
    parts: &[&SinkRows],
    mode: &Mode,
    share: (&RefusedShare, u64),
    refused: &mut Vec<Refused>,
) -> Result<(), Setback> {
    let staged = mode.staged.contains(&table.sink);
    let invalid = |text: String| Failure::fatal(format!("table {}: {text}", table.name));
    let fates = match &table.keyed {
        None => Fates { new: reduce::in_order(parts), ..Fates::default() },
        Some(keyed) => reduce::reduce(table, keyed, parts, staged).map_err(|e| invalid(e.to_string()))?,
    };
    let columns = |indexes: Vec<usize>| -> Result<Vec<Encoder<'_>>, Failure> {
        let wires: Vec<(usize, Wire)> = indexes.into_iter().filter_map(|i| Some((i, *table.wires.get(i)?))).collect();
        parts.iter().map(|part| Encoder::new(&part.batch, wires.iter().copied()).map_err(invalid)).collect()
    };
    let writer = SinkWriter {
        table,
        parts,
        all: columns((0..table.columns.len()).collect())?,
        keys: columns(table.key.clone())?,
        tied: fates.tied,
        staged,
    };
    // Deletes first: a row that goes may stand in the way of one that comes.
    for (part, rows) in [(Part::Delete, &fates.delete), (Part::Merge, &fates.merge), (Part::Copy, &fates.new)] {
        if rows.is_empty() {
            continue;
        }
        if mode.bisect {
            writer.bisect(connection, part, rows, share, refused).await?;
        } else {
            writer.apply(connection, part, rows).await.map_err(|failure| writer.setback(part, failure))?;
        }
    }
    Ok(())
}

struct SinkWriter<'a> {
    table: &'a Table,
    parts: &'a [&'a SinkRows],
    /// One encoder a part.
    all: Vec<Encoder<'a>>,
    keys: Vec<Encoder<'a>>,
    tied: bool,
    staged: bool,
}

impl SinkWriter<'_> {
    async fn apply(&self, connection: &mut Connection, part: Part, rows: &[RowRef]) -> Result<(), Failure> {
        match part {
            Part::Copy => {
                // Here a lock is waited for in vain without costing the connection: see `Connection::roll_back`.
                connection.run(&format!("LOCK TABLE {} IN ROW EXCLUSIVE MODE", self.table.name)).await?;
                let fields = self.all_fields() + usize::from(self.table.marked);
                self.send(connection, &self.table.copy(), rows, |at, out| {
                    row_start(out, fields);
                    self.all[at.part as usize].put(at.row as usize, out);
                    if self.table.marked {
                        optional_text(out, self.mark(at));
                    }
                })
                .await
            }
            Part::Merge => {
                connection.run(&self.table.stage()).await?;
                let fields = self.all_fields();
                self.send(connection, &self.table.copy_staged(), rows, |at, out| {
                    row_start(out, fields);
                    self.all[at.part as usize].put(at.row as usize, out);
                })
                .await?;
                let keyed = self.table.keyed.as_ref().unwrap_or(&Keyed::Upsert);
                connection.run(&self.table.merge(keyed, self.tied)).await
            }
            Part::Delete => {
                connection.run(&self.table.stage_keys()).await?;
                let fields = self.table.key.len();
                self.send(connection, &self.table.copy_keys(), rows, |at, out| {
                    out.put_i16(fields as i16);
                    self.keys[at.part as usize].put(at.row as usize, out);
                })
                .await?;
                connection.run(&self.table.delete()).await
            }
        }
    }

    async fn send(
        &self,
        connection: &mut Connection,
        sql: &str,
        rows: &[RowRef],
        put: impl FnMut(RowRef, &mut BytesMut),
    ) -> Result<(), Failure> {
        let counted = copy(connection, sql, rows, put).await?;
        if counted != rows.len() as u64 {
            // That is the database's decision, though no error tells of it.
            let (table, rows) = (&self.table.name, rows.len());
            tracing::warn!(%table, rows, counted, "a trigger of the table drops rows or puts them elsewhere");
        }
        Ok(())
    }

    fn all_fields(&self) -> usize {
        self.table.columns.len()
    }

    fn mark(&self, at: RowRef) -> Option<&'static str> {
        match self.parts[at.part as usize].changes.get(at.row as usize) {
            Some(Change::Correction) => Some("correction"),
            Some(Change::Delete) => Some("delete"),
            Some(Change::Insert) | None => None,
        }
    }

    fn setback(&self, part: Part, failure: Failure) -> Setback {
        let not_new = part == Part::Copy && self.table.keyed.is_some() && !self.staged;
        if not_new && failure.code == UNIQUE_VIOLATION {
            return Setback::NotNew { sink: self.table.sink };
        }
        Setback::Failed(failure.during(&format!("writing table {}", self.table.name)))
    }

    /// Writes what the database takes of these rows. A savepoint before each half: going back to it keeps the guard.
    async fn bisect(
        &self,
        connection: &mut Connection,
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
                Err(failure) => return Err(self.setback(part, failure)),
            };
            if let Setback::NotNew { sink } = self.setback(part, failure.clone()) {
                return Err(Setback::NotNew { sink });
            }
            connection.roll_back("ROLLBACK TO SAVEPOINT pulso_half; RELEASE SAVEPOINT pulso_half").await?;
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
