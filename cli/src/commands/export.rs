//! `healthctl export`

use std::io::Write;
use std::path::PathBuf;

use pulso_cli::job_file;
use pulso_flink::{Export, Unsaid};
use serde::Serialize;

use super::check::refused;
use crate::Global;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Write a job in the language of another system
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    to: To,
}

#[derive(clap::Subcommand)]
enum To {
    Flink(FlinkArguments),
}

/// As a script for Flink SQL; what cannot be said there is refused by name
///
/// Needs no server; no address or credential has to be set. Names of variables stand in the script in their place, but for
/// brokers that the job file itself names. Comments say what it does differently from Pulso.
#[derive(clap::Args)]
struct FlinkArguments {
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    /// Write what can be said, and list the rest in the script's comments
    #[arg(long)]
    partial: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    script: Option<&'a str>,
    unsaid: Vec<ShownUnsaid<'a>>,
}

#[derive(Serialize)]
struct ShownUnsaid<'a> {
    line: usize,
    part: &'a str,
    why: &'a str,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let To::Flink(arguments) = &arguments.to;
    let file = job_file::read_without_secrets(&arguments.file).map_err(|error| refused(global.output, error))?;
    let (job, _) = pulso_job::check(&file.submission, &file.name)
        .map_err(|diagnostics| refused(global.output, diagnostics.into()))?;
    let Export { script, unsaid } = pulso_flink::export(&job, &file.submission.toml);
    let script = script.filter(|_| unsaid.is_empty() || arguments.partial);
    match global.output {
        Format::Json => output::json(&Shown { script: script.as_deref(), unsaid: unsaid.iter().map(show).collect() })?,
        Format::Table => tell(&file.name, &unsaid)?,
    }
    match (script, global.output) {
        (None, _) => Err(Failure::Reported),
        (Some(_), Format::Json) => Ok(()),
        (Some(script), Format::Table) => output::line(script.trim_end()),
    }
}

fn show(unsaid: &Unsaid) -> ShownUnsaid<'_> {
    ShownUnsaid { line: unsaid.line, part: &unsaid.part, why: &unsaid.why }
}

fn tell(file: &str, unsaid: &[Unsaid]) -> Result<(), Failure> {
    let mut error = std::io::stderr().lock();
    if !unsaid.is_empty() {
        writeln!(error, "Flink SQL cannot say all of this job (--partial writes what it can):")?;
    }
    for Unsaid { line, part, why } in unsaid {
        writeln!(error, "{file}:{line}: {part}: {why}")?;
    }
    Ok(())
}
