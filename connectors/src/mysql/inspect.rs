//! A database as `healthctl check --online` sees it: everything that a takeover would complain about. Nothing is changed;
//! whether the user may make what is missing only making it tells.

use pulso_job::spec::{DeadLettersTo, JobSpec, TableSink, TargetIndex, TargetKind};

use super::address::Address;
use super::connect::{Connection, text};
use super::create::{database, is_there, own_tables};
use super::error::{Failure, NO_SUCH_TABLE};
use super::types::create_table;
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
    let Some(TargetKind::MySql { url, zone, .. }) = spec.targets.get(target).map(|target| &target.kind) else {
        return Err(Failure::fatal("the target is not a MySQL database"));
    };
    let (address, zone) = (Address::parse(url)?, Zone::named(zone).map_err(Failure::fatal)?);
    let connection = Connection::open(&address).await?;
    connection.prove_session(&address).await?;
    let mut inspection = Inspection::default();
    for (name, _) in own_tables() {
        let name = (String::new(), name.to_owned());
        if is_there(&connection, &name).await? {
            let text = not_writable(&connection, &name).await?;
            inspection.findings.extend(text.map(|text| TableFinding { sink: None, text }));
        }
    }
    if let (DeadLettersTo::Table(name), true) = (&spec.dead_letter.to, spec.dead_letter.target == target) {
        let own = name.0.is_empty() && name.1 == "pulso_dead_letters";
        if !own && !is_there(&connection, name).await? {
            inspection.to_be_made.push(quote::table(name));
        }
    }
    for sink in spec.tables(target) {
        let mut wrong = of_sink(&connection, spec, &zone, &sink, &mut inspection.to_be_made).await?;
        wrong.extend(other_owner(&connection, spec, &sink).await?);
        inspection.findings.extend(wrong.into_iter().map(|text| TableFinding { sink: Some(sink.index), text }));
    }
    Ok(inspection)
}

/// Of one of Pulso's own tables.
async fn not_writable(connection: &Connection, name: &(String, String)) -> Result<Option<String>, Failure> {
    let quoted = quote::table(name);
    let missing = tables::missing_privileges(connection, &["SELECT", "INSERT", "UPDATE"], &quoted, &[]).await?;
    Ok((!missing.is_empty()).then(|| format!("{quoted}: {}", tables::denied(connection, &quoted, &missing))))
}

async fn of_sink(
    connection: &Connection,
    spec: &JobSpec,
    zone: &Zone,
    sink: &TableSink<'_>,
    to_be_made: &mut Vec<String>,
) -> Result<Vec<String>, Failure> {
    if is_there(connection, &sink.table.name).await? {
        return Ok(tables::check_one(connection, spec, zone, sink).await?.err().unwrap_or_default());
    }
    if sink.table.create {
        to_be_made.push(quote::table(&sink.table.name));
        return Ok(Vec::new());
    }
    let statement = create_table(&connection.facts, spec, sink);
    let user = &connection.facts.user;
    Ok(vec![format!("is missing, or {user} may not see it; set `create = true`, or run: {statement};")])
}

/// A table belongs to one job.
async fn other_owner(connection: &Connection, spec: &JobSpec, sink: &TableSink<'_>) -> Result<Option<String>, Failure> {
    let sql = format!(
        "SELECT job_name FROM pulso_owners WHERE table_schema = {} AND table_name = {} AND job_name <> {}",
        quote::literal(database(connection, &sink.table.name)),
        quote::literal(&sink.table.name.1),
        quote::literal(&spec.name)
    );
    match connection.ask(sql).await {
        // Nobody owns anything yet, or what may be read there is told already.
        Err(failure) if failure.code == NO_SUCH_TABLE || super::error::DENIED.contains(&failure.code.as_str()) => {
            Ok(None)
        }
        found => Ok(text(&found?, 0, 0).map(|owner| format!("belongs to job {owner}"))),
    }
}
