//! The query of a `[[lookup]]` in MySQL or MariaDB. It goes by the binary protocol: as text MariaDB rounds floats.

use std::borrow::Cow;

use mysql_async::consts::{ColumnFlags, ColumnType};
use mysql_async::prelude::Queryable;
use mysql_async::{Column, Conn, Error, Statement, Value};
use secrecy::SecretString;

use super::address::Address;
use super::connect::{Facts, answered, open_read_only};
use super::error::{DENIED, Failure};
use super::quote;
use crate::lookup::{QueryColumn, Reading, Written, of_query};

/// SIGNAL in a function.
const RAISED: &str = "1644";
const READ_ONLY: [&str; 3] = ["1290", "1792", "1836"];
/// The character set of bytes.
const BINARY: u16 = 63;

/// A prepared query, in a transaction that only reads.
pub(crate) struct Query {
    pub(crate) columns: Vec<QueryColumn>,
    kinds: Vec<ColumnType>,
    statement: Statement,
    conn: Conn,
    facts: Facts,
}

impl Query {
    /// `rows`: how many the lookup may have.
    pub(crate) async fn prepare(url: &SecretString, sql: &str, rows: usize) -> Result<Self, Failure> {
        let (mut conn, facts) = open_read_only(&Address::parse(url)?, rows.saturating_add(1)).await?;
        // Nothing is run, so no message holds a value; that of a mistake tells where it is.
        let prepared = answered(async {
            match conn.prep(sql).await {
                Err(Error::Server(error)) => Ok(Err(error)),
                other => other.map(Ok),
            }
        });
        let statement = prepared.await?.map_err(|error| {
            let text = format!("{} (error {})", error.message, error.code);
            told(Failure { text, ..Failure::from(Error::Server(error)) }, &facts)
        })?;
        if statement.num_params() > 0 {
            return Err(Failure::fatal("the query has parameters (?), and nobody gives them values"));
        }
        let columns = statement.columns().iter().map(column).collect();
        let kinds = statement.columns().iter().map(Column::column_type).collect();
        Ok(Self { columns, kinds, statement, conn, facts })
    }

    pub(crate) async fn read(mut self, reading: &mut Reading) -> Result<(), Failure> {
        let kinds = self.kinds.as_slice();
        let (conn, statement) = (&mut self.conn, &self.statement);
        let read = async {
            let mut rows = answered(conn.exec_iter(statement, ())).await?;
            while let Some(row) = answered(rows.next()).await? {
                reading.push(|at| match (row.as_ref(at), kinds.get(at)) {
                    (Some(value), Some(kind)) => text(value, *kind),
                    _ => Ok(None),
                })?;
            }
            Ok(())
        };
        read.await.map_err(|failure| told(failure, &self.facts))
    }
}

fn told(failure: Failure, facts: &Facts) -> Failure {
    of_query(hinted(failure, facts), &[RAISED], &READ_ONLY)
}

/// With the GRANT that helps, where the message tells what for.
fn hinted(mut failure: Failure, facts: &Facts) -> Failure {
    let denied = DENIED.contains(&failure.code.as_str());
    let table = failure.text.split_once("for table ").and_then(|(_, rest)| rest.split_once(" (error"));
    if let (true, Some((table, _))) = (denied, table) {
        // Either the database's name and the table's in backquotes, or the table's in quotes.
        let table = if table.starts_with('`') {
            table.to_owned()
        } else {
            quote::table(&(facts.database.clone(), table.trim_matches('\'').to_owned()))
        };
        failure.text = format!("{}; run: GRANT SELECT ON {table} TO {};", failure.text, facts.user);
    }
    failure
}

pub(super) fn column(column: &Column) -> QueryColumn {
    let local = matches!(column.column_type(), ColumnType::MYSQL_TYPE_DATETIME | ColumnType::MYSQL_TYPE_DATETIME2);
    let written = if local { Written::Local } else { Written::Plain };
    QueryColumn { name: column.name_str().to_lowercase(), kind: type_word(column), written }
}

fn type_word(column: &Column) -> String {
    use ColumnType as T;
    let unsigned = column.flags().contains(ColumnFlags::UNSIGNED_FLAG);
    let word = match column.column_type() {
        T::MYSQL_TYPE_LONG if unsigned => "int64",
        T::MYSQL_TYPE_TINY | T::MYSQL_TYPE_SHORT | T::MYSQL_TYPE_INT24 | T::MYSQL_TYPE_LONG | T::MYSQL_TYPE_YEAR => {
            "int32"
        }
        T::MYSQL_TYPE_LONGLONG if unsigned => "decimal(20,0)",
        T::MYSQL_TYPE_LONGLONG => "int64",
        T::MYSQL_TYPE_FLOAT | T::MYSQL_TYPE_DOUBLE => "float64",
        T::MYSQL_TYPE_DECIMAL | T::MYSQL_TYPE_NEWDECIMAL => return decimal(column, unsigned),
        T::MYSQL_TYPE_DATETIME | T::MYSQL_TYPE_DATETIME2 | T::MYSQL_TYPE_TIMESTAMP | T::MYSQL_TYPE_TIMESTAMP2 => {
            "timestamp"
        }
        T::MYSQL_TYPE_DATE | T::MYSQL_TYPE_NEWDATE => "date",
        T::MYSQL_TYPE_JSON | T::MYSQL_TYPE_ENUM | T::MYSQL_TYPE_SET => "string",
        T::MYSQL_TYPE_VARCHAR | T::MYSQL_TYPE_VAR_STRING if column.character_set() == BINARY => "varbinary",
        T::MYSQL_TYPE_STRING if column.character_set() == BINARY => "binary",
        T::MYSQL_TYPE_TINY_BLOB | T::MYSQL_TYPE_MEDIUM_BLOB | T::MYSQL_TYPE_LONG_BLOB | T::MYSQL_TYPE_BLOB
            if column.character_set() == BINARY =>
        {
            "blob"
        }
        T::MYSQL_TYPE_VARCHAR
        | T::MYSQL_TYPE_VAR_STRING
        | T::MYSQL_TYPE_STRING
        | T::MYSQL_TYPE_TINY_BLOB
        | T::MYSQL_TYPE_MEDIUM_BLOB
        | T::MYSQL_TYPE_LONG_BLOB
        | T::MYSQL_TYPE_BLOB => "string",
        T::MYSQL_TYPE_TIME | T::MYSQL_TYPE_TIME2 => "time",
        T::MYSQL_TYPE_BIT => "bit",
        T::MYSQL_TYPE_GEOMETRY => "geometry",
        T::MYSQL_TYPE_VECTOR => "vector",
        T::MYSQL_TYPE_NULL => "null",
        T::MYSQL_TYPE_TYPED_ARRAY | T::MYSQL_TYPE_UNKNOWN => "unknown",
    };
    word.to_owned()
}

/// The length counts the digits, the point and the sign (`my_decimal_length_to_precision` of MySQL's my_decimal.h).
fn decimal(column: &Column, unsigned: bool) -> String {
    let (length, scale) = (column.column_length(), column.decimals());
    let precision = length.saturating_sub(u32::from(scale > 0)).saturating_sub(u32::from(!unsigned));
    format!("decimal({precision},{scale})")
}

/// A value as text; a time that names no zone of its own is in UTC.
pub(super) fn text(value: &Value, kind: ColumnType) -> Result<Option<Cow<'_, str>>, Failure> {
    Ok(Some(match value {
        Value::NULL => return Ok(None),
        Value::Bytes(bytes) => {
            Cow::Borrowed(str::from_utf8(bytes).map_err(|_| Failure::fatal("a text of a row is not UTF-8"))?)
        }
        Value::Int(value) => value.to_string().into(),
        Value::UInt(value) => value.to_string().into(),
        Value::Float(value) => f64::from(*value).to_string().into(),
        Value::Double(value) => value.to_string().into(),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            let date = format!("{year:04}-{month:02}-{day:02}");
            if kind == ColumnType::MYSQL_TYPE_DATE {
                return Ok(Some(date.into()));
            }
            let zone = if kind == ColumnType::MYSQL_TYPE_TIMESTAMP { "+00" } else { "" };
            format!("{date} {hour:02}:{minute:02}:{second:02}.{micros:06}{zone}").into()
        }
        Value::Time(negative, days, hours, minutes, seconds, micros) => {
            let (sign, hours) = (if *negative { "-" } else { "" }, days * 24 + u32::from(*hours));
            format!("{sign}{hours:02}:{minutes:02}:{seconds:02}.{micros:06}").into()
        }
    }))
}
