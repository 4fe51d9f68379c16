//! Jobs that write to Kafka, through kills and a pause: what a reader of committed messages sees is what the raw records say.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pulso_e2e::{Cluster, Input, Scene, World, committed, records, rejected, until, until_ok};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

async fn count(database: &tokio_postgres::Client, table: &str) -> i64 {
    let count = database.query_one(&format!("select count(*) from {table}"), &[]).await;
    count.ok().and_then(|row| row.try_get(0).ok()).unwrap_or(0)
}

// ---- jobs/csv-people.toml

/// What a line of the CSV file does: a key, and a record or a tombstone.
fn people(random: &mut SmallRng, count: usize) -> Vec<(String, Option<String>)> {
    let mut change = || {
        let id = random.random_range(1..=300_i64);
        let value = match random.random_range(0..100) {
            0..12 => None,
            12..14 => Some(json!({"id": id, "nome": "too old", "idade": 151, "valor": 1}).to_string()),
            14..16 => Some(json!({"id": id, "idade": 30, "valor": 1}).to_string()),
            die => {
                // Numbers as they are written, so that the cents are exact.
                let (cents, age) = (random.random_range(0..10_000_000_i64), random.random_range(0..=150));
                let age = if die < 30 { "null".to_owned() } else { age.to_string() };
                let (whole, part) = (cents / 100, cents % 100);
                let city = ["São Paulo", "Natal", "Belém"][random.random_range(0..3)];
                Some(format!(
                    r#"{{"id":{id},"nome":"P{id} é","idade":{age},"cidade":"{city}","valor":{whole}.{part:02}}}"#
                ))
            }
        };
        (id.to_string(), value)
    };
    (0..count).map(|_| change()).collect()
}

/// Of a good record: the message that it becomes.
fn processed(value: &[u8]) -> Result<Option<String>> {
    let text = std::str::from_utf8(value)?;
    let person: Value = serde_json::from_str(text)?;
    let (Some(id), Some(name)) = (person["id"].as_i64(), person["nome"].as_str()) else { return Ok(None) };
    if person["idade"].as_i64().is_some_and(|age| age > 150) {
        return Ok(None);
    }
    let (_, amount) = text.rsplit_once("\"valor\":").context("an amount")?;
    let amount = amount.trim_end_matches('}');
    let cents: i64 = amount.replace('.', "").parse()?;
    // A tenth, half a cent away from zero.
    let tax = (cents + 5) / 10;
    let (age, city) = (&person["idade"], &person["cidade"]);
    Ok(Some(format!(
        r#"{{"id":{id},"nome":"{name}","idade":{age},"cidade":{city},"valor":{amount},"imposto":{}.{:02}}}"#,
        tax / 100,
        tax % 100
    )))
}

/// Messages by key, each with its header, in order.
type ByKey = BTreeMap<String, Vec<(String, String)>>;

/// From the raw records alone; and the text of each row that is left.
fn people_expected(brokers: &str) -> Result<(ByKey, BTreeMap<i64, String>, u64)> {
    let (mut messages, mut rows) = (ByKey::new(), BTreeMap::new());
    let all = committed(brokers, "csv-data")?;
    for record in &all {
        let key = record.key.clone().context("a key")?;
        let id: i64 = key.parse()?;
        let message = match record.value.as_deref() {
            None => {
                rows.remove(&id);
                Some((format!(r#"{{"id":{id}}}"#), "delete".to_owned()))
            }
            Some(value) => processed(value)?.map(|text| {
                rows.insert(id, text.clone());
                (text, String::new())
            }),
        };
        messages.entry(key).or_default().extend(message);
    }
    messages.retain(|_, of_key| !of_key.is_empty());
    Ok((messages, rows, u64::try_from(all.len())?))
}

fn by_key(brokers: &str, topic: &str) -> Result<ByKey> {
    let mut messages = ByKey::new();
    for message in committed(brokers, topic)? {
        let key = message.key.clone().context("a message without key")?;
        messages.entry(key).or_default().push((message.text().to_owned(), message.change().to_owned()));
    }
    Ok(messages)
}

fn same(expected: &ByKey, found: &ByKey) -> Result<()> {
    let wrong = expected.iter().find(|(key, messages)| found.get(*key) != Some(messages));
    ensure!(wrong.is_none(), "expected {wrong:?}, found {:?}", wrong.map(|(key, _)| found.get(key)));
    let extra = found.keys().find(|key| !expected.contains_key(*key));
    ensure!(extra.is_none(), "{extra:?} was never sent");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_people_keeps_table_and_topic_in_step_through_a_kill() -> Result<()> {
    let world = World::start().await?;
    let brokers = world.kafka.brokers();
    let input = Input::create(brokers, "csv-data", 4, 5).await?;
    let mut cluster = Cluster::start(&world, &["--checkpoint-interval", "1s"]).await?;
    let mut task_managers = cluster.start_task_managers(2).await?;
    cluster.submit(&Cluster::example("csv-people"))?;
    let database = world.database().await?;
    let mut random = SmallRng::seed_from_u64(5);
    input.send_keyed(&people(&mut random, 1_500)).await?;
    until("rows", LIMIT, async || Ok(count(&database, "pessoas").await > 100)).await?;
    for _ in 0..10 {
        input.send_keyed(&people(&mut random, 100)).await?;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    task_managers.remove(0).kill()?;
    input.send_keyed(&people(&mut random, 500)).await?;
    task_managers.push(cluster.start_task_manager()?);
    input.send_keyed(&people(&mut random, 500)).await?;

    let (messages, rows, total) = people_expected(brokers)?;
    ensure!(messages.len() > 250 && rows.len() > 200, "too few to prove anything");
    until_ok("the topic to be as the oracle says", LIMIT, async || {
        same(&messages, &by_key(brokers, "csv-data-processed")?)
    })
    .await?;
    let select = "select id, format('{\"id\":%s,\"nome\":%s,\"idade\":%s,\"cidade\":%s,\"valor\":%s,\"imposto\":%s}', id, \
                  to_json(nome), coalesce(idade::text, 'null'), to_json(cidade), valor, imposto) from pessoas";
    until_ok("the table to be as the oracle says", LIMIT, async || {
        let mut stored = BTreeMap::new();
        for row in database.query(select, &[]).await? {
            stored.insert(row.try_get::<_, i64>(0)?, row.try_get::<_, String>(1)?);
        }
        let wrong = rows.iter().find(|(id, row)| stored.get(*id) != Some(row));
        ensure!(stored.len() == rows.len() && wrong.is_none(), "{} of {}: {wrong:?}", stored.len(), rows.len());
        Ok(())
    })
    .await?;
    cluster.job_accounts_for("csv-people", total).await
}

// ---- jobs/early-warning.toml

/// A reading with all five vitals, in tenths, so that nothing stands on the edge of a rounding.
fn vitals(random: &mut SmallRng, patient: usize, timestamp: i64) -> Value {
    let mut tenths = |from: i64, to: i64| {
        let value = random.random_range(from * 10..to * 10);
        value as f64 / 10.0 + if value.rem_euclid(10) == 5 { 0.1 } else { 0.0 }
    };
    let (resp, spo2, systolic) = (tenths(4, 30), tenths(88, 100), tenths(70, 240));
    let (pulse, temperature) = (tenths(30, 150), tenths(34, 41));
    json!({"patientId": format!("P{patient:03}"), "timestamp": timestamp, "heartRate": pulse,
           "temperature": temperature, "oxygenSaturation": spo2, "respiratoryRate": resp, "systolic": systolic,
           "onOxygen": random.random_range(0..4) == 0, "alert": random.random_range(0..5) != 0})
}

/// The chart of the Royal College of Physicians: of each band its upper end and its points.
fn points(value: f64, bands: &[(f64, i64)]) -> i64 {
    bands.iter().find(|(end, _)| value <= *end).map_or(0, |(_, points)| *points)
}

/// `None` for a record that is filtered.
fn news2(reading: &Value) -> Option<i64> {
    const ON: f64 = f64::INFINITY;
    let rounded = |name: &str| reading[name].as_f64().map(f64::round);
    let resp = points(rounded("respiratoryRate")?, &[(8.0, 3), (11.0, 1), (20.0, 0), (24.0, 2), (ON, 3)]);
    let spo2 = points(rounded("oxygenSaturation")?, &[(91.0, 3), (93.0, 2), (95.0, 1), (ON, 0)]);
    let bp = points(rounded("systolic")?, &[(90.0, 3), (100.0, 2), (110.0, 1), (219.0, 0), (ON, 3)]);
    let pulse_bands = [(40.0, 3), (50.0, 1), (90.0, 0), (110.0, 1), (130.0, 2), (ON, 3)];
    let pulse = points(rounded("heartRate")?, &pulse_bands);
    let temperature = points(reading["temperature"].as_f64()?, &[(35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (ON, 2)]);
    let air = if reading["onOxygen"] == true { 2 } else { 0 };
    let alert = if reading["alert"] == false { 3 } else { 0 };
    Some(resp + spo2 + bp + pulse + temperature + air + alert)
}

/// Patient and time in ms.
type Key = (String, i64);
/// Score, and whether it was a correction; each must be there once.
type Alarms = BTreeMap<Key, Vec<(i64, bool)>>;

/// Scores of the last reading of each key, and an alarm for each distinct one of 5 or more. Corrections were sent when
/// everything before them had been stored.
fn scores(brokers: &str) -> Result<(BTreeMap<Key, i64>, Alarms, u64)> {
    let mut all = records(brokers, "ward-vitals")?;
    all.sort_by_key(|record| (record.timestamp_ms, record.partition, record.offset));
    let total = u64::try_from(all.len())?;
    let (mut last, mut alarms): (BTreeMap<Key, Value>, Alarms) = Default::default();
    for record in all {
        let reading: Value = serde_json::from_slice(&record.value.context("a value")?)?;
        let in_range = reading["heartRate"].as_f64().is_none_or(|rate| rate > 0.0);
        let (Some(score), true) = (news2(&reading), in_range) else { continue };
        let key = (
            reading["patientId"].as_str().context("a patient")?.to_owned(),
            reading["timestamp"].as_i64().context("a time")?,
        );
        let before = last.insert(key.clone(), reading.clone());
        if before.as_ref() != Some(&reading) && score >= 5 {
            alarms.entry(key).or_default().push((score, before.is_some()));
        }
    }
    let scores = last.into_iter().filter_map(|(key, reading)| Some((key, news2(&reading)?))).collect();
    Ok((scores, alarms, total))
}

async fn alarms(brokers: &str, database: &tokio_postgres::Client) -> Result<Alarms> {
    let messages = committed(brokers, "ward-alarms")?;
    let values: Vec<Value> = messages.iter().map(|m| serde_json::from_str(m.text())).collect::<Result<_, _>>()?;
    let times: Vec<&str> = values.iter().map(|v| v["timestamp"].as_str().context("a time")).collect::<Result<_>>()?;
    let select = "select (extract(epoch from t::timestamptz) * 1000)::bigint from unnest($1::text[]) with ordinality \
                  as u(t, n) order by n";
    let times = database.query(select, &[&times]).await?;
    let mut alarms = Alarms::new();
    for ((message, value), time) in messages.iter().zip(&values).zip(&times) {
        let patient = value["patient_id"].as_str().context("a patient")?;
        let score = value["news2"].as_i64().context("a score")?;
        ensure!(message.key.as_deref() == Some(patient), "{message:?}");
        ensure!(value["priority"] == if score >= 7 { "high" } else { "medium" }, "{message:?}");
        ensure!(matches!(message.change(), "" | "correction"), "{message:?}");
        let alarm = (score, message.change() == "correction");
        alarms.entry((patient.to_owned(), time.try_get(0)?)).or_default().push(alarm);
    }
    Ok(alarms)
}

#[tokio::test(flavor = "multi_thread")]
async fn early_warning_alarms_once_for_each_reading_through_a_kill() -> Result<()> {
    let world = World::start().await?;
    let brokers = world.kafka.brokers();
    let mut input = Input::create(brokers, "ward-vitals", 4, 23).await?;
    let mut cluster = Cluster::start(&world, &["--checkpoint-interval", "1s"]).await?;
    let mut task_managers = cluster.start_task_managers(2).await?;
    cluster.submit(&Cluster::example("early-warning"))?;
    let database = world.database().await?;
    let mut random = SmallRng::seed_from_u64(23);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let first = i64::try_from(now.as_millis())? - 3_600_000;
    let readings: Vec<Value> =
        (0..2_000).map(|i| vitals(&mut random, i % 60, first + i64::try_from(i).unwrap_or(0) * 100)).collect();
    for (step, part) in readings.chunks(100).enumerate() {
        let mut messages: Vec<String> = part.iter().map(Value::to_string).collect();
        // Each fifth again, others without a vital sign or with a lost one.
        messages.extend(part.iter().step_by(5).map(Value::to_string));
        messages.push(part[0].to_string().replace("\"systolic\"", "\"other\""));
        messages.push(
            json!({"patientId": "P000", "timestamp": first, "heartRate": 0, "temperature": 36.6,
            "oxygenSaturation": 99, "respiratoryRate": 15, "systolic": 120})
            .to_string(),
        );
        input.send_all(&messages).await?;
        tokio::time::sleep(Duration::from_millis(30)).await;
        if step == 10 {
            task_managers.remove(0).kill()?;
            task_managers.push(cluster.start_task_manager()?);
        }
    }
    until("every first reading", LIMIT, async || Ok(count(&database, "news2_scores").await == 2_000)).await?;
    let corrected = readings.iter().step_by(10).map(|reading| {
        let mut reading = reading.clone();
        reading["respiratoryRate"] = json!(27);
        reading.to_string()
    });
    let corrected: Vec<String> = corrected.collect();
    input.send_all(&corrected).await?;

    let (scores, expected, total) = scores(brokers)?;
    let corrections = expected.values().flatten().filter(|(_, corrected)| *corrected).count();
    ensure!(expected.len() > 500 && corrections > 50, "{} alarms, {corrections} corrections", expected.len());
    until_ok("every alarm once", LIMIT, async || {
        let found = alarms(brokers, &database).await?;
        let wrong = expected.iter().find(|(key, alarms)| found.get(*key) != Some(alarms));
        ensure!(wrong.is_none(), "expected {wrong:?}, found {:?}", wrong.map(|(key, _)| found.get(key)));
        ensure!(found.len() == expected.len(), "{} alarms instead of {}", found.len(), expected.len());
        Ok(())
    })
    .await?;
    let select = "select patient_id, (extract(epoch from timestamp) * 1000)::bigint, news2::bigint from news2_scores";
    let mut stored = BTreeMap::new();
    for row in database.query(select, &[]).await? {
        stored.insert((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?);
    }
    until("the corrected scores", LIMIT, async || Ok(count(&database, "news2_scores").await == 2_000)).await?;
    ensure!(stored == scores, "the table differs");
    cluster.job_accounts_for("early-warning", total).await
}

// ---- dead letters

const DEAD_LETTERS: &str = r#"
[target.kafka]
type = "kafka"
brokers = { env = "KAFKA_BROKERS" }

[dead_letter]
to = "kafka"
topic = "health-data-dlq"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_to_a_topic_once_through_a_pause() -> Result<()> {
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], |job| job + DEAD_LETTERS).await?;
    scene.input.send(4_000).await?;
    scene.wait_for_rows(1_000).await?;
    let attempt = scene.attempt()?;
    scene.input.send_paced(1_000, Duration::from_secs(1)).await?;
    // Wherever it is: perhaps in the middle of a transaction.
    scene.task_managers[0].pause()?;
    scene.input.send_paced(500, Duration::from_millis(500)).await?;
    until("an attempt without it", LIMIT, async || Ok(scene.attempt()? > attempt)).await?;
    scene.input.send(500).await?;
    scene.task_managers[0].go_on()?;
    scene.input.send_paced(1_000, Duration::from_secs(1)).await?;
    scene.table_is_right().await?;

    let brokers = scene.world.kafka.brokers();
    let expected = rejected(brokers, "readings")?;
    ensure!(expected.len() > 50, "{} bad records: too few to prove anything", expected.len());
    until_ok("every dead letter once", LIMIT, async || {
        let mut found = BTreeMap::new();
        for letter in committed(brokers, "health-data-dlq")? {
            let header = |name: &str| letter.headers.get(name).map_or("", String::as_str);
            let place = (header("pulso_partition").parse()?, header("pulso_offset").parse()?);
            ensure!(header("pulso_job") == "health-records" && header("pulso_topic") == "readings", "{letter:?}");
            ensure!(!header("pulso_reason").is_empty() && !header("pulso_timestamp").is_empty(), "{letter:?}");
            ensure!(found.insert(place, letter.value.clone()).is_none(), "{place:?} is there twice");
        }
        let wrong = expected.iter().find(|(place, value)| found.get(*place) != Some(value));
        ensure!(wrong.is_none() && found.len() == expected.len(), "{} of {}", found.len(), expected.len());
        Ok(())
    })
    .await?;
    scene.is_conserved().await
}
