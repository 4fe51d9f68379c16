//! The overview as Prometheus metrics. Names are a promise: a test holds them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::overview::{Job, Overview};

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<i64>>;
type Ratios = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// OpenMetrics text.
pub(crate) fn render(overview: &Overview) -> Result<String, fmt::Error> {
    let mut metrics = Metrics::default();
    metrics.cluster(overview);
    // Several ended jobs may have had one name; the first one listed is the one that counts.
    let mut names = BTreeSet::new();
    for job in overview.jobs.iter().filter(|job| names.insert(job.name.as_str())) {
        metrics.job(job);
    }
    let mut registry = Registry::with_prefix("pulso");
    metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Default)]
struct Metrics {
    leading: Gauge<i64>,
    task_managers: Gauge<i64>,
    memory: Gauges,
    jobs: Gauges,
    read: Counters,
    records: Counters,
    corrections: Counters,
    late: Counters,
    in_flight: Gauges,
    conserved: Gauges,
    lag: Gauges,
    split_lag: Gauges,
    epoch: Gauges,
    attempt: Gauges,
    watermark: Ratios,
    checkpoint_taken: Ratios,
    checkpoint_size: Gauges,
    state: Gauges,
    backpressured: Gauges,
    latency: Ratios,
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

impl Metrics {
    fn cluster(&mut self, overview: &Overview) {
        self.leading.set(overview.leading.into());
        self.task_managers.set(signed(overview.task_managers.len() as u64));
        for member in &overview.task_managers {
            if let Some(bytes) = member.memory_bytes {
                self.memory.get_or_create(&vec![("task_manager", member.name.clone())]).set(signed(bytes));
            }
        }
        for job in &overview.jobs {
            let status = format!("{:?}", job.status).to_lowercase();
            self.jobs.get_or_create(&vec![("status", status)]).inc();
        }
    }

    fn job(&mut self, job: &Job) {
        let of = || ("job", job.name.clone());
        let labels = vec![of()];
        let line = &job.conservation;
        self.read.get_or_create(&labels).inc_by(line.read);
        for (outcome, records) in [
            ("written", line.written),
            ("filtered", line.filtered),
            ("duplicate", line.duplicates),
            ("superseded", line.superseded),
            ("dead_letter", line.dead_letters),
        ] {
            self.records.get_or_create(&vec![of(), ("outcome", outcome.to_owned())]).inc_by(records);
        }
        self.corrections.get_or_create(&labels).inc_by(line.corrections);
        self.late.get_or_create(&labels).inc_by(line.late);
        self.in_flight.get_or_create(&labels).set(signed(line.in_flight));
        if let Some(adds_up) = line.adds_up {
            self.conserved.get_or_create(&labels).set(adds_up.into());
        }
        if let Some(lag) = job.lag {
            self.lag.get_or_create(&labels).set(signed(lag));
        }
        for split in &job.splits {
            if let Some(lag) = split.lag {
                self.split_lag.get_or_create(&vec![of(), ("split", split.split.to_string())]).set(signed(lag));
            }
        }
        for (state, epoch) in [("sealed", job.epochs.sealed), ("committed", job.epochs.committed)] {
            self.epoch.get_or_create(&vec![of(), ("state", state.to_owned())]).set(signed(epoch));
        }
        self.attempt.get_or_create(&labels).set(signed(job.attempt));
        if let Some(ms) = job.watermark_ms {
            self.watermark.get_or_create(&labels).set(seconds(ms));
        }
        if let Some((checkpoint, taken)) = job.checkpoints.iter().find_map(|c| Some((c, c.taken_ms?))) {
            self.checkpoint_taken.get_or_create(&labels).set(seconds(taken));
            self.checkpoint_size.get_or_create(&labels).set(signed(checkpoint.bytes));
        }
        self.state.get_or_create(&labels).set(signed(job.state_bytes));
        self.backpressured.get_or_create(&labels).set(job.backpressured.into());
        if let Some(latency) = job.latency {
            for (quantile, us) in [("0.5", latency.p50_us), ("0.95", latency.p95_us), ("0.99", latency.p99_us)] {
                let labels = vec![of(), ("quantile", quantile.to_owned())];
                self.latency.get_or_create(&labels).set(us as f64 / 1e6);
            }
        }
    }

    fn register(self, registry: &mut Registry) {
        registry.register("leading", "1 where this JobManager leads", self.leading);
        registry.register("task_managers", "Registered TaskManagers", self.task_managers);
        let resident = "Resident memory of a TaskManager";
        registry.register_with_unit("task_manager_memory", resident, Unit::Bytes, self.memory);
        registry.register("jobs", "Jobs by status", self.jobs);
        registry.register("job_records_read", "Records in sealed epochs", self.read);
        registry.register("job_records", "Records by what became of them", self.records);
        registry.register("job_corrections", "Of the written records, those that replaced values", self.corrections);
        registry.register("job_late", "Records too late for a window, once for each aggregate", self.late);
        registry.register("job_records_in_flight", "Records read and not accounted for yet", self.in_flight);
        registry.register("job_conserved", "1 where read and accounted for add up", self.conserved);
        registry.register("job_lag_records", "Records at the source and not in a sealed epoch", self.lag);
        registry.register("job_split_lag_records", "The same for each split", self.split_lag);
        registry.register("job_epoch", "Newest sealed and committed epoch", self.epoch);
        registry.register("job_attempt", "Number of the placement", self.attempt);
        let watermark = "Event time up to which input is complete, since 1970";
        registry.register_with_unit("job_watermark", watermark, Unit::Seconds, self.watermark);
        let taken = "When the newest checkpoint was complete, since 1970";
        registry.register_with_unit("job_checkpoint_time", taken, Unit::Seconds, self.checkpoint_taken);
        let size = "Size of the newest checkpoint";
        registry.register_with_unit("job_checkpoint_size", size, Unit::Bytes, self.checkpoint_size);
        registry.register_with_unit("job_state", "State of all key groups", Unit::Bytes, self.state);
        registry.register("job_backpressured", "1 while input waits for commits", self.backpressured);
        let latency = "From a record's broker timestamp to its commit";
        registry.register_with_unit("job_latency", latency, Unit::Seconds, self.latency);
    }
}
