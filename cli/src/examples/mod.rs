//! Examples that stand beside a job file: `NAME.test.toml` says what lines of input must come to in the sinks of
//! `NAME.toml`. Rows and dead letters are JSON lines; as in a job, what is absent is null.

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
        let (spec, _) = pulso_job::check(&file.submission, &file.name)?;
        let spec = Arc::new(spec);
        let shown = self.examples.display();
        let text = std::fs::read_to_string(&self.examples).with_context(|| format!("reading {shown}"))?;
        let File { example: examples } = toml::from_str(&text).with_context(|| format!("{shown}"))?;
        ensure!(!examples.is_empty(), "{shown} has no [[example]]");
        let mut tried: Vec<Tried> = Vec::new();
        for example in examples {
            if tried.iter().any(|other| other.example == example.name) {
                bail!("{shown}: two examples have the name `{}`", example.name);
            }
            let verdict = example.run(&spec).with_context(|| format!("{shown}: example `{}`", example.name))?;
            tried.push(Tried { job: spec.name.clone(), example: example.name, verdict });
        }
        Ok(tried)
    }
}

impl Example {
    fn run(&self, spec: &Arc<JobSpec>) -> Result<Verdict> {
        let looks = !self.rows.is_empty() || !self.dead_letters.trim().is_empty() || self.counts.is_some();
        ensure!(looks, "nothing is expected: name `rows`, `dead_letters` or `counts`");
        if let Some(why) = &self.skip {
            return Ok(Verdict::Skipped { why: why.clone() });
        }
        let (outcome, lines) = self.outcome(spec)?;
        let differences = compare(self, &outcome, &lines)?;
        Ok(if differences.is_empty() { Verdict::Passed } else { Verdict::Failed { differences } })
    }

    /// Each line is an epoch of its own: the watermark follows record by record.
    fn outcome(&self, spec: &Arc<JobSpec>) -> Result<(Outcome, Vec<usize>)> {
        let mut job = LocalJob::new(spec, self.clock()?)?;
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
