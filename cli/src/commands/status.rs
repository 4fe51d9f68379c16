//! `healthctl status`

use pulso_proto::v1;
use serde::Serialize;

use crate::Global;
use crate::client::{Client, id, plain, status_name};
use crate::failure::Failure;
use crate::output;

/// Show how a job is doing; exit code 4 where it failed or its records do not add up
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name or UUID
    job: String,
}

/// In the order shown.
#[derive(Serialize)]
struct Status {
    name: String,
    job: String,
    status: &'static str,
    phase: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    attempt: u64,
    sealed: u64,
    committed: u64,
    records_read: u64,
    written: u64,
    corrections: u64,
    filtered: u64,
    duplicates: u64,
    superseded: u64,
    dead_letters: u64,
    in_flight: u64,
    /// Absent while it cannot be told.
    conserved: Option<bool>,
    lag: Option<u64>,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let summary = Client::connect(&global.jobmanager).await?.summary(&arguments.job).await?;
    let counters = summary.counters.unwrap_or_default();
    let status = Status {
        status: status_name(summary.status()),
        name: plain(&summary.name),
        job: id(&summary.job),
        phase: plain(&summary.phase),
        reason: plain(&summary.reason),
        attempt: summary.attempt,
        sealed: summary.sealed,
        committed: summary.committed,
        records_read: summary.records_read,
        written: counters.written,
        corrections: counters.corrections,
        filtered: counters.filtered,
        duplicates: counters.duplicates,
        superseded: counters.superseded,
        dead_letters: counters.dead_letters,
        in_flight: summary.in_flight,
        conserved: (!summary.uncounted).then_some(summary.conserved),
        lag: summary.lag,
    };
    output::values(global.output, &status)?;
    if summary.status() == v1::JobStatus::Failed {
        return Err(Failure::JobFailed(format!("{} failed: {}", status.name, status.reason)));
    }
    if status.conserved == Some(false) {
        return Err(Failure::JobFailed(format!("{}: records read and accounted for do not add up", status.name)));
    }
    Ok(())
}
