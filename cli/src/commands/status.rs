//! `healthctl status`

use pulso_proto::v1;
use serde::Serialize;

use crate::Global;
use crate::client::{Client, id, plain, status_name};
use crate::failure::Failure;
use crate::output::{self, Format};

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

impl Status {
    /// One fact a line, the line of conservation as one.
    fn text(&self) -> String {
        let adds_up = match self.conserved {
            Some(true) => "adds up",
            Some(false) => "DOES NOT ADD UP",
            None => "not all TaskManagers have counted yet",
        };
        let conservation = format!(
            "read {} = written {} + filtered {} + duplicate {} + superseded {} + dead letters {} + in flight {}: {adds_up}",
            self.records_read,
            self.written,
            self.filtered,
            self.duplicates,
            self.superseded,
            self.dead_letters,
            self.in_flight
        );
        let mut lines = vec![
            ("name", self.name.clone()),
            ("job", self.job.clone()),
            ("status", format!("{}, {}", self.status, self.phase)),
            ("attempt", self.attempt.to_string()),
            ("epochs", format!("{} sealed, {} committed", self.sealed, self.committed)),
            ("records", conservation),
            ("corrections", self.corrections.to_string()),
            ("lag", self.lag.map_or_else(|| "not known for all splits".to_owned(), |lag| lag.to_string())),
        ];
        if !self.reason.is_empty() {
            lines.insert(3, ("reason", self.reason.clone()));
        }
        let lines: Vec<String> = lines.into_iter().map(|(name, value)| format!("{name:11}  {value}")).collect();
        lines.join("\n")
    }
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
    match global.output {
        Format::Json => output::json(&status)?,
        Format::Table => output::line(&status.text())?,
    }
    if summary.status() == v1::JobStatus::Failed {
        return Err(Failure::JobFailed(format!("{} failed: {}", status.name, status.reason)));
    }
    if status.conserved == Some(false) {
        return Err(Failure::JobFailed(format!("{}: records read and accounted for do not add up", status.name)));
    }
    Ok(())
}
