//! `healthctl explain`

use serde::Serialize;

use crate::Global;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Tell more about a code such as P0012
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// All of them when it is left out
    code: Option<String>,
}

#[derive(Serialize)]
struct Explanation {
    code: String,
    text: &'static str,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let Some(code) = &arguments.code else { return all(global.output) };
    let Some(text) = pulso_job::explain(code) else {
        return Err(Failure::Usage(format!("there is no code {code}; `healthctl explain` lists all")));
    };
    match global.output {
        Format::Json => output::json(&Explanation { code: code.to_uppercase(), text }),
        Format::Table => output::line(&format!("{}: {text}", code.to_uppercase())),
    }
}

fn all(format: Format) -> Result<(), Failure> {
    let all = pulso_job::codes().map(|(code, text)| Explanation { code: code.to_string(), text });
    match format {
        Format::Json => output::json(&all.collect::<Vec<_>>()),
        Format::Table => output::table(["CODE", "MEANING"], all.map(|e| [e.code, e.text.to_owned()]).collect()),
    }
}
