//! What a job makes in its target at its first deploy: Pulso's own tables, its rows there, missing tables of sinks.

use std::collections::BTreeSet;

use pulso_core::ids::KeyGroupId;
use pulso_job::spec::{DeadLettersTo, JobSpec, TableSink};

use super::connect::{Connection, text};
use super::error::{DENIED, Failure, NO_SUCH_TABLE};
use super::ledger::Ledger;
use super::quote;
use super::types::create_table;

/// Texts of Pulso's own that are compared.
const ASCII: &str = "CHARACTER SET ascii COLLATE ascii_bin";

/// MySQL has no schemas inside of a database, so names tell whose they are. One writer makes them at a time: see [`ALONE`].
pub(crate) fn own_tables() -> [(&'static str, String); 3] {
    [
        (
            "pulso_ledger",
            format!(
                "CREATE TABLE pulso_ledger (job CHAR(36) {ASCII} NOT NULL, target VARCHAR(63) {ASCII} NOT NULL, \
                 stage SMALLINT NOT NULL, key_group INT NOT NULL, attempt BIGINT NOT NULL, epoch BIGINT NOT NULL, \
                 hash BINARY(16) NOT NULL, session VARCHAR(64) {ASCII}, \
                 PRIMARY KEY (job, target, stage, key_group)) ENGINE = InnoDB"
            ),
        ),
        (
            "pulso_owners",
            format!(
                "CREATE TABLE pulso_owners (table_schema VARCHAR(64) NOT NULL, table_name VARCHAR(64) NOT NULL, \
                 job CHAR(36) {ASCII} NOT NULL, job_name VARCHAR(63) {ASCII} NOT NULL, \
                 since TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (table_schema, table_name)) \
                 ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            ),
        ),
        ("pulso_dead_letters", letters_statement("`pulso_dead_letters`")),
    ]
}

/// Times are UTC.
fn letters_statement(table: &str) -> String {
    format!(
        "CREATE TABLE {table} (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, job CHAR(36) {ASCII} NOT NULL, \
         job_name VARCHAR(63) {ASCII} NOT NULL, table_name TEXT, split BIGINT, position BIGINT, \
         record_time DATETIME(6), reason TEXT NOT NULL, field TEXT, `key` LONGBLOB, value LONGBLOB, \
         written_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) \
         ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    )
}

/// One at a time over the whole server.
const ALONE: &str = "SELECT GET_LOCK('pulso/create', 10)";
const NOT_ALONE: &str = "SELECT RELEASE_LOCK('pulso/create')";

/// Makes what is missing. Only while nothing was ever committed: later, missing rows mean that the database went back.
/// Every table that is made commits by itself, and the next try goes on from there.
pub(crate) async fn create(
    connection: &Connection,
    ledger: &Ledger,
    spec: &JobSpec,
    sinks: &[TableSink<'_>],
    key_groups: &BTreeSet<KeyGroupId>,
) -> Result<(), Failure> {
    if text(&connection.ask(ALONE).await?, 0, 0) != Some("1") {
        return Err(Failure::retry("another writer is making tables"));
    }
    let done = create_alone(connection, ledger, spec, sinks, key_groups).await;
    connection.run(NOT_ALONE).await?;
    done
}

async fn create_alone(
    connection: &Connection,
    ledger: &Ledger,
    spec: &JobSpec,
    sinks: &[TableSink<'_>],
    key_groups: &BTreeSet<KeyGroupId>,
) -> Result<(), Failure> {
    for (name, statement) in own_tables() {
        make(connection, &(String::new(), name.to_owned()), &statement).await?;
    }
    let target = spec.targets.get(spec.dead_letter.target);
    if let (true, DeadLettersTo::Table(name)) = (target.is_some_and(|t| t.name == ledger.target), &spec.dead_letter.to)
    {
        make(connection, name, &letters_statement(&quote::table(name))).await?;
    }
    for sink in sinks.iter().filter(|sink| sink.table.create) {
        make(connection, &sink.table.name, &create_table(&connection.facts, spec, sink)).await?;
    }
    own(connection, ledger, spec, sinks).await?;
    if key_groups.is_empty() {
        return Ok(());
    }
    connection.run(ledger.make(key_groups)).await.map_err(|failure| failure.during("making the ledger's rows"))
}

async fn make(connection: &Connection, name: &(String, String), statement: &str) -> Result<(), Failure> {
    if is_there(connection, name).await? {
        return Ok(());
    }
    let (schema, user) = (quote::identifier(database(connection, name)), &connection.facts.user);
    let grant = format!("GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON {schema}.* TO {user}");
    connection.run(statement).await.map_err(|failure| hinted(failure, &grant).during(&format!("making {}", name.1)))
}

pub(crate) async fn is_there(connection: &Connection, name: &(String, String)) -> Result<bool, Failure> {
    let sql = format!(
        "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        quote::literal(database(connection, name)),
        quote::literal(&name.1)
    );
    Ok(text(&connection.ask(sql).await?, 0, 0).is_some())
}

/// The failure, with the statement that an administrator must run where a privilege is missing.
pub(crate) fn hinted(failure: Failure, statement: &str) -> Failure {
    let Some(code) = DENIED.into_iter().find(|code| failure.code == *code) else { return failure };
    failure.hinted(code, statement)
}

pub(crate) fn database<'a>(connection: &'a Connection, (schema, _): &'a (String, String)) -> &'a str {
    if schema.is_empty() { &connection.facts.database } else { schema }
}

/// Puts the job's name on its tables. Another job's table is refused: two histories cannot share one.
async fn own(connection: &Connection, ledger: &Ledger, spec: &JobSpec, sinks: &[TableSink<'_>]) -> Result<(), Failure> {
    for TableSink { table, .. } in sinks {
        let (schema, name) = (quote::literal(database(connection, &table.name)), quote::literal(&table.name.1));
        let (job, job_name) = (ledger.job, quote::literal(&spec.name));
        let sql = format!(
            "INSERT INTO pulso_owners (table_schema, table_name, job, job_name) \
             VALUES ({schema}, {name}, '{job}', {job_name}) ON DUPLICATE KEY UPDATE job = job"
        );
        connection.run(sql).await.map_err(|failure| failure.during("taking the tables for the job"))?;
    }
    Ok(())
}

/// Fails where another job owns one of the tables.
pub(crate) async fn check_owners(
    connection: &Connection,
    ledger: &Ledger,
    sinks: &[TableSink<'_>],
) -> Result<(), Failure> {
    let job = ledger.job.to_string();
    for TableSink { table, .. } in sinks {
        let sql = format!(
            "SELECT job, job_name FROM pulso_owners WHERE table_schema = {} AND table_name = {}",
            quote::literal(database(connection, &table.name)),
            quote::literal(&table.name.1)
        );
        let found = match connection.ask(sql).await {
            // Without the table nobody owns anything; what that means is for the ledger to say.
            Err(failure) if failure.code == NO_SUCH_TABLE => return Ok(()),
            found => found.map_err(|failure| failure.during("reading pulso_owners"))?,
        };
        if let (Some(owner), Some(name)) = (text(&found, 0, 0), text(&found, 0, 1))
            && owner != job
        {
            return Err(Failure::fatal(format!(
                "table {} belongs to job {name} ({owner}); if that job is over for good, give its tables free: \
                 DELETE FROM pulso_owners WHERE job = '{owner}';",
                quote::table(&table.name)
            )));
        }
    }
    Ok(())
}
