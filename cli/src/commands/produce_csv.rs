//! `healthctl produce --csv`

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use pulso_cli::csv_file::watch::{Look, Watch};
use pulso_cli::csv_file::{Change, Fault, Format, Lines, Sent, StateFile, compare, read};
use pulso_cli::job_file;
use pulso_cli::sender::Sender;
use pulso_job::InputSpec;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::Global;
use crate::commands::check::refused;
use crate::commands::{exit_at_once, stop_on_signal};
use crate::failure::Failure;
use crate::output;

/// Between two looks at the file.
const LOOK: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Keep the topic in step with this CSV file (header line first) instead: each new or changed line becomes a record,
    /// each removed line a record without value
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) csv: Option<PathBuf>,
    /// Go on until Ctrl-C; without it the file is read once, when nobody has written to it for a second
    #[arg(long, requires = "csv")]
    follow: bool,
    /// The job that reads the topic: its [fields] give the columns their types. Without it every cell is text
    #[arg(long, value_name = "JOB.TOML", requires = "csv")]
    job: Option<PathBuf>,
    /// Where to keep what was sent; by default FILE.pulso beside the CSV file
    #[arg(long, value_name = "FILE", requires = "csv")]
    state: Option<PathBuf>,
    /// Between two columns
    #[arg(long, value_name = "CHARACTER", default_value = ",", requires = "csv", value_parser = delimiter)]
    delimiter: u8,
}

/// Where to.
pub(crate) struct Topic {
    pub(crate) brokers: String,
    pub(crate) topic: String,
    pub(crate) partitions: u32,
    /// Columns, with commas between.
    pub(crate) key: String,
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    records: u64,
    tombstones: u64,
    bad_lines: u64,
}

pub(crate) async fn run(global: &Global, csv: PathBuf, arguments: Arguments, to: Topic) -> Result<(), Failure> {
    let input = match &arguments.job {
        Some(job) => Some(input(job).map_err(|error| refused(global.output, error))?),
        None => None,
    };
    if input.as_ref().is_some_and(|input| input.tombstone_key.is_none()) {
        tell(&csv, "the job's [source] has no `tombstone`: it makes dead letters of removed lines")?;
    }
    if !arguments.follow {
        // Noticed without a broker.
        std::fs::metadata(&csv).with_context(|| format!("opening {}", csv.display()))?;
    }
    let key: Vec<String> = to.key.split(',').map(|column| column.trim().to_owned()).collect();
    let state = arguments.state.unwrap_or_else(|| beside(&csv));
    let (state, sent) = StateFile::open(&state, &to.topic, &key)?;
    let stop = CancellationToken::new();
    stop_on_signal(&stop, exit_at_once)?;
    let sender = Sender::connect(&to.brokers, &to.topic, to.partitions).await?;
    let format = Format { delimiter: arguments.delimiter, key, input };
    let follow = arguments.follow;
    let mut producer =
        Producer { csv, format, state, sent, sender, follow, told: Told::default(), summary: Summary::default() };
    let summary = tokio::task::spawn_blocking(move || producer.run(&stop).map(|()| producer.summary)).await??;
    output::values(global.output, &summary)
}

fn input(job: &Path) -> Result<InputSpec> {
    let file = job_file::read(job)?;
    Ok(pulso_job::input(&file.submission, &file.name)?)
}

fn beside(csv: &Path) -> PathBuf {
    let mut name = csv.as_os_str().to_owned();
    name.push(".pulso");
    name.into()
}

struct Producer {
    csv: PathBuf,
    format: Format,
    state: StateFile,
    sent: Sent,
    sender: Sender,
    follow: bool,
    told: Told,
    summary: Summary,
}

/// What was said already of the file as it is.
#[derive(Default)]
struct Told {
    faults: BTreeSet<Fault>,
    whole_file: Option<String>,
    missing: bool,
}

impl Producer {
    fn run(&mut self, stop: &CancellationToken) -> Result<()> {
        let mut watch = Watch::new(self.csv.clone());
        while !stop.is_cancelled() {
            match watch.look() {
                Ok(Some(look)) if self.follow || look.settled => {
                    self.take(&look)?;
                    if !self.follow {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(error) if self.follow => self.tell_once(format!("{error:#}; waiting for it"))?,
                Err(error) => return Err(error),
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn take(&mut self, look: &Look) -> Result<()> {
        let lines = match read(&look.bytes, &self.format, look.settled && !self.follow) {
            Ok(lines) => lines,
            // Half of a header, perhaps.
            Err(_) if !look.settled => return Ok(()),
            Err(what) if self.follow => return self.tell_once(format!("{what}; nothing is sent")),
            Err(what) => return Err(anyhow!("{}: {what}", self.csv.display())),
        };
        self.tell_faults(&lines)?;
        match look.settled && self.follow && lines.unfinished {
            true => self.tell_once("the last line has no end yet; waiting for it".to_owned())?,
            false => self.told.whole_file = None,
        }
        let changes = compare(&self.sent, &lines, look.settled);
        self.send(&changes)
    }

    /// The state says before what is sent, and after what has arrived.
    fn send(&mut self, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.sent.announce(changes);
        self.state.keep(&self.sent)?;
        for change in changes {
            match change {
                Change::Record { key, record } => {
                    self.sender.send(Some(key.as_bytes()), record.as_bytes(), None)?;
                    self.summary.records += 1;
                }
                Change::Tombstone { key } => {
                    self.sender.send_tombstone(key.as_bytes())?;
                    self.summary.tombstones += 1;
                }
            }
        }
        self.sender.flush()?;
        self.sent.confirm(changes);
        self.state.keep(&self.sent)?;
        tracing::info!(changes = changes.len(), "sent");
        Ok(())
    }

    /// A line is told of once, as long as it stays as it is.
    fn tell_faults(&mut self, lines: &Lines) -> Result<()> {
        let faults: BTreeSet<Fault> = lines.faults.iter().cloned().collect();
        for Fault { line, what } in faults.difference(&self.told.faults) {
            writeln!(std::io::stderr().lock(), "{}:{line}: {what}", self.csv.display())?;
            self.summary.bad_lines += 1;
        }
        self.told.faults = faults;
        if !lines.missing.is_empty() && !self.told.missing {
            self.told.missing = true;
            let fields = lines.missing.join(", ");
            tell(
                &self.csv,
                &format!("the job requires {fields}, which no column gives: it makes dead letters of all lines"),
            )?;
        }
        Ok(())
    }

    fn tell_once(&mut self, what: String) -> Result<()> {
        if self.told.whole_file.as_ref() == Some(&what) {
            return Ok(());
        }
        tell(&self.csv, &what)?;
        self.told.whole_file = Some(what);
        Ok(())
    }
}

fn tell(csv: &Path, what: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr().lock(), "{}: {what}", csv.display())?)
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if !matches!(byte, b'"' | b'\n' | b'\r') && byte.is_ascii() => Ok(*byte),
        _ => Err("one ASCII character, such as ; or \\t".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters_are_one_character() {
        assert_eq!((delimiter(";"), delimiter("\\t"), delimiter("\t")), (Ok(b';'), Ok(b'\t'), Ok(b'\t')));
        for wrong in ["", ";;", "é", "\"", "\n"] {
            assert!(delimiter(wrong).is_err(), "{wrong:?}");
        }
    }
}
