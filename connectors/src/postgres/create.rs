//! What a job makes in its target at its first deploy: the schema `pulso`, its own rows there, missing tables.

use std::collections::BTreeSet;

use pulso_core::ids::{Attempt, KeyGroupId};
use pulso_job::spec::{DeadLettersTo, JobSpec, TableSink};
use tokio_postgres::types::{ToSql, Type};

use super::connect::Connection;
use super::error::{Failure, UNDEFINED_TABLE};
use super::ledger::Ledger;
use super::quote;

/// The tables of schema `pulso`: name and statement. Small rows and half-empty pages keep the ledger's updates in place.
pub(crate) const TABLES: [(&str, &str); 3] = [
    (
        "pulso.ledger",
        "CREATE TABLE pulso.ledger (
    job uuid NOT NULL, target text NOT NULL, stage smallint NOT NULL, key_group integer NOT NULL,
    attempt bigint NOT NULL, epoch bigint NOT NULL, hash bytea NOT NULL,
    backend_pid integer, backend_start timestamptz,
    PRIMARY KEY (job, target, stage, key_group)
) WITH (fillfactor = 50)",
    ),
    (
        "pulso.owners",
        "CREATE TABLE pulso.owners (
    table_schema text NOT NULL, table_name text NOT NULL, job uuid NOT NULL, job_name text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_schema, table_name)
)",
    ),
    ("pulso.dead_letters", "CREATE TABLE pulso.dead_letters"),
];

/// Columns of a table of dead letters, in the order in which they are written.
const LETTER_COLUMNS: &str = " (
    job uuid NOT NULL, job_name text NOT NULL, table_name text, split bigint, position bigint, record_time timestamptz,
    reason text NOT NULL, field text, key bytea, value bytea, written_at timestamptz NOT NULL DEFAULT now()
)";

/// One at a time over the whole database: `IF NOT EXISTS` alone does not keep two sessions apart.
const ALONE: &str = "SELECT pg_advisory_xact_lock(8023742890344971)";

/// Makes what is missing, all or nothing. Only while nothing was ever committed: later, missing rows mean that the
/// database went back.
pub(crate) async fn create(
    connection: &Connection,
    ledger: &Ledger,
    spec: &JobSpec,
    sinks: &[TableSink<'_>],
    key_groups: &BTreeSet<KeyGroupId>,
) -> Result<(), Failure> {
    connection.run(&format!("BEGIN; {ALONE}")).await?;
    let done = create_in_transaction(connection, ledger, spec, sinks, key_groups).await;
    match done {
        Ok(()) => connection.run("COMMIT").await,
        Err(failure) => {
            connection.run("ROLLBACK").await?;
            Err(failure)
        }
    }
}

async fn create_in_transaction(
    connection: &Connection,
    ledger: &Ledger,
    spec: &JobSpec,
    sinks: &[TableSink<'_>],
    key_groups: &BTreeSet<KeyGroupId>,
) -> Result<(), Failure> {
    let user = &connection.user;
    if connection
        .simple_rows("SELECT to_regnamespace('pulso') WHERE to_regnamespace('pulso') IS NOT NULL")
        .await?
        .is_empty()
    {
        make(connection, "CREATE SCHEMA pulso", &format!("CREATE SCHEMA pulso AUTHORIZATION {user}")).await?;
    }
    let grant = |schema: &str| format!("GRANT CREATE ON SCHEMA {schema} TO {user}");
    for (name, statement) in TABLES {
        if !exists(connection, name).await? {
            let letters = if name.ends_with("letters") { LETTER_COLUMNS } else { "" };
            make(connection, &format!("{statement}{letters}"), &grant("pulso")).await?;
        }
    }
    if let Some((schema, table)) = letters_table(spec, ledger)
        && !exists(connection, &table).await?
    {
        let schema = quote::identifier(schema);
        make(connection, &format!("CREATE TABLE {table}{LETTER_COLUMNS}"), &grant(&schema)).await?;
    }
    for sink in sinks.iter().filter(|sink| sink.table.create) {
        let name = &sink.table.name;
        if !exists(connection, &quote::table(name)).await? {
            let schema = quote::identifier(&name.0);
            make(connection, &create_table(spec, sink), &grant(&schema)).await?;
        }
    }
    own(connection, ledger, spec, sinks).await?;
    insert_rows(connection, ledger, key_groups).await
}

/// The table that this job's dead letters go to, where that is in this target and not the usual one.
fn letters_table<'a>(spec: &'a JobSpec, ledger: &Ledger) -> Option<(&'a str, String)> {
    let target = spec.targets.get(spec.dead_letter.target)?;
    let DeadLettersTo::Table(name) = &spec.dead_letter.to else { return None };
    let table = quote::table(name);
    (target.name == ledger.target && table != "\"pulso\".\"dead_letters\"").then_some((name.0.as_str(), table))
}

async fn make(connection: &Connection, statement: &str, grant: &str) -> Result<(), Failure> {
    let made = connection.run(statement).await;
    made.map_err(|failure| failure.hinted("42501", grant))
}

async fn exists(connection: &Connection, table: &str) -> Result<bool, Failure> {
    let sql = format!("SELECT 1 WHERE to_regclass({}) IS NOT NULL", quote::literal(table));
    Ok(!connection.simple_rows(&sql).await?.is_empty())
}

/// The statement that makes a sink's table.
pub(crate) fn create_table(spec: &JobSpec, TableSink { sink, table, .. }: &TableSink<'_>) -> String {
    let key = table.write.key();
    let marked = spec.is_marked(sink);
    let columns = sink.columns.iter().enumerate().map(|(i, column)| {
        // The row of a delete has only the columns of the record's key, and an append-only table takes it too.
        let not_null = key.contains(&i) || !column.nullable && !marked;
        let tail = if not_null { " NOT NULL" } else { "" };
        format!("{} {}{tail}", quote::identifier(&column.name), spec.column_postgres_type(sink, column))
    });
    let mut parts: Vec<String> = columns.collect();
    if marked {
        parts.push("pulso_change text".to_owned());
    }
    if !key.is_empty() {
        let names = key.iter().filter_map(|&i| sink.columns.get(i)).map(|column| column.name.as_str());
        parts.push(format!("PRIMARY KEY ({})", quote::list(names)));
    }
    format!("CREATE TABLE {} ({})", quote::table(&table.name), parts.join(", "))
}

/// Puts the job's name on its tables. Another job's table is refused: two histories cannot share one.
async fn own(connection: &Connection, ledger: &Ledger, spec: &JobSpec, sinks: &[TableSink<'_>]) -> Result<(), Failure> {
    const CLAIM: &str = "INSERT INTO pulso.owners (table_schema, table_name, job, job_name)
        VALUES ($1, $2, $3::text::uuid, $4) ON CONFLICT DO NOTHING";
    let job = ledger.job.to_string();
    for TableSink { table, .. } in sinks {
        let parameters: [(&(dyn ToSql + Sync), Type); 4] =
            [(&table.name.0, Type::TEXT), (&table.name.1, Type::TEXT), (&job, Type::TEXT), (&spec.name, Type::TEXT)];
        connection.query(CLAIM, &parameters).await?;
    }
    Ok(())
}

/// Fails where another job owns one of the tables.
pub(crate) async fn check_owners(
    connection: &Connection,
    ledger: &Ledger,
    sinks: &[TableSink<'_>],
) -> Result<(), Failure> {
    const OWNER: &str = "SELECT job::text, job_name FROM pulso.owners WHERE table_schema = $1 AND table_name = $2";
    let job = ledger.job.to_string();
    for TableSink { table, .. } in sinks {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&table.name.0, Type::TEXT), (&table.name.1, Type::TEXT)];
        let owners = match connection.query(OWNER, &parameters).await {
            // Without the table nobody owns anything; what that means is for the ledger to say.
            Err(failure) if failure.code == UNDEFINED_TABLE => return Ok(()),
            owners => owners?,
        };
        for row in owners {
            let (owner, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            if owner != job {
                return Err(Failure::fatal(format!(
                    "table {} belongs to job {name} ({owner}); if that job is over for good, give its tables free: \
                     DELETE FROM pulso.owners WHERE job = '{owner}';",
                    quote::table(&table.name)
                )));
            }
        }
    }
    Ok(())
}

async fn insert_rows(
    connection: &Connection,
    ledger: &Ledger,
    key_groups: &BTreeSet<KeyGroupId>,
) -> Result<(), Failure> {
    const INSERT: &str = "INSERT INTO pulso.ledger (job, target, stage, key_group, attempt, epoch, hash)
        SELECT $1::text::uuid, $2, k.stage, k.key_group, $5, 0, $6
        FROM unnest($3::int2[], $4::int4[]) AS k(stage, key_group) ON CONFLICT DO NOTHING";
    let job = ledger.job.to_string();
    let stages: Vec<i16> = key_groups.iter().map(|id| i16::from(id.stage.0)).collect();
    let groups: Vec<i32> = key_groups.iter().map(|id| i32::from(id.group.0)).collect();
    let nobody = i64::try_from(Attempt(0).0).unwrap_or(0);
    let nothing = [0u8; 16].as_slice();
    let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
        (&job, Type::TEXT),
        (&ledger.target, Type::TEXT),
        (&stages, Type::INT2_ARRAY),
        (&groups, Type::INT4_ARRAY),
        (&nobody, Type::INT8),
        (&nothing, Type::BYTEA),
    ];
    connection.query(INSERT, &parameters).await?;
    Ok(())
}
