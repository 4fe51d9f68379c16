//! The database goes away, answers too late, or is ahead of what the control log knows.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use pulso_e2e::{Cluster, Input, Proxy, World, compare, expected, hold, stored, until, until_ok, waiting_copies};

const LIMIT: Duration = Duration::from_secs(60);

async fn table_is_right(world: &World) -> Result<()> {
    let (rows, _) = expected(world.kafka.brokers(), "readings")?;
    assert!(!rows.is_empty(), "a test without rows cannot fail");
    let database = world.database().await?;
    until_ok("the table to be as the oracle says", LIMIT, async || {
        compare(&rows, &stored(&database, "health_records").await?)
    })
    .await
}

async fn stop_in_a_copy(world: &mut World, input: &mut Input) -> Result<()> {
    let (mut holder, database) = (world.database().await?, world.database().await?);
    until("the table", LIMIT, async || Ok(database.batch_execute("select from health_records").await.is_ok())).await?;
    let readings = input.new_readings(5_000);
    let held = holder.transaction().await?;
    hold(&held, &readings).await?;
    input.send_readings(&readings).await?;
    until_ok("a COPY to wait", LIMIT, async || waiting_copies(&database, 1).await).await?;
    world.postgres.stop_immediate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_stops_at_once_in_a_copy() -> Result<()> {
    let mut world = World::start().await?;
    let mut input = Input::create(world.kafka.brokers(), "readings", 4, 11).await?;
    let mut cluster = Cluster::start(&world, &[]).await?;
    let _task_managers = cluster.start_task_managers(2).await?;
    cluster.submit(&cluster.health_job("readings", |job| job)?)?;
    for _ in 0..2 {
        stop_in_a_copy(&mut world, &mut input).await?;
        input.send(1_000).await?;
        world.postgres.restart().await?;
    }
    input.send(2_000).await?;
    table_is_right(&world).await
}

/// Whether a COMMIT whose answer is lost was done, only the database knows.
#[tokio::test(flavor = "multi_thread")]
async fn connections_break_between_commit_and_its_answer() -> Result<()> {
    let world = World::start().await?;
    let mut input = Input::create(world.kafka.brokers(), "readings", 4, 19).await?;
    let mut cluster = Cluster::start(&world, &[]).await?;
    let proxy = Proxy::start(world.postgres.port(), 5).await?;
    cluster.reach_database_at(format!("postgresql://postgres@127.0.0.1:{}/health", proxy.port()));
    let _task_managers = cluster.start_task_managers(2).await?;
    cluster.submit(&cluster.health_job("readings", |job| job)?)?;
    let mut sent = 0;
    until("both kinds of cuts", LIMIT, async || {
        input.send_paced(250, Duration::from_millis(250)).await?;
        sent += 250;
        let (before, after) = proxy.cuts();
        Ok(before >= 5 && after >= 5)
    })
    .await?;
    table_is_right(&world).await?;
    cluster.accounts_for(sent).await
}

/// The job fails, and says so with this.
async fn fails_with(cluster: &Cluster, reason: &str) -> Result<()> {
    until_ok("the job to fail", LIMIT, async || {
        // A failed job is exit code 4, with the reason.
        let said =
            cluster.json(&["status", "health-records"]).map_or_else(|e| e.to_string(), |status| status.to_string());
        ensure!(said.contains("job_failed") && said.contains(reason), "{said}");
        Ok(())
    })
    .await
}

/// A cluster that has forgotten everything: the same file is another job now, and the table is the old one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_checkpoint_storage_is_refused() -> Result<()> {
    let world = World::start().await?;
    let mut input = Input::create(world.kafka.brokers(), "readings", 4, 13).await?;
    let mut cluster = Cluster::start(&world, &[]).await?;
    let task_managers = cluster.start_task_managers(2).await?;
    let job = cluster.health_job("readings", |job| job)?;
    cluster.submit(&job)?;
    input.send(3_000).await?;
    table_is_right(&world).await?;
    cluster.kill_jobmanager()?;
    for task_manager in task_managers {
        task_manager.kill()?;
    }
    std::fs::remove_dir_all(cluster.storage())?;
    cluster.start_jobmanager()?;
    let _task_managers = cluster.start_task_managers_of_new_jobmanager(2).await?;
    cluster.submit(&job)?;
    fails_with(&cluster, "belongs to job health-records").await?;
    table_is_right(&world).await
}

/// A control log that was restored from a backup does not know what the ledger says: nothing is muted over it.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_checkpoint_storage_is_refused() -> Result<()> {
    let world = World::start().await?;
    let mut input = Input::create(world.kafka.brokers(), "readings", 4, 17).await?;
    let mut cluster = Cluster::start(&world, &[]).await?;
    let task_managers = cluster.start_task_managers(2).await?;
    cluster.submit(&cluster.health_job("readings", |job| job)?)?;
    input.send(2_000).await?;
    table_is_right(&world).await?;
    cluster.kill_jobmanager()?;
    let backup = world.folder.path().join("backup");
    copy(&cluster.storage(), &backup)?;
    cluster.start_jobmanager()?;
    input.send(2_000).await?;
    table_is_right(&world).await?;
    cluster.kill_jobmanager()?;
    for task_manager in task_managers {
        task_manager.kill()?;
    }
    std::fs::remove_dir_all(cluster.storage())?;
    copy(&backup, &cluster.storage())?;
    cluster.start_jobmanager()?;
    let _task_managers = cluster.start_task_managers_of_new_jobmanager(2).await?;
    fails_with(&cluster, "the sink is ahead of this control log").await?;
    table_is_right(&world).await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(done.success(), "cp ended with {done}");
    Ok(())
}
