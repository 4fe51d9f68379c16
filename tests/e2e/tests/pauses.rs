//! Processes stand still, and go on as if nothing had happened; the table ends as the oracle says, by value.

use std::time::Duration;

use anyhow::Result;
use pulso_e2e::{Scene, hold, until, until_ok, waiting_copies};

const LIMIT: Duration = Duration::from_secs(60);

fn unchanged(job: String) -> String {
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_task_manager_comes_back_and_is_refused() -> Result<()> {
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], unchanged).await?;
    scene.input.send(5_000).await?;
    scene.wait_for_rows(2_000).await?;
    let attempt = scene.attempt()?;
    scene.task_managers[0].pause()?;
    scene.input.send_paced(2_000, Duration::from_secs(2)).await?;
    until("an attempt without it", LIMIT, async || Ok(scene.attempt()? > attempt)).await?;
    scene.input.send_paced(1_000, Duration::from_secs(1)).await?;
    scene.task_managers[0].go_on()?;
    until("it to register anew", LIMIT, async || Ok(scene.cluster.nodes()?.len() == 2)).await?;
    scene.input.send(2_000).await?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}

/// Its session keeps the transaction open, with everything that it has locked, until somebody ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_manager_paused_in_a_copy_is_ended_by_the_next_attempt() -> Result<()> {
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], unchanged).await?;
    scene.input.send(2_000).await?;
    scene.wait_for_rows(500).await?;
    let (mut holder, database) = (scene.world.database().await?, scene.world.database().await?);
    let readings = scene.input.new_readings(2_000);
    let held = holder.transaction().await?;
    hold(&held, &readings).await?;
    scene.input.send_readings(&readings).await?;
    until_ok("both to wait in a COPY", LIMIT, async || waiting_copies(&database, 2).await).await?;
    let attempt = scene.attempt()?;
    scene.task_managers[0].pause()?;
    // PostgreSQL's own word, and that it was in the COPY: the one that is paused cannot have ended its session itself.
    let server_log = scene.world.folder.path().join("postgres/server.log");
    until("its session to be ended", LIMIT, async || Ok(ended_in_a_copy(&std::fs::read_to_string(&server_log)?)))
        .await?;
    held.rollback().await?;
    until("an attempt without it", LIMIT, async || Ok(scene.attempt()? > attempt)).await?;
    scene.input.send(1_000).await?;
    scene.table_is_right().await?;
    scene.task_managers[0].go_on()?;
    until("it to register anew", LIMIT, async || Ok(scene.cluster.nodes()?.len() == 2)).await?;
    scene.input.send(1_000).await?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}

fn ended_in_a_copy(log: &str) -> bool {
    let ended = log.split("terminating connection due to administrator command").skip(1);
    ended.filter_map(|after| after.lines().find(|line| line.contains("STATEMENT:"))).any(|line| line.contains("COPY"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_jobmanager_goes_on() -> Result<()> {
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], unchanged).await?;
    scene.input.send(3_000).await?;
    scene.wait_for_rows(1_000).await?;
    let attempt = scene.attempt()?;
    scene.cluster.pause_jobmanager()?;
    // Longer than any deadline that the JobManager has for others, and they for it.
    scene.input.send_paced(3_000, Duration::from_secs(3)).await?;
    scene.cluster.resume_jobmanager()?;
    scene.input.send_paced(1_000, Duration::from_secs(1)).await?;
    scene.table_is_right().await?;
    scene.is_conserved().await?;
    assert_eq!(scene.attempt()?, attempt, "nobody is declared dead by one who slept");
    Ok(())
}
