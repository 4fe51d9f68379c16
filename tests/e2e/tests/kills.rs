//! Processes die under load; the table ends as the oracle says, by value.

use std::time::Duration;

use anyhow::Result;
use pulso_e2e::{Cluster, Input, TaskManager, World, compare, expected, stored, until, until_ok};

const LIMIT: Duration = Duration::from_secs(60);

/// A running job with its input.
struct Scene {
    world: World,
    cluster: Cluster,
    task_managers: Vec<TaskManager>,
    input: Input,
}

impl Scene {
    async fn set(task_managers: usize, flags: &[&str], change: impl FnOnce(String) -> String) -> Result<Self> {
        let world = World::start().await?;
        let input = Input::create(world.kafka.brokers(), "readings", 4, 7).await?;
        let mut cluster = Cluster::start(&world, flags).await?;
        let task_managers = cluster.start_task_managers(task_managers).await?;
        cluster.submit(&cluster.health_job("readings", change)?)?;
        Ok(Self { world, cluster, task_managers, input })
    }

    /// Waits until the table holds exactly what the topic says.
    async fn table_is_right(&self) -> Result<()> {
        let (rows, _) = expected(self.world.kafka.brokers(), "readings")?;
        assert!(!rows.is_empty(), "a test without rows cannot fail");
        let database = self.world.database().await?;
        until_ok("the table to be as the oracle says", LIMIT, async || {
            compare(&rows, &stored(&database, "health_records").await?)
        })
        .await
    }

    async fn rows(&self) -> Result<i64> {
        Ok(self.world.database().await?.query_one("select count(*) from health_records", &[]).await?.try_get(0)?)
    }

    async fn wait_for_rows(&self, count: i64) -> Result<()> {
        until("rows", LIMIT, async || Ok(self.rows().await.unwrap_or(0) >= count)).await
    }

    fn attempt(&self) -> Result<u64> {
        let status = self.cluster.json(&["status", "health-records"])?;
        Ok(status["attempt"].as_u64().unwrap_or(0))
    }

    fn phase(&self) -> Result<String> {
        Ok(self.cluster.json(&["status", "health-records"])?["status"].to_string())
    }

    /// The conservation line adds up: every record read is accounted for.
    async fn is_conserved(&self) -> Result<()> {
        let (_, total) = expected(self.world.kafka.brokers(), "readings")?;
        self.cluster.accounts_for(total).await
    }
}

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
    let (rows, _) = expected(scene.world.kafka.brokers(), "readings")?;
    let database = scene.world.database().await?;
    until_ok("each key once", LIMIT, async || {
        // Which of several values came first depends on the cuts; that there is one row per key does not.
        let stored = stored(&database, "health_records").await?;
        let keys = |rows: &pulso_e2e::Rows| rows.keys().cloned().collect::<Vec<_>>();
        anyhow::ensure!(keys(&rows) == keys(&stored), "{} keys instead of {}", stored.len(), rows.len());
        Ok(())
    })
    .await?;
    scene.is_conserved().await
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
    scene.cluster.healthctl(&["resume", "health-records"])?;
    scene.table_is_right().await?;
    scene.is_conserved().await
}
