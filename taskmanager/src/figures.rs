//! Figures for the eyes, sent with every heartbeat. Nothing is decided by them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pulso_core::ids::{Attempt, JobId, Position, SplitId, TargetId};
use pulso_proto::convert::id_bytes;
use pulso_proto::v1;

/// What the tasks of this process have told of themselves; a clone tells of the same.
#[derive(Clone)]
pub(crate) struct Figures {
    memory_limit: u64,
    jobs: Arc<Mutex<BTreeMap<JobId, JobFigures>>>,
}

#[derive(Default)]
pub(crate) struct JobFigures {
    pub(crate) attempt: Attempt,
    pub(crate) splits: BTreeMap<SplitId, SplitFigures>,
    pub(crate) records_read: u64,
    pub(crate) rows_committed: u64,
    pub(crate) backpressured: bool,
    pub(crate) state_bytes: u64,
    latency: Latency,
    pub(crate) target_troubles: BTreeMap<TargetId, String>,
}

#[derive(Default)]
pub(crate) struct SplitFigures {
    /// Of the next record to read.
    pub(crate) position: Position,
    pub(crate) high_watermark: Option<i64>,
    pub(crate) trouble: String,
}

impl Figures {
    pub(crate) fn new(memory_limit: u64) -> Self {
        Self { memory_limit, jobs: Arc::default() }
    }

    /// Changes the figures of a job; an older attempt's are no longer of interest.
    pub(crate) fn tell(&self, job: JobId, attempt: Attempt, change: impl FnOnce(&mut JobFigures)) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = jobs.entry(job).or_default();
        if figures.attempt < attempt {
            *figures = JobFigures { attempt, ..JobFigures::default() };
        }
        if figures.attempt == attempt {
            change(figures);
        }
    }

    /// Forgets the other jobs.
    pub(crate) fn retain(&self, keep: impl Fn(&JobId) -> bool) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).retain(|job, _| keep(job));
    }

    pub(crate) fn read(&self) -> v1::Figures {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let (memory_bytes, cpu_ms) = process();
        v1::Figures {
            memory_bytes,
            memory_limit_bytes: self.memory_limit,
            cpu_ms,
            jobs: jobs.iter().map(|(job, figures)| figures.read(*job)).collect(),
        }
    }
}

/// From a record's broker timestamp to its commit, over the newest samples.
#[derive(Default)]
struct Latency {
    count: u64,
    newest: VecDeque<u64>,
}

/// At 2,000 records a second and a few samples an epoch: the last half minute.
const SAMPLES: usize = 4096;

impl Latency {
    fn observe(&mut self, micros: u64) {
        self.count += 1;
        if self.newest.len() == SAMPLES {
            self.newest.pop_front();
        }
        self.newest.push_back(micros);
    }

    fn read(&self) -> Option<v1::Latency> {
        let mut sorted: Vec<u64> = self.newest.iter().copied().collect();
        sorted.sort_unstable();
        let quantile = |q: usize| sorted.get((sorted.len() * q / 100).min(sorted.len().saturating_sub(1))).copied();
        Some(v1::Latency { count: self.count, p50_us: quantile(50)?, p95_us: quantile(95)?, p99_us: quantile(99)? })
    }
}

impl JobFigures {
    /// Rows of records with these broker timestamps (milliseconds) were committed just now.
    pub(crate) fn committed(&mut self, timestamps_ms: impl Iterator<Item = i64>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        for timestamp in timestamps_ms {
            let sent = u128::try_from(timestamp).unwrap_or(0) * 1000;
            self.latency.observe(u64::try_from(now.saturating_sub(sent)).unwrap_or(u64::MAX));
        }
    }

    /// Why commits to a target wait; `None` while all is well.
    pub(crate) fn trouble(&mut self, target: TargetId, trouble: Option<String>) {
        match trouble {
            Some(trouble) => self.target_troubles.insert(target, trouble),
            None => self.target_troubles.remove(&target),
        };
    }

    fn read(&self, job: JobId) -> v1::JobFigures {
        v1::JobFigures {
            job: id_bytes(job.0),
            attempt: self.attempt.0,
            splits: self
                .splits
                .iter()
                .map(|(split, figures)| v1::SplitFigures {
                    split: split.0,
                    position: figures.position.0,
                    high_watermark: figures.high_watermark,
                    trouble: figures.trouble.clone(),
                })
                .collect(),
            records_read: self.records_read,
            rows_committed: self.rows_committed,
            state_bytes: self.state_bytes,
            backpressured: self.backpressured,
            latency: self.latency.read(),
            targets: self
                .target_troubles
                .iter()
                .map(|(target, trouble)| v1::TargetFigures { target: target.0.into(), trouble: trouble.clone() })
                .collect(),
        }
    }
}

/// Resident bytes and processor milliseconds of this process; zero where the system does not tell.
fn process() -> (u64, u64) {
    const PAGE: u64 = 4096;
    /// `USER_HZ`, fixed at 100 on Linux for programs.
    const TICKS_PER_SECOND: u64 = 100;
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    let resident = std::fs::read_to_string("/proc/self/statm")
        .map(|text| number(text.split_whitespace().nth(1)) * PAGE)
        .unwrap_or(0);
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th field behind it.
    let ticks = std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|text| {
            let fields = text.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
            Some(fields.map(|field| number(Some(field))).sum::<u64>())
        })
        .unwrap_or(0);
    (resident, ticks * 1000 / TICKS_PER_SECOND)
}
