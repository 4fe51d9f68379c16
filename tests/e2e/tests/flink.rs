//! The health job with its aggregate, run by Pulso and, exported, by a real Flink: both must store the same tables.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pulso_e2e::{Cluster, Flink, Input, JobFile, World, until_ok};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const TOPIC: &str = "health-data";
const READINGS: usize = 3_000;
const LIMIT: Duration = Duration::from_secs(120);
/// What Flink passes over without a trace, as the script says.
const NO_TRACE: [&str; 2] = ["{\"patientId\":", "[]"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fetches Flink (260 MB) once, and then takes a minute"]
async fn the_exported_health_job_stores_the_same_tables_on_flink() -> Result<()> {
    let jars = match Flink::fetch() {
        Ok(jars) => jars,
        Err(why) => {
            eprintln!("skipped: Flink cannot be had here: {why}");
            return Ok(());
        }
    };
    let world = World::start().await?;
    let flink = Flink::start(jars, world.folder.path().join("flink"))?;
    let file = world.folder.path().join("health-vitals.toml");
    std::fs::write(&file, job()?)?;
    // One partition: the order of corrections is that of the topic in Flink too.
    let mut input = Input::create(world.kafka.brokers(), TOPIC, 1, 11).await?;
    let messages = messages()?;
    input.send_all(&messages).await?;

    let mut cluster = Cluster::start(&world, &[]).await?;
    let _task_managers = cluster.start_task_managers(1).await?;
    let path = file.to_str().context("the path is text")?;
    let script = cluster.healthctl(&["export", "flink", path])?;
    cluster.submit(&JobFile(file.clone()))?;
    let pulso = world.database().await?;
    until_ok("Pulso to account for every message", LIMIT, async || {
        let status = cluster.json(&["status", "health-vitals"])?;
        let of = |name: &str| status[name].as_u64().unwrap_or(0);
        let done = of("written") + of("duplicates") + of("superseded") + of("dead_letters");
        ensure!(done == u64::try_from(messages.len())? && status["conserved"] == true, "{status}");
        Ok(())
    })
    .await?;

    pulso.batch_execute("create database flink").await?;
    let url = world.postgres.url().replace("/health", "/flink");
    let (database, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    database.batch_execute(&statements(&script)).await?;
    flink.run(&ended_at_the_topics_end(&script, world.kafka.brokers(), &url)?)?;

    // Flink takes everything else that can be said, too.
    Input::create(world.kafka.brokers(), "everything", 1, 12).await?;
    let everything = concat!(env!("CARGO_MANIFEST_DIR"), "/../../flink/src/tests/everything.toml");
    let script = cluster.healthctl(&["export", "flink", everything])?;
    database.batch_execute(&format!("create schema shop;{}", statements(&script))).await?;
    flink.run(&ended_at_the_topics_end(&script, world.kafka.brokers(), &url)?)?;

    for (table, least) in [("health_records", READINGS / 2), ("vitals_by_minute", 50)] {
        let (ours, theirs) = (rows(&pulso, table).await?, rows(&database, table).await?);
        ensure!(ours.len() >= least, "{table} has {} rows: too few to prove anything", ours.len());
        let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        ensure!(ours == theirs, "{table}: Pulso has {} rows, Flink {}; {differs:?}", ours.len(), theirs.len());
    }
    let ours = letters(
        &pulso,
        "select concat_ws(':', reason, field), position from pulso.dead_letters
         where reason not in ('invalid_json', 'not_an_object') order by 2",
    );
    let theirs = letters(&database, "select reason, position from dead_letters_of_flink order by 2");
    let (ours, theirs) = (ours.await?, theirs.await?);
    ensure!(ours.len() > 100, "{} dead letters", ours.len());
    ensure!(ours == theirs, "dead letters: {:?}", ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs));
    Ok(())
}

/// With dead letters in the database, where they can be compared.
fn job() -> Result<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../jobs/health-vitals.toml");
    let text = std::fs::read_to_string(file)?;
    let section = |text: &str, from: &str, to: &str| {
        let (before, rest) = text.split_once(from)?;
        let (_, after) = rest.split_once(to)?;
        Some(format!("{before}{to}{after}"))
    };
    let text = section(&text, "[dead_letter]", "[[panel]]").context("dead letters")?;
    section(&text, "[target.kafka]", "# column").context("the Kafka target")
}

/// Twelve minutes of readings of 20 patients: new ones, repeated ones, corrected ones, and every kind of bad one. Values
/// are halves, so that sums are exact in any order.
fn messages() -> Result<Vec<String>> {
    let mut random = SmallRng::seed_from_u64(11);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let first = i64::try_from(now.as_millis())? - 3_600_000;
    let mut good: Vec<Value> = Vec::new();
    let mut messages = Vec::new();
    for n in 0..READINGS {
        let time = first + i64::try_from(n)? * 240;
        let message = match random.random_range(0..100) {
            0..20 if n > 0 => {
                good[random.random_range(n.saturating_sub(200).min(good.len() - 1)..good.len())].to_string()
            }
            20..32 if n > 0 => {
                let mut corrected = good[random.random_range(good.len().saturating_sub(200)..good.len())].clone();
                corrected["heartRate"] = json!(half(&mut random, 60, 300));
                good.push(corrected.clone());
                corrected.to_string()
            }
            32..40 => bad(&mut random, time),
            _ => {
                let reading = reading(&mut random, time);
                good.push(reading.clone());
                reading.to_string()
            }
        };
        messages.push(message);
        if good.is_empty() {
            good.push(reading(&mut random, time));
            messages.push(good[0].to_string());
        }
    }
    Ok(messages)
}

fn half(random: &mut SmallRng, from: i32, to: i32) -> f64 {
    f64::from(random.random_range(from..to)) / 2.0
}

fn reading(random: &mut SmallRng, time: i64) -> Value {
    let patient = format!("P{:02} \"Zoë\" o'Neill", random.random_range(0..20));
    let mut reading = json!({"timestamp": time, "temperature": half(random, 60, 90), "ignored": [1, {"a": null}]});
    reading[if random.random() { "patientId" } else { "patient_id" }] = json!(patient);
    match random.random_range(0..4) {
        0 => {}
        1 => reading["heartRate"] = Value::Null,
        2 => reading["heart_rate"] = json!(random.random_range(30..200)),
        _ => reading["heartRate"] = json!(half(random, 60, 400)),
    }
    if random.random() {
        reading["oxygenSaturation"] = json!(half(random, 160, 200));
    }
    if random.random() {
        reading["large_data"] = json!("é".repeat(random.random_range(0..50)));
    }
    reading
}

fn bad(random: &mut SmallRng, time: i64) -> String {
    let with = |key: &str, value: Value| {
        let mut bad = json!({"patientId": "P00", "timestamp": time, "heartRate": 60});
        bad[key] = value;
        bad.to_string()
    };
    let kinds = [
        NO_TRACE[0].to_owned(),
        NO_TRACE[1].to_owned(),
        with("patientId", Value::Null),
        with("timestamp", Value::Null),
        with("timestamp", json!("soon")),
        with("timestamp", json!(time + 40_000_000_000)),
        with("heartRate", json!(900)),
        with("heartRate", json!("fast")),
        with("heartRate", json!("NaN")),
        with("heartRate", json!({"value": 60})),
        with("temperature", json!(9.5)),
        with("oxygenSaturation", json!(-1)),
        with("heartRate", json!(0)),
        with("heartRate", Value::Null),
        with("large_data", json!("é".repeat(40_000))),
    ];
    kinds[random.random_range(0..kinds.len())].clone()
}

/// What the script says must be made in the database.
fn statements(script: &str) -> String {
    script
        .lines()
        .filter_map(|line| line.strip_prefix("--   CREATE TABLE"))
        .map(|s| format!("CREATE TABLE{s}\n"))
        .collect()
}

/// The script with its variables put in, and a source that ends: so that the job does.
fn ended_at_the_topics_end(script: &str, brokers: &str, url: &str) -> Result<String> {
    let (from, bounded) = ("'scan.startup.mode'", "'scan.bounded.mode' = 'latest-offset',\n  'scan.startup.mode'");
    ensure!(script.matches(from).count() == 1, "the script has no source that could be bounded");
    let (user, address) =
        url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).context("the database's user")?;
    let jdbc = format!("jdbc:postgresql://{address}?user={user}&stringtype=unspecified");
    let filled = script.replace(from, bounded).replace("${KAFKA_BROKERS}", brokers);
    Ok(filled.replace("${JDBC_DATABASE_URL}", &jdbc))
}

/// All rows of a table as text, times in UTC.
async fn rows(database: &tokio_postgres::Client, table: &str) -> Result<Vec<String>> {
    database.batch_execute("set timezone = 'UTC'").await?;
    let rows = database.query(&format!("select t::text from {table} t order by 1"), &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn letters(database: &tokio_postgres::Client, select: &str) -> Result<Vec<(String, i64)>> {
    let rows = database.query(select, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
