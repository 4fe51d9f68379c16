//! `healthctl generate`

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::{Subcommand, ValueEnum};
use pulso_cli::generator::{self, Expected, GeneratorOptions, Summary, generate};
use pulso_cli::sensors::{SensorsOptions, sensors};
use pulso_cli::shop::{ShopOptions, shop};
use pulso_cli::stream::{Counts, Message, Mix, Record, Stream, Subject};
use pulso_cli::vitals::{VitalsOptions, vitals};
use pulso_cli::ward::{Batch, Folder, WardOptions, ward};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::Global;
use crate::commands::{exit_at_once, stop_on_signal};
use crate::failure::Failure;
use crate::output;

/// Make synthetic data with a known answer, for a topic or a folder
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Vitals(Vitals),
    Ecommerce(Ecommerce),
    Iot(Iot),
    WardFiles(WardFiles),
}

/// Vital signs as `jobs/health-vitals.toml` reads them
///
/// Bad ones are out of range, lack a required field, are malformed or of a wrong type, hold no vital sign or a lost
/// signal, or come from the future. Shares are of all messages: 0.3 or 30%.
#[derive(clap::Args)]
struct Vitals {
    #[arg(long, default_value = "health-data")]
    topic: String,
    #[arg(long, default_value_t = 1000)]
    patients: u32,
    /// The same patient and time with other values, later: these must win
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    corrections: f64,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    to: ToTopic,
}

/// Events of a web shop as `jobs/ecommerce.toml` reads them
///
/// Visitors search, look at products, fill carts and buy; each event is on its way for up to 2 s, so that they come out of
/// order; prices change every 30 s. Bad ones are a purchase without product or quantity, an unknown type, malformed JSON,
/// without id or user, a price that is negative or too precise, a wrong or future time. Shares are of all messages.
#[derive(clap::Args)]
struct Ecommerce {
    #[arg(long, default_value = "ecommerce-events")]
    topic: String,
    #[arg(long, default_value_t = 1000)]
    users: u32,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    to: ToTopic,
}

/// Sensors in Brazilian cities as `jobs/iot-sensors.toml` reads them
///
/// Temperature and humidity follow the time of day in America/Sao_Paulo, in which zone the readings tell it; status follows
/// thresholds. Bad ones are malformed JSON, without temperature or sensor, out of range, text as number, an unknown status,
/// a day that does not exist, from the future. Shares are of all messages.
#[derive(clap::Args)]
struct Iot {
    #[arg(long, default_value = "sensores-iot")]
    topic: String,
    /// Spread over ten cities
    #[arg(long, default_value_t = 40)]
    sensors: u32,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    to: ToTopic,
}

/// Batch files of bedside collectors as `jobs/ward-files.toml` reads them
///
/// A message is a file here: a patient and many readings, as JSON. Files appear whole, under names and with modification
/// times in the order in which they count. Duplicates are the same bytes under another name, corrections the same readings
/// with other values, invalid ones are no JSON: broken off, empty, another format or encoding.
#[derive(clap::Args)]
struct WardFiles {
    /// Folder for the files, created if it is missing
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    #[arg(long, default_value_t = 20)]
    patients: u32,
    /// Readings in a file
    #[arg(long, default_value_t = 20)]
    records: u32,
    /// Of the records of good files: without value or time, too precise, text as number, a day that does not exist, an
    /// unknown sensor, no object
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    bad_records: f64,
    /// The same patient, sensors and times with other values, later: these must win
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    corrections: f64,
    #[command(flatten)]
    pace: Pace,
}

#[derive(clap::Args)]
struct ToTopic {
    #[arg(long, env = "KAFKA_BROKERS", default_value = "localhost:9092", value_name = "HOST:PORT,...")]
    brokers: String,
    /// Of the topic, if it has to be created
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Patient, user or sensor as record key; off: partitions take turns, so that duplicates land in different ones
    #[arg(long, value_enum, default_value = "on")]
    key: Key,
    /// The same as --key on
    #[arg(long, conflicts_with_all = ["unkeyed", "key"])]
    keyed: bool,
    /// The same as --key off
    #[arg(long, conflicts_with = "key")]
    unkeyed: bool,
}

#[derive(clap::Args)]
struct Pace {
    /// Messages a second; without it, as fast as possible
    #[arg(long)]
    rate: Option<f64>,
    /// Messages in all
    #[arg(long)]
    count: Option<u64>,
    /// No new ones after this time, such as 60s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    length: Option<Duration>,
    /// The same in seconds
    #[arg(long, conflicts_with = "length", value_parser = seconds)]
    seconds: Option<Duration>,
    /// The same bytes again, 50 to 200 ms later
    #[arg(long, value_name = "SHARE", default_value = "0.3", value_parser = share)]
    duplicates: f64,
    /// Records that must become dead letters
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    invalid: f64,
    /// Good records whose event time lies 15 minutes back
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    late: f64,
    /// The same seed gives the same values in the same order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the rows that must be stored to FILE (CSV without header, columns in the order of the job's [fields]) and
    /// the figures to FILE.json
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Key {
    On,
    Off,
}

impl Pace {
    fn mix(&self, corrections: f64) -> Mix {
        let Pace { seed, count, rate, duplicates, invalid, late, .. } = *self;
        Mix { seed, count, rate, duplicates, corrections, invalid, late }
    }

    /// How long at most; an error where there is no end and no rate.
    fn length(&self) -> Result<Option<Duration>, Failure> {
        let length = self.length.or(self.seconds);
        if self.rate.is_none() && self.count.is_none() && length.is_none() {
            let how = "say how much: --count, --for or --rate (which then runs until Ctrl-C)";
            return Err(Failure::Usage(how.to_owned()));
        }
        Ok(length)
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let summary = match arguments.what {
        What::Vitals(Vitals { topic, patients, corrections, pace, to }) => {
            send(vitals(VitalsOptions { mix: pace.mix(corrections), patients }), topic, pace, to).await?
        }
        What::Ecommerce(Ecommerce { topic, users, pace, to }) => {
            send(shop(ShopOptions { mix: pace.mix(0.0), users }), topic, pace, to).await?
        }
        What::Iot(Iot { topic, sensors: count, pace, to }) => {
            send(sensors(SensorsOptions { mix: pace.mix(0.0), sensors: count }), topic, pace, to).await?
        }
        What::WardFiles(files) => return output::values(global.output, &write(files).await?),
    };
    output::values(global.output, &summary)
}

async fn send<S: Subject>(
    stream: Result<Stream<S>, String>,
    topic: String,
    pace: Pace,
    to: ToTopic,
) -> Result<Summary, Failure> {
    let length = pace.length()?;
    let stream = stream.map_err(Failure::Usage)?;
    let keyed = to.keyed || (to.key == Key::On && !to.unkeyed);
    let options = GeneratorOptions { brokers: to.brokers, topic, partitions: to.partitions, keyed, length };
    let stop = CancellationToken::new();
    stop_on_signal(&stop, exit_at_once)?;
    let rows = Rows::create(pace.expected.as_deref())?;
    let summary = generate(stream, options, stop, rows.watch()).await?;
    rows.finish(&summary)?;
    Ok(summary)
}

#[derive(Serialize)]
struct FilesSummary {
    #[serde(flatten)]
    files: Summary,
    /// Of the files that count, corrected ones once.
    records: u64,
    bad_records: u64,
}

async fn write(files: WardFiles) -> Result<FilesSummary, Failure> {
    let WardFiles { out, patients, records, bad_records, corrections, pace } = files;
    let length = pace.length()?;
    let mix = pace.mix(corrections);
    let stream = ward(WardOptions { mix, patients, records, bad_records }).map_err(Failure::Usage)?;
    let folder = Folder::create(&out)?;
    let stop = CancellationToken::new();
    stop_on_signal(&stop, exit_at_once)?;
    let rows = Rows::create(pace.expected.as_deref())?;
    let mut watched = rows.watch();
    let written = tokio::task::spawn_blocking(move || {
        let (mut records, mut bad_records) = (0, 0);
        let count = |message: &Message<Batch>, counts: Counts| {
            let (good, bad) = message.row.as_ref().map_or((0, 0), Batch::counts);
            records += good;
            bad_records += bad;
            watched(message, counts)
        };
        let files = generator::run(stream, folder, length, &stop, count)?;
        anyhow::Ok(FilesSummary { files, records, bad_records })
    });
    let summary = written.await??;
    rows.finish(&summary.files)?;
    Ok(summary)
}

/// The file of the rows that are expected, if one is asked for.
struct Rows(Arc<Mutex<Option<Expected>>>);

impl Rows {
    fn create(file: Option<&Path>) -> anyhow::Result<Rows> {
        Ok(Rows(Arc::new(Mutex::new(file.map(Expected::create).transpose()?))))
    }

    /// What sees every message: shows the progress and writes the rows.
    fn watch<R: Record>(&self) -> impl FnMut(&Message<R>, Counts) -> anyhow::Result<()> + Send + use<R> {
        let (rows, mut progress) = (Arc::clone(&self.0), Progress::new());
        move |message, counts| {
            if let Some(rows) = &mut *rows.lock().map_err(|_| anyhow!("the file of expected rows is lost"))? {
                rows.add(message)?;
            }
            progress.show(counts)
        }
    }

    fn finish(self, summary: &Summary) -> anyhow::Result<()> {
        let rows = self.0.lock().map_err(|_| anyhow!("the file of expected rows is lost"))?.take();
        rows.map_or(Ok(()), |rows| rows.finish(summary))
    }
}

/// A line on the terminal, once a second.
struct Progress {
    terminal: bool,
    shown: Instant,
    before: u64,
}

impl Progress {
    fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), shown: Instant::now(), before: 0 }
    }

    fn show(&mut self, counts: Counts) -> anyhow::Result<()> {
        // The clock is not free, and nobody reads faster.
        if !self.terminal || !counts.messages.is_multiple_of(16) || self.shown.elapsed() < Duration::from_secs(1) {
            return Ok(());
        }
        let rate = (counts.messages - self.before) as f64 / self.shown.elapsed().as_secs_f64();
        (self.shown, self.before) = (Instant::now(), counts.messages);
        Ok(writeln!(std::io::stderr().lock(), "{} messages, {rate:.0}/s", counts.messages)?)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// `0.3` or `30%`
fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    match number.trim().parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&(number / unit)) => Ok(number / unit),
        _ => Err("a share is a number from 0 to 1, or 0% to 100%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fractions_or_percent() {
        assert_eq!(share("0.3"), Ok(0.3));
        assert_eq!(share("30%"), Ok(0.3));
        for wrong in ["30", "-1%", "101%", "x", "", "NaN"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
