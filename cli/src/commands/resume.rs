//! `healthctl resume`

use serde::Serialize;

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Let a job that failed, finished or was cancelled go on from its newest checkpoint
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name or UUID
    job: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    job: &'a str,
    status: &'static str,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let job = arguments.job.as_str();
    Client::connect(&global.jobmanager).await?.resume(job).await?;
    match global.output {
        Format::Json => output::json(&Answer { job, status: "running" }),
        Format::Table => output::line(&format!("{job}: resumed")),
    }
}
