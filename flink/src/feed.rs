//! What is known of the rows that a sink gets.

use pulso_job::{Emit, JobSpec, RowsFrom};

use crate::sql::own;

/// Rows of the records or of an aggregate.
pub(crate) struct Feed {
    pub(crate) view: String,
    /// Rows are changed or deleted later.
    pub(crate) changes: bool,
    /// Columns (of what feeds the sink) by which a changed row is found again.
    pub(crate) identity: Vec<usize>,
}

/// The view that an aggregate's rows are in.
pub(crate) fn aggregate_view(name: &str) -> String {
    format!("aggregate_{name}")
}

/// `None` for late records, which Flink SQL has no rows of.
pub(crate) fn feed(job: &JobSpec, from: RowsFrom) -> Option<Feed> {
    match from {
        RowsFrom::Records => Some(Feed {
            view: own::RECORDS.to_owned(),
            changes: job.corrects(),
            identity: job.dedup.as_ref().map(|dedup| dedup.key.clone()).unwrap_or_default(),
        }),
        RowsFrom::Aggregate(index) => {
            let aggregate = job.aggregates.get(index)?;
            Some(Feed {
                view: aggregate_view(&aggregate.name),
                changes: aggregate.emit == Emit::Change,
                identity: (0..=aggregate.window_start()).collect(),
            })
        }
        RowsFrom::Late => None,
    }
}
