//! Real data through the jobs: weather as sensor readings, purchases as shop events, vital signs as early warnings; each
//! with repeats, through a kill, and compared with DuckDB.

use std::time::Duration;

use anyhow::{Result, ensure};
use pulso_e2e::{Cluster, Input, Tables, TaskManager, World, real_messages, until_ok, without_kafka};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const LIMIT: Duration = Duration::from_secs(120);

/// Messages of one job on their way.
struct Feed {
    job: &'static str,
    input: Input,
    messages: Vec<String>,
}

impl Feed {
    /// A fifth of the messages comes again, up to `within` places behind.
    async fn new(world: &World, job: &'static str, topic: &str, once: &[String], within: usize) -> Result<Self> {
        let mut random = SmallRng::seed_from_u64(5);
        let mut placed: Vec<(usize, &String)> = once.iter().enumerate().collect();
        for (place, message) in once.iter().enumerate() {
            if random.random_bool(0.2) {
                placed.push((place + random.random_range(1..=within), message));
            }
        }
        placed.sort_by_key(|(place, _)| *place);
        let messages = placed.into_iter().map(|(_, message)| message.clone()).collect();
        let input = Input::create(world.kafka.brokers(), topic, 4, 3).await?;
        Ok(Self { job, input, messages })
    }

    fn total(&self) -> Result<u64> {
        Ok(u64::try_from(self.messages.len())?)
    }
}

/// Sends all messages; in the middle a TaskManager dies and another comes.
async fn send(feeds: &mut [&mut Feed], cluster: &mut Cluster, task_managers: &mut Vec<TaskManager>) -> Result<()> {
    for half in 0..2 {
        for Feed { input, messages, .. } in feeds.iter_mut() {
            let (first, second) = messages.split_at(messages.len() / 2);
            input.send_all(if half == 0 { first } else { second }).await?;
        }
        if half == 0 {
            task_managers.remove(0).kill()?;
            task_managers.push(cluster.start_task_manager()?);
        }
    }
    Ok(())
}

async fn is_right(world: &World, cluster: &Cluster, feed: &Feed, expected: &Tables) -> Result<()> {
    let database = world.database().await?;
    until_ok("the tables to be as DuckDB says", LIMIT, async || expected.compare(&database, feed.job).await).await?;
    cluster.job_accounts_for(feed.job, feed.total()?).await
}

/// The first so many messages of each data set.
async fn weather_and_purchases(most: usize) -> Result<()> {
    let world = World::start().await?;
    let weather = real_messages(&world, "weather")?;
    let purchases = real_messages(&world, "purchases")?;
    ensure!((weather.len(), purchases.len()) == (26_115, 69_659), "these are other data sets");
    let mut cluster = Cluster::start(&world, &["--checkpoint-interval", "1s"]).await?;
    let mut task_managers = cluster.start_task_managers(2).await?;
    // A reading an hour at each of three airports: a day has something to average.
    let some = &weather[..weather.len().min(most)];
    let mut sensors = Feed::new(&world, "iot-sensors", "sensores-iot", some, 12).await?;
    let some = &purchases[..purchases.len().min(most)];
    let mut shop = Feed::new(&world, "ecommerce", "ecommerce-events", some, 300).await?;
    let daily = |job: String| {
        assert!(job.contains("window = { size = \"1m\" }"), "the job's window is not as this test expects");
        job.replace("window = { size = \"1m\" }", "window = { size = \"1d\" }").replace("\"6h\"", "\"2d\"")
    };
    cluster.submit(&cluster.job("iot-sensors", daily)?)?;
    cluster.submit(&cluster.job("ecommerce", |job| job)?)?;
    send(&mut [&mut sensors, &mut shop], &mut cluster, &mut task_managers).await?;

    let expected = Tables::expected(&world, "sensores-iot", "sensors", &["size='1 day'"])?;
    let (days, hours) = (expected.rows("cidade_minuto"), expected.rows("sensores"));
    ensure!(days > 100 && hours > 20 * days, "{hours} hours in {days} days of an airport: too few to average");
    is_right(&world, &cluster, &sensors, &expected).await?;
    let expected = Tables::expected(&world, "ecommerce-events", "shop", &[])?;
    ensure!(expected.rows("transactions") == some.len(), "{} purchases", expected.rows("transactions"));
    is_right(&world, &cluster, &shop, &expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn some_weather_and_purchases() -> Result<()> {
    weather_and_purchases(4_000).await
}

#[ignore = "takes long"]
#[tokio::test(flavor = "multi_thread")]
async fn a_year_of_weather_and_all_purchases() -> Result<()> {
    weather_and_purchases(usize::MAX).await
}

/// Of the 2,332 times with all five vital signs NEWS2 is 7 or more at 116 and 5 or 6 at 424, never above 11. At 13 of them
/// the job sees a lost signal (no breath, no oxygen): among those are one and five of these scores.
#[tokio::test(flavor = "multi_thread")]
async fn early_warnings_of_intensive_care() -> Result<()> {
    let world = World::start().await?;
    let once = real_messages(&world, "vitals")?;
    let mut cluster = Cluster::start(&world, &["--checkpoint-interval", "1s"]).await?;
    let mut task_managers = cluster.start_task_managers(2).await?;
    let mut vitals = Feed::new(&world, "early-warning", "ward-vitals", &once, 1000).await?;
    // The stays last for weeks.
    let job = |job: String| without_kafka(&job).replace("keep_for = \"24h\"", "keep_for = \"90d\"");
    cluster.submit(&cluster.job("early-warning", job)?)?;
    send(&mut [&mut vitals], &mut cluster, &mut task_managers).await?;

    let expected = Tables::expected(&world, "ward-vitals", "scores", &[])?;
    is_right(&world, &cluster, &vitals, &expected).await?;
    let select = "select count(*), count(*) filter (where news2 >= 7), count(*) filter (where news2 in (5, 6)), \
                  max(news2)::bigint from news2_scores";
    let found = world.database().await?.query_one(select, &[]).await?;
    let counts: Vec<i64> = (0..4).map(|at| found.try_get(at)).collect::<Result<_, _>>()?;
    assert_eq!(counts, [2_332 - 13, 116 - 1, 424 - 5, 11]);
    Ok(())
}
