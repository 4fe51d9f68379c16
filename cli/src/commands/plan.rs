//! `healthctl plan`

use std::path::{Path, PathBuf};

use pulso_cli::job_file::{self, JobFile};
use pulso_job::{JobSpec, Plan, compare};
use pulso_proto::v1;
use serde::Serialize;
use serde_json::Value;

use crate::Global;
use crate::client::{Client, id, plain};
use crate::commands::check::refused;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Tell what a job file would run, and what a changed one does to the state of the job that runs
///
/// Stages and exchanges, the order of writing, and where another file would need less. Needs no server, unless `--running`
/// is said; addresses and credentials play no part.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    /// Compare with this file, as if it ran
    #[arg(long, value_name = "JOB.TOML", conflicts_with = "running")]
    against: Option<PathBuf>,
    /// Compare with the job of this name that runs, or has ended; the JobManager is asked
    #[arg(long)]
    running: bool,
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    plan: Plan,
    /// What the change means for state, where there is something to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
}

#[derive(Serialize)]
struct Change {
    /// What the file is compared with.
    against: String,
    #[serde(flatten)]
    comparison: Value,
    #[serde(skip)]
    text: String,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let (file, spec) = read(global, &arguments.file)?;
    let change = match &arguments.against {
        Some(other) => {
            let (other, old) = read(global, other)?;
            let comparison = compare(&old, &spec);
            let text = comparison.to_string();
            Some(Change { against: other.name, comparison: serde_json::to_value(&comparison)?, text })
        }
        None if arguments.running => with_running(global, file, &spec).await?,
        None => None,
    };
    let plan = pulso_job::plan(&spec);
    match global.output {
        Format::Json => output::json(&Answer { plan, change }),
        Format::Table => {
            output::line(&plan.to_string())?;
            match change {
                Some(Change { against, text, .. }) => {
                    output::line(&format!("\nas a change of {}:", plain(&against)))?;
                    text.lines().try_for_each(|line| output::line(&format!("  {}", plain(line))))
                }
                None if arguments.running => output::line(&format!("\nthere is no job {}", spec.name)),
                None => Ok(()),
            }
        }
    }
}

fn read(global: &Global, path: &Path) -> Result<(JobFile, JobSpec), Failure> {
    let file = job_file::read_without_secrets(path).map_err(|error| refused(global.output, error))?;
    let checked = pulso_job::check(&file.submission, &file.name);
    let (spec, _) = checked.map_err(|mistakes| refused(global.output, mistakes.into()))?;
    Ok((file, spec))
}

async fn with_running(global: &Global, file: JobFile, spec: &JobSpec) -> Result<Option<Change>, Failure> {
    let request =
        v1::CompareRequest { toml: file.submission.toml, file_name: file.name, folder: file.submission.folder };
    let answer = Client::connect(&global.jobmanager).await?.compare(request).await?;
    if answer.job.is_empty() {
        return Ok(None);
    }
    let against = format!("job {} ({})", spec.name, id(&answer.job));
    Ok(Some(Change { against, comparison: serde_json::from_str(&answer.json)?, text: answer.rendered }))
}
