//! `healthctl demo`: servers, a cluster and the health job with generated data, all on this machine.

mod belongings;
mod cluster;
mod live;
mod report;
mod servers;
mod verify;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use pulso_cli::generator::{Expected, GeneratorOptions, Summary, generate};
use pulso_cli::stream::Mix;
use pulso_cli::vitals::{VitalsOptions, vitals};
use pulso_proto::v1;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::belongings::Belongings;
use self::cluster::Cluster;
use self::live::{Live, say};
use self::report::Report;
use self::servers::Servers;
use crate::Global;
use crate::commands::stop_on_signal;
use crate::failure::Failure;

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
    /// Use these brokers instead of starting Kafka; topic and table get names of this run, and go at its end
    #[arg(long, value_name = "HOST:PORT,...")]
    brokers: Option<String>,
    /// Use this database instead of starting PostgreSQL; the same holds
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

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    let at_once = abort.clone();
    stop_on_signal(&stop, move || at_once.cancel())?;
    let folder = pulso_servers::temporary_folder()?;
    let belongings = Belongings::of_a_run(&arguments);
    let played = tokio::select! {
        biased;
        () = abort.cancelled() => {
            belongings.say_left_behind();
            say("ending at once, without draining");
            return Err(Failure::Interrupted);
        }
        played = Box::pin(play(&arguments, &belongings, folder.path(), &stop)) => played,
    };
    let Some(report) = played? else { return Err(Failure::Interrupted) };
    report.print(global.output)?;
    if report.is_good() { Ok(()) } else { Err(Failure::Reported) }
}

/// From the start of the servers to their end; `None` where it was stopped before the job ran. Whatever was started ends
/// when this returns or is dropped.
async fn play(
    arguments: &Arguments,
    belongings: &Belongings,
    folder: &Path,
    stop: &CancellationToken,
) -> Result<Option<Report>> {
    let servers = tokio::select! {
        () = stop.cancelled() => return Ok(None),
        servers = Servers::start(folder, arguments) => servers?,
    };
    let mut cluster = Cluster::start(folder, arguments.http_port)?;
    let mut demo = Demo { arguments, belongings, servers: &servers, cluster: &mut cluster, job: None };
    let outcome = demo.show(folder, stop).await;
    let job = demo.job;
    match &outcome {
        Ok(Some(_)) => {
            say("stopping");
            cluster.stop().await;
        }
        Ok(None) => drop(cluster),
        Err(_) => {
            cluster.print_log_tails();
            drop(cluster);
        }
    }
    belongings.remove(&servers, job).await;
    servers.stop().await?;
    outcome
}

/// A demo whose servers are up.
struct Demo<'a> {
    arguments: &'a Arguments,
    belongings: &'a Belongings,
    servers: &'a Servers,
    cluster: &'a mut Cluster,
    /// Once it is submitted.
    job: Option<Uuid>,
}

impl Demo<'_> {
    async fn show(&mut self, folder: &Path, stop: &CancellationToken) -> Result<Option<Report>> {
        let expected = folder.join("expected.csv");
        let (generator, name) = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            begun = self.begin(&expected, stop) => begun?,
        };
        let database = verify::connect(&self.servers.database_url).await?;
        let killed = self.watch(&database, &name, stop).await?;
        stop.cancel();
        let summary = generator.await.context("the generator panicked")??;
        say(&format!("{} messages sent; waiting until they are in the table", summary.counts.messages));
        let job = self.all_committed(&name, &summary).await?;
        let savepoint = self.cluster.drain(&name, DRAIN).await?.checkpoint;
        say(&format!("job {name} drained, with savepoint {savepoint}; comparing every row"));
        let (table, id) = (&self.belongings.table, self.job.unwrap_or_default());
        let stored = verify::compare(&database, table, id, &expected).await?;
        let latency = verify::latency(&database, table).await?;
        let failover = match killed {
            Some(at) => verify::longest_gap(&database, table, microseconds(at)?).await?,
            None => None,
        };
        Ok(Some(Report::new(&summary.counts, &job, stored, latency, failover)))
    }

    /// TaskManagers, input and job; returns the generator and the job's name.
    async fn begin(&mut self, expected: &Path, stop: &CancellationToken) -> Result<(Generator, String)> {
        let count = self.arguments.task_managers;
        say(&format!("starting a JobManager and {count} TaskManagers"));
        for _ in 0..count {
            self.cluster.start_task_manager()?;
        }
        self.cluster.wait_for_task_managers(count as usize, START).await?;
        let (brokers, topic) = (&self.servers.brokers, &self.belongings.topic);
        let generator = spawn_generator(self.arguments, brokers, topic, expected, stop)?;
        let submitted = self.cluster.submit(self.belongings.submission(self.servers), START).await?;
        self.job = Some(Uuid::from_slice(&submitted.job).context("the JobManager's answer lacks the job's id")?);
        let (name, flag) = (submitted.name, self.cluster.flag());
        say(&format!("job {name} runs: {} messages a second into topic {topic}", self.arguments.rate));
        say(&format!("status page: http://127.0.0.1:{}", self.cluster.http_port()));
        // A given URL may hold a password, and whoever gave it knows it.
        let psql =
            if self.arguments.database_url.is_some() { "" } else { &format!(": psql {}", self.servers.database_url) };
        say(&format!("table {}{psql}", self.belongings.table));
        // As it was called just now: it need not be in the PATH.
        let me = std::env::args().next().unwrap_or_else(|| "healthctl".to_owned());
        say(&format!("try: {me} status {name}{flag}, or kill -9 a TaskManager"));
        say("Ctrl-C drains and verifies, a second one ends at once");
        Ok((generator, name))
    }

    /// Until the time is up or Ctrl-C. Returns when a TaskManager was killed.
    async fn watch(
        &mut self,
        database: &tokio_postgres::Client,
        name: &str,
        stop: &CancellationToken,
    ) -> Result<Option<SystemTime>> {
        let (began, mut live) = (Instant::now(), Live::new());
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let (mut killed, mut pids) = (None, Vec::new());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = second.tick() => {}
            }
            let now = self.cluster.pids();
            if now != pids {
                say(&format!("pids of the TaskManagers: {}", join(&now)));
                pids = now;
            }
            if let Ok(job) = self.cluster.job(name).await {
                fail_with(&job)?;
                let latency = verify::recent_latency(database, &self.belongings.table).await;
                live.show(&job, latency.ok().flatten());
            }
            let Some(length) = self.arguments.length else { continue };
            if killed.is_none() && began.elapsed() >= length / 2 {
                killed = Some(SystemTime::now());
                let pid = self.cluster.kill_task_manager().await?;
                say(&format!("killed TaskManager {pid} with SIGKILL; starting another"));
                self.cluster.start_task_manager()?;
            }
            if began.elapsed() >= length {
                break;
            }
        }
        Ok(killed)
    }

    /// Waits until every record that was sent is accounted for and committed.
    async fn all_committed(&self, name: &str, summary: &Summary) -> Result<v1::JobSummary> {
        let (until, messages) = (Instant::now() + DRAIN, summary.counts.messages);
        loop {
            let job = self.cluster.job(name).await;
            if let Ok(job) = &job {
                fail_with(job)?;
            }
            match job {
                Ok(job) if job.records_read >= messages && job.in_flight == 0 && !job.uncounted => return Ok(job),
                Ok(job) if Instant::now() > until => bail!(
                    "after {DRAIN:?}, {} of {messages} records were read, {} of those are in flight",
                    job.records_read,
                    job.in_flight
                ),
                Err(e) if Instant::now() > until => return Err(e),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

fn fail_with(job: &v1::JobSummary) -> Result<()> {
    if job.status() == v1::JobStatus::Failed {
        bail!("the job failed: {}", job.reason);
    }
    Ok(())
}

fn join(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

fn microseconds(time: SystemTime) -> Result<i64> {
    Ok(i64::try_from(time.duration_since(UNIX_EPOCH)?.as_micros())?)
}

type Generator = tokio::task::JoinHandle<Result<Summary>>;

fn spawn_generator(
    arguments: &Arguments,
    brokers: &str,
    topic: &str,
    rows: &Path,
    stop: &CancellationToken,
) -> Result<Generator> {
    let options = GeneratorOptions {
        brokers: brokers.to_owned(),
        topic: topic.to_owned(),
        partitions: PARTITIONS,
        keyed: false,
        length: None,
    };
    let (seed, rate) = (arguments.seed, Some(arguments.rate));
    let mix = Mix { seed, rate, corrections: 0.02, invalid: 0.01, late: 0.01, ..Mix::default() };
    let stream = vitals(VitalsOptions { mix, ..VitalsOptions::default() }).map_err(|why| anyhow!(why))?;
    let expected = Arc::new(Mutex::new(Expected::create(rows)?));
    let (written, stop) = (Arc::clone(&expected), stop.clone());
    Ok(tokio::spawn(async move {
        let summary = generate(stream, options, stop, move |message, _| {
            written.lock().unwrap_or_else(PoisonError::into_inner).add(message)
        })
        .await?;
        let expected = Arc::into_inner(expected).context("the generator is still writing")?;
        expected.into_inner().unwrap_or_else(PoisonError::into_inner).finish(&summary)?;
        Ok(summary)
    }))
}
