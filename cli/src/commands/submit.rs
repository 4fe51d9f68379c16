//! `healthctl submit`

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pulso_cli::job_file;
use pulso_proto::v1;
use pulso_proto::v1::submit_response::Outcome;
use serde::Serialize;

use crate::Global;
use crate::client::{Client, id, plain, status_name};
use crate::commands::check::refused;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Between two looks at a job that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// Start the job of a file, or change the one that is there
///
/// The same file again changes nothing. Another file takes the place of the one that the job runs from, or ended with: the
/// job goes on behind the last record that it had, with its state where the file leaves it as it is. Where state would be
/// lost, nothing happens unless --allow-state-drop is said.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    /// Come back when the job runs on the TaskManagers
    #[arg(long)]
    wait: bool,
    /// Change the job that is there although some of its state would be lost; `healthctl plan --running` tells which
    #[arg(long)]
    allow_state_drop: bool,
    /// Start another job from the beginning although one of this name was cancelled; its tables must be free
    #[arg(long, conflicts_with = "allow_state_drop")]
    new: bool,
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Submitted {
    job: String,
    name: String,
    /// False where the same file runs already.
    started: bool,
    /// What the file means for the state of the job that was there, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<String>,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let until = Instant::now() + arguments.timeout;
    let file = job_file::read(&arguments.file).map_err(|error| refused(global.output, error))?;
    for warning in &file.warnings {
        writeln!(std::io::stderr().lock(), "warning: {}", plain(warning))?;
    }
    // Here as well as there: mistakes are shown with colours, and without a JobManager.
    let checked = pulso_job::check(&file.submission, &file.name);
    checked.map_err(|mistakes| refused(global.output, mistakes.into()))?;
    let client = Client::connect(&global.jobmanager).await?;
    let request = v1::SubmitRequest {
        toml: file.submission.toml,
        environment: file.submission.environment,
        folder: file.submission.folder,
        file_name: file.name,
        allow_state_drop: arguments.allow_state_drop,
        new: arguments.new,
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
    let ended = match arguments.wait {
        true => running(&client, &job, until).await?,
        false => None,
    };
    let changes = submitted.changes.lines().map(plain).collect();
    let answer = Submitted { job, name: submitted.name, started: !submitted.known, changes };
    match global.output {
        Format::Json => output::json(&answer),
        Format::Table if !answer.changes.is_empty() => {
            let how = match (arguments.wait, ended) {
                (true, None) => "runs with this file".to_owned(),
                (true, Some(status)) => format!("is {}", status_name(status)),
                (false, _) => "goes on with this file".to_owned(),
            };
            output::line(&format!("{}: {how}, as {}", answer.name, answer.job))?;
            answer.changes.iter().try_for_each(|change| output::line(&format!("  {change}")))
        }
        Format::Table if answer.started => output::line(&format!("{}: submitted as {}", answer.name, answer.job)),
        Format::Table => output::line(&format!("{}: unchanged, runs as {}", answer.name, answer.job)),
    }
}

/// Waits; what is returned is how it ended instead.
async fn running(client: &Client, job: &str, until: Instant) -> Result<Option<v1::JobStatus>, Failure> {
    loop {
        let summary = client.summary(job).await?;
        match summary.status() {
            v1::JobStatus::Failed => return Err(Failure::JobFailed(plain(&summary.reason))),
            v1::JobStatus::Running if summary.phase == "running" && !summary.changing => return Ok(None),
            ended @ (v1::JobStatus::Finished | v1::JobStatus::Cancelled) => return Ok(Some(ended)),
            v1::JobStatus::Running | v1::JobStatus::Stopping | v1::JobStatus::Unspecified => {}
        }
        if Instant::now() > until {
            let why = if summary.reason.is_empty() { summary.phase } else { summary.reason };
            return Err(Failure::Timeout(format!("the job is submitted and does not run yet: {}", plain(&why))));
        }
        tokio::time::sleep(LOOK).await;
    }
}
