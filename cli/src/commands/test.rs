//! `healthctl test`

use std::io::Write;
use std::path::PathBuf;

use pulso_cli::examples::{Suite, Tried, Verdict};
use serde::Serialize;

use crate::Global;
use crate::client::plain;
use crate::commands::check::refused;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Try the examples that stand beside job files, without any server
///
/// NAME.test.toml holds the examples of NAME.toml: lines of input, and the rows and dead letters that they must come to.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Job files, or folders of them
    #[arg(value_name = "JOB.TOML|FOLDER", default_value = ".")]
    paths: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    passed: usize,
    failed: usize,
    skipped: usize,
    examples: Vec<Tried>,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let mut answer = Answer { passed: 0, failed: 0, skipped: 0, examples: Vec::new() };
    for path in &arguments.paths {
        let (suites, without) = Suite::find(path)?;
        for job in without {
            writeln!(std::io::stderr().lock(), "{}: has no examples", job.display())?;
        }
        for suite in suites {
            let tried = suite.run().map_err(|error| refused(global.output, error))?;
            for example in &tried {
                match example.verdict {
                    Verdict::Passed => answer.passed += 1,
                    Verdict::Failed { .. } => answer.failed += 1,
                    Verdict::Skipped { .. } => answer.skipped += 1,
                }
                if global.output == Format::Table {
                    print(example)?;
                }
            }
            answer.examples.extend(tried);
        }
    }
    match global.output {
        Format::Json => output::json(&answer)?,
        Format::Table => {
            let Answer { passed, failed, skipped, .. } = answer;
            output::line(&format!("{passed} passed, {failed} failed, {skipped} skipped"))?;
        }
    }
    if answer.failed > 0 { Err(Failure::Reported) } else { Ok(()) }
}

fn print(tried: &Tried) -> Result<(), Failure> {
    let (job, example) = (&tried.job, plain(&tried.example));
    match &tried.verdict {
        Verdict::Passed => output::line(&format!("ok    {job}: {example}")),
        Verdict::Skipped { why } => output::line(&format!("skip  {job}: {example} ({})", plain(why))),
        Verdict::Failed { differences } => {
            output::line(&format!("FAIL  {job}: {example}"))?;
            differences
                .iter()
                .try_for_each(|difference| output::line(&format!("        {}", plain(&difference.to_string()))))
        }
    }
}
