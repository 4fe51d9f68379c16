use pulso_core::coordinator::{EpochsView, KeyGroupView, MemberView, SplitView};
use pulso_core::ids::{self, Epoch, Position, SplitId};
use pulso_core::message::Counters;
use uuid::Uuid;

use super::*;

const JOB: JobId = JobId(Uuid::from_u128(1));
const ONE: TaskManagerId = TaskManagerId(Uuid::from_u128(11));
const TWO: TaskManagerId = TaskManagerId(Uuid::from_u128(12));

fn job() -> JobView {
    let split = |owner| SplitView { position: Position(100), records_read: 40, owner: Some(owner), idle: false };
    JobView {
        id: JOB,
        name: "vitals".to_owned(),
        status: JobStatus::Running,
        changing: false,
        phase: PhaseView::Running,
        reason: None,
        attempt: ids::Attempt(3),
        epochs: EpochsView { open: None, sealed: Epoch(9), committed: Epoch(9) },
        watermark: EventTime::MIN,
        splits: BTreeMap::from([(SplitId(0), split(ONE)), (SplitId(1), split(TWO))]),
        key_groups: BTreeMap::from([(KeyGroupId::default(), KeyGroupView { owner: Some(TWO), epoch: Epoch(9) })]),
        checkpoints: Vec::new(),
        attempts: Vec::new(),
        counters: Counters { written: 60, duplicates: 20, ..Counters::default() },
        settled: true,
        checkpoint_trouble: None,
        lookups: None,
        records_read: 80,
    }
}

fn cluster(jobs: Vec<JobView>) -> ClusterView {
    let member = |task_manager, name: &str| MemberView {
        task_manager,
        name: name.to_owned(),
        exchange: "127.0.0.1:1".to_owned(),
        leaving: false,
    };
    ClusterView { members: vec![member(ONE, "b"), member(TWO, "a")], jobs }
}

fn figures(ends: &[(u32, Option<i64>)], trouble: &str) -> v1::Figures {
    let split = |(split, high_watermark): &(u32, Option<i64>)| v1::SplitFigures {
        split: *split,
        position: 100,
        high_watermark: *high_watermark,
        trouble: trouble.to_owned(),
    };
    let job = v1::JobFigures {
        job: JOB.0.as_bytes().to_vec(),
        splits: ends.iter().map(split).collect(),
        state_bytes: 10,
        ..Default::default()
    };
    v1::Figures { memory_bytes: 7, jobs: vec![job], ..Default::default() }
}

fn overview(figures: &Figures) -> Overview {
    Overview::new(&cluster(vec![job()]), figures, WallTime(5_000_999))
}

#[test]
fn lag_needs_the_end_of_every_split_from_its_owner() {
    let some = BTreeMap::from([(ONE, figures(&[(0, Some(130)), (1, Some(999))], ""))]);
    let overview_of_one = overview(&some);
    let job = &overview_of_one.jobs[0];
    assert_eq!((job.splits[0].lag, job.splits[1].lag, job.lag), (Some(30), None, None));

    let both = BTreeMap::from([(ONE, figures(&[(0, Some(130))], "")), (TWO, figures(&[(1, Some(90))], ""))]);
    let job = &overview(&both).jobs[0];
    // An end below the position is an older figure, not a negative lag.
    assert_eq!((job.splits[1].lag, job.lag, job.state_bytes), (Some(0), Some(30), 20));
}

#[test]
fn task_managers_are_sorted_and_counted() {
    let overview = overview(&BTreeMap::from([(TWO, figures(&[], ""))]));
    let names: Vec<_> = overview.task_managers.iter().map(|tm| (tm.name.as_str(), tm.splits, tm.key_groups)).collect();
    assert_eq!(names, [("a", 1, 1), ("b", 1, 0)]);
    assert_eq!(overview.task_managers[0].memory_bytes, Some(7));
    assert_eq!(overview.task_managers[1].memory_bytes, None);
    assert_eq!(overview.time_ms, 5000);
}

#[test]
fn a_quiet_job_must_add_up() {
    let line = |change: fn(&mut JobView)| {
        let mut job = job();
        change(&mut job);
        Overview::new(&cluster(vec![job]), &BTreeMap::new(), WallTime(0)).jobs[0].conservation.adds_up
    };
    assert_eq!(line(|_| {}), Some(true));
    assert_eq!(line(|job| job.counters.written = 59), Some(false));
    assert_eq!(line(|job| job.counters.written = 61), Some(false));
    // In flight.
    assert_eq!(line(|job| (job.counters.written, job.settled) = (59, false)), Some(true));
    // This JobManager has heard of no counters yet.
    assert_eq!(line(|job| job.counters = Counters::default()), None);
}

#[test]
fn troubles_are_told_once() {
    let both = BTreeMap::from([
        (ONE, figures(&[(0, None), (2, None)], "broker down")),
        (TWO, figures(&[(1, None)], "broker down")),
    ]);
    assert_eq!(overview(&both).jobs[0].troubles, ["broker down"]);
}

#[test]
fn the_active_job_of_a_name_comes_first() {
    let ended = JobView { id: JobId(Uuid::from_u128(0)), status: JobStatus::Cancelled, ..job() };
    let overview = Overview::new(&cluster(vec![ended, job()]), &BTreeMap::new(), WallTime(0));
    assert_eq!(overview.job("vitals").map(|job| job.id), Some(JOB));
    assert_eq!(overview.job(&JobId(Uuid::from_u128(0)).to_string()).map(|job| job.status), Some(Status::Cancelled));
}

#[test]
fn metrics_keep_their_names() {
    let mut job = job();
    let checkpoint = CheckpointView {
        id: ids::CheckpointId(1),
        epoch: Epoch(9),
        bytes: 5,
        taken: Some(WallTime(2_500_000)),
        pinned: false,
    };
    job.checkpoints = vec![checkpoint];
    job.watermark = EventTime(1_000_000);
    let mut figures = figures(&[(0, Some(130)), (1, Some(100))], "");
    figures.jobs[0].latency = Some(v1::Latency { p50_us: 1, p95_us: 2000, p99_us: 3, count: 9 });
    let both = BTreeMap::from([(ONE, figures.clone()), (TWO, figures)]);
    let text = crate::metrics::render(&Overview::new(&cluster(vec![job]), &both, WallTime(0))).unwrap();
    let names: std::collections::BTreeSet<&str> =
        text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(['{', ' ']).next()).collect();
    let expected = [
        "pulso_job_attempt",
        "pulso_job_backpressured",
        "pulso_job_checkpoint_size_bytes",
        "pulso_job_checkpoint_time_seconds",
        "pulso_job_conserved",
        "pulso_job_corrections_total",
        "pulso_job_epoch",
        "pulso_job_lag_records",
        "pulso_job_late_total",
        "pulso_job_latency_seconds",
        "pulso_job_records_in_flight",
        "pulso_job_records_read_total",
        "pulso_job_records_total",
        "pulso_job_split_lag_records",
        "pulso_job_state_bytes",
        "pulso_job_watermark_seconds",
        "pulso_jobs",
        "pulso_leading",
        "pulso_task_manager_memory_bytes",
        "pulso_task_managers",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), expected, "{text}");
    assert!(text.contains("pulso_job_records_total{job=\"vitals\",outcome=\"duplicate\"} 20\n"), "{text}");
    assert!(text.contains("pulso_job_latency_seconds{job=\"vitals\",quantile=\"0.95\"} 0.002\n"), "{text}");
}
