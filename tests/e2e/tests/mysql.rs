//! The health job into MariaDB, while TaskManagers and the database itself are killed.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pulso_e2e::{Cluster, Input, Rows, World, compare, expected, until, until_ok};
use pulso_servers::{MariaDb, MariaDbOptions};

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "readings";
const DATABASE: &str = "type = \"postgres\"\nurl = { env = \"DATABASE_URL\" }";

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_in_mysql_once_through_kills() -> Result<()> {
    let world = World::start().await?;
    let mut mariadb = MariaDb::start(MariaDbOptions::new(world.folder.path().join("mariadb"), "health")).await?;
    let url = mariadb.url().to_owned();
    let mut input = Input::create(world.kafka.brokers(), TOPIC, 4, 11).await?;
    let mut cluster = Cluster::start(&world, &["--checkpoint-interval", "1s"]).await?;
    let mut task_managers = cluster.start_task_managers(2).await?;
    let job = cluster.health_job(TOPIC, |job| {
        assert!(job.contains(DATABASE), "the job's target is not as this test expects");
        job.replace(DATABASE, &format!("type = \"mysql\"\nurl = \"{url}\"\nzone = \"America/Sao_Paulo\""))
    })?;
    cluster.submit(&job)?;
    input.send(5_000).await?;
    until("rows", LIMIT, async || Ok(stored(&url).await.is_ok_and(|rows| rows.len() > 1_000))).await?;
    for round in 0..3 {
        input.send_paced(1_500, Duration::from_millis(1_500)).await?;
        if round == 1 {
            mariadb.kill().await?;
            input.send(500).await?;
            mariadb.restart().await?;
        } else {
            task_managers.remove(0).kill()?;
        }
        input.send_paced(1_500, Duration::from_millis(1_500)).await?;
        if round != 1 {
            task_managers.push(cluster.start_task_manager()?);
        }
    }
    let (rows, total) = expected(world.kafka.brokers(), TOPIC)?;
    ensure!(rows.len() > 5_000, "{} rows expected: too few to prove anything", rows.len());
    until_ok("the table to be as the oracle says", LIMIT, async || compare(&rows, &stored(&url).await?)).await?;
    cluster.accounts_for(total).await?;
    let mut client = Conn::from_url(&url).await?;
    let refused: Option<u64> =
        client.query_first("select count(*) from pulso_dead_letters where table_name is not null").await?;
    ensure!(refused == Some(0), "{refused:?} rows were refused by the database");
    client.disconnect().await?;
    Ok(())
}

/// What is in the table; its DATETIME is the time of day in São Paulo, three hours behind UTC.
async fn stored(url: &str) -> Result<Rows> {
    type Row = (String, i64, Option<f64>, Option<f64>, Option<f64>, Option<String>);
    let mut client = Conn::from_url(url).await?;
    client.query_drop("set time_zone = '-03:00'").await?;
    let select = "select patient_id, cast(unix_timestamp(timestamp) * 1000 as signed), heart_rate, temperature, \
                  oxygen_saturation, large_data from health_records";
    let found: Vec<Row> = client.query(select).await?;
    client.disconnect().await?;
    let mut rows = Rows::new();
    for (patient, time, heart_rate, temperature, oxygen, text) in found {
        if rows.insert((patient, time), (heart_rate, temperature, oxygen, text)).is_some() {
            bail!("the table holds a key twice");
        }
    }
    Ok(rows)
}
