//! A panel's question to PostgreSQL.

use secrecy::SecretString;

use super::connect::{Address, Connection};
use super::error::Failure;
use crate::panel::{PanelLimits, PanelRows};

pub(crate) async fn ask(url: &SecretString, sql: &str, limits: PanelLimits) -> Result<PanelRows, Failure> {
    let connection = Connection::open(&Address::parse(url)?, "pulso/panel").await?;
    let begin = format!(
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; BEGIN READ ONLY; \
         SET LOCAL statement_timeout = {0}; SET LOCAL lock_timeout = {0}",
        limits.time.as_millis()
    );
    connection.run(&begin).await?;
    let columns = connection.describe(sql).await?;
    // A cursor takes one SELECT and nothing that writes, keeps its order, and computes no more rows than are fetched.
    connection.execute(&format!("DECLARE pulso_panel NO SCROLL CURSOR FOR {sql}")).await?;
    let fetch = format!("FETCH {} FROM pulso_panel", limits.rows.saturating_add(1));
    let (mut rows, cut) = connection.first_rows(&fetch, limits.bytes).await?;
    let truncated = cut || rows.len() > limits.rows;
    rows.truncate(limits.rows);
    Ok(PanelRows { columns, rows, truncated })
}
