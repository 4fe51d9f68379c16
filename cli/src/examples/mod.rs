//! Examples that stand beside a job file: `NAME.test.toml` says what lines of input must come to in the sinks of
//! `NAME.toml`. Rows, those of lookups and dead letters are JSON lines; as in a job, what is absent is null.

mod compare;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use pulso_core::ids::WallTime;
use pulso_job::JobSpec;
use serde::{Deserialize, Serialize};

pub use self::compare::Difference;
use self::compare::compare;
use crate::job_file;
use crate::local::{LocalJob, Outcome};
use crate::lookups::LookupRows;

const ENDING: &str = ".test.toml";

/// A job file and the examples beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    pub job: PathBuf,
    pub examples: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// JSON lines by the name of the lookup: the rows that it has in all examples.
    #[serde(default)]
    lookups: BTreeMap<String, String>,
    #[serde(default)]
    example: Vec<Example>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    name: String,
    /// Lines as `healthctl dev` reads them.
    input: String,
    /// What the time is; without it nothing is ever too far in the future.
    clock: Option<toml::value::Datetime>,
    /// Why the example is left out.
    skip: Option<String>,
    /// Rows of lookups in the place of the file's.
    #[serde(default)]
    lookups: BTreeMap<String, String>,
    /// JSON lines by the name of the sink's table, topic or target. Sinks that are not named are not looked at.
    #[serde(default)]
    rows: BTreeMap<String, String>,
    /// JSON lines `{"line": 2, "reason": "...", "field": "..."}`; there must be no others.
    #[serde(default)]
    dead_letters: String,
    counts: Option<Counts>,
}

/// What became of the records; those that are not named are not looked at.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    read: Option<u64>,
    written: Option<u64>,
    corrections: Option<u64>,
    filtered: Option<u64>,
    duplicates: Option<u64>,
    superseded: Option<u64>,
    dead_letters: Option<u64>,
}

/// How an example ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Verdict {
    Passed,
    Failed { differences: Vec<Difference> },
    Skipped { why: String },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    pub job: String,
    pub example: String,
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl Suite {
    /// The job file, its examples, or a folder of such; and the job files of a folder that have no examples.
    ///
    /// # Errors
    /// Where there is nothing to be tried.
    pub fn find(path: &Path) -> Result<(Vec<Self>, Vec<PathBuf>)> {
        if !path.is_dir() {
            let suite = Self::of(path).with_context(|| format!("{} is no job file", path.display()))?;
            for file in [&suite.job, &suite.examples] {
                ensure!(file.is_file(), "there is no file {}", file.display());
            }
            return Ok((vec![suite], Vec::new()));
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
        files.sort();
        let (mut suites, mut without) = (Vec::new(), Vec::new());
        for file in &files {
            match Self::of(file) {
                Some(suite) if suite.examples == *file => {
                    ensure!(suite.job.is_file(), "{}: there is no job file {}", file.display(), suite.job.display());
                    suites.push(suite);
                }
                Some(suite) if !suite.examples.is_file() => without.push(suite.job),
                _ => {}
            }
        }
        ensure!(!suites.is_empty(), "there are no examples in {}: no file *{ENDING}", path.display());
        Ok((suites, without))
    }

    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let stem = name.strip_suffix(ENDING).or_else(|| name.strip_suffix(".toml"))?;
        Some(Self {
            job: path.with_file_name(format!("{stem}.toml")),
            examples: path.with_file_name(format!("{stem}{ENDING}")),
        })
    }

    /// Runs all examples. A wrong job file is an error with its diagnostics as the cause.
    ///
    /// # Errors
    /// Where a file cannot be read, or says what cannot be.
    pub fn run(&self) -> Result<Vec<Tried>> {
        let file = job_file::read_without_secrets(&self.job)?;
        let shown = self.examples.display();
        let text = std::fs::read_to_string(&self.examples).with_context(|| format!("reading {shown}"))?;
        let File { lookups, example: examples } = toml::from_str(&text).with_context(|| format!("{shown}"))?;
        ensure!(!examples.is_empty(), "{shown} has no [[example]]");
        let lookups = rows_of_lookups(&lookups).with_context(|| format!("{shown}"))?;
        let (spec, _) = all_rows(&lookups, &examples)
            .and_then(|rows| rows.check(&file, how))
            .with_context(|| format!("{shown}"))?;
        let mut tried: Vec<Tried> = Vec::new();
        for example in examples {
            if tried.iter().any(|other| other.example == example.name) {
                bail!("{shown}: two examples have the name `{}`", example.name);
            }
            let verdict =
                example.run(&spec, &lookups).with_context(|| format!("{shown}: example `{}`", example.name))?;
            tried.push(Tried { job: spec.name.clone(), example: example.name, verdict });
        }
        Ok(tried)
    }
}

fn rows_of_lookups(texts: &BTreeMap<String, String>) -> Result<LookupRows> {
    let mut rows = LookupRows::default();
    texts.iter().try_for_each(|(lookup, text)| rows.add(lookup, text))?;
    Ok(rows)
}

/// Those of the file and of all examples: the types of their columns are the same in each.
fn all_rows(of_file: &LookupRows, examples: &[Example]) -> Result<LookupRows> {
    let mut all = of_file.clone();
    for example in examples {
        let own = rows_of_lookups(&example.lookups).with_context(|| format!("example `{}`", example.name))?;
        all.extend(&own);
    }
    Ok(all)
}

/// How a lookup gets rows.
fn how(lookup: &str, row: &str) -> String {
    format!(
        "write them, as JSON lines, under [lookups] at the top of the file of examples, or under [example.lookups] of the \
         example: {lookup} = '''{row}'''"
    )
}

impl Example {
    fn run(&self, spec: &Arc<JobSpec>, lookups: &LookupRows) -> Result<Verdict> {
        let looks = !self.rows.is_empty() || !self.dead_letters.trim().is_empty() || self.counts.is_some();
        ensure!(looks, "nothing is expected: name `rows`, `dead_letters` or `counts`");
        if let Some(why) = &self.skip {
            return Ok(Verdict::Skipped { why: why.clone() });
        }
        let (outcome, lines) = self.outcome(spec, lookups)?;
        let differences = compare(self, &outcome, &lines)?;
        Ok(if differences.is_empty() { Verdict::Passed } else { Verdict::Failed { differences } })
    }

    /// Each line is an epoch of its own: the watermark follows record by record.
    fn outcome(&self, spec: &Arc<JobSpec>, lookups: &LookupRows) -> Result<(Outcome, Vec<usize>)> {
        let mut job = LocalJob::new(spec, self.clock()?)?;
        let mut rows = rows_of_lookups(&self.lookups)?;
        rows.or(lookups);
        job.set_lookups(rows.lookups(spec, how)?);
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(self.input.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            job.push(line.as_bytes());
            job.cut()?;
            lines.push(number);
        }
        Ok((job.finish()?, lines))
    }

    fn clock(&self) -> Result<WallTime> {
        let Some(clock) = &self.clock else { return Ok(WallTime(i64::MAX)) };
        let time: Result<jiff::Timestamp, _> = clock.to_string().parse();
        let time = time.with_context(|| format!("`clock` is a time with a zone: 2026-01-31T12:00:00Z, not {clock}"))?;
        Ok(WallTime(time.as_microsecond()))
    }
}
