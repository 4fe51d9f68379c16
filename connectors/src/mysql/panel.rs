//! A panel's question to MySQL or MariaDB.

use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable;
use secrecy::SecretString;

use super::address::Address;
use super::connect::{answered, open_read_only};
use super::error::Failure;
use super::lookup::{column, text};
use crate::panel::{PanelLimits, PanelRows};

pub(crate) async fn ask(url: &SecretString, sql: &str, limits: PanelLimits) -> Result<PanelRows, Failure> {
    let (mut conn, facts) = open_read_only(&Address::parse(url)?, limits.rows.saturating_add(1)).await?;
    let bound = match facts.mariadb {
        true => format!("SET SESSION max_statement_time = {}", limits.time.as_secs_f64()),
        false => format!("SET SESSION max_execution_time = {}", limits.time.as_millis()),
    };
    answered(conn.query_drop(bound)).await?;
    let statement = answered(conn.prep(sql)).await?;
    if statement.num_params() > 0 {
        return Err(Failure::fatal("the query has parameters (?), and nobody gives them values"));
    }
    let kinds: Vec<ColumnType> = statement.columns().iter().map(mysql_async::Column::column_type).collect();
    let columns = statement.columns().iter().map(|asked| (asked.name_str().into_owned(), column(asked).kind)).collect();
    let mut found = PanelRows { columns, ..PanelRows::default() };
    let mut held = 0;
    let mut rows = answered(conn.exec_iter(statement, ())).await?;
    while let Some(row) = answered(rows.next()).await? {
        let value = |(at, kind): (usize, &ColumnType)| match row.as_ref(at) {
            Some(value) => Ok(text(value, *kind)?.map(std::borrow::Cow::into_owned)),
            None => Ok(None),
        };
        let values = kinds.iter().enumerate().map(value).collect::<Result<Vec<Option<String>>, Failure>>()?;
        held += values.iter().flatten().map(String::len).sum::<usize>();
        if held > limits.bytes || found.rows.len() == limits.rows {
            found.truncated = true;
            break;
        }
        found.rows.push(values);
    }
    Ok(found)
}
