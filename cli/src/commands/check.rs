//! `healthctl check`

mod online;

use std::io::Write;
use std::path::PathBuf;

use pulso_cli::job_file;
use pulso_job::{Diagnostic, Diagnostics};
use serde::Serialize;

use crate::Global;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Check a job file; every mistake is shown at once
///
/// No server is asked, unless `--online` is said: then also whether the topics and tables are there and as the job needs
/// them, and what its lookups find, with the job's own credentials. Nothing is changed.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    /// Ask the brokers and databases too
    #[arg(long)]
    online: bool,
}

#[derive(Serialize)]
struct Good<'a> {
    file: &'a str,
    job: &'a str,
    diagnostics: &'a [Diagnostic],
    /// What the servers say, where they were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<&'a [String]>,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let mut file = match job_file::read(&arguments.file) {
        Ok(file) => file,
        Err(error) => return Err(refused(global.output, error)),
    };
    for warning in &file.warnings {
        writeln!(std::io::stderr().lock(), "warning: {}", crate::client::plain(warning))?;
    }
    let (job, mut warnings) = match pulso_job::check(&file.submission, &file.name) {
        Ok(checked) => checked,
        Err(diagnostics) => return Err(refused(global.output, diagnostics.into())),
    };
    let facts = match arguments.online {
        true => {
            let answers = online::ask(&job, &mut file.submission).await;
            warnings = pulso_job::located(&file.submission, &file.name, &answers.findings)
                .map_err(|mistakes| refused(global.output, mistakes.into()))?;
            Some(answers.facts)
        }
        false => None,
    };
    if global.output == Format::Json {
        let (online, diagnostics) = (facts.as_deref(), warnings.as_slice());
        return output::json(&Good { file: &file.name, job: &job.name, diagnostics, online });
    }
    for Diagnostic { code, message, line, column, .. } in &warnings {
        writeln!(std::io::stderr().lock(), "{}:{line}:{column}: warning {code}: {message}", file.name)?;
    }
    output::line(&format!("{}: job {} is good", file.name, job.name))?;
    facts.unwrap_or_default().iter().try_for_each(|fact| output::line(&format!("  {fact}")))
}

/// Shows diagnostics, if that is what the error is, in the way asked for.
pub(crate) fn refused(format: Format, error: anyhow::Error) -> Failure {
    let diagnostics = match error.downcast::<Diagnostics>() {
        Ok(diagnostics) => diagnostics,
        Err(error) => return Failure::Failed(error),
    };
    let shown = match format {
        Format::Json => output::json(&diagnostics.to_json()),
        Format::Table => {
            let text = diagnostics.render(output::color());
            writeln!(std::io::stderr().lock(), "{}", text.trim_end()).map_err(Failure::from)
        }
    };
    shown.err().unwrap_or(Failure::Reported)
}
