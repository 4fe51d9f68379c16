//! The query of a `[[lookup]]` in PostgreSQL.

use std::borrow::Cow;

use secrecy::SecretString;
use tokio_postgres::Column;
use tokio_postgres::types::{Kind, Type};

use super::connect::{Address, Connection};
use super::error::Failure;
use super::quote;
use crate::lookup::{QueryColumn, Reading, Written, of_query};

const DENIED: &str = "42501";
const RAISED: &str = "P0001";
const READ_ONLY: &str = "25006";

/// A prepared query, in a transaction that only reads.
pub(crate) struct Query {
    pub(crate) columns: Vec<QueryColumn>,
    sql: String,
    connection: Connection,
}

impl Query {
    pub(crate) async fn prepare(url: &SecretString, sql: &str) -> Result<Self, Failure> {
        let connection = Connection::open(&Address::parse(url)?, "pulso/lookup").await?;
        connection.run("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; BEGIN READ ONLY").await?;
        let statement = connection.prepare(sql).await.map_err(|failure| hinted(failure, &connection.user))?;
        if !statement.params().is_empty() {
            return Err(Failure::fatal("the query has parameters ($1), and nobody gives them values"));
        }
        let columns = statement.columns().iter().map(column).collect();
        Ok(Self { columns, sql: sql.to_owned(), connection })
    }

    pub(crate) async fn read(&self, reading: &mut Reading) -> Result<(), Failure> {
        // A cursor takes one SELECT and nothing that writes, and computes no more rows than are fetched.
        let declare = format!("DECLARE pulso_lookup NO SCROLL CURSOR FOR {}", self.sql);
        let fetch = format!("FETCH {} FROM pulso_lookup", reading.limit());
        let read = async {
            self.connection.execute(&declare).await?;
            self.connection.each_row(&fetch, |row| reading.push(|at| Ok(row.get(at).map(Cow::Borrowed)))).await
        };
        read.await.map_err(|failure| of_query(hinted(failure, &self.connection.user), &[RAISED], &[READ_ONLY]))
    }
}

/// With the GRANT that helps, where the message tells what for.
fn hinted(mut failure: Failure, user: &str) -> Failure {
    let name = |kind: &str| {
        let (_, name) = failure.text.split_once(&format!("permission denied for {kind} "))?;
        name.split_once(" (SQLSTATE").map(|(name, _)| quote::identifier(name))
    };
    let table = || ["table", "view", "materialized view", "foreign table"].into_iter().find_map(name);
    let statement = match (name("schema"), table()) {
        _ if failure.code != DENIED => return failure,
        (Some(schema), _) => format!("GRANT USAGE ON SCHEMA {schema} TO {user};"),
        (None, Some(table)) => format!("GRANT SELECT ON {table} TO {user};"),
        (None, None) => return failure,
    };
    failure.text = format!("{}; run: {statement}", failure.text);
    failure
}

fn column(column: &Column) -> QueryColumn {
    let kind = column.type_();
    let written = match *kind {
        Type::BPCHAR => Written::Padded,
        Type::FLOAT4 => Written::Single,
        Type::TIMESTAMP => Written::Local,
        _ => Written::Plain,
    };
    QueryColumn { name: column.name().to_lowercase(), kind: type_word(kind, column.type_modifier()), written }
}

fn type_word(kind: &Type, modifier: i32) -> String {
    let word = match *kind {
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::JSON | Type::JSONB => "string",
        Type::BOOL => "bool",
        Type::INT2 | Type::INT4 => "int32",
        Type::INT8 => "int64",
        Type::FLOAT4 | Type::FLOAT8 => "float64",
        Type::TIMESTAMP | Type::TIMESTAMPTZ => "timestamp",
        Type::DATE => "date",
        Type::UUID => "uuid",
        Type::NUMERIC => return numeric(modifier),
        _ => {
            if let Kind::Array(of) = kind.kind() {
                return format!("{}[]", of.name());
            }
            if matches!(kind.kind(), Kind::Enum(_)) { "string" } else { kind.name() }
        }
    };
    word.to_owned()
}

/// The modifier holds precision and scale, as `make_numeric_typmod` of PostgreSQL's numeric.c puts them: from the 17th bit
/// on and in 11 bits with sign, 4 more than both together; -1 is none.
fn numeric(modifier: i32) -> String {
    if modifier < 4 {
        return "numeric".to_owned();
    }
    let packed = modifier - 4;
    let (precision, scale) = ((packed >> 16) & 0xffff, ((packed & 0x7ff) ^ 1_024) - 1_024);
    let fits = (1..=38).contains(&precision) && (0..=precision).contains(&scale);
    format!("{}({precision},{scale})", if fits { "decimal" } else { "numeric" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modifier_is_precision_and_scale() {
        let packed = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(numeric(packed(12, 2)), "decimal(12,2)");
        assert_eq!(numeric(packed(38, 38)), "decimal(38,38)");
        assert_eq!(numeric(packed(39, 2)), "numeric(39,2)");
        assert_eq!(numeric(packed(5, -2)), "numeric(5,-2)");
        assert_eq!(numeric(packed(2, 5)), "numeric(2,5)");
        assert_eq!(numeric(-1), "numeric");
    }
}
