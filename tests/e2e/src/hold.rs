//! Stops a COPY in its middle: it waits for the transaction that has put one of its keys into the table.

use anyhow::{Result, ensure};
use tokio_postgres::{Client, Transaction};

use crate::Reading;

/// Enough for every TaskManager to have some of the patients.
const HELD: usize = 100;

/// Puts keys of these readings into the table. Whoever writes them waits until the transaction ends.
pub async fn hold(transaction: &Transaction<'_>, readings: &[Reading]) -> Result<()> {
    let held = &readings[..readings.len().min(HELD)];
    let patients: Vec<&str> = held.iter().map(|reading| reading.patient.as_str()).collect();
    let times: Vec<i64> = held.iter().map(|reading| reading.timestamp_ms).collect();
    let insert = "insert into health_records (patient_id, timestamp) \
                  select patient, timestamptz 'epoch' + ms * interval '1 millisecond' \
                  from unnest($1::text[], $2::bigint[]) as keys(patient, ms)";
    transaction.execute(insert, &[&patients, &times]).await?;
    Ok(())
}

/// Process ids of the job's sessions that wait in the middle of a COPY; fails, with what they do, while there are fewer.
pub async fn waiting_copies(database: &Client, least: usize) -> Result<Vec<i32>> {
    let select = "select a.pid, a.wait_event_type = 'Lock' and p.bytes_processed > 0, \
                  concat_ws(' ', a.state, a.wait_event_type, a.wait_event, a.query) \
                  from pg_stat_activity as a left join pg_stat_progress_copy as p using (pid) \
                  where a.application_name like 'pulso/%'";
    let (mut waiting, mut said) = (Vec::new(), Vec::new());
    for row in database.query(select, &[]).await? {
        if row.try_get::<_, Option<bool>>(1)? == Some(true) {
            waiting.push(row.try_get(0)?);
        }
        said.push(row.try_get::<_, String>(2)?);
    }
    ensure!(waiting.len() >= least, "{said:#?}");
    Ok(waiting)
}
