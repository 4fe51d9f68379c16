//! A database as `healthctl check --online` sees it: everything that a takeover would complain about, and what it could
//! not make. Only reads.

use pulso_job::spec::{DeadLettersTo, JobSpec, TableSink, TargetIndex, TargetKind};
use tokio_postgres::types::{ToSql, Type};

use super::connect::{Address, Connection};
use super::create::{TABLES, create_table};
use super::error::{Failure, UNDEFINED_TABLE};
use super::{quote, tables};
use crate::database::Zone;
use crate::target::{Inspection, TableFinding};

/// Looks at the tables of one target.
///
/// # Errors
/// Why the database could not be asked; without credentials.
pub async fn inspect_database(spec: &JobSpec, target: TargetIndex) -> Result<Inspection, String> {
    inspect(spec, target).await.map_err(|failure| failure.text)
}

async fn inspect(spec: &JobSpec, target: TargetIndex) -> Result<Inspection, Failure> {
    const APPLICATION: &str = "pulso/check";
    let Some(TargetKind::Postgres { url, zone, .. }) = spec.targets.get(target).map(|target| &target.kind) else {
        return Err(Failure::fatal("the target is not a PostgreSQL database"));
    };
    let (address, zone) = (Address::parse(url)?, Zone::named(zone).map_err(Failure::fatal)?);
    let connection = Connection::open(&address, APPLICATION).await?;
    connection.run("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY").await?;
    connection.prove_session(&address, APPLICATION).await?;
    let mut inspection = Inspection::default();
    let ours = of_pulso(&connection).await?;
    inspection.findings.extend(ours.into_iter().map(|text| TableFinding { sink: None, text }));
    if let Some(text) = letters(&connection, spec, target, &mut inspection.to_be_made).await? {
        inspection.findings.push(TableFinding { sink: None, text });
    }
    for sink in spec.tables(target) {
        let mut wrong = of_sink(&connection, spec, &zone, &sink, &mut inspection.to_be_made).await?;
        wrong.extend(other_owner(&connection, spec, &sink).await?);
        inspection.findings.extend(wrong.into_iter().map(|text| TableFinding { sink: Some(sink.index), text }));
    }
    Ok(inspection)
}

/// The schema `pulso`: there and usable, or to be made by this user.
async fn of_pulso(connection: &Connection) -> Result<Vec<String>, Failure> {
    let user = &connection.user;
    let Some(usable) = schema(connection, "pulso", "USAGE").await? else {
        let may = connection.simple_rows("SELECT has_database_privilege(current_database(), 'CREATE')").await?;
        let statement = format!("CREATE SCHEMA pulso AUTHORIZATION {user}");
        let text = format!("{user} may not make the schema pulso, where the job's ledger is; run: {statement};");
        return Ok(if may == [["t"]] { Vec::new() } else { vec![text] });
    };
    if !usable {
        return Ok(vec![format!("{user} may not use the schema pulso; run: GRANT USAGE ON SCHEMA pulso TO {user};")]);
    }
    let mut wrong = Vec::new();
    for (name, _) in TABLES {
        let needed = if name.ends_with("letters") { "INSERT" } else { "SELECT, INSERT, UPDATE" };
        let sql = format!(
            "SELECT bool_and(has_table_privilege(to_regclass({0}), p)) FROM unnest(string_to_array('{needed}', ', ')) AS p \
             WHERE to_regclass({0}) IS NOT NULL",
            quote::literal(name)
        );
        let found = connection.simple_rows(&sql).await?;
        match found.first().and_then(|row| row.first()).map(String::as_str) {
            Some("t") => {}
            Some("f") => wrong.push(format!("{user} may not write {name}; run: GRANT {needed} ON {name} TO {user};")),
            // Not there yet.
            _ if schema(connection, "pulso", "CREATE").await? == Some(true) => {}
            _ => wrong.push(format!(
                "{name} is missing, and {user} may not make it; run: GRANT CREATE ON SCHEMA pulso TO {user};"
            )),
        }
    }
    Ok(wrong)
}

/// Whether the user has a privilege on a schema; `None` where there is no such schema.
async fn schema(connection: &Connection, name: &str, privilege: &str) -> Result<Option<bool>, Failure> {
    let sql = format!(
        "SELECT has_schema_privilege(oid, '{privilege}') FROM pg_namespace WHERE nspname = {}",
        quote::literal(name)
    );
    let found = connection.simple_rows(&sql).await?;
    Ok(found.first().and_then(|row| row.first()).map(|text| text == "t"))
}

/// Why a table that is not there cannot be made.
async fn cannot_be_made(connection: &Connection, schema_name: &str) -> Result<Option<String>, Failure> {
    let (user, quoted) = (&connection.user, quote::identifier(schema_name));
    Ok(match schema(connection, schema_name, "CREATE").await? {
        None => Some(format!("its schema {quoted} is missing; run: CREATE SCHEMA {quoted} AUTHORIZATION {user};")),
        Some(false) => Some(format!(
            "is missing, and {user} may not make it; run: GRANT USAGE, CREATE ON SCHEMA {quoted} TO {user};"
        )),
        Some(true) => None,
    })
}

async fn is_there(connection: &Connection, name: &(String, String)) -> Result<bool, Failure> {
    // Without the right to use its schema the database says no more than that.
    if schema(connection, &name.0, "USAGE").await? != Some(true) {
        return Ok(false);
    }
    let sql = format!("SELECT to_regclass({}) IS NOT NULL", quote::literal(&quote::table(name)));
    Ok(connection.simple_rows(&sql).await? == [["t"]])
}

async fn of_sink(
    connection: &Connection,
    spec: &JobSpec,
    zone: &Zone,
    sink: &TableSink<'_>,
    to_be_made: &mut Vec<String>,
) -> Result<Vec<String>, Failure> {
    let name = &sink.table.name;
    if is_there(connection, name).await? {
        return Ok(tables::check_one(connection, spec, zone, sink).await?.err().unwrap_or_default());
    }
    if !sink.table.create {
        let statement = create_table(spec, sink);
        return Ok(vec![format!(
            "is missing, or in a schema that {} may not use; set `create = true`, or run: {statement};",
            connection.user
        )]);
    }
    let problem = cannot_be_made(connection, &name.0).await?;
    if problem.is_none() {
        to_be_made.push(quote::table(name));
    }
    Ok(problem.into_iter().collect())
}

/// The table that the job's dead letters go to, where it is in this target and one of its own.
async fn letters(
    connection: &Connection,
    spec: &JobSpec,
    target: TargetIndex,
    to_be_made: &mut Vec<String>,
) -> Result<Option<String>, Failure> {
    let DeadLettersTo::Table(name) = &spec.dead_letter.to else { return Ok(None) };
    let elsewhere = spec.dead_letter.target != target || (name.0 == "pulso" && name.1 == "dead_letters");
    if elsewhere || is_there(connection, name).await? {
        return Ok(None);
    }
    let problem = cannot_be_made(connection, &name.0).await?;
    if problem.is_none() {
        to_be_made.push(quote::table(name));
    }
    Ok(problem.map(|problem| format!("the table {} of the dead letters: {problem}", quote::table(name))))
}

/// A table belongs to one job.
async fn other_owner(connection: &Connection, spec: &JobSpec, sink: &TableSink<'_>) -> Result<Option<String>, Failure> {
    const OWNER: &str = "SELECT job_name FROM pulso.owners
        WHERE table_schema = $1 AND table_name = $2 AND job_name <> $3";
    let name = &sink.table.name;
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&name.0, Type::TEXT), (&name.1, Type::TEXT), (&spec.name, Type::TEXT)];
    match connection.query(OWNER, &parameters).await {
        // Nobody owns anything yet, or what may be read there is told already.
        Err(failure) if [UNDEFINED_TABLE, "3F000", "42501"].contains(&failure.code.as_str()) => Ok(None),
        Err(failure) => Err(failure),
        Ok(rows) => match rows.first() {
            Some(row) => Ok(Some(format!("belongs to job {}", row.try_get::<_, String>(0)?))),
            None => Ok(None),
        },
    }
}
