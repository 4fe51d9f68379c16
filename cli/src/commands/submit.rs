//! `healthctl submit`

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pulso_cli::job_file;
use pulso_proto::v1;
use pulso_proto::v1::submit_response::Outcome;
use serde::Serialize;

use crate::Global;
use crate::client::{Client, id, plain};
use crate::commands::check::refused;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Between two looks at a job that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// Start the job of a file; the same file again changes nothing
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    /// Come back when the job runs on the TaskManagers
    #[arg(long)]
    wait: bool,
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Submitted {
    job: String,
    name: String,
    /// False where the same file runs already.
    started: bool,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let until = Instant::now() + arguments.timeout;
    let file = job_file::read(&arguments.file).map_err(|error| refused(global.output, error))?;
    // Here as well as there: mistakes are shown with colours, and without a JobManager.
    pulso_job::check(&file.submission, &file.name).map_err(|mistakes| refused(global.output, mistakes.into()))?;
    let client = Client::connect(&global.jobmanager).await?;
    let request = v1::SubmitRequest {
        toml: file.submission.toml,
        environment: file.submission.environment,
        file_name: file.name,
    };
    let submitted = match client.submit(request, arguments.timeout).await? {
        Outcome::Submitted(submitted) => submitted,
        Outcome::Diagnostics(mistakes) => {
            match global.output {
                Format::Json => output::line(&mistakes.json)?,
                Format::Table => writeln!(std::io::stderr().lock(), "{}", plain(mistakes.rendered.trim_end()))?,
            }
            return Err(Failure::Reported);
        }
    };
    if !submitted.warnings.is_empty() {
        writeln!(std::io::stderr().lock(), "{}", plain(&submitted.warnings))?;
    }
    let job = id(&submitted.job);
    if arguments.wait {
        running(&client, &job, until).await?;
    }
    let answer = Submitted { job, name: submitted.name, started: !submitted.known };
    match global.output {
        Format::Json => output::json(&answer),
        Format::Table if answer.started => output::line(&format!("{}: submitted as {}", answer.name, answer.job)),
        Format::Table => output::line(&format!("{}: unchanged, runs as {}", answer.name, answer.job)),
    }
}

async fn running(client: &Client, job: &str, until: Instant) -> Result<(), Failure> {
    loop {
        let summary = client.summary(job).await?;
        match summary.status() {
            v1::JobStatus::Failed => return Err(Failure::JobFailed(plain(&summary.reason))),
            v1::JobStatus::Running if summary.phase == "running" => return Ok(()),
            v1::JobStatus::Finished | v1::JobStatus::Cancelled => return Ok(()),
            v1::JobStatus::Running | v1::JobStatus::Stopping | v1::JobStatus::Unspecified => {}
        }
        if Instant::now() > until {
            let why = if summary.reason.is_empty() { summary.phase } else { summary.reason };
            return Err(Failure::Timeout(format!("the job is submitted and does not run yet: {}", plain(&why))));
        }
        tokio::time::sleep(LOOK).await;
    }
}
