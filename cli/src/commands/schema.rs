//! `healthctl schema`

use crate::failure::Failure;
use crate::output;

/// Print the JSON Schema of job.toml, for editors
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Result<(), Failure> {
    output::line(&serde_json::to_string_pretty(&pulso_job::schema())?)
}
