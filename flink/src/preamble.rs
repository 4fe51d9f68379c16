//! What stands above the tables: what the script is and is not, what has to be put in, and the settings.

use std::time::Duration;

use pulso_job::{Emit, JobSpec, RowsFrom, SinkSpec, SinkTo, WindowSpec, WriteMode};

use crate::address::placeholders;
use crate::place::Places;
use crate::sink::{dead_letter_table, is_postgres, keys_are_identities};
use crate::sql;
use crate::unsaid::Unsaid;

const JARS: &str =
    "flink-sql-connector-kafka 5.0.0-2.2, flink-connector-jdbc-core and -postgres 4.0.0-2.0, postgresql 42.7";

pub(crate) fn preamble(job: &JobSpec, places: &Places<'_>, notes: &[String], unsaid: &[Unsaid]) -> String {
    let mut text = sql::comment(&format!(
        "The Pulso job {} for Flink 2.2: bin/sql-client.sh -f FILE, with these jars in lib/: {JARS}.",
        job.name
    ));
    let list = |text: &mut String, heading: &str, lines: &[String]| {
        if !lines.is_empty() {
            text.push_str(&format!("--\n{}", sql::comment(heading)));
            lines.iter().for_each(|line| text.push_str(&sql::point(line)));
        }
    };
    let missing: Vec<String> = unsaid.iter().map(ToString::to_string).collect();
    list(&mut text, "MISSING, since Flink SQL cannot say it:", &missing);
    list(&mut text, "Different from Pulso:", notes);
    let names: Vec<String> =
        placeholders(job, places).iter().map(|(name, meaning)| format!("${{{name}}}: {meaning}")).collect();
    // So that nobody looks for what is written out.
    let heading = "Put in before it runs (envsubst does); of addresses and credentials, only brokers that the job file \
                   itself names are written here:";
    list(&mut text, heading, &names);
    let tables = tables(job);
    if !tables.is_empty() {
        text.push_str("--\n-- Flink makes no tables in databases; these must be there:\n");
        tables.iter().for_each(|table| text.push_str(&format!("--   {table}\n")));
    }
    format!("{text}\n{}", settings(job))
}

/// Statements for the tables that Pulso would make, and that the script writes.
fn tables(job: &JobSpec) -> Vec<String> {
    let create = |sink: &SinkSpec| match &sink.to {
        SinkTo::Table(table) if table.create && is_postgres(job, sink.target) => {
            let mut columns: Vec<String> = sink
                .columns
                .iter()
                .map(|column| {
                    let null = if column.nullable { "" } else { " NOT NULL" };
                    format!("\"{}\" {}{null}", column.name, job.column_postgres_type(sink, column))
                })
                .collect();
            if table.write != WriteMode::Append {
                let key: Vec<String> =
                    table.write.key().iter().map(|at| format!("\"{}\"", sink.columns[*at].name)).collect();
                columns.push(format!("PRIMARY KEY ({})", key.join(", ")));
            }
            Some(format!("CREATE TABLE {}.{} ({});", table.name.0, table.name.1, columns.join(", ")))
        }
        SinkTo::Table(_) | SinkTo::Topic(_) | SinkTo::Files(_) => None,
    };
    let letters = dead_letter_table(job).map(|table| {
        format!(
            "CREATE TABLE {table} (reason text, split integer, position bigint, record_time timestamptz, record text);"
        )
    });
    let said = |sink: &&SinkSpec| sink.from != RowsFrom::Late;
    job.sinks.iter().filter(said).filter_map(create).chain(letters).collect()
}

fn settings(job: &JobSpec) -> String {
    let mut settings = vec![
        ("pipeline.name", job.name.clone()),
        // Timestamps of databases and windows are Pulso's only in UTC.
        ("table.local-time-zone", "UTC".to_owned()),
        ("execution.checkpointing.interval", "10 s".to_owned()),
    ];
    if let Some(time) = &job.time {
        settings.push(("table.exec.source.idle-timeout", sql::setting(time.idle_after)));
    }
    if let Some(ttl) = state_ttl(job) {
        settings.push(("table.exec.state.ttl", sql::setting(ttl)));
    }
    if keys_are_identities(job) {
        settings.push(("table.exec.sink.upsert-materialize", "NONE".to_owned()));
    }
    settings.iter().map(|(key, value)| format!("SET {} = {};\n", sql::text(key), sql::text(value))).collect()
}

/// How long state lives: as long as the longest memory of the job.
fn state_ttl(job: &JobSpec) -> Option<Duration> {
    let time = job.time.as_ref()?;
    let dedup = job.dedup.as_ref().map(|dedup| dedup.keep_for);
    let windows = job.aggregates.iter().filter(|aggregate| aggregate.emit == Emit::Change);
    let windows = windows.map(|aggregate| match aggregate.window {
        WindowSpec::Sliding { size, .. } => size + time.lateness + time.delay,
        WindowSpec::Session { gap } => gap + time.lateness + time.delay,
    });
    dedup.into_iter().chain(windows).max()
}
