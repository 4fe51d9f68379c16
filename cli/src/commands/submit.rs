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

/// Start the job of a file; the same file again changes nothing
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    /// Come back when the job runs on the TaskManagers
    #[arg(long)]
    wait: bool,
    /// Start another job from the beginning although one of this name has ended; its tables must be free
    #[arg(long)]
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
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let until = Instant::now() + arguments.timeout;
    let file = job_file::read(&arguments.file).map_err(|error| refused(global.output, error))?;
    // Here as well as there: mistakes are shown with colours, and without a JobManager.
    let checked = pulso_job::check(&file.submission, &file.name);
    let (spec, _) = checked.map_err(|mistakes| refused(global.output, mistakes.into()))?;
    let client = Client::connect(&global.jobmanager).await?;
    if !arguments.new {
        none_ended(&client.list().await?, &spec.name)?;
    }
    let request = v1::SubmitRequest {
        toml: file.submission.toml,
        environment: file.submission.environment,
        folder: file.submission.folder,
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

/// Another job would start from the beginning, and fail on the tables, which are the ended one's.
fn none_ended(jobs: &[v1::JobSummary], name: &str) -> Result<(), Failure> {
    use v1::JobStatus::{Cancelled, Failed, Finished};
    let mut named = jobs.iter().filter(|job| job.name == name).peekable();
    let Some(ended) = named.peek().copied() else { return Ok(()) };
    if !named.all(|job| matches!(job.status(), Finished | Cancelled | Failed)) {
        return Ok(());
    }
    Err(Failure::Failed(anyhow::anyhow!(
        "job {name} exists and has ended ({}); `healthctl resume {name}` lets it go on where it ended, \
         `healthctl submit --new` starts another one from the beginning, which needs tables of its own",
        status_name(ended.status())
    )))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, status: v1::JobStatus) -> v1::JobSummary {
        v1::JobSummary { name: name.to_owned(), status: status.into(), ..Default::default() }
    }

    #[test]
    fn an_ended_job_is_told_and_a_running_one_is_not() {
        let ended = job("a", v1::JobStatus::Cancelled);
        let refused = none_ended(std::slice::from_ref(&ended), "a").unwrap_err().to_string();
        assert!(refused.contains("cancelled") && refused.contains("healthctl resume a"), "{refused}");
        assert!(none_ended(&[ended.clone(), job("a", v1::JobStatus::Running)], "a").is_ok());
        assert!(none_ended(&[ended], "b").is_ok());
        assert!(none_ended(&[], "a").is_ok());
    }
}
