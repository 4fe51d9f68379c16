//! `healthctl list`

use pulso_proto::v1;
use serde::Serialize;

use crate::Global;
use crate::client::{Client, id, plain, status_name};
use crate::failure::Failure;
use crate::output::{self, Format};

/// List all jobs
#[derive(clap::Args)]
pub(crate) struct Arguments {}

#[derive(Serialize)]
struct Job {
    name: String,
    job: String,
    status: &'static str,
    phase: String,
    attempt: u64,
    records_read: u64,
    written: u64,
    lag: Option<u64>,
    reason: String,
}

impl From<v1::JobSummary> for Job {
    fn from(summary: v1::JobSummary) -> Self {
        Self {
            status: status_name(summary.status()),
            written: summary.counters.unwrap_or_default().written,
            job: id(&summary.job),
            name: summary.name,
            phase: summary.phase,
            attempt: summary.attempt,
            records_read: summary.records_read,
            lag: summary.lag,
            reason: summary.reason,
        }
    }
}

pub(crate) async fn run(global: &Global, _: &Arguments) -> Result<(), Failure> {
    let jobs = Client::connect(&global.jobmanager).await?.list().await?;
    let jobs: Vec<Job> = jobs.into_iter().map(Into::into).collect();
    if global.output == Format::Json {
        return output::json(&jobs);
    }
    let row = |job: Job| {
        let lag = job.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
        [
            plain(&job.name),
            job.status.to_owned(),
            plain(&job.phase),
            job.attempt.to_string(),
            job.records_read.to_string(),
            job.written.to_string(),
            lag,
            job.job,
        ]
    };
    let header = ["NAME", "STATUS", "PHASE", "ATTEMPT", "READ", "WRITTEN", "LAG", "JOB"];
    output::table(header, jobs.into_iter().map(row).collect())
}
