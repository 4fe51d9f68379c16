//! Sends generated vital signs at their pace, and writes down which rows must come out.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::sender::Sender;
use crate::vitals::{Counts, Message, Vitals, VitalsOptions};

/// The longest sleep between two looks at the stop token.
const NAP: Duration = Duration::from_millis(50);

/// Where to send what.
#[derive(Debug, Clone)]
pub struct GeneratorOptions {
    pub brokers: String,
    pub topic: String,
    /// Of the topic, if it has to be created.
    pub partitions: u32,
    /// With the patient as key. Without, partitions take turns, so that duplicates land in different ones.
    pub keyed: bool,
    pub vitals: VitalsOptions,
    /// No new readings after this time.
    pub length: Option<Duration>,
}

/// What was sent, every message of it acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    #[serde(flatten)]
    pub counts: Counts,
    /// Microseconds since 1970.
    pub from_us: i64,
    pub until_us: i64,
    pub per_second: u64,
}

/// Runs until the count or the length is reached or `stop` is cancelled, then sends the duplicates and corrections that
/// are due, and waits for delivery. `sent` sees every message before it is queued.
pub async fn generate(
    options: GeneratorOptions,
    stop: CancellationToken,
    sent: impl FnMut(&Message, Counts) -> Result<()> + Send + 'static,
) -> Result<Summary> {
    let vitals = Vitals::new(options.vitals.clone()).map_err(|why| anyhow!(why))?;
    let sender = Sender::connect(&options.brokers, &options.topic, options.partitions).await?;
    tokio::task::spawn_blocking(move || run(&options, vitals, sender, &stop, sent)).await?
}

fn run(
    options: &GeneratorOptions,
    mut vitals: Vitals,
    mut sender: Sender,
    stop: &CancellationToken,
    mut sent: impl FnMut(&Message, Counts) -> Result<()>,
) -> Result<Summary> {
    let (began, from_us) = (Instant::now(), now_us()?);
    while let Some(due) = vitals.due() {
        if stop.is_cancelled() || options.length.is_some_and(|length| began.elapsed() >= length) {
            vitals.finish();
        }
        let wait = due.saturating_sub(began.elapsed());
        if !wait.is_zero() {
            // Look again afterwards: the stop may have changed what is next.
            std::thread::sleep(wait.min(NAP));
            if wait > NAP {
                continue;
            }
        }
        let Some(message) = vitals.next(now_us()?) else { break };
        sent(&message, vitals.counts())?;
        let key = options.keyed.then_some(message.key.as_bytes());
        sender.send(key, &message.payload, Some(message.timestamp_ms))?;
    }
    sender.finish()?;
    let (counts, until_us) = (vitals.counts(), now_us()?);
    let per_second = (counts.messages as f64 / began.elapsed().as_secs_f64()).round() as u64;
    Ok(Summary { counts, from_us, until_us, per_second })
}

fn now_us() -> Result<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(i64::try_from(since.as_micros())?)
}

/// The rows that must be stored, as a CSV file without a header, and the figures beside it.
pub struct Expected {
    path: PathBuf,
    rows: BufWriter<File>,
}

impl Expected {
    pub fn create(path: &Path) -> Result<Expected> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Expected { path: path.to_owned(), rows: BufWriter::with_capacity(1 << 20, file) })
    }

    pub fn add(&mut self, message: &Message) -> Result<()> {
        match &message.row {
            Some(row) => Ok(self.rows.write_all(row.csv().as_bytes())?),
            None => Ok(()),
        }
    }

    /// Writes `FILE.json`.
    pub fn finish(mut self, summary: &Summary) -> Result<()> {
        self.rows.flush()?;
        let mut name = self.path.into_os_string();
        name.push(".json");
        std::fs::write(&name, serde_json::to_string(summary)? + "\n")?;
        Ok(())
    }
}
