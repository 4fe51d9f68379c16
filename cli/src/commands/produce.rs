//! `healthctl produce`

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pulso_cli::sender::{Sender, key_of};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::Global;
use crate::commands::{exit_at_once, produce_csv, stop_on_signal};
use crate::failure::Failure;
use crate::output;

/// Longer than any broker takes; bounds the memory that a file without line ends can cost.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;
/// The longest sleep between two looks at the stop token.
const NAP: Duration = Duration::from_millis(50);

/// Send each line of a file to a topic, as it is, or keep a topic in step with a CSV file
///
/// With --csv: an empty cell is null. Numbers keep their digits. A cell that is not of its column's type is sent as text, so
/// that the job makes a dead letter of the record; a line with another number of columns than the header, without key, or
/// with the key of an earlier line is not sent. Both are told with file and line. The last line waits until it has an end.
/// Lines count as removed when nobody has written to the file for a second; the row of a line that cannot be read stays as
/// it is. The file may be appended to, written anew in place, or replaced; while it is gone nothing is removed.
///
/// FILE.pulso keeps a hash of what each key was sent with: on disk before and after it is sent, so that a producer that
/// starts again sends what changed meanwhile, and what was under way once more. Delete it to send everything anew.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// JSON lines; - is standard input. Empty lines are skipped
    #[arg(required_unless_present = "csv", conflicts_with = "csv")]
    file: Option<PathBuf>,
    #[arg(long)]
    topic: String,
    #[arg(long, env = "KAFKA_BROKERS", default_value = "localhost:9092", value_name = "HOST:PORT,...")]
    brokers: String,
    /// Of the topic, if it has to be created
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Messages a second; without it, as fast as possible
    #[arg(long, value_parser = rate, conflicts_with = "csv")]
    rate: Option<f64>,
    /// The JSON field that is the record's key; without it, and for lines that lack it, partitions take turns. With --csv
    /// the column that tells rows apart: as text, or several with commas between as a JSON object
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,
    #[command(flatten)]
    csv: produce_csv::Arguments,
}

#[derive(Debug, Serialize)]
struct Summary {
    messages: u64,
    /// Lines that lack the key's field.
    without_key: u64,
}

pub(crate) async fn run(global: &Global, mut arguments: Arguments) -> Result<(), Failure> {
    if let (Some(csv), Some(key)) = (arguments.csv.csv.take(), &mut arguments.key) {
        let Arguments { topic, brokers, partitions, .. } = arguments;
        let to = produce_csv::Topic { brokers, topic, partitions, key: std::mem::take(key) };
        return Box::pin(produce_csv::run(global, csv, arguments.csv, to)).await;
    }
    // First of all: a missing file is noticed without a broker.
    let lines = open(arguments.file.as_deref().unwrap_or(Path::new("-")))?;
    let stop = CancellationToken::new();
    stop_on_signal(&stop, exit_at_once)?;
    let sender = Sender::connect(&arguments.brokers, &arguments.topic, arguments.partitions).await?;
    let keyed = arguments.key.is_some();
    let summary = tokio::task::spawn_blocking(move || send(&arguments, lines, sender, &stop)).await??;
    if keyed && summary.without_key > 0 {
        tracing::warn!(lines = summary.without_key, "sent without a key: their lines lack the field");
    }
    output::values(global.output, &summary)
}

fn open(file: &Path) -> Result<Box<dyn BufRead + Send>> {
    if file == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let opened = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, opened)))
}

/// A stop ends after the line that was sent last; what was sent is still waited for.
fn send(
    arguments: &Arguments,
    mut lines: impl BufRead,
    mut sender: Sender,
    stop: &CancellationToken,
) -> Result<Summary> {
    let (mut line, mut number, began) = (Vec::new(), 0u64, Instant::now());
    let mut summary = Summary { messages: 0, without_key: 0 };
    while !stop.is_cancelled() && read_line(&mut lines, &mut line, &mut number)? {
        if let Some(rate) = arguments.rate {
            sleep_until(began + Duration::from_secs_f64(summary.messages as f64 / rate), stop);
        }
        let key = arguments.key.as_ref().and_then(|field| key_of(&line, field));
        summary.without_key += u64::from(arguments.key.is_some() && key.is_none());
        sender.send(key.as_ref().map(String::as_bytes), &line, None).with_context(|| format!("line {number}"))?;
        summary.messages += 1;
    }
    let delivered = sender.finish()?;
    Ok(Summary { messages: delivered, ..summary })
}

fn sleep_until(due: Instant, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let wait = due.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return;
        }
        std::thread::sleep(wait.min(NAP));
    }
}

/// The next line that is not empty, without its end; false at the end of the file.
fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>, number: &mut u64) -> Result<bool> {
    loop {
        line.clear();
        *number += 1;
        if lines.by_ref().take(LONGEST_LINE).read_until(b'\n', line)? == 0 {
            return Ok(false);
        }
        if line.len() as u64 == LONGEST_LINE {
            bail!("line {number} is longer than {} MiB", LONGEST_LINE >> 20);
        }
        let end = line.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
        line.truncate(end);
        if !line.is_empty() {
            return Ok(true);
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("a rate is a number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<(u64, String)> {
        let (mut reader, mut line, mut number, mut all) = (text, Vec::new(), 0, Vec::new());
        while read_line(&mut reader, &mut line, &mut number).unwrap() {
            all.push((number, String::from_utf8(line.clone()).unwrap()));
        }
        all
    }

    #[test]
    fn lines_are_sent_as_they_are() {
        let expected = [(1, "a".to_owned()), (3, " b ".to_owned()), (4, "c".to_owned())];
        assert_eq!(lines(b"a\r\n\n b \nc"), expected);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let long = vec![b'x'; usize::try_from(LONGEST_LINE).unwrap() + 1];
        assert!(read_line(&mut &long[..], &mut Vec::new(), &mut 0).is_err());
    }
}
