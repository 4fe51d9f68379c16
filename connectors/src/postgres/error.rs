//! What a failure of a statement means: SQLSTATE to what the writer does about it.
//!
//! Texts made here carry the primary message of schema and resource errors only: DETAIL, and every message of an error
//! that is about a row, may hold values of a record.

use tokio_postgres::error::{DbError, Severity};

pub(crate) use crate::database::{Failure, Kind};

pub(crate) const LOCK_NOT_AVAILABLE: &str = "55P03";
pub(crate) const UNIQUE_VIOLATION: &str = "23505";
/// A value or a row that has not the binary form of its column or table: ours is wrong, not the record.
pub(crate) const MALFORMED: [&str; 2] = ["22P03", "22P04"];
pub(crate) const UNDEFINED_TABLE: &str = "42P01";

impl Failure {
    /// A failure while the connection was being made: there, FATAL is how the server says every no.
    pub(crate) fn at_connect(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            None => Self::from_client(error),
            Some(db) => Self::of(db, kind(db.code().code())),
        }
    }

    fn of(db: &DbError, kind: Kind) -> Self {
        let code = db.code().code();
        let raised = db.routine() == Some(RAISE);
        // What a trigger raises under a code of its own is about the row, unless it says that another try may help.
        let kind = if raised && kind == Kind::Fatal { Kind::Refused } else { kind };
        let text = match kind {
            Kind::ConnectionLost | Kind::Retry | Kind::Fatal if !raised && has_no_values(code) => {
                format!("{} (SQLSTATE {code})", db.message())
            }
            Kind::Refused | Kind::ConnectionLost | Kind::Retry | Kind::Fatal => refused_text(db),
        };
        Self { kind, code: code.to_owned(), column: db.column().map(str::to_owned), text }
    }

    fn from_client(error: &tokio_postgres::Error) -> Self {
        use std::error::Error as _;
        // The client's own errors name no cause in their first line; neither holds values.
        let text = match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        // Whatever is not the server's word leaves the state of the connection open.
        Self::lost(text)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            None => Self::from_client(&error),
            Some(db) => {
                // After these the server ends the session, whatever the code.
                let ended = matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
                Self::of(db, if ended { Kind::ConnectionLost } else { kind(db.code().code()) })
            }
        }
    }
}

/// What an SQLSTATE means (PostgreSQL documentation, appendix A).
pub(crate) fn kind(code: &str) -> Kind {
    let class = code.get(..2).unwrap_or_default();
    match (class, code) {
        _ if MALFORMED.contains(&code) => Kind::Fatal,
        // 54000 is an index entry too large: a row's fault. 21000: two keys that the table takes for one.
        (_, "P0001" | "54000" | "21000" | "44000") | ("22" | "23", _) => Kind::Refused,
        // What other sessions and the server's load do, or a person who cancels a statement.
        ("40" | "53" | "55", _) | (_, "57014" | "57P03" | "58030") => Kind::Retry,
        // 26000: a prepared statement is gone, so this is not the session that it was.
        // 25006: a server that became a standby; the one to write to is elsewhere, and a new connection finds it.
        ("08" | "57", _) | (_, "25006" | "25P02" | "25P03" | "26000") => Kind::ConnectionLost,
        _ => Kind::Fatal,
    }
}

/// Where the server raises what a function of the database's own says.
const RAISE: &str = "exec_stmt_raise";

/// Classes whose messages speak of sessions, schema and resources, never of what is in a row.
fn has_no_values(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    ["08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "55", "57", "58"].contains(&class)
}

/// Names the constraint and the column, never the message: triggers and casts put values into it.
fn refused_text(db: &DbError) -> String {
    let mut text = format!("{} (SQLSTATE {})", condition(db.code().code()), db.code().code());
    if let Some(constraint) = db.constraint() {
        text.push_str(&format!(", constraint \"{constraint}\""));
    }
    if let Some(column) = db.column() {
        text.push_str(&format!(", column \"{column}\""));
    }
    text
}

fn condition(code: &str) -> &'static str {
    match code {
        "22001" => "text too long for its column",
        "22003" => "number out of range",
        "22007" | "22008" => "time out of range",
        "22021" | "22P05" => "character that the database cannot store",
        "22P02" => "value that its column's type does not accept",
        "23502" => "null in a column that must not be null",
        "23503" => "foreign key violated",
        "23505" => "unique constraint violated",
        "23514" => "check constraint violated",
        "23P01" => "exclusion constraint violated",
        "44000" => "check option of a view violated",
        "54000" => "value too large for an index",
        "P0001" => "refused by a trigger",
        _ if code.starts_with("22") => "value not accepted",
        _ if code.starts_with("23") => "constraint violated",
        _ => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_meaning() {
        let table = [
            ("08006", Kind::ConnectionLost),
            ("21000", Kind::Refused),
            ("22001", Kind::Refused),
            ("22021", Kind::Refused),
            ("22P02", Kind::Refused),
            ("22P03", Kind::Fatal),
            ("22P04", Kind::Fatal),
            ("23502", Kind::Refused),
            ("23505", Kind::Refused),
            ("25006", Kind::ConnectionLost),
            ("25P03", Kind::ConnectionLost),
            ("26000", Kind::ConnectionLost),
            ("28P01", Kind::Fatal),
            ("3D000", Kind::Fatal),
            ("3F000", Kind::Fatal),
            ("40001", Kind::Retry),
            ("40P01", Kind::Retry),
            ("42501", Kind::Fatal),
            ("42703", Kind::Fatal),
            ("42P01", Kind::Fatal),
            ("44000", Kind::Refused),
            ("53100", Kind::Retry),
            ("53300", Kind::Retry),
            ("54000", Kind::Refused),
            ("55P03", Kind::Retry),
            ("57014", Kind::Retry),
            ("57P01", Kind::ConnectionLost),
            ("57P03", Kind::Retry),
            ("58030", Kind::Retry),
            ("P0001", Kind::Refused),
            ("XX001", Kind::Fatal),
        ];
        for (code, expected) in table {
            assert_eq!(kind(code), expected, "{code}");
        }
    }
}
