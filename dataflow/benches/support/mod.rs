//! The health job and messages of its form.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pulso_core::ids::{Position, SplitId};
use pulso_dataflow::decode::RawRecord;
use pulso_job::{JobSpec, Submission, check};

pub(crate) struct Record {
    split: u32,
    pub(crate) value: Vec<u8>,
}

impl Record {
    pub(crate) fn raw(&self, position: i64) -> RawRecord<'_> {
        RawRecord {
            split: SplitId(self.split),
            position: Position(position),
            timestamp_ms: 1_700_000_000_000,
            key: None,
            value: Some(&self.value),
        }
    }
}

/// `duplicates` percent repeat one of the thousand records before them.
pub(crate) fn records(count: usize, duplicates: u64) -> Vec<Record> {
    let mut random = 88_172_645_463_325_252u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut records: Vec<Record> = Vec::with_capacity(count);
    for n in 0..count {
        let value = if n > 0 && next() % 100 < duplicates {
            let back = 1 + (next() as usize) % n.min(1_000);
            records[n - back].value.clone()
        } else {
            let (patient, time) = (next() % 1_000, 1_699_990_000_000 + n as u64);
            let (rate, temperature, oxygen) = (40 + next() % 100, 350 + next() % 50, 900 + next() % 100);
            format!(
                "{{\"patientId\": \"patient-{patient:06}\", \"timestamp\": {time}, \"heartRate\": {rate}.5, \"temperature\": \
                 {}.{}, \"oxygenSaturation\": {}.{}, \"large_data\": \"a note of forty characters, more or less\"}}",
                temperature / 10, temperature % 10, oxygen / 10, oxygen % 10
            )
            .into_bytes()
        };
        records.push(Record { split: (n % 6) as u32, value });
    }
    records
}

pub(crate) fn job(changed: &str) -> Arc<JobSpec> {
    let toml = include_str!("../../../jobs/health-records.toml")
        .replace("changed = \"update\"", &format!("changed = \"{changed}\""));
    let environment = BTreeMap::from([("DATABASE_URL".to_owned(), "postgres://localhost/bench".to_owned())]);
    match check(
        &Submission { toml, environment, folder: String::new(), ..Submission::default() },
        "health-records.toml",
    ) {
        Ok((job, _)) => Arc::new(job),
        Err(mistakes) => panic!("{}", mistakes.render(false)),
    }
}

/// `cargo test --benches` runs benchmarks too: there they only have to work.
pub(crate) fn size(measured: usize) -> usize {
    if std::env::args().any(|argument| argument == "--bench") { measured } else { measured / 50 }
}

/// Time on the processor where Linux tells it, so that other work of the machine does not count; else time on the wall.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn measure<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let on_processor = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    let (before, begun) = (on_processor(), Instant::now());
    let made = run();
    let time = before.zip(on_processor()).map_or_else(|| begun.elapsed(), |(before, after)| after - before);
    (made, time)
}
