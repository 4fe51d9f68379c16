//! Jobs for tests, from the text of their files.

use std::collections::BTreeMap;
use std::sync::Arc;

use pulso_job::{JobSpec, LookupTypes, Submission, check};

/// A checked job with a PostgreSQL target `db`; `rest` is the file from `[fields]` on, `source` goes into `[source]`.
pub(crate) fn job(source: &str, rest: &str) -> Arc<JobSpec> {
    let source = format!("type = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"t\"\n{source}");
    of_source(&source, rest, LookupTypes::new())
}

/// A job of a topic whose databases tell these types of its lookups.
pub(crate) fn job_with_lookups(rest: &str, lookups: LookupTypes) -> Arc<JobSpec> {
    of_source("type = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"t\"", rest, lookups)
}

/// The same with files as the source.
pub(crate) fn job_of_files(source: &str, rest: &str) -> Arc<JobSpec> {
    of_source(&format!("type = \"files\"\npath = \"in/*\"\n{source}"), rest, LookupTypes::new())
}

fn of_source(source: &str, rest: &str, lookups: LookupTypes) -> Arc<JobSpec> {
    let toml = format!(
        "version = 1\nname = \"test\"\nkey_groups = 8\n[source]\n\
         {source}\n[target.db]\ntype = \"postgres\"\nurl = \"postgres://localhost/test\"\n{rest}"
    );
    let submission = Submission { toml, environment: BTreeMap::new(), folder: "/jobs".to_owned(), lookups, kept: None };
    match check(&submission, "test.toml") {
        Ok((job, _)) => Arc::new(job),
        Err(mistakes) => panic!("{}", mistakes.render(false)),
    }
}
