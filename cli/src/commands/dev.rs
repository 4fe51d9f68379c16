//! `healthctl dev`

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use pulso_cli::job_file;
use pulso_cli::local::{LocalJob, Outcome, Table, to_json};
use pulso_cli::lookups::LookupRows;
use pulso_core::ids::WallTime;
use pulso_job::JobSpec;
use serde_json::{Map, Value, json};

use crate::Global;
use crate::client::plain;
use crate::commands::check::refused;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Longer than any record may be; bounds the memory that a file without line ends can cost.
const LONGEST_LINE: u64 = 64 * 1024 * 1024;
/// Between two looks at the files of `--watch`.
const LOOK: Duration = Duration::from_millis(300);

/// Run a job on files of records, without any server, and print the rows that it would write
///
/// Each line is the value of a record; a line `tombstone KEY` is a record with this key and without value. Empty lines are
/// skipped. Where the job reads CSV, each file begins with its header. Addresses and credentials of the job are not needed
/// and not used; rows of its lookups come from files.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    /// Files of records, one a line; - is standard input
    #[arg(long, short, required = true, num_args = 1.., value_name = "FILE")]
    input: Vec<PathBuf>,
    /// Records of an epoch: the watermark moves on behind so many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..), value_name = "RECORDS")]
    epoch: u64,
    /// Rows of a lookup: a file of JSON lines, from whose values the types of the columns follow
    #[arg(long, value_name = "NAME=FILE", value_parser = lookup)]
    lookup: Vec<(String, PathBuf)>,
    /// Run again whenever one of the files has changed, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Where a record stood.
struct Place {
    file: usize,
    line: u64,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    if !arguments.watch {
        return once(global, arguments);
    }
    if arguments.input.iter().any(|file| is_standard_input(file)) {
        return Err(Failure::Usage("--watch needs files: standard input can be read only once".to_owned()));
    }
    loop {
        let before = changed(arguments);
        match once(global, arguments) {
            Ok(()) => {}
            Err(failure) if failure.is_closed_pipe() => return Err(failure),
            Err(failure) => writeln!(std::io::stderr().lock(), "{failure}")?,
        }
        while changed(arguments) == before {
            std::thread::sleep(LOOK);
        }
        writeln!(std::io::stderr().lock(), "\n---")?;
    }
}

fn once(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let file = job_file::read_without_secrets(&arguments.file).map_err(|error| refused(global.output, error))?;
    let lookups = rows_of_lookups(&arguments.lookup)?;
    let (spec, warnings) = lookups.check(&file, how).map_err(|error| refused(global.output, error))?;
    for warning in &warnings {
        let (line, column, code) = (warning.line, warning.column, warning.code);
        writeln!(std::io::stderr().lock(), "{}:{line}:{column}: warning {code}: {}", file.name, warning.message)?;
    }
    let (outcome, places) = rows(&spec, &lookups, arguments)?;
    match global.output {
        Format::Json => output::json(&document(&outcome, &places, &arguments.input)),
        Format::Table => print(&outcome, &places, &arguments.input),
    }
}

/// `NAME=FILE`
fn lookup(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("the name of the lookup and a file, with = between")?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

fn rows_of_lookups(files: &[(String, PathBuf)]) -> Result<LookupRows> {
    let mut rows = LookupRows::default();
    for (at, (name, path)) in files.iter().enumerate() {
        if files.iter().take(at).any(|(other, _)| other == name) {
            bail!("--lookup names `{name}` twice");
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        rows.add(name, &text).with_context(|| path.display().to_string())?;
    }
    Ok(rows)
}

/// How a lookup gets rows.
fn how(lookup: &str, row: &str) -> String {
    format!("say --lookup {lookup}=FILE, a file of JSON lines like {row}")
}

fn rows(spec: &Arc<JobSpec>, lookups: &LookupRows, arguments: &Arguments) -> Result<(Outcome, Vec<Place>)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let clock = WallTime(i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
    let mut job = LocalJob::new(spec, clock)?;
    job.set_lookups(lookups.lookups(spec, how)?);
    let mut places = Vec::new();
    for (file, path) in arguments.input.iter().enumerate() {
        let mut lines = open(path)?;
        job.next_file();
        let (mut text, mut line) = (Vec::new(), 0);
        loop {
            text.clear();
            line += 1;
            let length = lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text);
            if length.with_context(|| format!("reading {}", path.display()))? == 0 {
                break;
            }
            let whole = text.last() == Some(&b'\n') || (text.len() as u64) < LONGEST_LINE;
            ensure!(whole, "{}: line {line} is longer than {LONGEST_LINE} bytes", path.display());
            let record = text.strip_suffix(b"\n").unwrap_or(&text);
            let record = record.strip_suffix(b"\r").unwrap_or(record);
            if record.trim_ascii().is_empty() {
                continue;
            }
            job.push(record);
            places.push(Place { file, line });
            if (places.len() as u64).is_multiple_of(arguments.epoch) {
                job.cut()?;
            }
        }
    }
    Ok((job.finish()?, places))
}

fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if is_standard_input(path) {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

/// When the files were written last; a file that is being replaced has no time for a moment.
fn changed(arguments: &Arguments) -> Vec<Option<SystemTime>> {
    let lookups = arguments.lookup.iter().map(|(_, file)| file);
    let files = arguments.input.iter().chain([&arguments.file]).chain(lookups);
    files.map(|file| std::fs::metadata(file).and_then(|found| found.modified()).ok()).collect()
}

fn document(outcome: &Outcome, places: &[Place], files: &[PathBuf]) -> Value {
    let sinks: Vec<Value> = outcome
        .tables
        .iter()
        .map(|table| {
            json!({ "sink": table.name, "target": table.target, "rows": table.rows().map(|row| {
            row.iter().zip(&table.columns).map(|(value, c)| (c.name.clone(), to_json(value, c))).collect::<Map<_, _>>()
        }).collect::<Vec<_>>() })
        })
        .collect();
    let letters = outcome.dead_letters.iter().map(|letter| {
        let place = places.get(letter.record);
        let file = place.and_then(|place| files.get(place.file)).map(|file| file.display().to_string());
        json!({ "file": file, "line": place.map(|place| place.line), "reason": letter.reason, "field": letter.field })
    });
    let counts = &outcome.counters;
    json!({
        "sinks": sinks,
        "dead_letters": letters.collect::<Vec<_>>(),
        "counts": {
            "read": outcome.read, "written": counts.written, "corrections": counts.corrections,
            "filtered": counts.filtered, "duplicates": counts.duplicates, "superseded": counts.superseded,
            "dead_letters": counts.dead_letters,
        },
    })
}

fn print(outcome: &Outcome, places: &[Place], files: &[PathBuf]) -> Result<(), Failure> {
    for table in &outcome.tables {
        let count = table.rows().count();
        output::line(&format!(
            "{} in {}: {count} {}",
            table.name,
            table.target,
            if count == 1 { "row" } else { "rows" }
        ))?;
        if count > 0 {
            output::grid(table.columns.iter().map(|column| column.name.as_str()), cells(table))?;
        }
        output::line("")?;
    }
    if !outcome.dead_letters.is_empty() {
        let rows = outcome.dead_letters.iter().map(|letter| {
            let place = places.get(letter.record);
            let file = place.and_then(|place| files.get(place.file)).map_or(String::new(), |f| f.display().to_string());
            let line = place.map_or(0, |place| place.line);
            [plain(&format!("{file}:{line}")), letter.reason.clone(), letter.field.clone().unwrap_or_default()]
        });
        output::table(["DEAD LETTER", "REASON", "FIELD"], rows.collect())?;
        output::line("")?;
    }
    let counts = &outcome.counters;
    output::line(&format!(
        "read {} = written {} ({} corrections) + filtered {} + duplicates {} + superseded {} + dead letters {}",
        outcome.read,
        counts.written,
        counts.corrections,
        counts.filtered,
        counts.duplicates,
        counts.superseded,
        counts.dead_letters
    ))
}

fn cells(table: &Table) -> impl Iterator<Item = Vec<String>> {
    table.rows().map(|row| {
        let cell = |(value, column)| {
            let value = to_json(value, column);
            value.as_str().map_or_else(|| value.to_string(), |text| plain(text).replace('\n', "\u{fffd}"))
        };
        row.iter().zip(&table.columns).map(cell).collect()
    })
}
