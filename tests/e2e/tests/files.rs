//! A folder of files as the input: bad files, bad records, files that come twice, and processes that die meanwhile.

use std::time::Duration;

use anyhow::{Result, ensure};
use pulso_e2e::{FILES_LETTERS, FILES_SINK, Ward, until, until_ok};

/// A test that fails shows what the processes said.
async fn explained(ward: &mut Ward, test: impl AsyncFnOnce(&mut Ward) -> Result<()>) -> Result<()> {
    let done = test(ward).await;
    if done.is_err() {
        ward.explain();
    }
    done
}

/// Windows that nothing but the end of the input closes.
const HOURLY: &str = r#"
[[aggregate]]
name = "hourly"
group_by = ["patient_id", "sensor"]
window = { size = "1h" }
emit = "close"
[aggregate.columns]
readings = "count(*)"
most = "max(valor)"

[[sink]]
to = "db"
from = "hourly"
table = "hourly"
key = ["patient_id", "sensor", "window_start"]
create = true
"#;

/// Rows that only one of the two has: the table of windows, and what its database makes of the readings.
const HOURLY_IS_WRONG: &str = "with stored as (select patient_id, sensor, window_start, readings, most from hourly), \
     computed as (select patient_id, sensor, date_trunc('hour', at), count(*), max(valor) from readings group by 1, 2, 3) \
     select (select count(*) from (select * from stored except select * from computed) a) \
          + (select count(*) from (select * from computed except select * from stored) b)";

const LIMIT: Duration = Duration::from_secs(60);

fn unchanged(job: String) -> String {
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_followed_through_kills_and_tidied() -> Result<()> {
    let mut ward = Ward::open(&["--checkpoint-interval", "1s", "--retained", "2"]).await?;
    explained(&mut ward, async |ward| {
        ward.task_managers = ward.cluster.start_task_managers(2).await?;
        ward.collect(80)?;
        ward.submit(|job| format!("{job}{FILES_SINK}{FILES_LETTERS}"))?;
        for _ in 0..2 {
            ward.collect(60)?;
            let attempt = ward.status()?["attempt"].as_u64();
            ward.task_managers.remove(0).kill()?;
            ward.collect(60)?;
            ward.task_managers.push(ward.cluster.start_task_manager()?);
            until("another attempt", LIMIT, async || Ok(ward.status()?["attempt"].as_u64() > attempt)).await?;
        }
        ward.cluster.kill_jobmanager()?;
        ward.collect(20)?;
        ward.cluster.start_jobmanager()?;
        ward.table_is_right().await?;
        ward.is_conserved().await?;
        ward.written_files_are_right().await?;
        ward.letters_in_files_are_right().await?;
        // Though no others come.
        ward.files_are_tidy().await?;
        ward.table_is_right().await?;
        ward.written_files_are_right().await?;
        ward.letters_in_files_are_right().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finite_input_ends_the_job_and_its_files_are_moved() -> Result<()> {
    let mut ward = Ward::open(&["--checkpoint-interval", "1s"]).await?;
    explained(&mut ward, async |ward| {
        ward.collect(150)?;
        ward.task_managers = ward.cluster.start_task_managers(2).await?;
        // Nobody waits an hour: what is written becomes visible before the job is finished.
        let sink = FILES_SINK.replace("1s", "1h") + "format = \"parquet\"\n";
        ward.submit(|job| {
            let job = job.replace("follow = true", "follow = false");
            job.replace("field = \"at\"", "field = \"at\"\nlateness = \"3h\"") + &sink + HOURLY
        })?;
        ward.task_managers.remove(0).kill()?;
        until("the job to finish", LIMIT, async || Ok(ward.status()?["status"] == "finished")).await?;
        ward.table_is_right().await?;
        ward.letters_are_right().await?;
        ward.written_files_are_right().await?;
        let database = ward.database().await?;
        let wrong: i64 = database.query_one(HOURLY_IS_WRONG, &[]).await?.try_get(0)?;
        let windows: i64 = database.query_one("select count(*) from hourly", &[]).await?.try_get(0)?;
        ensure!(wrong == 0 && windows > 100, "{wrong} of {windows} windows are wrong");
        let written = pulso_e2e::names(&ward.path("out"))?;
        ensure!(written.iter().all(|name| name.ends_with(".parquet")), "{written:?}");
        ward.files_are_tidy().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_edited_after_it_was_read_fails_the_job_by_its_name() -> Result<()> {
    let mut ward = Ward::open(&["--checkpoint-interval", "10m"]).await?;
    explained(&mut ward, async |ward| {
        ward.task_managers = ward.cluster.start_task_managers(2).await?;
        ward.collect(60)?;
        ward.submit(unchanged)?;
        ward.table_is_right().await?;
        let edited = ward.path("raw/ward-00007.json");
        let text = std::fs::read_to_string(&edited)?;
        ensure!(text.contains("\"sensor\":\"hr\""), "the edit must change something");
        std::fs::write(&edited, text.replace("\"sensor\":\"hr\"", "\"sensor\":\"rr\""))?;
        ward.task_managers.remove(0).kill()?;
        until_ok("the job to fail and to name the file", LIMIT, async || {
            let said = match ward.status() {
                Ok(status) => status.to_string(),
                Err(error) => format!("{error:#}"),
            };
            ensure!(said.contains("failed") && said.contains("ward-00007.json"), "{said}");
            Ok(())
        })
        .await
    })
    .await
}
