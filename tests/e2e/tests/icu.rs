//! Real ICU vital signs, doubled and shuffled over partitions without keys, through kills; compared with DuckDB.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pulso_e2e::{Cluster, Input, Rows, World, compare, records, stored, until_ok};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn icu_vital_signs_are_stored_once_through_kills() -> Result<()> {
    let world = World::start().await?;
    let lines = world.folder.path().join("messages.jsonl");
    script(&["messages", text(&lines)?])?;
    let once: Vec<String> = std::fs::read_to_string(&lines)?.lines().map(str::to_owned).collect();
    ensure!(once.len() > 20_000, "{} messages are not the whole data set", once.len());
    let mut messages = [once.clone(), once].concat();
    messages.shuffle(&mut SmallRng::seed_from_u64(3));

    let mut input = Input::create(world.kafka.brokers(), "icu", 6, 3).await?;
    let mut cluster = Cluster::start(&world, &["--checkpoint-interval", "1s"]).await?;
    let mut task_managers = cluster.start_task_managers(2).await?;
    // The stays last for weeks.
    cluster.submit(&cluster.health_job("icu", |job| job.replace("keep_for = \"24h\"", "keep_for = \"90d\""))?)?;
    let third = messages.len() / 3;
    for part in messages.chunks(third) {
        input.send_all(part).await?;
        task_managers.remove(0).kill()?;
        task_managers.push(cluster.start_task_manager()?);
    }

    let expected = by_duckdb(&world, "icu")?;
    ensure!(expected.len() > 10_000, "{} rows expected: too few to prove anything", expected.len());
    let database = world.database().await?;
    until_ok("the table to be as DuckDB says", LIMIT, async || {
        // The messages carry no text.
        compare(&expected, &stored(&database, "health_records").await?)
    })
    .await?;
    cluster.accounts_for(u64::try_from(messages.len())?).await
}

/// What DuckDB makes of the records as the broker holds them.
fn by_duckdb(world: &World, topic: &str) -> Result<Rows> {
    let dump = world.folder.path().join("records.jsonl");
    let mut lines = String::new();
    for record in records(world.kafka.brokers(), topic)? {
        let value = String::from_utf8(record.value.context("a record without value")?)?;
        let line = json!({"ts": record.timestamp_ms, "part": record.partition, "off": record.offset, "value": value});
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    std::fs::write(&dump, lines)?;
    let out = world.folder.path().join("expected.csv");
    script(&["expected", text(&dump)?, text(&out)?])?;
    let number = |field: &str| if field.is_empty() { Ok(None) } else { field.parse().map(Some) };
    std::fs::read_to_string(&out)?
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let [patient, ms, heart_rate, temperature, oxygen] = fields[..] else { anyhow::bail!("`{line}`") };
            let row = (number(heart_rate)?, number(temperature)?, number(oxygen)?, None);
            Ok(((patient.to_owned(), ms.parse()?), row))
        })
        .collect()
}

fn script(arguments: &[&str]) -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/icu-vitals");
    let done = Command::new(path).args(arguments).status().context("running scripts/icu-vitals")?;
    ensure!(done.success(), "scripts/icu-vitals {arguments:?} ended with {done}");
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is text")
}
