//! A panel's question to a database: one SELECT, in a read-only transaction on a connection of its own, within bounds.

use std::time::Duration;

use pulso_job::TargetKind;

use crate::{mysql, postgres};

/// What an answer may cost.
#[derive(Debug, Clone, Copy)]
pub struct PanelLimits {
    pub rows: usize,
    /// Of all values as text.
    pub bytes: usize,
    pub time: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PanelRows {
    /// Name, and the type: as PostgreSQL calls it, or as `[fields]` does where the database is MySQL.
    pub columns: Vec<(String, String)>,
    /// As the database writes values, times in UTC; `None` is null.
    pub rows: Vec<Vec<Option<String>>>,
    /// There are more rows than the limits allow.
    pub truncated: bool,
}

/// Asks once. The connection is closed afterwards, whatever comes.
///
/// # Errors
/// What is wrong, for people; it holds neither credentials nor values of rows.
pub async fn ask_panel(target: &TargetKind, sql: &str, limits: PanelLimits) -> Result<PanelRows, String> {
    // The server ends the statement itself; this is for one that does not answer at all.
    let patience = limits.time + Duration::from_secs(15);
    let sql = sql.trim().trim_end_matches(';');
    let asked = async {
        match target {
            TargetKind::Postgres { url, .. } => postgres::ask(url, sql, limits).await,
            TargetKind::MySql { url, .. } => mysql::ask(url, sql, limits).await,
            TargetKind::Kafka { .. } | TargetKind::Files { .. } => {
                Err(crate::database::Failure::fatal("a panel asks a database, and this target is none"))
            }
        }
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer.map_err(|failure| failure.text),
        Err(_) => Err(format!("the database has not answered for {} s", patience.as_secs())),
    }
}
