//! Whole tables against what DuckDB makes of the records in the topic: every column of every row.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use crate::{World, records};

const ORACLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/oracle");

/// What must be in a job's tables.
pub struct Tables(Map<String, Value>);

impl Tables {
    /// What `scripts/oracle/JOB.sql` makes of the topic; `variables` are `name=SQL`.
    pub fn expected(world: &World, topic: &str, job: &str, variables: &[&str]) -> Result<Self> {
        let (dumped, out) = (world.folder.path().join("records.jsonl"), world.folder.path().join("expected.json"));
        dump(world.kafka.brokers(), topic, &dumped)?;
        let job = format!("{job}.sql");
        python("expected.py", &[&[&job, text(&dumped)?, text(&out)?], variables].concat())?;
        let Value::Object(tables) = serde_json::from_reader(File::open(out)?)? else { bail!("tables by name") };
        Ok(Self(tables))
    }

    /// Without the tables that the job at hand does not write.
    pub fn only(mut self, tables: &[&str]) -> Self {
        self.0.retain(|name, _| tables.contains(&name.as_str()));
        self
    }

    pub fn without(mut self, table: &str) -> Self {
        self.0.remove(table);
        self
    }

    /// How many rows a table must have.
    pub fn rows(&self, table: &str) -> usize {
        self.0.get(table).and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// Split and position of every record that must be a dead letter.
    pub fn dead_letters(&self) -> BTreeSet<(i64, i64)> {
        let rows = self.0.get("dead_letters").and_then(Value::as_array).into_iter().flatten();
        rows.filter_map(|row| Some((row["split"].as_i64()?, row["position"].as_i64()?))).collect()
    }

    /// Fails, with a few of the rows, where a table or the job's dead letters are not exactly so.
    pub async fn compare(&self, database: &Client, job: &str) -> Result<()> {
        let letters = format!(
            "create or replace view dead_letters as select split, position, convert_from(value, 'UTF8') as value \
             from pulso.dead_letters where job_name = '{job}' and table_name is null"
        );
        database.batch_execute(&letters).await.context("the dead letters")?;
        for (table, rows) in &self.0 {
            compare(database, table, rows).await.with_context(|| format!("{job}: table {table}"))?;
        }
        Ok(())
    }
}

/// PostgreSQL reads the rows as rows of the very table, and counts each as often as it is there.
async fn compare(database: &Client, table: &str, rows: &Value) -> Result<()> {
    columns_are_all(database, table, rows).await?;
    let difference = format!(
        "with expected as materialized (select * from json_populate_recordset(null::{table}, $1::text::json)), \
         missing as materialized (select * from expected except all select * from {table}), \
         wrong as materialized (select * from {table} except all select * from expected) \
         select (select count(*) from missing), (select count(*) from wrong), \
                (select json_agg(m)::text from (select * from missing order by 1, 2 limit 3) as m), \
                (select json_agg(w)::text from (select * from wrong order by 1, 2 limit 3) as w)"
    );
    let found = database.query_one(&difference, &[&rows.to_string()]).await?;
    let (missing, wrong): (i64, i64) = (found.try_get(0)?, found.try_get(1)?);
    let few = |at: usize| found.try_get::<_, Option<String>>(at).map(Option::unwrap_or_default);
    ensure!(missing == 0 && wrong == 0, "{missing} rows are missing: {}\n{wrong} are wrong: {}", few(2)?, few(3)?);
    Ok(())
}

/// A column that the oracle does not tell would pass as null.
async fn columns_are_all(database: &Client, table: &str, rows: &Value) -> Result<()> {
    let Some(Value::Object(row)) = rows.get(0) else { return Ok(()) };
    let select = "select attname::text from pg_attribute where attrelid = $1::text::regclass and attnum > 0";
    let stored = database.query(select, &[&table]).await?;
    let stored = stored.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    let told = stored.len() == row.len() && stored.iter().all(|column| row.contains_key(column));
    ensure!(told, "has {stored:?}, the oracle tells {:?}", row.keys().collect::<Vec<_>>());
    Ok(())
}

/// Real data, one message a line: `vitals`, `weather` or `purchases`.
pub fn real_messages(world: &World, what: &str) -> Result<Vec<String>> {
    let out = world.folder.path().join("messages.jsonl");
    python("messages.py", &[what, text(&out)?])?;
    Ok(std::fs::read_to_string(out)?.lines().map(str::to_owned).collect())
}

/// The records as the broker holds them.
fn dump(brokers: &str, topic: &str, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for record in records(brokers, topic)? {
        let value = record.value.map(|value| String::from_utf8_lossy(&value).into_owned());
        let line = json!({"ts": record.timestamp_ms, "part": record.partition, "off": record.offset, "value": value});
        writeln!(file, "{line}")?;
    }
    Ok(file.flush()?)
}

pub(crate) fn python(script: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(format!("{ORACLE}/run"));
    let done = command.arg(format!("{ORACLE}/{script}")).args(arguments).status().context("running scripts/oracle")?;
    ensure!(done.success(), "scripts/oracle/{script} {arguments:?} ended with {done}");
    Ok(())
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is text")
}
