//! A whole file: parsed, read section by section, every mistake gathered, and a [`JobSpec`] if there is none.

mod aggregate;
mod expression;
mod feed;
mod field;
mod files;
mod input;
mod lookup;
mod loops;
mod name;
mod panel;
mod select;
mod sink;
mod source;
mod syntax;
mod target;
mod time;

use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use crate::code;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{Entry, Section, count, list, printable};
use crate::reader::Reader;
use crate::spec::{DEDUP_STATE, DedupSpec, JobSpec};
use crate::submission::{Kept, MAX_FILE_BYTES, StateId, Submission};
pub use expression::type_name;
pub use field::type_named;
pub use input::{InputSpec, input};
pub use lookup::comparable;
use name::{Columns, Derive};

pub(crate) use field::TYPES;
pub(crate) use panel::CHARTS;

/// Most keys and list elements of a file.
const MAX_KEYS: usize = 10_000;
/// Most tables of one kind.
const MAX_TABLES: usize = 100;

/// Checks a job file: the job with warnings, or every mistake.
pub fn check(submission: &Submission, file_name: &str) -> Result<(JobSpec, Vec<Diagnostic>), Diagnostics> {
    let text = submission.toml.as_str();
    if text.len() > MAX_FILE_BYTES {
        let mut reader = Reader::new("", &submission.environment);
        let message = format!("the file has {} bytes, at most {MAX_FILE_BYTES} are allowed", text.len());
        reader.error(code::TOO_LARGE, &(0..0), message);
        return unfinished(reader, file_name);
    }
    let mut reader = Reader::new(text, &submission.environment);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !syntax::report(&mut reader, text, &errors) {
        return unfinished(reader, file_name);
    }
    let keys = count(document.get_ref());
    if keys > MAX_KEYS {
        reader.error(
            code::TOO_LARGE,
            &(0..0),
            format!("the file has {keys} keys and list elements, at most {MAX_KEYS} are allowed"),
        );
        return unfinished(reader, file_name);
    }
    let root = Section::new("", 0..0, document.get_ref());
    let job = job(&mut reader, &root, submission);
    let warnings = reader.finish(file_name)?;
    match job {
        Some(job) => Ok((job, warnings)),
        None => {
            // Every way to no job reports why; should one not, the file is still refused.
            let mut reader = Reader::new(text, &submission.environment);
            reader.error(code::MISSING_KEY, &(0..0), "the file is not a complete job");
            unfinished(reader, file_name)
        }
    }
}

/// The file's text for people to read: what is or may be a secret as asterisks. Empty where it is not TOML.
#[must_use]
pub fn shown(submission: &Submission) -> String {
    let text = submission.toml.as_str();
    let Ok(document) = DeTable::parse(text) else { return String::new() };
    let mut reader = Reader::new(text, &submission.environment);
    let root = Section::new("", 0..0, document.get_ref());
    job(&mut reader, &root, submission);
    reader.shown()
}

fn unfinished<T>(reader: Reader<'_>, file_name: &str) -> Result<T, Diagnostics> {
    match reader.finish(file_name) {
        Err(diagnostics) => Err(diagnostics),
        Ok(_) => unreachable!("called only with an error reported"),
    }
}

pub(crate) fn job(reader: &mut Reader<'_>, root: &Section<'_>, submission: &Submission) -> Option<JobSpec> {
    let (folder, types) = (Path::new(&submission.folder), &submission.lookups);
    if root.entries.is_empty() {
        reader.error_help(
            code::MISSING_KEY,
            &root.span,
            "the file defines nothing",
            "a job has version, name, [source], [target.NAME], [fields] and [[sink]]",
        );
        return None;
    }
    if !version(reader, root) {
        return None;
    }
    let name = reader.required(root, "name").and_then(|entry| job_name(reader, &entry));
    let key_groups = match root.take("key_groups") {
        Some(entry) => reader.integer(&entry, 1..=1024),
        None => Some(32),
    };
    let mut columns = Columns::new(root);
    field::read(reader, root, &mut columns);
    let rules = expression::rules(reader, root, &columns);
    let filter = expression::filter(reader, root, &columns);
    let source = source::read(reader, root, &columns, folder);
    let targets = target::read(reader, root, folder, source.as_ref());
    let lookups = lookup::read(reader, root, &mut columns, &targets, types);
    expression::derive(reader, root, &mut columns);
    let time = time::time(reader, root, &columns);
    let dedup = time::dedup(reader, root, &columns, time.as_ref());
    if let Some(source) = &source {
        source::tombstone_fits(reader, source, dedup.as_ref());
    }
    let conditions = rules.iter().flatten().map(|rule| &rule.condition).chain(&filter).collect();
    let rows = feed::Feed::new(root, &columns, source.as_ref(), dedup.as_ref(), time.as_ref(), conditions);
    rows.time_fits(reader);
    let aggregates = aggregate::read(reader, root, &rows, time.as_ref(), dedup.as_ref());
    let sinks = sink::read(reader, root, &rows, &targets, &aggregates);
    let dead_letter = target::dead_letter(reader, root, &targets, &sinks);
    let panels = panel::read(reader, root, &targets);
    if let Some(source) = &source {
        source::on_change_fits(reader, source, &sinks, &aggregates);
        loops::oversize_is_no_input(reader, source, &targets);
        loops::files_are_no_input(reader, source, &targets, name.as_deref(), &sinks, dead_letter.as_ref());
    }
    targets.warn_unused(reader, root);
    reader.no_others(root);
    let routing_key = rows.routing_key(sinks.first_key.as_deref());
    let derive = columns.derives().map(Derive::spec).collect();
    let dedup = dedup.map(|d| DedupSpec { state: 0, key: d.key, keep_for: d.keep_for, changed: d.changed });
    let mut job = JobSpec {
        name: name?,
        key_groups: u16::try_from(key_groups?).ok()?,
        source: source?.spec,
        targets: targets.into_specs()?,
        fields: columns.into_fields(),
        rules: rules?,
        filter,
        lookups: lookups?,
        derive,
        time: time.map(|time| time.spec),
        dedup,
        aggregates: aggregates.into_specs(&routing_key)?,
        sinks: sinks.specs?,
        dead_letter: dead_letter?,
        panels: panels?,
        routing_key,
    };
    keep(&mut job, submission.kept.as_ref());
    Some(job)
}

/// What the job has of the file before; numbers of state of its own where there was none.
fn keep(job: &mut JobSpec, kept: Option<&Kept>) {
    let state = |name: &str, first: StateId| kept.and_then(|kept| kept.states.get(name)).copied().unwrap_or(first);
    if let Some(dedup) = &mut job.dedup {
        dedup.state = state(DEDUP_STATE, 0);
    }
    for (first, aggregate) in (1..).zip(&mut job.aggregates) {
        aggregate.state = state(&aggregate.state_name(), first);
    }
    job.key_groups = kept.map_or(job.key_groups, |kept| kept.key_groups);
}

/// Whether the rest of the file can be read: another version may mean anything.
fn version(reader: &mut Reader<'_>, root: &Section<'_>) -> bool {
    let Some(entry) = reader.required(root, "version") else {
        return true;
    };
    match reader.integer(&entry, 0..=i64::MAX) {
        Some(1) => true,
        Some(version) => {
            reader.error_help(
                code::BAD_VERSION,
                &entry.span,
                format!("version {version} of the job language is not known"),
                "this Pulso knows version 1",
            );
            false
        }
        None => true,
    }
}

fn job_name(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<String> {
    let name = reader.string(entry)?;
    let first = name.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if first && name.len() <= 63 && name.bytes().all(good) {
        return Some(name.to_owned());
    }
    reader.error_help(
        code::BAD_NAME,
        &entry.span,
        format!("`{}` is not a name for a job", printable(name)),
        "a job's name has lower-case letters, digits and -, does not begin with -, and has at most 63 characters",
    );
    None
}

/// Tells that a name refers to nothing, and what it may refer to.
fn unknown_name<'n>(
    reader: &mut Reader<'_>,
    span: &Range<usize>,
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'n str> + Clone,
) {
    let help = match crate::document::nearest(name, known.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("there is {}", list(known)),
    };
    reader.error_help(code::UNKNOWN_NAME, span, format!("there is no {what} `{}`", printable(name)), help);
}
