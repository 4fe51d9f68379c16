//! Processes die under load; the table ends as the oracle says, by value.

use std::time::Duration;

use anyhow::{Result, ensure};
use pulso_e2e::{Scene, any_expected, stored, until, until_ok};

const LIMIT: Duration = Duration::from_secs(60);

fn unchanged(job: String) -> String {
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_over_partitions_and_corrections() -> Result<()> {
    let mut scene = Scene::set(2, &[], unchanged).await?;
    scene.input.send(20_000).await?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_manager_is_killed_under_load() -> Result<()> {
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], unchanged).await?;
    scene.input.send(5_000).await?;
    scene.wait_for_rows(2_000).await?;
    for _ in 0..3 {
        let attempt = scene.attempt()?;
        scene.input.send_paced(1_500, Duration::from_millis(1_500)).await?;
        scene.task_managers.remove(0).kill()?;
        scene.input.send_paced(1_500, Duration::from_millis(1_500)).await?;
        scene.task_managers.push(scene.cluster.start_task_manager()?);
        until("another attempt", LIMIT, async || Ok(scene.attempt()? > attempt)).await?;
    }
    scene.table_is_right().await?;
    scene.is_conserved().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobmanager_is_killed_under_load() -> Result<()> {
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], unchanged).await?;
    scene.input.send(5_000).await?;
    for _ in 0..2 {
        scene.input.send_paced(1_000, Duration::from_millis(1_000)).await?;
        scene.cluster.kill_jobmanager()?;
        scene.input.send_paced(500, Duration::from_millis(500)).await?;
        scene.cluster.start_jobmanager()?;
    }
    scene.input.send(2_000).await?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_killed() -> Result<()> {
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], unchanged).await?;
    scene.input.send(10_000).await?;
    scene.wait_for_rows(1_000).await?;
    scene.cluster.kill_jobmanager()?;
    for task_manager in scene.task_managers.drain(..) {
        task_manager.kill()?;
    }
    scene.input.send(3_000).await?;
    scene.cluster.start_jobmanager()?;
    scene.task_managers = vec![scene.cluster.start_task_manager()?, scene.cluster.start_task_manager()?];
    scene.table_is_right().await?;
    scene.is_conserved().await
}

/// Into a table without a key every repeat and every loss would show.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_table_sees_each_record_once_through_kills() -> Result<()> {
    let append = |job: String| {
        let keyed = "write = \"upsert\"                         # upsert | keep_first | append\nkey = [\"patient_id\", \"timestamp\"]\n";
        assert!(job.contains(keyed), "the job's sink is not as this test expects");
        job.replace(keyed, "write = \"append\"\n").replace("changed = \"update\"", "changed = \"drop\"")
    };
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], append).await?;
    scene.input.send(5_000).await?;
    scene.wait_for_rows(2_000).await?;
    for _ in 0..3 {
        scene.input.send_paced(1_000, Duration::from_millis(1_000)).await?;
        scene.task_managers.remove(0).kill()?;
        scene.input.send_paced(500, Duration::from_millis(500)).await?;
        scene.task_managers.push(scene.cluster.start_task_manager()?);
    }
    let expected = any_expected(scene.world.kafka.brokers(), "readings")?;
    // Which of several values came first depends on the cuts; nearly all keys have but one.
    let determined = expected.values().filter(|rows| rows.len() == 1).count();
    assert!(determined > expected.len() / 2, "{determined} of {} keys have one value", expected.len());
    let database = scene.world.database().await?;
    until_ok("each key once", LIMIT, async || {
        let stored = stored(&database, "health_records").await?;
        ensure!(expected.keys().eq(stored.keys()), "{} keys instead of {}", stored.len(), expected.len());
        let wrong = stored.iter().find(|(key, row)| !expected[*key].contains(row));
        ensure!(wrong.is_none(), "{wrong:?} was never sent");
        Ok(())
    })
    .await?;
    scene.is_conserved().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_manager_joins_and_another_leaves_under_load() -> Result<()> {
    let mut scene = Scene::set(1, &["--checkpoint-interval", "1s"], unchanged).await?;
    scene.input.send(5_000).await?;
    let attempt = scene.attempt()?;
    scene.task_managers.extend(scene.cluster.start_task_managers(1).await?);
    scene.input.send_paced(2_000, Duration::from_secs(2)).await?;
    until("the new one to be used", LIMIT, async || Ok(scene.attempt()? > attempt)).await?;
    assert!(scene.task_managers.remove(0).terminate()?, "SIGTERM drains and ends well");
    scene.input.send(2_000).await?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_task_managers_are_replaced_one_after_the_other() -> Result<()> {
    let mut scene = Scene::set(2, &["--checkpoint-interval", "1s"], unchanged).await?;
    scene.input.send(5_000).await?;
    scene.wait_for_rows(1_000).await?;
    scene.task_managers.extend(scene.cluster.start_task_managers(1).await?);
    for _ in 0..2 {
        scene.input.send_paced(1_000, Duration::from_secs(1)).await?;
        assert!(scene.task_managers.remove(0).terminate()?, "SIGTERM drains and ends well");
    }
    scene.input.send(2_000).await?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_added() -> Result<()> {
    let mut scene = Scene::set(2, &[], unchanged).await?;
    scene.input.send(3_000).await?;
    scene.input.add_partitions(6).await?;
    scene.input.send(3_000).await?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_and_resume_lose_and_repeat_nothing() -> Result<()> {
    let mut scene = Scene::set(2, &[], unchanged).await?;
    scene.input.send(4_000).await?;
    scene.wait_for_rows(500).await?;
    scene.cluster.healthctl(&["stop", "health-records"])?;
    assert!(scene.phase()?.to_lowercase().contains("finished"));
    scene.input.send(4_000).await?;
    let job = scene.cluster.health_job("readings", unchanged)?;
    let refused = scene.cluster.submit(&job).expect_err("another job would find the table taken").to_string();
    assert!(refused.contains("healthctl resume health-records"), "{refused}");
    scene.cluster.healthctl(&["resume", "health-records"])?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}

/// The TaskManagers keep what they hold; the one that stood by reads the control log and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_killed_jobmanager() -> Result<()> {
    let mut scene = Scene::set(0, &["--checkpoint-interval", "1s"], unchanged).await?;
    scene.cluster.start_standby()?;
    scene.task_managers = scene.cluster.start_task_managers(2).await?;
    scene.input.send(5_000).await?;
    scene.wait_for_rows(1_000).await?;
    scene.cluster.kill_jobmanager()?;
    scene.input.send_paced(2_000, Duration::from_secs(2)).await?;
    until("the standby to lead", LIMIT, async || Ok(scene.cluster.nodes().is_ok_and(|nodes| nodes.len() == 2))).await?;
    scene.input.send(2_000).await?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}
