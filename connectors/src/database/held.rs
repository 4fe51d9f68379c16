//! The rows of one transaction, held until it is committed.

use arrow::array::RecordBatch;
use pulso_core::ids::{Epoch, JobId};
use pulso_core::ledger::Step;
use pulso_dataflow::batch::{SinkRows, TargetRows};

use super::Failure;
use super::refused::Refused;

/// Those of all its epochs.
pub(crate) struct Held<'a>(Vec<&'a TargetRows>);

impl<'a> Held<'a> {
    pub(crate) fn of(steps: &[Step], outputs: &'a [(Epoch, TargetRows)]) -> Self {
        let epochs = steps.iter().filter_map(|step| if let Step::Rows(epochs) = step { Some(epochs) } else { None });
        let of = |epoch: &Epoch| {
            let epoch = *epoch;
            outputs.iter().filter(move |(of, _)| *of == epoch).map(|(_, rows)| rows)
        };
        Self(epochs.flatten().flat_map(of).collect())
    }

    pub(crate) fn letters(&self) -> Vec<&'a RecordBatch> {
        self.0.iter().filter_map(|rows| rows.letters.as_ref()).collect()
    }

    /// Tables that have rows, in file order. `sink`: the one that a table is of.
    pub(crate) fn by_table<'t, T>(
        &self,
        tables: &'t [T],
        sink: fn(&T) -> usize,
    ) -> Result<Vec<(&'t T, Vec<&'a SinkRows>)>, Failure> {
        let all = || self.0.iter().flat_map(|rows| &rows.sinks);
        if let Some(rows) = all().find(|rows| !tables.iter().any(|table| sink(table) == rows.sink)) {
            return Err(Failure::fatal(format!("there are rows for sink {}, which is not of this target", rows.sink)));
        }
        let parts = |table: &T| all().filter(|rows| rows.sink == sink(table)).collect::<Vec<&SinkRows>>();
        Ok(tables.iter().map(|table| (table, parts(table))).filter(|(_, parts)| !parts.is_empty()).collect())
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|rows| rows.rows_count() as u64).sum()
    }

    /// To be told as soon as nothing but COMMIT is left to do.
    pub(crate) fn counts(&self, job: JobId, refused: &[Refused]) -> Counts {
        if let Some(first) = refused.first() {
            let (count, table) = (refused.len(), &first.table);
            tracing::warn!(%job, count, %table, reason = %first.reason, "rows refused, kept as dead letters");
        }
        Counts { rows: self.count(), refused: refused.len() as u64 }
    }
}

/// Rows that a transaction has, and how many of them were refused.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) rows: u64,
    pub(crate) refused: u64,
}
