//! `healthctl savepoint`

use std::time::Duration;

use pulso_proto::v1;
use serde::Serialize;

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Take a savepoint: a checkpoint that is kept until it is released
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name or UUID
    job: String,
    /// How long to wait for it; what was begun goes on all the same
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Answer<'a> {
    job: &'a str,
    savepoint: u64,
    epoch: u64,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let job = arguments.job.as_str();
    let client = Client::connect(&global.jobmanager).await?;
    let v1::SavepointResponse { checkpoint, epoch } = client.savepoint(job, arguments.timeout).await?;
    match global.output {
        Format::Json => output::json(&Answer { job, savepoint: checkpoint, epoch }),
        Format::Table => output::line(&format!("{job}: savepoint {checkpoint} of epoch {epoch} taken")),
    }
}
