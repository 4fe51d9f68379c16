//! Sink tables as they are in the database, checked against the job; every complaint comes with what mends it.

use arrow::datatypes::DataType;
use pulso_job::spec::{JobSpec, SinkColumn, SinkSpec, TableSink, WriteMode};
use tokio_postgres::types::{ToSql, Type};

use super::connect::Connection;
use super::create::create_table;
use super::encode::{self, Wire};
use super::error::Failure;
use super::quote;
use super::table::Table;
use crate::database::{Keyed, Zone};

/// A column of the catalog.
struct Found {
    name: String,
    /// As `format_type` prints it.
    shown: String,
    /// Of a domain the type below.
    base: String,
    is_enum: bool,
    typmod: i32,
    must_be_given: bool,
    writable: bool,
}

const RELATION: &str = "SELECT c.relkind::text, row_security_active(c.oid),
    has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'INSERT'),
    has_table_privilege(c.oid, 'UPDATE'), has_table_privilege(c.oid, 'DELETE')
    FROM pg_class AS c WHERE c.oid = to_regclass($1)";

const COLUMNS: &str = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), b.typname::text, b.typtype = 'e',
    CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END,
    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.attgenerated = '' AND a.attidentity <> 'a'
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    JOIN pg_type AS b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";

/// Column lists of indexes that `ON CONFLICT (columns)` may use.
const UNIQUE: &str = "SELECT array_agg(a.attname::text) FROM pg_index AS i
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
    WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
    AND i.indpred IS NULL AND i.indexprs IS NULL GROUP BY i.indexrelid";

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
    let parameter: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
    let relation = connection.query(RELATION, &parameter).await.map_err(|failure| {
        let (schema, user) = (quote::identifier(&table.table.name.0), &connection.user);
        failure.hinted("42501", &format!("GRANT USAGE ON SCHEMA {schema} TO {user}"))
    })?;
    let Some(relation) = relation.into_iter().next() else {
        return Ok(Err(vec![format!(
            "is missing, or in a schema that {} may not use; an administrator must run: {};",
            connection.user,
            create_table(spec, table)
        )]));
    };
    let mut wrong = Vec::new();
    let kind: String = relation.try_get(0)?;
    if !matches!(kind.as_str(), "r" | "p") {
        return Ok(Err(vec![
            "is not a table but a view, a foreign table or the like; name the table itself".to_owned(),
        ]));
    }
    if relation.try_get(1)? {
        wrong.push(format!(
            "has row-level security for {0}, which COPY does not take; run: ALTER ROLE {0} BYPASSRLS;",
            connection.user
        ));
    }
    let granted = [relation.try_get(2)?, relation.try_get(3)?, relation.try_get(4)?, relation.try_get(5)?];
    check_privileges(connection, &name, write, granted, &mut wrong);

    // Before the columns: what is altered from here on is noticed.
    let shape = connection.simple_rows(&Table::ask_shape(&name)).await?.into_iter().flatten().collect();
    let mut found = Vec::new();
    for row in connection.query(COLUMNS, &parameter).await? {
        found.push(Found {
            name: row.try_get(0)?,
            shown: row.try_get(1)?,
            base: row.try_get(2)?,
            is_enum: row.try_get(3)?,
            typmod: row.try_get(4)?,
            must_be_given: row.try_get(5)?,
            writable: row.try_get(6)?,
        });
    }
    let marked = spec.is_marked(sink);
    let wires = check_columns(spec, sink, &name, &found, marked, &mut wrong);
    if !write.key().is_empty() {
        let mut indexes: Vec<Vec<String>> = Vec::new();
        for row in connection.query(UNIQUE, &parameter).await? {
            indexes.push(row.try_get(0)?);
        }
        check_key(sink, write, &name, &indexes, &mut wrong);
    }
    if !wrong.is_empty() {
        return Ok(Err(wrong));
    }
    let columns = sink.columns.iter().map(|column| column.name.clone()).collect();
    let (key, keyed, zone) = (write.key().to_vec(), Keyed::of(write), zone.clone());
    Ok(Ok(Table { sink: table.index, name, columns, wires, zone, key, keyed, marked, shape }))
}

fn check_privileges(
    connection: &Connection,
    name: &str,
    write: &WriteMode,
    granted: [bool; 4],
    wrong: &mut Vec<String>,
) {
    let needed: &[&str] = match write {
        WriteMode::Append => &["INSERT"],
        WriteMode::KeepFirst { .. } => &["SELECT", "INSERT"],
        WriteMode::Upsert { newest_by: Some(_), .. } => &["SELECT", "INSERT", "UPDATE"],
        WriteMode::Upsert { newest_by: None, .. } => &["SELECT", "INSERT", "UPDATE", "DELETE"],
    };
    let has = ["SELECT", "INSERT", "UPDATE", "DELETE"].into_iter().zip(granted);
    let missing: Vec<&str> = has.filter(|(name, has)| !has && needed.contains(name)).map(|(name, _)| name).collect();
    if !missing.is_empty() {
        let user = &connection.user;
        wrong.push(format!("{user} may not write it; run: GRANT {} ON {name} TO {user};", missing.join(", ")));
    }
}

fn check_columns(
    spec: &JobSpec,
    sink: &SinkSpec,
    name: &str,
    found: &[Found],
    marked: bool,
    wrong: &mut Vec<String>,
) -> Vec<Wire> {
    let mut wires = Vec::new();
    for column in &sink.columns {
        let quoted = quote::identifier(&column.name);
        let wanted = spec.column_postgres_type(sink, column);
        match found.iter().find(|f| f.name == column.name) {
            None => {
                wrong.push(format!("has no column {quoted}; run: ALTER TABLE {name} ADD COLUMN {quoted} {wanted};"))
            }
            Some(f) if !f.writable => {
                wrong.push(format!("column {quoted} is generated by the database and cannot be written"))
            }
            Some(f) => match holds(column, f) {
                Some(wire) => wires.push(wire),
                None => wrong.push(format!(
                    "column {quoted} is {}, which does not hold every {wanted}; run: \
                     ALTER TABLE {name} ALTER COLUMN {quoted} TYPE {wanted};",
                    f.shown
                )),
            },
        }
    }
    let given = |f: &Found| sink.columns.iter().any(|column| column.name == f.name);
    for f in found.iter().filter(|f| f.must_be_given && !given(f)) {
        wrong.push(format!(
            "column {} must not be null, has no default, and the sink does not write it",
            quote::identifier(&f.name)
        ));
    }
    if marked && !found.iter().any(|f| f.name == "pulso_change" && f.base == "text") {
        wrong.push(format!(
            "the job corrects or deletes, and an append-only table tells by a column: run: \
             ALTER TABLE {name} ADD COLUMN pulso_change text;"
        ));
    }
    wires
}

/// The wire form, if the column holds every value of the job's.
fn holds(column: &SinkColumn, found: &Found) -> Option<Wire> {
    let wire = encode::wire(&column.data_type, &found.base, found.is_enum)?;
    if wire == Wire::Numeric && found.typmod >= 4 {
        // numeric(precision, scale) rounds silently what is finer than its scale.
        let scale = (found.typmod - 4) & 0x7FF;
        let scale = if scale > 1000 { scale - 2048 } else { scale };
        #[expect(clippy::wildcard_enum_match_arm, reason = "integers have no digits behind the point")]
        let wanted = match column.data_type {
            DataType::Decimal128(_, scale) => i32::from(scale),
            _ => 0,
        };
        if scale < wanted {
            return None;
        }
    }
    Some(wire)
}

fn check_key(sink: &SinkSpec, write: &WriteMode, name: &str, indexes: &[Vec<String>], wrong: &mut Vec<String>) {
    let names = write.key().iter().filter_map(|&i| sink.columns.get(i)).map(|column| column.name.as_str());
    let mut key: Vec<&str> = names.collect();
    let list = quote::list(key.iter().copied());
    key.sort_unstable();
    let covers = |index: &Vec<String>| {
        let mut columns: Vec<&str> = index.iter().map(String::as_str).collect();
        columns.sort_unstable();
        columns == key
    };
    if !indexes.iter().any(covers) {
        wrong.push(format!("has no unique index on exactly ({list}); run: ALTER TABLE {name} ADD UNIQUE ({list});"));
    }
}
