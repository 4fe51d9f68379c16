//! `healthctl cancel`

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Format};

/// End a job at once; its newest checkpoint stays, and `resume` goes on from there
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name or UUID
    job: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    job: &'a str,
    status: &'static str,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let job = arguments.job.as_str();
    if !arguments.yes && !agreed(job)? {
        return Err(Failure::Usage(format!("{job} was not cancelled")));
    }
    Client::connect(&global.jobmanager).await?.cancel(job).await?;
    match global.output {
        Format::Json => output::json(&Answer { job, status: "cancelled" }),
        Format::Table => output::line(&format!("{job}: cancelled")),
    }
}

fn agreed(job: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("nobody can be asked here: say --yes to cancel".to_owned()));
    }
    write!(std::io::stderr().lock(), "Cancel {job} at once, without draining? [y/N] ")?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
