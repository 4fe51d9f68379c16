//! Real ICU vital signs, doubled and shuffled over partitions without keys, through kills; compared with DuckDB.

use std::time::Duration;

use anyhow::{Result, ensure};
use pulso_e2e::{Cluster, Input, Tables, World, real_messages, until_ok};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn icu_vital_signs_are_stored_once_through_kills() -> Result<()> {
    let world = World::start().await?;
    let once = real_messages(&world, "vitals")?;
    ensure!(once.len() > 20_000, "{} messages are not the whole data set", once.len());
    let mut messages = [once.clone(), once].concat();
    messages.shuffle(&mut SmallRng::seed_from_u64(3));

    let mut input = Input::create(world.kafka.brokers(), "icu", 6, 3).await?;
    let mut cluster = Cluster::start(&world, &["--checkpoint-interval", "1s"]).await?;
    let mut task_managers = cluster.start_task_managers(2).await?;
    // The stays last for weeks.
    cluster.submit(&cluster.health_job("icu", |job| job.replace("keep_for = \"24h\"", "keep_for = \"90d\""))?)?;
    let third = messages.len() / 3;
    for part in messages.chunks(third) {
        input.send_all(part).await?;
        task_managers.remove(0).kill()?;
        task_managers.push(cluster.start_task_manager()?);
    }

    let expected = Tables::expected(&world, "icu", "vitals", &[])?.only(&["health_records", "dead_letters"]);
    let rows = expected.rows("health_records");
    ensure!(rows > 10_000, "{rows} rows expected: too few to prove anything");
    let database = world.database().await?;
    until_ok("the table to be as DuckDB says", LIMIT, async || expected.compare(&database, "health-records").await)
        .await?;
    cluster.accounts_for(u64::try_from(messages.len())?).await
}
