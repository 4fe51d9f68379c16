//! Whole files in, jobs or mistakes out.

mod aggregates;
mod bad_input;
mod examples;
mod files;
mod lookups;
mod mutation;
mod online;
mod plan;
mod schema;
mod secrets;
mod semantics;
mod units;

use std::collections::BTreeMap;

use crate::{Diagnostics, JobSpec, SinkSpec, SinkTo, Submission, TableSpec, check};

/// A small job that is right; tests change one thing in it.
pub(super) const GOOD: &str = r#"version = 1
name = "orders"
key_groups = 4

[source]
type = "kafka"
brokers = "localhost:9092"
topic = "orders"

[target.db]
type = "postgres"
url = { env = "DATABASE_URL" }

[fields]
id = { type = "string", required = true }
at = { type = "timestamp", required = true }
qty = { type = "int32", min = 1, max = 10 }
price = { type = "decimal(10,2)", min = 0 }
weight = { type = "float64" }
note = { type = "string" }

[rules]
priced = "qty is null or price is not null"

[derive]
total = "qty * price"

[time]
field = "at"

[dedup]
key = ["id", "at"]
keep_for = "1h"

[[sink]]
to = "db"
table = "orders"
key = ["id", "at"]
"#;

pub(super) fn submission(toml: &str) -> Submission {
    let environment = [
        ("DATABASE_URL", "postgres://app:s3cret-pw@db:5432/app"),
        ("MYSQL_URL", "mysql://app:s3cret-pw@db:3306/app"),
        ("EMPTY", ""),
    ];
    let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    Submission {
        toml: toml.to_owned(),
        environment: environment.collect::<BTreeMap<_, _>>(),
        folder: "/jobs".to_owned(),
        ..Submission::default()
    }
}

pub(super) fn good(toml: &str) -> JobSpec {
    match check(&submission(toml), "job.toml") {
        Ok((job, _)) => job,
        Err(diagnostics) => panic!("{}", diagnostics.render(false)),
    }
}

pub(super) fn table(sink: &SinkSpec) -> &TableSpec {
    match &sink.to {
        SinkTo::Table(table) => table,
        other @ (SinkTo::Topic(_) | SinkTo::Files(_)) => panic!("{other:?} is no table"),
    }
}

pub(super) fn bad(toml: &str) -> Diagnostics {
    let diagnostics = check(&submission(toml), "job.toml").expect_err("a mistake");
    for diagnostic in &diagnostics.list {
        assert!(diagnostic.offset + diagnostic.length <= toml.len(), "{diagnostic:?}");
        assert!(toml.is_char_boundary(diagnostic.offset), "{diagnostic:?}");
    }
    diagnostics
}

/// `GOOD` with one piece of text replaced.
pub(super) fn with(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "`{from}` must be in GOOD once");
    GOOD.replace(from, to)
}

/// Each mistake as `code line:column "the text it points at"`.
pub(super) fn places(toml: &str) -> Vec<String> {
    let diagnostics = bad(toml);
    let place =
        |d: &crate::Diagnostic| format!("{} {}:{} {}", d.code, d.line, d.column, &toml[d.offset..d.offset + d.length]);
    diagnostics.list.iter().map(place).collect()
}

/// Asserts that replacing `from` by `to` gives exactly one mistake: its code, the text it points at, words of it.
#[track_caller]
pub(super) fn one(from: &str, to: &str, code: &str, at: &str, words: &str) {
    one_in(&with(from, to), code, at, words);
}

/// The same of a whole file.
#[track_caller]
pub(super) fn one_in(toml: &str, code: &str, at: &str, words: &str) {
    let diagnostics = bad(toml);
    let shown = diagnostics.render(false);
    assert_eq!(diagnostics.list.len(), 1, "{shown}");
    let found = &diagnostics.list[0];
    let text = format!("{} | {}", found.message, found.help.as_deref().unwrap_or_default());
    assert_eq!(found.code.as_str(), code, "{shown}");
    assert_eq!(&toml[found.offset..found.offset + found.length], at, "{shown}");
    assert!(text.contains(words), "`{words}` is not in: {text}");
}
