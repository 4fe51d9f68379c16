//! What the systems that the example jobs come from got wrong, one small case each, all on one cluster.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Result, ensure};
use pulso_e2e::{Cluster, Input, TaskManager, World, until_ok, without_kafka};
use serde_json::json;
use tokio_postgres::Client;

const LIMIT: Duration = Duration::from_secs(30);

/// The three jobs as they are, each on a topic of its own.
struct Stage {
    health: Input,
    shop: Input,
    sensors: Input,
    database: Client,
    task_managers: Vec<TaskManager>,
    cluster: Cluster,
    _world: World,
}

impl Stage {
    async fn set() -> Result<Self> {
        let world = World::start().await?;
        let topic = async |name, partitions| Input::create(world.kafka.brokers(), name, partitions, 1).await;
        // In one partition records stay in order; over three, a retry comes by another one.
        let (health, shop) = (topic("health-data", 1).await?, topic("ecommerce-events", 3).await?);
        let sensors = topic("sensores-iot", 3).await?;
        let mut cluster = Cluster::start(&world, &[]).await?;
        let task_managers = cluster.start_task_managers(2).await?;
        for job in ["health-vitals", "ecommerce", "iot-sensors"] {
            cluster.submit(&cluster.job(job, |text| without_kafka(&text))?)?;
        }
        let database = world.database().await?;
        Ok(Self { health, shop, sensors, database, task_managers, cluster, _world: world })
    }

    /// Waits until the first column of what this selects, as text, is exactly this.
    async fn finds(&self, select: &str, expected: &[&str]) -> Result<()> {
        until_ok(select, LIMIT, async || {
            let rows = self.database.query(&format!("select a::text from ({select}) as s(a)"), &[]).await?;
            let found = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Option<String>>, _>>()?;
            let found: Vec<&str> = found.iter().map(|text| text.as_deref().unwrap_or("null")).collect();
            same(&found[..], expected)
        })
        .await
    }

    async fn dead_letters(&self, job: &str, expected: &[&str]) -> Result<()> {
        let select = format!(
            "select concat_ws(' ', reason, field) from pulso.dead_letters where job_name = '{job}' order by split, position"
        );
        self.finds(&select, expected).await
    }

    /// The job still runs in the attempt that it began with.
    fn never_restarted(&self, job: &str) -> Result<()> {
        same(&self.cluster.attempt(job)?, &1)
    }
}

fn same<T: PartialEq + Debug + ?Sized>(found: &T, expected: &T) -> Result<()> {
    ensure!(found == expected, "found {found:?} instead of {expected:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_originals_got_wrong() -> Result<()> {
    let mut stage = Stage::set().await?;
    health(&mut stage).await?;
    shop(&mut stage).await?;
    sensors(&mut stage).await?;
    panels(&stage).await?;
    nothing_private_is_logged(&stage)?;
    stage.task_managers.clear();
    Ok(())
}

/// Of patient PHI-1: minute 0 has readings at 1, 2 and again 1, the latest then corrected.
async fn health(stage: &mut Stage) -> Result<()> {
    let minute = 29_000_000_i64 * 60_000;
    let reading = |second: i64, heart: f64| {
        json!({"patientId": "PHI-1", "timestamp": minute + second * 1000, "heartRate": heart, "temperature": 37.5,
               "oxygenSaturation": 97.0, "large_data": "PHI-2"})
        .to_string()
    };
    let text_of = |heart: &str| format!(r#"{{"patientId":"PHI-1","timestamp":{minute},"heartRate":{heart}}}"#);
    // As the original's README spells it, and without large_data.
    let readme = json!({"patient_id": "PHI-3", "timestamp": minute, "heart_rate": 70.0, "temperature": 36.5,
                        "oxygen_saturation": 98.5})
    .to_string();
    let messages = [
        reading(1, 60.0),
        reading(2, 80.0),
        reading(1, 60.0),
        reading(2, 90.5),
        readme,
        text_of("NaN"),
        text_of("1e999"),
        text_of("\"80\""),
        "{\"patientId\": \"PHI-1\"".to_owned(),
    ];
    stage.health.send_all(&messages).await?;
    let rows = "select concat_ws(' ', patient_id, extract(second from timestamp)::int, heart_rate, large_data) \
                from health_records order by patient_id, timestamp";
    stage.finds(rows, &["PHI-1 1 60 PHI-2", "PHI-1 2 90.5 PHI-2", "PHI-3 0 70"]).await?;
    let windows = "select concat_ws(' ', patient_id, readings, avg_heart_rate, max_temperature, min_oxygen) \
                   from vitals_by_minute order by patient_id";
    stage.finds(windows, &["PHI-1 2 75.25 37.5 97", "PHI-3 1 70 36.5 98.5"]).await?;
    let letters = ["invalid_json", "out_of_range heart_rate", "wrong_type heart_rate", "invalid_json"];
    stage.dead_letters("health-vitals", &letters).await?;
    stage.cluster.job_accounts_for("health-vitals", u64::try_from(messages.len())?).await?;
    stage.never_restarted("health-vitals")
}

/// Bad events are kept, the last event of a quiet topic is stored, a retry counts once, and products follow their price.
async fn shop(stage: &mut Stage) -> Result<()> {
    let event = |id: &str, time: &str, price: f64| {
        json!({"event_id": id, "event_type": "purchase", "timestamp": time, "user_id": "U1", "quantity": 2,
               "product": {"id": "P1", "name": "Livro", "category": "livros", "price": price},
               "total_amount": price * 2.0, "payment_method": "pix"})
        .to_string()
    };
    let first = event("E1", "2026-01-01T10:00:00Z", 10.25);
    stage.shop.send_all(&vec![first.clone(); 5]).await?;
    let revenue = "select concat_ws(' ', window_start at time zone 'UTC', purchases, quantity, revenue) \
                   from revenue_by_category order by 1";
    stage.finds(revenue, &["2026-01-01 10:00:00 1 2 20.50"]).await?;
    stage.finds("select price from products", &["10.25"]).await?;

    stage.shop.send_all(&[event("E2", "2026-01-01T10:05:00", 11.5)]).await?;
    stage.finds("select price from products", &["11.50"]).await?;
    // Older, so its price is not the one that holds.
    stage.shop.send_all(&[event("E3", "2026-01-01T10:04:00Z", 9.99), first]).await?;
    stage.finds(revenue, &["2026-01-01 10:00:00 3 6 63.48"]).await?;
    stage.finds("select price from products", &["11.50"]).await?;
    stage.finds("select event_id from events order by 1", &["E1", "E2", "E3"]).await?;
    stage.finds("select transaction_id from transactions order by 1", &["TXN_E1", "TXN_E2", "TXN_E3"]).await?;

    let bad = r#"{"event_id": "E4", "event_type": "purchase", "timestamp": "2026-01-01T10:06:00Z", "user_id": "U1"}"#;
    stage.shop.send_all(&[bad.to_owned()]).await?;
    stage.dead_letters("ecommerce", &["rule:purchase_is_complete"]).await?;
    let kept = "select convert_from(value, 'UTF8') from pulso.dead_letters where job_name = 'ecommerce'";
    stage.finds(kept, &[bad]).await?;
    stage.cluster.job_accounts_for("ecommerce", 9).await?;
    stage.never_restarted("ecommerce")
}

/// No row is doubled by a retry nor made of nulls, and nothing is passed over while nobody reads.
async fn sensors(stage: &mut Stage) -> Result<()> {
    let reading = |sensor: i32, minute: i32| {
        json!({"sensor_id": sensor, "temperatura": 20.1 + f64::from(sensor), "umidade": 60, "status": "CRITICO",
               "data_hora": format!("2026-01-01 07:{minute:02}:00"), "cidade": "Recife"})
        .to_string()
    };
    let before = [reading(1, 0), reading(1, 0), reading(2, 0), "{\"sensor_id\": 3,".to_owned(), reading(1, 0)];
    stage.sensors.send_all(&before).await?;
    stage.finds("select sensor_id from sensores order by 1", &["1", "2"]).await?;
    stage.dead_letters("iot-sensors", &["invalid_json"]).await?;

    for task_manager in stage.task_managers.drain(..) {
        task_manager.kill()?;
    }
    stage.sensors.send_all(&[reading(1, 0), reading(3, 0), reading(1, 1)]).await?;
    stage.task_managers = vec![stage.cluster.start_task_manager()?, stage.cluster.start_task_manager()?];
    let rows = "select concat_ws(' ', sensor_id, data_hora at time zone 'UTC') from sensores order by 1";
    let times = ["1 2026-01-01 10:00:00", "1 2026-01-01 10:01:00", "2 2026-01-01 10:00:00", "3 2026-01-01 10:00:00"];
    stage.finds(rows, &times).await?;
    let windows = "select concat_ws(' ', cidade, to_char(window_start at time zone 'UTC', 'HH24:MI'), leituras, \
                   temperatura_media, umidade_media, criticos) from cidade_minuto order by window_start";
    // (21.1 + 22.1 + 23.1) / 3, rounded once.
    stage.finds(windows, &["Recife 10:00 3 22.100000000000005 60 3", "Recife 10:01 1 21.1 60 1"]).await?;
    stage.cluster.job_accounts_for("iot-sensors", 8).await
}

/// Every query that a job file shows runs on the tables that the job makes.
async fn panels(stage: &Stage) -> Result<()> {
    let mut run = 0;
    for job in ["health-vitals", "ecommerce", "iot-sensors"] {
        let text = std::fs::read_to_string(stage.cluster.job(job, |text| text)?.0)?;
        for query in text.split("sql = \"\"\"").skip(1).filter_map(|rest| rest.split("\"\"\"").next()) {
            stage.database.query(query, &[]).await?;
            run += 1;
        }
    }
    ensure!(run == 7, "{run} queries were found");
    Ok(())
}

/// Neither a patient nor a payload, whatever happened to them.
fn nothing_private_is_logged(stage: &Stage) -> Result<()> {
    let logs = stage.cluster.logs()?;
    ensure!(logs.contains("job submitted"), "these are not the cluster's logs");
    let private = logs.lines().find(|line| line.contains("PHI-") || line.contains("heartRate"));
    ensure!(private.is_none(), "{private:?}");
    Ok(())
}
