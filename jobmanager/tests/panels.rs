//! Panels over HTTP, from a real PostgreSQL. The job itself does not run: its brokers are not there.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(dead_code, reason = "the support is for several tests")]
mod support;

use std::time::{Duration, Instant};

use pulso_servers::{Postgres, PostgresOptions, temporary_folder};
use serde_json::{Value, json};
use tokio_postgres::NoTls;

use crate::support::{JobManager, TOML, environment, seed_job, wait_for};

const PANELS: &str = r#"
[[panel]]
title = "Readings"
chart = "bar"
x = "at"
y = ["n"]
sql = "select at, n, price, ok, patient_id, upper(patient_id) as shown, doc from readings order by at desc; -- newest first"
every = "1h"

[[panel]]
title = "Many"
chart = "number"
sql = "select i, repeat('x', 10) as filler from generate_series(1, 5000) as i order by 1"

[[panel]]
title = "Slow"
chart = "number"
sql = "select pg_sleep(60)"

[[panel]]
title = "Wrong"
chart = "number"
sql = "select pulse from readings"

[[panel]]
title = "Writes behind our back"
chart = "number"
sql = "select nextval('counter')"

[[panel]]
title = "Broken row"
chart = "number"
sql = "select 1 / (n - 2) from readings"
"#;

const TABLES: &str = "
create table readings (at timestamptz, n bigint, price numeric(10,2), ok boolean, patient_id text, doc jsonb);
insert into readings values ('2026-01-01 12:00+00', 1, 1.50, true, 'ana', '{\"a\": 1}'), ('2026-01-02 12:00+00', 2, null, false, 'bia', null);
create sequence counter;
";

fn json_of(jobmanager: &JobManager, path: &str) -> (u16, Value) {
    let (status, _, body) = jobmanager.get(path);
    (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}")))
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn panels_are_read_and_nothing_else() {
    let servers = temporary_folder().unwrap();
    let mut postgres = Postgres::start(PostgresOptions::new(servers.path().join("postgres"), "tests")).await.unwrap();
    let url = postgres.url().to_owned();
    execute(&url, TABLES).await;

    let folder = tempfile::tempdir().unwrap();
    let toml = format!("{}{PANELS}", TOML.replace("patient_id = { ", "patient_id = { phi = true, "));
    let mut variables = environment("127.0.0.1:1");
    variables.insert("DATABASE_URL".to_owned(), url.replace("postgres@", "postgres:hunter2@"));
    seed_job(folder.path(), &toml, &variables);
    let jobmanager = JobManager::start(folder.path(), "one");
    wait_for("the job", || jobmanager.get("/api/v1/jobs/vitals").0 == 200).await;

    let (status, panels) = json_of(&jobmanager, "/api/v1/jobs/vitals/panels");
    assert_eq!((status, panels.as_array().unwrap().len()), (200, 6));
    assert_eq!((&panels[0]["chart"], &panels[0]["y"], &panels[0]["in"]), (&json!("bar"), &json!(["n"]), &json!("db")));
    assert_eq!((&panels[0]["every_ms"], &panels[1]["every_ms"]), (&json!(3_600_000), &json!(5_000)));

    let (status, found) = json_of(&jobmanager, "/api/v1/jobs/vitals/panels/0");
    assert_eq!(status, 200, "{found}");
    let kinds: Vec<&str> = found["columns"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["timestamptz", "int8", "numeric", "bool", "text", "text", "jsonb"]);
    let first = found["rows"][0].as_array().unwrap();
    assert_eq!(first[..4], [json!("2026-01-02T12:00:00Z"), json!(2), json!(null), json!(false)]);
    assert_eq!(found["rows"][1][2], "1.50");
    assert_eq!(found["rows"][1][6], json!({"a": 1}));
    assert!(first[4].as_str().unwrap().starts_with("•••"), "phi is masked: {first:?}");
    assert_eq!((&first[5], &found["truncated"]), (&json!("BIA"), &json!(false)));

    // Within `every` the answer is that of before, also where the rows have changed.
    execute(&url, "delete from readings where n = 1").await;
    assert_eq!(json_of(&jobmanager, "/api/v1/jobs/vitals/panels/0").1, found);

    let (_, many) = json_of(&jobmanager, "/api/v1/jobs/vitals/panels/1");
    let last = many["rows"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&many["truncated"], last), (&json!(true), json!([1000, "xxxxxxxxxx"])));

    let began = Instant::now();
    for (index, words) in [(2, "SQLSTATE 57014"), (3, "\"pulse\" does not exist"), (4, "read-only"), (5, "22012")] {
        let (status, body) = json_of(&jobmanager, &format!("/api/v1/jobs/vitals/panels/{index}"));
        assert_eq!((status, &body["error"]["kind"]), (502, &json!("panel_failed")), "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(words) && !message.contains("hunter2"), "`{words}` is not in: {message}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    for wrong in ["6", "-1", "x"] {
        let (status, body) = json_of(&jobmanager, &format!("/api/v1/jobs/vitals/panels/{wrong}"));
        assert_eq!((status, &body["error"]["kind"]), (404, &json!("no_such_panel")), "{body}");
    }
    assert_eq!(jobmanager.get("/api/v1/jobs/none/panels").0, 404);

    // A database that is gone is an answer too, and tells no credentials.
    postgres.stop_immediate().await.unwrap();
    // The answer of before is good for a while.
    wait_for("another answer", || jobmanager.get("/api/v1/jobs/vitals/panels/1").0 != 200).await;
    let (status, body) = json_of(&jobmanager, "/api/v1/jobs/vitals/panels/1");
    assert_eq!(status, 502, "{body}");
    assert!(!body.to_string().contains("hunter2"), "{body}");
}
