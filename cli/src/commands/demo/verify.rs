//! What the database says: the table against the rows that were generated, and when rows became visible.

use std::path::Path;

use anyhow::{Context, Result};
use futures::SinkExt;
use serde::Serialize;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// Of rows as PostgreSQL recorded their commits.
#[derive(Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
}

pub(super) struct Stored {
    pub(super) rows: u64,
    pub(super) dead_letters: u64,
    /// Empty: the table equals what was generated.
    pub(super) differences: Vec<String>,
}

/// Milliseconds from the send time that a message carries to the commit of its row.
const LATENCY: &str =
    "extract(epoch from pg_xact_commit_timestamp(xmin)) * 1e3 - split_part(large_data, ':', 1)::bigint / 1e3";

pub(super) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("connecting to the database")?;
    tokio::spawn(connection);
    Ok(client)
}

/// Compares every value of every row, and counts the job's dead letters.
pub(super) async fn compare(database: &Client, table: &str, job: Uuid, expected: &Path) -> Result<Stored> {
    database
        .batch_execute(
            "create temporary table expected (patient_id text, timestamp timestamptz, heart_rate double precision, \
             temperature double precision, oxygen_saturation double precision, large_data text)",
        )
        .await?;
    let contents = tokio::fs::read(expected).await?;
    let copy = database.copy_in("copy expected from stdin (format csv)").await?;
    let mut copy = std::pin::pin!(copy);
    copy.send(std::io::Cursor::new(contents)).await?;
    copy.finish().await?;
    let found = database
        .query_one(
            &format!(
                "select count(*) filter (where t.patient_id is null), count(*) filter (where e.patient_id is null), \
             count(*) filter (where t.patient_id is not null and e.patient_id is not null and \
               (t.heart_rate, t.temperature, t.oxygen_saturation, t.large_data) is distinct from \
               (e.heart_rate, e.temperature, e.oxygen_saturation, e.large_data)), \
             count(t.patient_id) \
             from expected e full join {table} t using (patient_id, timestamp)"
            ),
            &[],
        )
        .await?;
    let number = |index: usize| found.try_get::<_, i64>(index);
    let differences = [("missing", number(0)?), ("not expected", number(1)?), ("with other values", number(2)?)]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{count} rows {what}"))
        .collect();
    let letters = format!("select count(*) from pulso.dead_letters where job = '{job}'::uuid");
    let letters: i64 = database.query_one(&letters, &[]).await?.try_get(0)?;
    Ok(Stored { rows: u64::try_from(number(3)?)?, dead_letters: u64::try_from(letters)?, differences })
}

/// Over all rows; `None` where the server does not keep commit times.
pub(super) async fn latency(database: &Client, table: &str) -> Result<Option<Latency>> {
    if !keeps_commit_times(database).await? {
        return Ok(None);
    }
    let select = format!(
        "select percentile_cont(array[0.5, 0.95, 0.99]) within group (order by ({LATENCY})::double precision) \
         from {table}"
    );
    let quantiles: Option<Vec<f64>> = database.query_one(&select, &[]).await?.try_get(0)?;
    Ok(match quantiles.as_deref() {
        Some([p50, p95, p99]) => Some(Latency { p50: *p50, p95: *p95, p99: *p99 }),
        _ => None,
    })
}

/// Median of the rows of the last seconds.
pub(super) async fn recent_latency(database: &Client, table: &str) -> Result<Option<f64>> {
    if !keeps_commit_times(database).await? {
        return Ok(None);
    }
    let select = format!(
        "select percentile_cont(0.5) within group (order by ({LATENCY})::double precision) from \
         (select xmin, large_data from {table} order by timestamp desc limit 500) as recent"
    );
    Ok(database.query_one(&select, &[]).await?.try_get(0)?)
}

/// Longest time in milliseconds without a committed row in the ten seconds after `from_us`.
pub(super) async fn longest_gap(database: &Client, table: &str, from_us: i64) -> Result<Option<f64>> {
    if !keeps_commit_times(database).await? {
        return Ok(None);
    }
    let row = database
        .query_one(
            &format!(
                "with commits as (select distinct extract(epoch from pg_xact_commit_timestamp(xmin)) * 1e3 as at \
               from {table}), \
             near as (select at from commits where at between $1::bigint / 1e3 and $1::bigint / 1e3 + 10000 \
               union select $1::bigint / 1e3), \
             gaps as (select at - lag(at) over (order by at) as gap from near) \
             select max(gap)::double precision from gaps"
            ),
            &[&from_us],
        )
        .await?;
    Ok(row.try_get(0)?)
}

async fn keeps_commit_times(database: &Client) -> Result<bool> {
    let setting: String = database.query_one("show track_commit_timestamp", &[]).await?.try_get(0)?;
    Ok(setting == "on")
}
