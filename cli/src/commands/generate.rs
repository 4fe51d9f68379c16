//! `healthctl generate vitals`

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use pulso_cli::generator::{Expected, GeneratorOptions, Summary, generate};
use pulso_cli::vitals::{Counts, Message, VitalsOptions};
use tokio_util::sync::CancellationToken;

use crate::Global;
use crate::commands::{exit_at_once, stop_on_signal};
use crate::failure::Failure;
use crate::output;

/// Send synthetic data with a known answer to a topic
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Vital signs as `jobs/health-vitals.toml` reads them
    Vitals(Vitals),
}

/// Shares are of all messages: 0.3 or 30%.
#[derive(clap::Args)]
struct Vitals {
    #[arg(long, env = "KAFKA_BROKERS", default_value = "localhost:9092", value_name = "HOST:PORT,...")]
    brokers: String,
    #[arg(long, default_value = "health-data")]
    topic: String,
    /// Of the topic, if it has to be created
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Messages a second; without it, as fast as possible
    #[arg(long)]
    rate: Option<f64>,
    /// Messages in all
    #[arg(long)]
    count: Option<u64>,
    /// No new readings after this time, such as 60s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    length: Option<Duration>,
    /// The same in seconds
    #[arg(long, conflicts_with = "length", value_parser = seconds)]
    seconds: Option<Duration>,
    #[arg(long, default_value_t = 1000)]
    patients: u32,
    /// The same bytes again, 50 to 200 ms later
    #[arg(long, value_name = "SHARE", default_value = "0.3", value_parser = share)]
    duplicates: f64,
    /// The same patient and time with other values, later: these must win
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    corrections: f64,
    /// Records that must become dead letters: out of range, required field missing, malformed, wrong type, no vital
    /// sign, lost signal, from the future
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    invalid: f64,
    /// Good readings whose event time lies 15 minutes back
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    late: f64,
    /// The patient as record key; off: partitions take turns, so that duplicates land in different ones
    #[arg(long, value_enum, default_value = "on")]
    key: Key,
    /// The same as --key on
    #[arg(long, conflicts_with_all = ["unkeyed", "key"])]
    keyed: bool,
    /// The same as --key off
    #[arg(long, conflicts_with = "key")]
    unkeyed: bool,
    /// The same seed gives the same values in the same order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the rows that must be stored to FILE (CSV without header: patient_id, timestamp, heart_rate, temperature,
    /// oxygen_saturation, large_data) and the figures to FILE.json
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Key {
    On,
    Off,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let What::Vitals(vitals) = arguments.what;
    let summary = send(vitals).await?;
    output::values(global.output, &summary)
}

async fn send(vitals: Vitals) -> Result<Summary, Failure> {
    let length = vitals.length.or(vitals.seconds);
    if vitals.rate.is_none() && vitals.count.is_none() && length.is_none() {
        return Err(Failure::Usage("say how much: --count, --for or --rate (which then runs until Ctrl-C)".to_owned()));
    }
    let options = GeneratorOptions {
        brokers: vitals.brokers,
        topic: vitals.topic,
        partitions: vitals.partitions,
        keyed: vitals.keyed || (vitals.key == Key::On && !vitals.unkeyed),
        vitals: VitalsOptions {
            seed: vitals.seed,
            patients: vitals.patients,
            count: vitals.count,
            rate: vitals.rate,
            duplicates: vitals.duplicates,
            corrections: vitals.corrections,
            invalid: vitals.invalid,
            late: vitals.late,
        },
        length,
    };
    pulso_cli::vitals::Vitals::new(options.vitals.clone()).map_err(Failure::Usage)?;
    let stop = CancellationToken::new();
    stop_on_signal(&stop, exit_at_once)?;
    let Some(path) = vitals.expected else {
        let mut progress = Progress::new();
        return Ok(generate(options, stop, move |_, counts| progress.show(counts)).await?);
    };
    let expected = std::sync::Arc::new(std::sync::Mutex::new(Expected::create(&path)?));
    let rows = expected.clone();
    let mut progress = Progress::new();
    let record = move |message: &Message, counts: Counts| {
        rows.lock().map_err(|_| anyhow::anyhow!("the file of expected rows is lost"))?.add(message)?;
        progress.show(counts)
    };
    let summary = generate(options, stop, record).await?;
    let expected = std::sync::Arc::into_inner(expected).and_then(|mutex| mutex.into_inner().ok());
    expected.ok_or_else(|| anyhow::anyhow!("the file of expected rows is still in use"))?.finish(&summary)?;
    Ok(summary)
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
