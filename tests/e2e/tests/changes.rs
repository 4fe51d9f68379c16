//! A job goes on with another file: nothing is lost, nothing doubled, and nobody asks twice before state is dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pulso_e2e::{Cluster, Input, Reading, Scene, World, names, until, until_ok};

const LIMIT: Duration = Duration::from_secs(60);
const JOB: &str = "health-records";

/// A second table in the database, and lines in a folder that the job did not have before.
const MORE_SINKS: &str = r#"
[[sink]]
to = "db"
from = "records"
table = "fevers"
where = "temperature > 30"
write = "upsert"
key = ["patient_id", "timestamp"]
create = true

[target.archive]
type = "files"
path = "archive"
roll = "1s"

[[sink]]
to = "archive"
"#;

/// By another column than the routing key, so with an exchange of its own; `N` is its number.
const AGGREGATE: &str = r#"
[[aggregate]]
name = "by_timeN"
group_by = ["timestamp"]
window = { size = "12h" }
[aggregate.columns]
readings = "count(*)"

[[sink]]
to = "db"
from = "by_timeN"
table = "timesN"
write = "upsert"
key = ["timestamp", "window_start"]
create = true
"#;

type Counts = BTreeMap<String, i64>;

fn path(cluster: &Cluster, change: impl FnOnce(String) -> String) -> Result<String> {
    let job = cluster.health_job("readings", change)?;
    Ok(job.0.to_str().context("the path is text")?.to_owned())
}

fn submit(cluster: &Cluster, flags: &[&str], change: impl FnOnce(String) -> String) -> Result<String> {
    let path = path(cluster, change)?;
    cluster.healthctl(&[&["submit", &path, "--wait"], flags].concat())
}

async fn count(world: &World, table: &str) -> Result<i64> {
    let count = format!("select count(*) from {table}");
    Ok(world.database().await?.query_one(&count, &[]).await?.try_get(0)?)
}

/// Readings per patient, and how many of them in each table.
async fn by_patient(world: &World, table: &str) -> Result<Counts> {
    let select = format!("select patient_id, count(*) from {table} group by 1");
    let rows = world.database().await?.query(&select, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn patients(readings: &[Reading]) -> Counts {
    let mut counts = Counts::new();
    readings.iter().for_each(|reading| *counts.entry(reading.patient.clone()).or_default() += 1);
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_under_load_and_kills_loses_and_doubles_nothing() -> Result<()> {
    let late = |job: String| job.replace("lateness = \"5m\"", "lateness = \"3h\"");
    let (first, second) = (AGGREGATE.replace('N', "1"), AGGREGATE.replace('N', "2"));
    // Its windows are open when the file changes, and it is another one in it.
    let before = |job: String| late(job) + &first;
    let after_it = |job: String| late(job) + MORE_SINKS + &second + &first;
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], before).await?;
    scene.input.send(4_000).await?;
    scene.wait_for_rows(1_000).await?;
    // Is there when everything before the change is committed, so it is in nothing that only the other file has.
    let before = scene.input.new_readings(500);
    scene.input.send_readings(&before).await?;
    let told = submit(&scene.cluster, &[], after_it)?;
    for line in [
        "positions: kept",
        "dedup: kept",
        "aggregate by_time1: kept",
        "aggregate by_time2: new, begins empty",
        "gets what comes from here on",
    ] {
        ensure!(told.contains(line), "{told}");
    }
    let changed = scene.attempt()?;
    let after = scene.input.new_readings(700);
    scene.input.send_readings(&after).await?;
    // Duplicates and corrections of what was before, while hosts of both stages die.
    scene.input.send_paced(4_000, Duration::from_secs(3)).await?;
    scene.task_managers.remove(0).kill()?;
    scene.input.send_paced(2_000, Duration::from_secs(1)).await?;
    scene.task_managers.push(scene.cluster.start_task_manager()?);
    scene.cluster.kill_jobmanager()?;
    scene.cluster.start_jobmanager()?;
    scene.table_is_right().await?;
    scene.is_conserved().await?;
    ensure!(scene.attempt()? > changed);
    let (world, folder) = (&scene.world, scene.cluster.storage().with_file_name("archive"));
    let (all, fevers) = (by_patient(world, "health_records").await?, by_patient(world, "fevers").await?);
    for (patient, readings) in patients(&after) {
        ensure!(fevers.get(&patient).copied().unwrap_or(0) >= readings, "{patient} lacks rows in the new table");
    }
    let sum = |counts: &Counts| counts.values().sum::<i64>();
    ensure!(sum(&fevers) + 500 <= sum(&all), "{} of {} rows are in the new table", sum(&fevers), sum(&all));
    let select = "select count(*) from fevers f left join health_records r using (patient_id, timestamp) \
                  where r.temperature is distinct from f.temperature";
    let wrong: i64 = world.database().await?.query_one(select, &[]).await?.try_get(0)?;
    ensure!(wrong == 0, "{wrong} rows of the new table are not those of the old one");
    // Of each key the newest line is what the table has.
    until_ok("the files to be as the new table", LIMIT, async || {
        let mut keys = std::collections::BTreeSet::new();
        for name in names(&folder)?.iter().filter(|name| name.ends_with(".jsonl")) {
            for line in std::fs::read_to_string(folder.join(name))?.lines() {
                let line: serde_json::Value = serde_json::from_str(line)?;
                keys.insert((line["patient_id"].to_string(), line["timestamp"].to_string()));
            }
        }
        let rows = count(world, "fevers").await?;
        ensure!(i64::try_from(keys.len())? == rows, "{} keys in files, {rows} in the new table", keys.len());
        Ok(())
    })
    .await?;
    for (windows, rows) in [("times1", "health_records"), ("times2", "fevers")] {
        until_ok("the aggregate to be that of its rows", LIMIT, async || {
            let select = format!(
                "select count(*) from (select timestamp, sum(readings) as n from {windows} group by 1) a full join \
                 (select timestamp, count(*) as n from {rows} group by 1) b using (timestamp) \
                 where a.n is distinct from b.n"
            );
            let wrong: i64 = scene.world.database().await?.query_one(&select, &[]).await?.try_get(0)?;
            ensure!(wrong == 0, "{wrong} groups of {windows} differ");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_dropped_only_where_somebody_says_so() -> Result<()> {
    let mut scene = Scene::set(1, &[], |job| job).await?;
    scene.input.send(1_000).await?;
    scene.table_is_right().await?;
    let other_key = |job: String| {
        assert!(job.contains("route_by = "));
        job.replace("route_by = ", "# route_by = ")
    };
    let known = scene.input.new_readings(200);
    scene.input.send_readings(&known).await?;
    scene.is_conserved().await?;
    let attempt = scene.attempt()?;
    let refused = submit(&scene.cluster, &[], other_key).expect_err("state would be lost").to_string();
    for line in
        ["would lose state", "positions: kept", "dedup: dropped; the routing key is another one", "--allow-state-drop"]
    {
        ensure!(refused.contains(line), "{refused}");
    }
    ensure!(scene.attempt()? == attempt, "the job was left alone");
    // Nor is it taken from a file that works to one that it would fail with.
    let misfit = |job: String| job + &MORE_SINKS.replace("create = true", "create = false");
    let refused = submit(&scene.cluster, &[], misfit).expect_err("a table is missing").to_string();
    ensure!(refused.contains("table public.fevers in db: is missing") && scene.attempt()? == attempt, "{refused}");
    let plan = scene.cluster.healthctl(&["plan", &path(&scene.cluster, other_key)?, "--running"])?;
    ensure!(plan.contains("dedup: dropped; the routing key is another one"), "{plan}");
    submit(&scene.cluster, &["--allow-state-drop"], other_key)?;
    // The same file again changes nothing, and is told so.
    ensure!(submit(&scene.cluster, &[], other_key)?.contains("unchanged"));
    // Nobody knows that these were there.
    let duplicates = || Ok::<_, anyhow::Error>(scene.cluster.json(&["status", JOB])?["duplicates"].as_u64());
    let before = duplicates()?;
    scene.input.send_readings(&known).await?;
    scene.is_conserved().await?;
    ensure!(duplicates()? == before && before > Some(0), "state of before was used");
    scene.input.send(1_000).await?;
    scene.is_conserved().await?;
    scene.table_is_right().await
}

/// Stopped, or failed for something that is wrong in its file: submit goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_job_goes_on_with_another_file() -> Result<()> {
    let world = World::start().await?;
    let mut input = Input::create(world.kafka.brokers(), "readings", 4, 7).await?;
    let mut cluster = Cluster::start(&world, &[]).await?;
    let _task_managers = cluster.start_task_managers(1).await?;
    // The table is missing, and may not be made.
    cluster.healthctl(&["submit", &path(&cluster, |job| job.replace("create = true ", "create = false"))?])?;
    until("the job to fail", LIMIT, async || {
        Ok(cluster.json(&["status", JOB]).is_err_and(|e| e.to_string().contains("CREATE TABLE")))
    })
    .await?;
    submit(&cluster, &[], |job| job)?;
    input.send(2_000).await?;
    let (rows, _) = pulso_e2e::expected(world.kafka.brokers(), "readings")?;
    let database = world.database().await?;
    let is_right = async || pulso_e2e::compare(&rows, &pulso_e2e::stored(&database, "health_records").await?);
    until_ok("the table to be as the oracle says", LIMIT, is_right).await?;
    cluster.healthctl(&["stop", JOB])?;
    // Nothing that corrects what is there.
    let more = input.new_readings(1_000);
    input.send_readings(&more).await?;
    let same = submit(&cluster, &[], |job| job).expect_err("it is ended").to_string();
    ensure!(same.contains("healthctl resume"), "{same}");
    let told =
        submit(&cluster, &[], |job| job.replace("create = true ", "where = \"temperature > 49\"\ncreate = true "))?;
    ensure!(told.contains("is written otherwise from here on"), "{told}");
    let (_, total) = pulso_e2e::expected(world.kafka.brokers(), "readings")?;
    cluster.accounts_for(total).await?;
    // No row of after the change is as warm as that.
    is_right().await
}

/// The password of the database changes while the job runs: it waits, and goes on once it is told the new one.
#[tokio::test(flavor = "multi_thread")]
async fn another_password_is_taken_without_a_drain() -> Result<()> {
    let world = World::start().await?;
    let mut input = Input::create(world.kafka.brokers(), "readings", 4, 7).await?;
    let database = world.database().await?;
    database
        .batch_execute(
            "create role writer login password 'first'; grant create on database health to writer; \
                            grant create on schema public to writer",
        )
        .await?;
    let mut cluster = Cluster::start(&world, &[]).await?;
    let _task_managers = cluster.start_task_managers(1).await?;
    let url = |user: &str| format!("postgresql://{user}@127.0.0.1:{}/health", world.postgres.port());
    cluster.reach_database_at(url("writer:first"));
    cluster.submit(&cluster.health_job("readings", |job| job)?)?;
    input.send(1_000).await?;
    until("rows", LIMIT, async || Ok(count(&world, "health_records").await.unwrap_or(0) > 0)).await?;
    // Nobody gets in any more, and what is read waits to be committed.
    database.batch_execute("alter role writer nologin; select pg_terminate_backend(pid) from pg_stat_activity where usename = 'writer'").await?;
    input.send(1_000).await?;
    database.batch_execute("create role another login superuser").await?;
    cluster.reach_database_at(url("another"));
    let told = submit(&cluster, &[], |job| job)?;
    ensure!(told.contains("addresses or secrets only"), "{told}");
    let (rows, _) = pulso_e2e::expected(world.kafka.brokers(), "readings")?;
    until_ok("the table to be as the oracle says", LIMIT, async || {
        pulso_e2e::compare(&rows, &pulso_e2e::stored(&database, "health_records").await?)
    })
    .await
}

/// A backup of before the change is restored behind it: the job writes what is missing under the file that held then.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_from_before_the_change_gets_all_rows_again() -> Result<()> {
    let flags = ["--checkpoint-interval", "2s", "--retained", "10"];
    let mut scene = Scene::set(1, &flags, |job| job).await?;
    let database = scene.world.database().await?;
    scene.input.send(2_000).await?;
    scene.table_is_right().await?;
    until("a checkpoint", LIMIT, async || {
        let checkpoints = &scene.cluster.json(&["describe", JOB])?["checkpoints"];
        Ok(checkpoints.as_array().is_some_and(|list| list.iter().any(|c| !c["taken_ms"].is_null())))
    })
    .await?;
    let backup = "begin isolation level repeatable read;
        create table old_ledger as table pulso.ledger; create table old_rows as table health_records; commit";
    database.batch_execute(backup).await?;
    scene.input.send(2_000).await?;
    scene.table_is_right().await?;
    // With rows in the ledger for a stage that was not there before.
    submit(&scene.cluster, &[], |job| job + MORE_SINKS + &AGGREGATE.replace('N', ""))?;
    scene.input.send(1_000).await?;
    scene.table_is_right().await?;
    let fevers = by_patient(&scene.world, "fevers").await?;
    ensure!(!fevers.is_empty(), "a test without rows cannot fail");
    // What the newer file has made is not there, as in a real backup.
    let restore = "begin; lock table pulso.ledger, health_records, fevers;
        truncate pulso.ledger, health_records; drop table fevers; drop table times;
        delete from pulso.owners where table_name in ('fevers', 'times');
        insert into pulso.ledger table old_ledger; insert into health_records table old_rows;
        select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pulso/%';
        commit";
    database.batch_execute(restore).await?;
    scene.input.send(500).await?;
    scene.table_is_right().await?;
    let attempts = scene.cluster.json(&["describe", JOB])?["attempts"].to_string();
    ensure!(attempts.contains("goes on with the job file that followed"), "{attempts}");
    let again = by_patient(&scene.world, "fevers").await?;
    ensure!(fevers.iter().all(|(patient, rows)| again.get(patient) >= Some(rows)), "rows of the new table are missing");
    scene.is_conserved().await
}

/// Nothing can be committed, and nobody can be asked whether the tables fit: the change waits, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_for_a_database_that_is_down() -> Result<()> {
    let mut scene = Scene::set(1, &[], |job| job).await?;
    scene.input.send(1_000).await?;
    scene.table_is_right().await?;
    scene.world.postgres.stop_fast().await?;
    scene.input.send(500).await?;
    let other = |job: String| job + MORE_SINKS;
    let warned = scene.cluster.warnings(&["submit", &path(&scene.cluster, other)?])?;
    ensure!(warned.contains("not asked whether the tables fit: target db: "), "{warned}");
    let status = scene.cluster.json(&["describe", JOB])?.to_string();
    ensure!(status.contains("once everything before it is committed"), "{status}");
    let told = scene.cluster.healthctl(&["submit", &path(&scene.cluster, other)?])?;
    ensure!(told.contains("it is about to go on with this file already"), "{told}");
    let running = path(&scene.cluster, |job| job)?;
    let refused = scene.cluster.healthctl(&["submit", &running]).expect_err("another file waits").to_string();
    ensure!(refused.contains("is about to go on with another file"), "{refused}");
    let third = path(&scene.cluster, |job| job + STREAM)?;
    let refused = scene.cluster.healthctl(&["submit", &third, "--new"]).expect_err("it runs").to_string();
    ensure!(refused.contains("runs from another file: cancel it first"), "{refused}");
    scene.world.postgres.restart().await?;
    submit(&scene.cluster, &[], other)?;
    scene.input.send(500).await?;
    scene.table_is_right().await?;
    until("rows in the new table", LIMIT, async || Ok(count(&scene.world, "fevers").await.unwrap_or(0) > 0)).await?;
    scene.is_conserved().await
}

const STREAM: &str = r#"
[target.stream]
type = "kafka"
brokers = { env = "KAFKA_BROKERS" }

[[sink]]
to = "stream"
topic = "out"
"#;

/// A target that leaves the file and comes again goes on behind what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_may_go_and_come_again() -> Result<()> {
    let mut scene = Scene::set(2, &[], |job| job).await?;
    let mut expected = Counts::new();
    for round in 0..4 {
        let with = round % 2 == 1;
        if round > 0 {
            submit(&scene.cluster, &[], |job| if with { job + STREAM } else { job })?;
        }
        let readings = scene.input.new_readings(400);
        scene.input.send_readings(&readings).await?;
        if with {
            for (patient, count) in patients(&readings) {
                *expected.entry(patient).or_default() += count;
            }
        }
    }
    scene.table_is_right().await?;
    scene.task_managers.remove(0).kill()?;
    scene.input.send(500).await?;
    scene.table_is_right().await?;
    until_ok("the topic to have what came while it was a target", LIMIT, async || {
        let mut found = Counts::new();
        for message in pulso_e2e::committed(scene.world.kafka.brokers(), "out")? {
            let row: serde_json::Value = serde_json::from_str(message.text())?;
            let patient = row["patient_id"].as_str().context("a patient")?.to_owned();
            *found.entry(patient).or_default() += 1;
        }
        let at_least = expected.iter().all(|(patient, count)| found.get(patient) >= Some(count));
        let (sum, wanted) = (found.values().sum::<i64>(), expected.values().sum::<i64>());
        ensure!(at_least && sum >= wanted, "{sum} messages, {wanted} were expected");
        Ok(())
    })
    .await
}
