//! Sink tables as they are in the database, checked against the job; every complaint comes with what mends it.

use std::collections::BTreeMap;

use pulso_job::spec::{JobSpec, TableSink, WriteMode};

use super::connect::{Connection, RowSet};
use super::create::database;
use super::error::{DENIED, Failure};
use super::literal::{self, Form};
use super::quote;
use super::table::{Table, ask_shape, shape};
use super::types::{column_type, create_table, exact_collation, is_exact};
use crate::database::{Keyed, Zone};

/// A column of the catalog.
struct Found {
    name: String,
    data_type: String,
    /// With length, sign and so on, as it is declared.
    shown: String,
    must_be_given: bool,
    writable: bool,
    counts: bool,
    length: Option<u64>,
    scale: Option<i64>,
    collation: Option<String>,
}

/// A unique index: its columns, and whether it is on the whole of them.
#[derive(Default)]
struct Index {
    columns: Vec<String>,
    whole: bool,
}

/// All sinks' tables, or everything that is wrong with them at once.
pub(crate) async fn check(
    connection: &Connection,
    spec: &JobSpec,
    zone: &Zone,
    sinks: &[TableSink<'_>],
) -> Result<Vec<Table>, Failure> {
    let mut tables = Vec::new();
    let mut wrong: Vec<String> = Vec::new();
    for sink in sinks {
        match check_one(connection, spec, zone, sink).await? {
            Ok(table) => tables.push(table),
            Err(found) => {
                let name = quote::table(&sink.table.name);
                wrong.extend(found.into_iter().map(|text| format!("table {name}: {text}")));
            }
        }
    }
    if wrong.is_empty() { Ok(tables) } else { Err(Failure::fatal(wrong.join("; "))) }
}

/// A sink's table, or everything that is wrong with it.
pub(crate) async fn check_one(
    connection: &Connection,
    spec: &JobSpec,
    zone: &Zone,
    table: &TableSink<'_>,
) -> Result<Result<Table, Vec<String>>, Failure> {
    let (sink, write) = (table.sink, &table.table.write);
    let name = quote::table(&table.table.name);
    let of_table = format!(
        "TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        quote::literal(database(connection, &table.table.name)),
        quote::literal(&table.table.name.1)
    );
    let about = connection
        .ask(format!("SELECT TABLE_TYPE, COALESCE(ENGINE, '') FROM information_schema.TABLES WHERE {of_table}"))
        .await?;
    let Some([Some(kind), Some(engine)]) = about.first().and_then(|rows| rows.first()).map(Vec::as_slice) else {
        return Ok(Err(vec![format!(
            "is missing, or {} may not see it; an administrator must run: {};",
            connection.facts.user,
            create_table(&connection.facts, spec, table)
        )]));
    };
    if kind != "BASE TABLE" {
        return Ok(Err(vec!["is not a table but a view or the like; name the table itself".to_owned()]));
    }
    let mut wrong = Vec::new();
    if !engine.eq_ignore_ascii_case("InnoDB") {
        wrong.push(format!("is kept by {engine}, which has no transactions; run: ALTER TABLE {name} ENGINE = InnoDB;"));
    }
    // Before the columns: what is altered from here on is noticed.
    let shape = match connection.ask(ask_shape(&name)).await {
        Ok(answers) => answers.first().and_then(|rows| rows.first()).map(|row| shape(row)).unwrap_or_default(),
        Err(failure) if DENIED.contains(&failure.code.as_str()) => {
            return Ok(Err(vec![denied(connection, &name, &["SELECT"])]));
        }
        Err(failure) => return Err(failure),
    };
    let columns = columns(connection, &of_table).await?;
    let forms = check_columns(spec, table, &columns, &name, &mut wrong);
    if !write.key().is_empty() {
        let indexes = indexes(connection, &of_table).await?;
        check_key(connection, table, &columns, &indexes, &mut wrong);
    }
    if !wrong.is_empty() {
        return Ok(Err(wrong));
    }
    let names: Vec<String> = sink.columns.iter().map(|column| column.name.clone()).collect();
    let missing = missing_privileges(connection, needed(write), &name, &names).await?;
    if !missing.is_empty() {
        return Ok(Err(vec![denied(connection, &name, &missing)]));
    }
    let (key, keyed) = (write.key().to_vec(), Keyed::of(write));
    let (zone, marked) = (zone.clone(), spec.is_marked(sink));
    Ok(Ok(Table { sink: table.index, name, columns: names, forms, zone, key, keyed, marked, shape }))
}

async fn columns(connection: &Connection, of_table: &str) -> Result<Vec<Found>, Failure> {
    let sql = format!(
        "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE = 'NO' AND COLUMN_DEFAULT IS NULL, EXTRA, \
         CHARACTER_MAXIMUM_LENGTH, COALESCE(NUMERIC_SCALE, DATETIME_PRECISION), COLLATION_NAME \
         FROM information_schema.COLUMNS WHERE {of_table} ORDER BY ORDINAL_POSITION"
    );
    let found = connection.ask(sql).await?;
    let column = |row: Vec<Option<String>>| {
        let [name, data_type, shown, needed, extra, length, scale, collation] = <[_; 8]>::try_from(row).ok()?;
        let extra = extra?.to_ascii_lowercase();
        let generated = extra.contains("virtual") || extra.contains("stored") || extra.contains("persistent");
        let counts = extra.contains("auto_increment");
        Some(Found {
            name: name?,
            data_type: data_type?.to_ascii_lowercase(),
            shown: shown?,
            must_be_given: needed? == "1" && !generated && !counts,
            writable: !generated,
            counts,
            length: length.and_then(|text| text.parse().ok()),
            scale: scale.and_then(|text| text.parse().ok()),
            collation,
        })
    };
    Ok(found.into_iter().flatten().filter_map(column).collect())
}

async fn indexes(connection: &Connection, of_table: &str) -> Result<Vec<(String, Index)>, Failure> {
    let sql = format!(
        "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS \
         WHERE {of_table} AND NON_UNIQUE = 0 ORDER BY INDEX_NAME, SEQ_IN_INDEX"
    );
    let found: RowSet = connection.ask(sql).await?.into_iter().flatten().collect();
    let mut indexes: BTreeMap<String, Index> = BTreeMap::new();
    for row in found {
        let Ok([Some(name), column, part]) = <[_; 3]>::try_from(row) else { continue };
        let index = indexes.entry(name).or_insert(Index { columns: Vec::new(), whole: true });
        // A part of an index may be an expression, or the head of a column.
        index.whole &= column.is_some() && part.is_none();
        index.columns.extend(column);
    }
    Ok(indexes.into_iter().collect())
}

fn check_columns(
    spec: &JobSpec,
    table: &TableSink<'_>,
    found: &[Found],
    name: &str,
    wrong: &mut Vec<String>,
) -> Vec<Form> {
    let mut forms = Vec::new();
    for (index, column) in table.sink.columns.iter().enumerate() {
        let quoted = quote::identifier(&column.name);
        let wanted = column_type(spec, table, index);
        match found.iter().find(|f| f.name.eq_ignore_ascii_case(&column.name)) {
            None => {
                wrong.push(format!("has no column {quoted}; run: ALTER TABLE {name} ADD COLUMN {quoted} {wanted};"))
            }
            Some(f) if !f.writable => {
                wrong.push(format!("column {quoted} is generated by the database and cannot be written"))
            }
            Some(f) => match literal::form(&column.data_type, &f.data_type, f.length, f.scale) {
                Some(form) => forms.push(form),
                None => wrong.push(format!(
                    "column {quoted} is {}, which does not hold every {wanted}; run: \
                     ALTER TABLE {name} MODIFY COLUMN {quoted} {wanted};",
                    f.shown
                )),
            },
        }
    }
    let given = |f: &Found| table.sink.columns.iter().any(|column| column.name.eq_ignore_ascii_case(&f.name));
    for f in found.iter().filter(|f| f.must_be_given && !given(f)) {
        wrong.push(format!(
            "column {} must not be null, has no default, and the sink does not write it",
            quote::identifier(&f.name)
        ));
    }
    if spec.is_marked(table.sink) && !found.iter().any(|f| f.name == "pulso_change" && f.collation.is_some()) {
        wrong.push(format!(
            "the job corrects or deletes, and an append-only table tells by a column: run: \
             ALTER TABLE {name} ADD COLUMN `pulso_change` VARCHAR(10);"
        ));
    }
    forms
}

fn check_key(
    connection: &Connection,
    table: &TableSink<'_>,
    found: &[Found],
    indexes: &[(String, Index)],
    wrong: &mut Vec<String>,
) {
    let name = quote::table(&table.table.name);
    let key: Vec<&str> = table
        .table
        .write
        .key()
        .iter()
        .filter_map(|&i| table.sink.columns.get(i))
        .map(|column| column.name.as_str())
        .collect();
    let holds = |index: &Index, column: &str| index.columns.iter().any(|name| name.eq_ignore_ascii_case(column));
    let covers = |index: &Index| index.whole && key.iter().all(|column| holds(index, column));
    if !indexes.iter().any(|(_, index)| covers(index) && index.columns.len() == key.len()) {
        let list = quote::list(key.iter().copied());
        wrong.push(format!("has no unique index on exactly ({list}); run: ALTER TABLE {name} ADD UNIQUE ({list});"));
    }
    // ON DUPLICATE KEY UPDATE does not ask which key it was. A column that counts by itself meets no other row.
    let counted = |index: &Index| {
        let written = |name: &str| table.sink.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        found.iter().any(|f| f.counts && !written(&f.name) && holds(index, &f.name))
    };
    for (other, index) in indexes.iter().filter(|(_, index)| !covers(index) && !counted(index)) {
        let (list, other) = (quote::list(index.columns.iter().map(String::as_str)), quote::identifier(other));
        wrong.push(format!(
            "has another unique index, on ({list}): a row that meets it would overwrite a row of another key; run: \
             ALTER TABLE {name} DROP INDEX {other};"
        ));
    }
    for f in found.iter().filter(|f| key.iter().any(|column| f.name.eq_ignore_ascii_case(column))) {
        let uuid = table.sink.columns.iter().any(|c| c.name.eq_ignore_ascii_case(&f.name) && is_uuid(c));
        let collation = f.collation.as_deref().filter(|_| !uuid);
        if let Some(collation) = collation.filter(|collation| !is_exact(collation)) {
            let (column, exact) = (quote::identifier(&f.name), exact_collation(&connection.facts));
            wrong.push(format!(
                "column {column} is part of the key and compares by {collation}, which takes different texts for equal; \
                 run: ALTER TABLE {name} MODIFY COLUMN {column} {} CHARACTER SET utf8mb4 COLLATE {exact} NOT NULL;",
                f.shown
            ));
        }
    }
}

/// Their digits have one spelling.
fn is_uuid(column: &pulso_job::spec::SinkColumn) -> bool {
    matches!(column.data_type, arrow::datatypes::DataType::FixedSizeBinary(_))
}

/// Tried by statements that touch no row: what roles and grants add up to, only the server knows. Of these `columns`, or of
/// all where none are named.
pub(crate) async fn missing_privileges(
    connection: &Connection,
    needed: &[&str],
    name: &str,
    columns: &[String],
) -> Result<Vec<&'static str>, Failure> {
    let list = quote::list(columns.iter().map(String::as_str));
    let (all, into) = if list.is_empty() { ("*", String::new()) } else { (list.as_str(), format!("({list})")) };
    // Every table of Pulso's own has a column `job`.
    let first = quote::identifier(columns.first().map_or("job", String::as_str));
    let probes = [
        ("SELECT", format!("SELECT {all} FROM {name} WHERE FALSE")),
        ("INSERT", format!("INSERT INTO {name} {into} SELECT {all} FROM {name} WHERE FALSE")),
        ("UPDATE", format!("UPDATE {name} SET {first} = {first} WHERE FALSE")),
        ("DELETE", format!("DELETE FROM {name} WHERE FALSE")),
    ];
    let mut missing = Vec::new();
    for (privilege, probe) in probes.into_iter().filter(|(privilege, _)| needed.contains(privilege)) {
        match connection.run(probe).await {
            Err(failure) if DENIED.contains(&failure.code.as_str()) => missing.push(privilege),
            done => done.map_err(|failure| failure.during(&format!("looking at {name}")))?,
        }
    }
    Ok(missing)
}

fn needed(write: &WriteMode) -> &'static [&'static str] {
    match write {
        WriteMode::Append => &["SELECT", "INSERT"],
        WriteMode::KeepFirst { .. } | WriteMode::Upsert { newest_by: Some(_), .. } => &["SELECT", "INSERT", "UPDATE"],
        WriteMode::Upsert { newest_by: None, .. } => &["SELECT", "INSERT", "UPDATE", "DELETE"],
    }
}

pub(crate) fn denied(connection: &Connection, name: &str, missing: &[&str]) -> String {
    let user = &connection.facts.user;
    format!("{user} may not write it; run: GRANT {} ON {name} TO {user};", missing.join(", "))
}
