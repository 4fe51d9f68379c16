//! The rows of one transaction, table by table; row by row only where the database refused some.

use std::collections::BTreeSet;

use bytes::BytesMut;
use pulso_dataflow::batch::SinkRows;

use super::ahead::{Ahead, Expected};
use super::connect::Connection;
use super::copy::fill;
use super::encode::{Encoder, Wire, optional_text, row_start};
use super::error::{Failure, Kind, UNIQUE_VIOLATION};
use super::table::Table;
use crate::database::Keyed;
use crate::database::reduce::{self, Fates, RowRef};
use crate::database::refused::{Refused, RefusedShare};

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
    /// The ledger is not where the guard expects it.
    GuardMissed,
    /// A table is not what it was when it was checked: rows would be refused, or be taken for others.
    Altered,
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

/// One sink's rows of all epochs of a transaction, reduced: everything that can be done before the transaction is open.
pub(crate) struct SinkWriter<'a> {
    table: &'a Table,
    parts: Vec<&'a SinkRows>,
    /// One encoder a part.
    all: Vec<Encoder<'a>>,
    keys: Vec<Encoder<'a>>,
    fates: Fates,
    staged: bool,
}

impl<'a> SinkWriter<'a> {
    pub(crate) fn new(table: &'a Table, parts: Vec<&'a SinkRows>, mode: &Mode) -> Result<Self, Failure> {
        let staged = mode.staged.contains(&table.sink);
        let invalid = |text: String| Failure::fatal(format!("table {}: {text}", table.name));
        let fates = match &table.keyed {
            None => Fates { new: reduce::in_order(parts.iter().map(|part| &part.batch)), ..Fates::default() },
            Some(keyed) => reduce::reduce(&table.key, keyed, &parts, staged).map_err(|e| invalid(e.to_string()))?,
        };
        let columns = |indexes: Vec<usize>| -> Result<Vec<Encoder<'a>>, Failure> {
            let wires: Vec<(usize, Wire)> =
                indexes.into_iter().filter_map(|i| Some((i, *table.wires.get(i)?))).collect();
            parts
                .iter()
                .map(|part| Encoder::new(&part.batch, wires.iter().copied(), &table.zone).map_err(invalid))
                .collect()
        };
        let (all, keys) = (columns((0..table.columns.len()).collect())?, columns(table.key.clone())?);
        Ok(Self { table, parts, all, keys, fates, staged })
    }

    pub(crate) fn table(&self) -> &str {
        &self.table.name
    }

    /// Under the table's lock nobody alters it any more.
    pub(crate) fn prove_shape(&self, ahead: &mut Ahead) {
        let expected = Expected::Shape(self.table.shape.clone());
        ahead.expect(Table::ask_shape(&self.table.name), format!("looking at {}", self.table.name), expected);
    }

    /// Deletes first: a row that goes may stand in the way of one that comes.
    fn work(&self) -> impl Iterator<Item = (Part, &[RowRef])> {
        let Fates { new, merge, delete, .. } = &self.fates;
        let parts = [(Part::Delete, delete), (Part::Merge, merge), (Part::Copy, new)];
        parts.into_iter().filter(|(_, rows)| !rows.is_empty()).map(|(part, rows)| (part, rows.as_slice()))
    }

    /// Makes whatever staging tables the rows need.
    pub(crate) fn stage(&self, ahead: &mut Ahead) {
        self.work().for_each(|(part, _)| self.stage_part(part, ahead));
    }

    fn stage_part(&self, part: Part, ahead: &mut Ahead) {
        let statements = match part {
            Part::Copy => return,
            Part::Merge => self.table.stage(),
            Part::Delete => self.table.stage_keys(),
        };
        let what = format!("staging for table {}", self.table.name);
        statements.into_iter().for_each(|sql| ahead.push(sql, &what));
    }

    /// The last statement may be left in `ahead`.
    pub(crate) async fn write(&self, connection: &mut Connection, ahead: &mut Ahead) -> Result<(), Setback> {
        for (part, rows) in self.work() {
            self.apply(connection, ahead, part, rows).await.map_err(|setback| self.during(setback))?;
        }
        Ok(())
    }

    /// Writes what the database takes; `refused` grows by what it does not take. `share`: of a transaction of so many
    /// rows.
    pub(crate) async fn write_what_is_taken(
        &self,
        connection: &mut Connection,
        share: (&RefusedShare, u64),
        refused: &mut Vec<Refused>,
    ) -> Result<(), Setback> {
        for (part, rows) in self.work() {
            self.bisect(connection, part, rows, share, refused).await.map_err(|setback| self.during(setback))?;
        }
        Ok(())
    }

    fn during(&self, setback: Setback) -> Setback {
        if let Setback::Failed(failure) = setback {
            return Setback::Failed(failure.during(&format!("writing table {}", self.table.name)));
        }
        setback
    }

    async fn apply(
        &self,
        connection: &mut Connection,
        ahead: &mut Ahead,
        part: Part,
        rows: &[RowRef],
    ) -> Result<(), Setback> {
        let (sql, fields) = match part {
            Part::Copy => (self.table.copy(), self.table.columns.len() + usize::from(self.table.marked)),
            Part::Merge => (self.table.copy_staged(), self.table.columns.len()),
            Part::Delete => (self.table.copy_keys(), self.table.key.len()),
        };
        let encoders = if part == Part::Delete { &self.keys } else { &self.all };
        let put = |at: RowRef, out: &mut BytesMut| {
            row_start(out, fields);
            encoders[at.part as usize].put(at.row as usize, out);
            if part == Part::Copy && self.table.marked {
                optional_text(out, self.mark(at));
            }
        };
        let copied = match ahead.start(connection, &sql).await? {
            Ok(started) => fill(started, rows, put).await,
            Err(failure) => Err(failure),
        };
        self.look_at_count(copied.map_err(|failure| self.setback(part, failure))?, rows.len() as u64);
        match (part, &self.table.keyed) {
            (Part::Copy, _) => {}
            (Part::Delete, _) => ahead.expect(self.table.delete(), "deleting", Expected::Taken),
            (Part::Merge, keyed) => {
                let keyed = keyed.as_ref().unwrap_or(&Keyed::Upsert);
                ahead.expect(self.table.merge(keyed, self.fates.tied), "merging", Expected::Taken);
            }
        }
        Ok(())
    }

    fn look_at_count(&self, counted: u64, rows: u64) {
        if counted != rows {
            // That is the database's decision, though no error tells of it.
            let table = &self.table.name;
            tracing::warn!(%table, rows, counted, "a trigger of the table drops rows or puts them elsewhere");
        }
    }

    fn mark(&self, at: RowRef) -> Option<&'static str> {
        self.parts[at.part as usize].changes.get(at.row as usize)?.mark()
    }

    fn setback(&self, part: Part, failure: Failure) -> Setback {
        let not_new = part == Part::Copy && self.table.keyed.is_some() && !self.staged;
        if not_new && failure.code == UNIQUE_VIOLATION {
            return Setback::NotNew { sink: self.table.sink };
        }
        Setback::Failed(failure)
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
            let failure = match self.try_half(connection, part, rows).await {
                Ok(()) => {
                    connection.run("RELEASE SAVEPOINT pulso_half").await?;
                    continue;
                }
                Err(Setback::Failed(failure)) if failure.kind == Kind::Refused => failure,
                Err(setback) => return Err(setback),
            };
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

    async fn try_half(&self, connection: &mut Connection, part: Part, rows: &[RowRef]) -> Result<(), Setback> {
        let mut ahead = Ahead::default();
        self.stage_part(part, &mut ahead);
        // Not along with the COPY: see `Connection::roll_back`.
        ahead.land(connection).await?;
        self.apply(connection, &mut ahead, part, rows).await?;
        ahead.land(connection).await
    }
}
