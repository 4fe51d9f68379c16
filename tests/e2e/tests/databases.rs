//! The database goes away, answers too late, or is ahead of what the control log knows.

use std::time::Duration;

use anyhow::Result;
use pulso_e2e::{Cluster, Input, World, compare, expected, stored, until, until_ok};

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

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_stops_at_once_while_rows_flow() -> Result<()> {
    let mut world = World::start().await?;
    let mut input = Input::create(world.kafka.brokers(), "readings", 4, 11).await?;
    let mut cluster = Cluster::start(&world, &[]).await?;
    let _task_managers = cluster.start_task_managers(2).await?;
    cluster.submit(&cluster.health_job("readings", |job| job)?)?;
    for _ in 0..2 {
        input.send(20_000).await?;
        world.postgres.stop_immediate().await?;
        input.send(1_000).await?;
        world.postgres.restart().await?;
    }
    input.send(2_000).await?;
    table_is_right(&world).await
}

/// The table holds more than a control log without history can know: nothing may be written over it.
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
    let _task_managers = [cluster.start_task_manager()?, cluster.start_task_manager()?];
    until("the job to be submitted again", LIMIT, async || Ok(cluster.nodes().is_ok_and(|n| n.len() == 2))).await?;
    // The same file is another job now; the table belongs to the one before.
    let refused = match cluster.submit(&job) {
        Err(refused) => refused.to_string(),
        Ok(()) => {
            until_ok("the job to fail", LIMIT, async || {
                let status = cluster.json(&["status", "health-records"])?;
                anyhow::ensure!(status.to_string().to_lowercase().contains("failed"), "{status}");
                Ok(status.to_string())
            })
            .await?
        }
    };
    assert!(refused.contains("health_records"), "it names the table: {refused}");
    table_is_right(&world).await
}
