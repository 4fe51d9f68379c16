//! Sends generated records at their pace, and writes down which rows must come out.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::sender::Sender;
use crate::stream::{Counts, Message, Record, Stream, Subject};

/// The longest sleep between two looks at the stop token.
const NAP: Duration = Duration::from_millis(50);

/// Where to send records, and how long.
#[derive(Debug, Clone)]
pub struct GeneratorOptions {
    pub brokers: String,
    pub topic: String,
    /// Of the topic, if it has to be created.
    pub partitions: u32,
    /// With the record's key. Without, partitions take turns, so that duplicates land in different ones.
    pub keyed: bool,
    /// No new records after this time.
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

/// Where messages go.
pub trait Outlet<R: Record>: Send + 'static {
    fn send(&mut self, message: &Message<R>) -> Result<()>;
    /// Returns when all of them are safe.
    fn finish(self) -> Result<()>;
}

struct Topic {
    sender: Sender,
    keyed: bool,
}

impl<R: Record> Outlet<R> for Topic {
    fn send(&mut self, message: &Message<R>) -> Result<()> {
        let key = self.keyed.then_some(message.key.as_bytes());
        self.sender.send(key, &message.payload, Some(message.timestamp_ms))
    }

    fn finish(self) -> Result<()> {
        self.sender.finish().map(drop)
    }
}

/// Sends the stream to a topic as [`run`] does.
pub async fn generate<S: Subject>(
    stream: Stream<S>,
    options: GeneratorOptions,
    stop: CancellationToken,
    sent: impl FnMut(&Message<S::Record>, Counts) -> Result<()> + Send + 'static,
) -> Result<Summary> {
    let sender = Sender::connect(&options.brokers, &options.topic, options.partitions).await?;
    let topic = Topic { sender, keyed: options.keyed };
    tokio::task::spawn_blocking(move || run(stream, topic, options.length, &stop, sent)).await?
}

/// Runs until the count or the length is reached or `stop` is cancelled, then sends the duplicates and corrections that
/// are due, and waits for delivery. `sent` sees every message before it goes out.
pub fn run<S: Subject>(
    mut stream: Stream<S>,
    mut outlet: impl Outlet<S::Record>,
    length: Option<Duration>,
    stop: &CancellationToken,
    mut sent: impl FnMut(&Message<S::Record>, Counts) -> Result<()>,
) -> Result<Summary> {
    let (began, from_us) = (Instant::now(), now_us()?);
    while let Some(due) = stream.due() {
        if stop.is_cancelled() || length.is_some_and(|length| began.elapsed() >= length) {
            stream.finish();
        }
        let wait = due.saturating_sub(began.elapsed());
        if !wait.is_zero() {
            // Look again afterwards: the stop may have changed what is next.
            std::thread::sleep(wait.min(NAP));
            if wait > NAP {
                continue;
            }
        }
        let Some(message) = stream.next(now_us()?) else { break };
        sent(&message, stream.counts())?;
        outlet.send(&message)?;
    }
    outlet.finish()?;
    let (counts, until_us) = (stream.counts(), now_us()?);
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

    pub fn add<R: Record>(&mut self, message: &Message<R>) -> Result<()> {
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
