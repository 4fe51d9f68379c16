//! The usual start of a test, and what must be true at its end.

use std::time::Duration;

use anyhow::Result;

use crate::{Cluster, Input, TaskManager, World, compare, expected, stored, until, until_ok};

const TOPIC: &str = "readings";
const LIMIT: Duration = Duration::from_secs(60);

/// A running job with its input, topic `readings`.
pub struct Scene {
    // In this order they are dropped: whoever writes into the world's folder goes before it.
    pub task_managers: Vec<TaskManager>,
    pub cluster: Cluster,
    pub input: Input,
    pub world: World,
}

impl Scene {
    pub async fn set(task_managers: usize, flags: &[&str], change: impl FnOnce(String) -> String) -> Result<Self> {
        let world = World::start().await?;
        let input = Input::create(world.kafka.brokers(), TOPIC, 4, 7).await?;
        let mut cluster = Cluster::start(&world, flags).await?;
        let task_managers = cluster.start_task_managers(task_managers).await?;
        cluster.submit(&cluster.health_job(TOPIC, change)?)?;
        Ok(Self { task_managers, cluster, input, world })
    }

    /// Waits until the table holds exactly what the topic says.
    pub async fn table_is_right(&self) -> Result<()> {
        let (rows, _) = expected(self.world.kafka.brokers(), TOPIC)?;
        assert!(!rows.is_empty(), "a test without rows cannot fail");
        let database = self.world.database().await?;
        until_ok("the table to be as the oracle says", LIMIT, async || {
            compare(&rows, &stored(&database, "health_records").await?)
        })
        .await
    }

    pub async fn rows(&self) -> Result<i64> {
        Ok(self.world.database().await?.query_one("select count(*) from health_records", &[]).await?.try_get(0)?)
    }

    pub async fn wait_for_rows(&self, count: i64) -> Result<()> {
        until("rows", LIMIT, async || Ok(self.rows().await.unwrap_or(0) >= count)).await
    }

    pub fn attempt(&self) -> Result<u64> {
        let status = self.cluster.json(&["status", "health-records"])?;
        Ok(status["attempt"].as_u64().unwrap_or(0))
    }

    pub fn phase(&self) -> Result<String> {
        Ok(self.cluster.json(&["status", "health-records"])?["status"].to_string())
    }

    /// The conservation line adds up: every record read is accounted for.
    pub async fn is_conserved(&self) -> Result<()> {
        let (_, total) = expected(self.world.kafka.brokers(), TOPIC)?;
        self.cluster.accounts_for(total).await
    }
}
