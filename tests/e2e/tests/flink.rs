//! Jobs run by Pulso and, exported, by a real Flink: both must store the same tables.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pulso_e2e::{Cluster, Flink, Input, JobFile, World, until_ok};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const READINGS: usize = 3_000;
const EVENTS: usize = 2_000;
const EVERYTHING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../flink/src/tests/everything.toml");
const LIMIT: Duration = Duration::from_secs(120);
/// What Flink passes over without a trace, as the script says.
const NO_TRACE: [&str; 2] = ["{\"patientId\":", "[]"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fetches Flink (260 MB) once, and then takes two minutes"]
async fn exported_jobs_store_the_same_tables_on_flink() -> Result<()> {
    let jars = match Flink::fetch() {
        Ok(jars) => jars,
        Err(why) => {
            eprintln!("skipped: Flink cannot be had here: {why}");
            return Ok(());
        }
    };
    let world = World::start().await?;
    let flink = Flink::start(jars, world.folder.path().join("flink"))?;
    let mut cluster = Cluster::start(&world, &[]).await?;
    let _task_managers = cluster.start_task_managers(1).await?;
    let pulso = world.database().await?;
    pulso.batch_execute("create schema shop").await?;
    pulso.batch_execute("create database flink").await?;
    let url = world.postgres.url().replace("/health", "/flink");
    let (database, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    database.batch_execute("create schema shop").await?;
    let both = Both { world, cluster, flink, pulso, database, url };

    both.run("health-vitals", "health-data", &health_job()?, &readings()?).await?;
    both.same_rows("health_records", READINGS / 2).await?;
    both.same_rows("vitals_by_minute", 50).await?;
    both.same_dead_letters("concat_ws(':', reason, field)", "reason").await?;

    let everything = std::fs::read_to_string(EVERYTHING)?;
    both.run("everything", "everything", &without_kafka(&everything)?, &events()?).await?;
    both.same_rows("shop.everything", EVENTS / 3).await?;
    both.same_rows("by_place", 5).await?;
    both.same_dead_letters("''", "''").await?;

    // With its sinks to Kafka, only to see that Flink takes it.
    let script = both.cluster.healthctl(&["export", "flink", EVERYTHING])?;
    both.flink.run(&both.ended(&script)?)
}

/// A Pulso and a Flink beside each other, on one broker, with a database each.
struct Both {
    world: World,
    cluster: Cluster,
    flink: Flink,
    pulso: tokio_postgres::Client,
    /// Flink's.
    database: tokio_postgres::Client,
    url: String,
}

impl Both {
    /// Runs a job to the end of its topic in both.
    async fn run(&self, name: &str, topic: &str, job: &str, messages: &[String]) -> Result<()> {
        let file = self.world.folder.path().join(format!("{name}.toml"));
        std::fs::write(&file, job)?;
        // One partition: the order of corrections is that of the topic in Flink too.
        Input::create(self.world.kafka.brokers(), topic, 1, 11).await?.send_all(messages).await?;
        let script = self.cluster.healthctl(&["export", "flink", file.to_str().context("the path is text")?])?;
        self.cluster.submit(&JobFile(file))?;
        let clear = "drop table if exists dead_letters_of_flink;";
        self.database.batch_execute(&format!("{clear}{}", statements(&script))).await?;
        self.flink.run(&self.ended(&script)?)?;
        until_ok("Pulso to account for every message", LIMIT, async || {
            let status = self.cluster.json(&["status", name])?;
            let of = |name: &str| status[name].as_u64().unwrap_or(0);
            let done = ["written", "filtered", "duplicates", "superseded", "dead_letters"].map(of).iter().sum::<u64>();
            ensure!(done == u64::try_from(messages.len())? && status["conserved"] == true, "{status}");
            Ok(())
        })
        .await?;
        self.pulso
            .batch_execute(&format!(
                "create or replace view letters as select * from pulso.dead_letters where job_name = '{name}'"
            ))
            .await?;
        Ok(())
    }

    async fn same_rows(&self, table: &str, least: usize) -> Result<()> {
        let (ours, theirs) = (rows(&self.pulso, table).await?, rows(&self.database, table).await?);
        ensure!(ours.len() >= least, "{table} has {} rows: too few to prove anything", ours.len());
        let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        ensure!(ours == theirs, "{table}: Pulso has {} rows, Flink {}; {differs:?}", ours.len(), theirs.len());
        Ok(())
    }

    /// But those that Flink passes over without a trace, as the script says.
    async fn same_dead_letters(&self, our_reason: &str, their_reason: &str) -> Result<()> {
        let ours = format!(
            "select {our_reason}, position from letters where reason not in ('invalid_json', 'not_an_object') order by 2"
        );
        let theirs = format!("select {their_reason}, position from dead_letters_of_flink order by 2");
        let (ours, theirs) = (letters(&self.pulso, &ours).await?, letters(&self.database, &theirs).await?);
        ensure!(ours.len() > 100, "{} dead letters", ours.len());
        let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        ensure!(ours == theirs, "Pulso has {} dead letters, Flink {}: {differs:?}", ours.len(), theirs.len());
        Ok(())
    }

    /// The script with its variables put in, and a source that ends: so that the job does.
    fn ended(&self, script: &str) -> Result<String> {
        let (from, bounded) = ("'scan.startup.mode'", "'scan.bounded.mode' = 'latest-offset',\n  'scan.startup.mode'");
        ensure!(script.matches(from).count() == 1, "the script has no source that could be bounded");
        let (_, rest) = self.url.split_once("://").context("the database's address")?;
        let (user, address) = rest.split_once('@').context("the database's user")?;
        let jdbc = format!("jdbc:postgresql://{address}?user={user}&stringtype=unspecified");
        let filled = script.replace(from, bounded).replace("${KAFKA_BROKERS}", self.world.kafka.brokers());
        Ok(filled.replace("${JDBC_DATABASE_URL}", &jdbc))
    }
}

/// With dead letters in the database, where they can be compared.
fn health_job() -> Result<String> {
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
fn readings() -> Result<Vec<String>> {
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

/// The job of everything that can be said, but for its sinks to Kafka, which stand last.
fn without_kafka(everything: &str) -> Result<String> {
    let (most, _) = everything.split_once("[[sink]]\nto = \"events\"").context("sinks to Kafka")?;
    let (before, rest) = most.split_once("[target.events]").context("the Kafka target")?;
    let (_, after) = rest.split_once("[fields]").context("the fields")?;
    Ok(format!("{before}[fields]{after}"))
}

/// An hour of events whose every field takes every form that both systems know.
fn events() -> Result<Vec<String>> {
    let mut random = SmallRng::seed_from_u64(12);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let first = i64::try_from(now.as_millis())? - 4_000_000;
    let mut messages: Vec<String> = Vec::new();
    for n in 0..EVENTS {
        if n > 10 && random.random_range(0..8) == 0 {
            let repeated = messages[random.random_range(n - 10..n)].replace("\"total\":1", "\"total\":2");
            messages.push(repeated);
            continue;
        }
        let time = first + i64::try_from(n)? * 1_800 - random.random_range(0..20_000);
        messages.push(event(&mut random, time).to_string());
    }
    Ok(messages)
}

fn event(random: &mut SmallRng, time: i64) -> Value {
    let id = format!("{:08x}-0000-4000-8000-{:012x}", random.random::<u32>(), random.random_range(0_u64..1 << 48));
    let mut event =
        json!({"id": if random.random() { id.to_uppercase() } else { id }, "at": text(random, time, 3, true)});
    let place = json!(["São Paulo", "Val d'Or", "Elsewhere"][random.random_range(0..21) / 10]);
    match random.random_range(0..3) {
        0 => event["where"] = json!({"city": place, "town": {"name": "Nowhere"}}),
        1 => event["where"] = json!({"town": {"name": place}, "city": null}),
        _ => event["place"] = place,
    }
    event["note"] = json!(["1.5", "-22", "3e2", "no", "x1", "400.125"][random.random_range(0..6)]);
    let mut maybe = |key: &str, value: Value| {
        if random.random_range(0..6) != 0 {
            event[key] = value;
        }
    };
    maybe("seen", json!(text(&mut SmallRng::seed_from_u64(time.unsigned_abs()), time - 86_400_000, 6, false)));
    maybe(
        "day",
        json!(["2026-02-28", "1999-12-31", "2026-02-30"][usize::from(time % 7 == 0) + usize::from(time % 21 == 0)]),
    );
    maybe("sure", json!(time % 5 != 0));
    maybe("count", json!(time % 53));
    maybe("sum", json!({"total": 1_000_000_000_000_000 + time % 977}));
    maybe("share", json!(0.5 + f64::from(i32::try_from(time % 120).unwrap_or(0)) / 8.0));
    maybe("price", json!(f64::from(i32::try_from(time % 3_000).unwrap_or(0)) / 100.0));
    event
}

/// RFC 3339 in one of its forms, or local time in São Paulo, three hours behind UTC all year.
fn text(random: &mut SmallRng, ms: i64, digits: usize, naive: bool) -> String {
    let (offset, zone) =
        [(0, "Z"), (330, "+05:30"), (-180, "-03:00"), (-180, "")][random.random_range(0..3 + usize::from(naive))];
    let local = ms + offset * 60_000;
    let (days, rest) = (local.div_euclid(86_400_000), local.rem_euclid(86_400_000));
    // Days to civil, for years from 2000 on.
    let mut day = days - 10_957;
    let mut year = 2_000;
    let leap = |year: i64| year % 4 == 0;
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60);
    let fraction = format!(".{:03}{:03}", rest % 1_000, 457)[..=digits].to_owned();
    let separator = if random.random() { 'T' } else { 't' };
    format!("{year}-{month:02}-{:02}{separator}{hour:02}:{minute:02}:{second:02}{fraction}{zone}", day + 1)
}

/// What the script says must be made in the database.
fn statements(script: &str) -> String {
    script
        .lines()
        .filter_map(|line| line.strip_prefix("--   CREATE TABLE"))
        .map(|s| format!("CREATE TABLE{s}\n"))
        .collect()
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
