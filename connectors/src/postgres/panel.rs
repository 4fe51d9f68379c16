//! A panel's question: one SELECT, in a read-only transaction on a connection of its own, within bounds.

use std::time::Duration;

use secrecy::SecretString;

use super::connect::{Address, Connection};
use super::error::Failure;

/// What an answer may cost.
#[derive(Debug, Clone, Copy)]
pub struct PanelLimits {
    pub rows: usize,
    /// Of all values as text.
    pub bytes: usize,
    pub time: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanelRows {
    /// Name and PostgreSQL's name of the type.
    pub columns: Vec<(String, String)>,
    /// As PostgreSQL writes values, times in UTC; `None` is null.
    pub rows: Vec<Vec<Option<String>>>,
    /// There are more rows than the limits allow.
    pub truncated: bool,
}

/// Asks once. The connection is closed afterwards, whatever comes.
///
/// # Errors
/// What is wrong, for people; it holds neither credentials nor values of rows.
pub async fn ask_panel(url: &SecretString, sql: &str, limits: PanelLimits) -> Result<PanelRows, String> {
    // The server ends the statement itself; this is for one that does not answer at all.
    let patience = limits.time + Duration::from_secs(15);
    match tokio::time::timeout(patience, ask(url, sql, limits)).await {
        Ok(answer) => answer.map_err(|failure| failure.text),
        Err(_) => Err(format!("the database has not answered for {} s", patience.as_secs())),
    }
}

async fn ask(url: &SecretString, sql: &str, limits: PanelLimits) -> Result<PanelRows, Failure> {
    let connection = Connection::open(&Address::parse(url)?, "pulso/panel").await?;
    let begin = format!(
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; BEGIN READ ONLY; \
         SET LOCAL statement_timeout = {0}; SET LOCAL lock_timeout = {0}",
        limits.time.as_millis()
    );
    connection.run(&begin).await?;
    let sql = sql.trim().trim_end_matches(';');
    let columns = connection.describe(sql).await?;
    // A cursor takes one SELECT and nothing that writes, keeps its order, and computes no more rows than are fetched.
    connection.execute(&format!("DECLARE pulso_panel NO SCROLL CURSOR FOR {sql}")).await?;
    let fetch = format!("FETCH {} FROM pulso_panel", limits.rows.saturating_add(1));
    let (mut rows, cut) = connection.first_rows(&fetch, limits.bytes).await?;
    let truncated = cut || rows.len() > limits.rows;
    rows.truncate(limits.rows);
    Ok(PanelRows { columns, rows, truncated })
}
