//! `healthctl demo`: servers, a cluster and the health job with generated data, all on this machine.

mod cluster;
mod verify;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use pulso_cli::generator::{Expected, GeneratorOptions, Summary, generate};
use pulso_cli::vitals::VitalsOptions;
use pulso_job::Submission;
use pulso_proto::v1;
use pulso_servers::{Kafka, KafkaOptions, Postgres, PostgresOptions};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::cluster::Cluster;
use self::verify::{Latency, Verification};
use crate::Global;
use crate::commands::stop_on_signal;
use crate::failure::Failure;
use crate::output::{self, Format};

const JOB: &str = include_str!("../../../jobs/health-records.toml");
const TOPIC: &str = "health-data";
const PARTITIONS: u32 = 8;
/// Until the cluster and the job are up.
const START: Duration = Duration::from_secs(60);
/// Until everything that was sent is in the table.
const DRAIN: Duration = Duration::from_secs(120);

/// Run the health job on real servers with generated data; Ctrl-C drains and cleans up
///
/// Starts Kafka, PostgreSQL, one JobManager and two TaskManagers as processes in a temporary folder. With --for it kills
/// a TaskManager half-way, starts another, drains, and compares every row with what was generated.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run this long, kill a TaskManager half-way, verify, and end
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    length: Option<Duration>,
    /// Messages a second
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Use these brokers instead of starting Kafka
    #[arg(long, value_name = "HOST:PORT,...")]
    brokers: Option<String>,
    /// Use this database instead of starting PostgreSQL; its table health_records must be this demo's own
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    task_managers: u32,
    /// Port of the status page; 0 takes a free one
    #[arg(long, default_value_t = 8081)]
    http_port: u16,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What `demo --for` measured and found.
#[derive(Serialize)]
struct Report {
    /// Messages sent.
    records: u64,
    rows: u64,
    duplicates: u64,
    corrections: u64,
    dead_letters: u64,
    /// From the send time in the message to the commit, as PostgreSQL recorded it.
    latency_ms: Option<Latency>,
    /// Longest time without a committed row around the kill.
    failover_ms: Option<f64>,
    /// Every record read is accounted for.
    conserved: bool,
    /// The table equals what was generated, value by value.
    verified: bool,
    differences: Vec<String>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let folder = pulso_servers::temporary_folder()?;
    let servers = Servers::start(folder.path(), &arguments).await?;
    let mut cluster = Cluster::start(folder.path(), arguments.http_port)?;
    let outcome = show(&arguments, &servers, &mut cluster, folder.path(), &stop).await;
    if outcome.is_err() {
        cluster.print_log_tails();
    }
    say("stopping");
    cluster.stop().await;
    servers.stop().await?;
    let report = outcome?;
    print(global.output, &report)?;
    if report.verified && report.conserved { Ok(()) } else { Err(Failure::Reported) }
}

async fn show(
    arguments: &Arguments,
    servers: &Servers,
    cluster: &mut Cluster,
    folder: &Path,
    stop: &CancellationToken,
) -> Result<Report> {
    for _ in 0..arguments.task_managers {
        cluster.start_task_manager()?;
    }
    cluster.wait_for_task_managers(arguments.task_managers as usize, START).await?;
    let expected_rows = folder.join("expected.csv");
    let generator = spawn_generator(arguments, &servers.brokers, &expected_rows, stop)?;
    let submission = Submission {
        toml: JOB.to_owned(),
        environment: [
            ("KAFKA_BROKERS".to_owned(), servers.brokers.clone()),
            ("DATABASE_URL".to_owned(), servers.database_url.clone()),
        ]
        .into(),
    };
    let name = cluster.submit(submission, START).await?;
    say(&format!("job {name} runs: {} messages a second into topic {TOPIC}", arguments.rate));
    say(&format!("status page: http://127.0.0.1:{}", cluster.http_port()));
    say("try: kill -9 a TaskManager (pids below), or Ctrl-C to drain and verify");
    let database = verify::connect(&servers.database_url).await?;
    let killed = watch(arguments, cluster, &database, &name, stop).await?;
    stop.cancel();
    let summary = generator.await.context("the generator panicked")??;
    say(&format!("{} messages sent; waiting until they are in the table", summary.counts.messages));
    let job = drain(cluster, &name, &summary).await?;
    let verification = verify::compare(&database, &expected_rows).await?;
    Ok(report(&summary, &job, verification, verify::latency(&database).await?, failover(&database, killed).await?))
}

/// Until the time is up or Ctrl-C: a line a second on the terminal. Returns when a TaskManager was killed.
async fn watch(
    arguments: &Arguments,
    cluster: &mut Cluster,
    database: &tokio_postgres::Client,
    name: &str,
    stop: &CancellationToken,
) -> Result<Option<SystemTime>> {
    let began = Instant::now();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut killed = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = second.tick() => {}
        }
        if let Ok(job) = cluster.job(name).await {
            show_line(&job, verify::recent_latency(database).await.ok().flatten(), &cluster.pids());
        }
        let Some(length) = arguments.length else { continue };
        if killed.is_none() && began.elapsed() >= length / 2 {
            killed = Some(SystemTime::now());
            let pid = cluster.kill_task_manager().await?;
            say(&format!("killed TaskManager {pid} with SIGKILL; starting another"));
            cluster.start_task_manager()?;
        }
        if began.elapsed() >= length {
            break;
        }
    }
    Ok(killed)
}

fn spawn_generator(
    arguments: &Arguments,
    brokers: &str,
    rows: &Path,
    stop: &CancellationToken,
) -> Result<tokio::task::JoinHandle<Result<Summary>>> {
    let options = GeneratorOptions {
        brokers: brokers.to_owned(),
        topic: TOPIC.to_owned(),
        partitions: PARTITIONS,
        keyed: false,
        vitals: VitalsOptions {
            seed: arguments.seed,
            patients: 1000,
            count: None,
            rate: Some(arguments.rate),
            duplicates: 0.3,
            corrections: 0.02,
            invalid: 0.01,
            late: 0.01,
        },
        length: None,
    };
    let expected = Arc::new(Mutex::new(Expected::create(rows)?));
    let (written, stop) = (Arc::clone(&expected), stop.clone());
    Ok(tokio::spawn(async move {
        let summary = generate(options, stop, move |message, _| {
            written.lock().unwrap_or_else(PoisonError::into_inner).add(message)
        })
        .await?;
        let expected = Arc::into_inner(expected).context("the generator is still writing")?;
        expected.into_inner().unwrap_or_else(PoisonError::into_inner).finish(&summary)?;
        Ok(summary)
    }))
}

/// Waits until every record that was sent is accounted for and committed.
async fn drain(cluster: &mut Cluster, name: &str, summary: &Summary) -> Result<v1::JobSummary> {
    let until = Instant::now() + DRAIN;
    loop {
        let job = cluster.job(name).await;
        match job {
            Ok(job) if job.status() == v1::JobStatus::Failed => bail!("the job failed: {}", job.reason),
            Ok(job) if job.records_read >= summary.counts.messages && job.in_flight == 0 => return Ok(job),
            Ok(job) if Instant::now() > until => {
                bail!("{} of {} records were read after {DRAIN:?}", job.records_read, summary.counts.messages)
            }
            Err(e) if Instant::now() > until => return Err(e),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn failover(database: &tokio_postgres::Client, killed: Option<SystemTime>) -> Result<Option<f64>> {
    match killed {
        None => Ok(None),
        Some(at) => {
            let us = i64::try_from(at.duration_since(UNIX_EPOCH)?.as_micros())?;
            verify::longest_gap(database, us).await
        }
    }
}

fn report(
    summary: &Summary,
    job: &v1::JobSummary,
    verification: Verification,
    latency_ms: Option<Latency>,
    failover_ms: Option<f64>,
) -> Report {
    let counters = job.counters.unwrap_or_default();
    Report {
        records: summary.counts.messages,
        rows: verification.rows,
        duplicates: counters.duplicates,
        corrections: counters.corrections,
        dead_letters: counters.dead_letters,
        latency_ms,
        failover_ms,
        conserved: job.conserved && job.records_read == summary.counts.messages,
        verified: verification.differences.is_empty(),
        differences: verification.differences,
    }
}

fn print(format: Format, report: &Report) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(report);
    }
    let ms = |value: f64| format!("{value:.1} ms");
    let latency = report.latency_ms.as_ref().map_or_else(
        || "unknown (track_commit_timestamp is off)".to_owned(),
        |l| format!("p50 {}, p95 {}, p99 {}", ms(l.p50), ms(l.p95), ms(l.p99)),
    );
    let mut rows = vec![
        ("records", report.records.to_string()),
        ("rows", report.rows.to_string()),
        ("duplicates", report.duplicates.to_string()),
        ("corrections", report.corrections.to_string()),
        ("dead letters", report.dead_letters.to_string()),
        ("latency", latency),
        ("failover", report.failover_ms.map_or_else(|| "nothing was killed".to_owned(), ms)),
        ("conserved", if report.conserved { "yes" } else { "NO" }.to_owned()),
        ("verified", if report.verified { "yes: every row, by value" } else { "NO" }.to_owned()),
    ];
    rows.extend(report.differences.iter().map(|difference| ("difference", difference.clone())));
    let lines: Vec<String> = rows.into_iter().map(|(name, value)| format!("{name:13} {value}")).collect();
    output::line(&lines.join("\n"))
}

/// On a terminal the line is written over itself.
fn show_line(job: &v1::JobSummary, latency: Option<f64>, pids: &str) {
    let counters = job.counters.unwrap_or_default();
    let latency = latency.map_or_else(String::new, |ms| format!("  p50 {ms:.0} ms"));
    let line = format!(
        "{} {}  read {}  rows {}  duplicates {}  corrections {}  dead letters {}  in flight {}{latency}  TaskManagers {pids}",
        job.name,
        job.phase,
        job.records_read,
        counters.written - counters.corrections,
        counters.duplicates,
        counters.corrections,
        counters.dead_letters,
        job.in_flight,
    );
    let mut out = std::io::stderr().lock();
    let written = if out.is_terminal() { write!(out, "\r\x1b[2K{line}") } else { writeln!(out, "{line}") };
    // Nobody may be looking.
    written.and_then(|()| out.flush()).ok();
}

fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    let start = if out.is_terminal() { "\r\x1b[2K" } else { "" };
    writeln!(out, "{start}{text}").ok();
}

/// Kafka and PostgreSQL, started here or given.
struct Servers {
    brokers: String,
    database_url: String,
    kafka: Option<Kafka>,
    postgres: Option<Postgres>,
}

impl Servers {
    async fn start(folder: &Path, arguments: &Arguments) -> Result<Self> {
        let kafka = async {
            if arguments.brokers.is_some() {
                return Ok(None);
            }
            say("starting Kafka");
            let options = KafkaOptions { partitions: PARTITIONS, ..KafkaOptions::new(folder.join("kafka")) };
            Kafka::start(options).await.map(Some)
        };
        let postgres = async {
            if arguments.database_url.is_some() {
                return Ok(None);
            }
            say("starting PostgreSQL");
            Postgres::start(PostgresOptions::new(folder.join("postgres"), "health")).await.map(Some)
        };
        let (kafka, postgres) = tokio::try_join!(kafka, postgres)?;
        let given = |option: &Option<String>| option.clone().unwrap_or_default();
        Ok(Self {
            brokers: kafka.as_ref().map_or_else(|| given(&arguments.brokers), |k| k.brokers().to_owned()),
            database_url: postgres.as_ref().map_or_else(|| given(&arguments.database_url), |p| p.url().to_owned()),
            kafka,
            postgres,
        })
    }

    async fn stop(self) -> Result<()> {
        if let Some(kafka) = self.kafka {
            kafka.stop().await?;
        }
        if let Some(mut postgres) = self.postgres {
            postgres.stop_fast().await?;
        }
        Ok(())
    }
}
