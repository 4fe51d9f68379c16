//! `healthctl version`

use serde::Serialize;

use crate::Global;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Show the version
#[derive(clap::Args)]
pub(crate) struct Arguments {}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

pub(crate) fn run(global: &Global, _: &Arguments) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match global.output {
        Format::Table => output::line(&format!("healthctl {version}")),
        Format::Json => output::json(&Version { version }),
    }
}
