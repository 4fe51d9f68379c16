//! A checked job as a script for Flink SQL, for those who leave, and as an oracle for those who stay.
//!
//! Pure. What Flink SQL cannot say is told by name, with its line in the job file, and never left out in silence; what it
//! says more weakly stands as a comment in the script.

mod address;
mod aggregate;
mod expression;
mod feed;
mod function;
mod judge;
mod lookup;
mod place;
mod preamble;
mod records;
mod sink;
mod source;
mod sql;
mod unsaid;
mod value;

use pulso_job::JobSpec;

use crate::place::Places;
use crate::unsaid::Ledger;
pub use crate::unsaid::Unsaid;

/// A job in Flink SQL.
#[derive(Debug, Clone)]
pub struct Export {
    /// What can be said; `None` where too little is left of the job without the rest. It lists [`Export::unsaid`] in
    /// comments.
    pub script: Option<String>,
    /// What cannot be said, in the order of the job file. Empty: the script is the whole job.
    pub unsaid: Vec<Unsaid>,
}

/// Translates a job. `toml` is the text that it was checked from: it says which line a part stands on, and what an address
/// is called, since no value of a secret gets into a script.
pub fn export(job: &JobSpec, toml: &str) -> Export {
    let places = Places::new(toml);
    let mut ledger = Ledger::new(&places);
    let body = body(job, &mut ledger);
    let notes = ledger.notes();
    let unsaid = ledger.into_unsaid();
    let script = body.map(|body| {
        let preamble = preamble::preamble(job, &places, &notes, &unsaid);
        format!("{preamble}\n{body}")
    });
    Export { script, unsaid }
}

/// Everything below the settings. `None` where something that all of it rests on cannot be said.
fn body(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<String> {
    let source = source::source(job, ledger);
    let judge = judge::judge(job, ledger);
    let lookups = lookup::lookups(job, ledger);
    let records = records::records(job, ledger);
    let aggregates = aggregate::aggregates(job, ledger);
    let sinks = sink::sinks(job, &aggregates, ledger);
    let letters = sink::dead_letters(job, ledger);
    let (source, judge, (), records) = (source?, judge?, lookups?, records?);
    let views: String = aggregates.iter().flatten().map(|view| format!("{view}\n")).collect();
    let parts: Vec<sink::Output> = sinks.into_iter().flatten().chain(letters).collect();
    let tables: String = parts.iter().map(|part| format!("{}\n", part.table)).collect();
    let inserts: String = parts.iter().map(|part| format!("\n{}", part.insert)).collect();
    Some(format!("{source}\n{judge}\n{records}\n{views}{tables}EXECUTE STATEMENT SET\nBEGIN\n{inserts}\nEND;\n"))
}

#[cfg(test)]
mod tests;
