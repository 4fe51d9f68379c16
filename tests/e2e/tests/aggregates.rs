//! The jobs with aggregates on generated data, beside each other, while their cluster breaks and grows: every table ends
//! as DuckDB says.

use std::collections::BTreeSet;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pulso_e2e::{Cluster, Message, Tables, World, committed, records, until_ok};
use tokio_postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// A job with the topic it reads, what `healthctl generate` calls its data, its oracle, and its aggregate's table.
struct Job {
    name: &'static str,
    topic: &'static str,
    data: &'static [&'static str],
    oracle: (&'static str, &'static [&'static str]),
    windows: &'static str,
    /// Where its dead letters go, if not into the database.
    letters: Option<&'static str>,
}

const JOBS: [Job; 3] = [
    Job {
        name: "ecommerce",
        topic: "ecommerce-events",
        data: &["ecommerce", "--users", "50"],
        oracle: ("shop", &[]),
        windows: "revenue_by_category",
        letters: None,
    },
    Job {
        name: "iot-sensors",
        topic: "sensores-iot",
        data: &["iot"],
        oracle: ("sensors", &["size='1 minute'"]),
        windows: "cidade_minuto",
        letters: None,
    },
    Job {
        name: "health-vitals",
        topic: "health-data",
        data: &["vitals", "--patients", "40", "--corrections", "0.1"],
        oracle: ("vitals", &[]),
        windows: "vitals_by_minute",
        letters: Some("health-data-dlq"),
    },
];

impl Job {
    fn generate(&self, cluster: &Cluster, how_much: &[&str]) -> Result<Child> {
        // Without keys, duplicates and corrections come by other partitions.
        let mix = ["--duplicates", "0.2", "--invalid", "0.03", "--key", "off", "--partitions", "4"];
        cluster.start_healthctl(&[&["generate"], self.data, &mix, how_much].concat())
    }

    async fn rows(&self, database: &Client) -> i64 {
        let select = format!("select count(*) from {}", self.windows);
        database.query_one(&select, &[]).await.map_or(0, |row| row.get(0))
    }

    /// Every table, every dead letter, and the sum.
    async fn is_right(&self, world: &World, cluster: &Cluster, database: &Client) -> Result<()> {
        let (oracle, variables) = self.oracle;
        let expected = Tables::expected(world, self.topic, oracle, variables)?;
        for table in [self.windows, "dead_letters"] {
            ensure!(expected.rows(table) > 0, "a test without rows in {table} cannot fail");
        }
        if let Some(topic) = self.letters {
            let due = expected.dead_letters();
            until_ok("the dead letters to be in their topic", LIMIT, async || {
                let place = |letter: &Message| {
                    let number = |header: &str| letter.headers.get(header).and_then(|text| text.parse::<i64>().ok());
                    number("pulso_partition").zip(number("pulso_offset"))
                };
                let found: Vec<(i64, i64)> =
                    committed(world.kafka.brokers(), topic)?.iter().filter_map(place).collect();
                let once: BTreeSet<(i64, i64)> = found.iter().copied().collect();
                ensure!(once == due && found.len() == due.len(), "{} dead letters, not {}", found.len(), due.len());
                Ok(())
            })
            .await?;
        }
        let expected = if self.letters.is_some() { expected.without("dead_letters") } else { expected };
        until_ok("the tables to be as DuckDB says", LIMIT, async || expected.compare(database, self.name).await)
            .await?;
        let total = records(world.kafka.brokers(), self.topic)?.len();
        cluster.job_accounts_for(self.name, u64::try_from(total)?).await
    }
}

fn finish(generators: Vec<Child>) -> Result<()> {
    for mut generator in generators {
        let ended = generator.wait()?;
        ensure!(ended.success(), "healthctl generate ended with {ended}");
    }
    Ok(())
}

/// All jobs run, spread over this many TaskManagers.
async fn run_on(cluster: &Cluster, task_managers: usize) -> Result<()> {
    until_ok("the jobs to run on all TaskManagers", LIMIT, async || {
        let key_groups = cluster.key_groups()?;
        // 32 of each stage: the shop and the sensors have two.
        let spread = key_groups.len() == task_managers && key_groups.iter().all(|count| *count >= 32);
        ensure!(spread && key_groups.iter().sum::<u64>() == 5 * 32, "{key_groups:?}");
        for job in &JOBS {
            let status = cluster.json(&["status", job.name])?;
            ensure!(status["phase"] == "running", "{status}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_jobs_through_kills_a_rescale_and_a_new_jobmanager() -> Result<()> {
    let world = World::start().await?;
    let mut cluster = Cluster::start(&world, &["--checkpoint-interval", "1s"]).await?;
    let mut task_managers = cluster.start_task_managers(2).await?;
    // A backlog of some minutes, so that there are windows to close, then what comes now.
    finish(JOBS.iter().map(|job| job.generate(&cluster, &["--count", "2000"])).collect::<Result<_>>()?)?;
    for job in &JOBS {
        cluster.submit(&cluster.job(job.name, |text| text)?)?;
    }
    let live = ["--rate", "300", "--for", "6s", "--seed", "2"];
    let generators = JOBS.iter().map(|job| job.generate(&cluster, &live)).collect::<Result<Vec<_>>>()?;
    let database = world.database().await?;
    for job in &JOBS {
        until_ok("rows of every job", LIMIT, async || {
            let status = cluster.json(&["status", job.name])?;
            ensure!(job.rows(&database).await > 0, "{status}");
            Ok(())
        })
        .await?;
    }

    task_managers.remove(0).kill()?;
    run_on(&cluster, 1).await?;
    task_managers.extend(cluster.start_task_managers(2).await?);
    run_on(&cluster, 3).await?;
    cluster.kill_jobmanager()?;
    cluster.start_jobmanager()?;
    finish(generators)?;

    for job in &JOBS {
        job.is_right(&world, &cluster, &database).await.context(job.name)?;
    }
    Ok(())
}
