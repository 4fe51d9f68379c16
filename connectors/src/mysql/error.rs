//! What an error of the server means: its number, else its SQLSTATE, to what the writer does about it.
//!
//! Messages of many errors hold values of a row. Texts made here carry only those of errors that never do.

use mysql_async::{Error, IoError, ServerError};

pub(crate) use crate::database::{Failure, Kind};

pub(crate) const LOCK_WAIT_TIMEOUT: &str = "1205";
pub(crate) const DEADLOCK: &str = "1213";
pub(crate) const NO_SUCH_TABLE: &str = "1146";
pub(crate) const NO_SUCH_THREAD: &str = "1094";
/// Denied for the database, for a command on a table, for a column.
pub(crate) const DENIED: [&str; 3] = ["1044", "1142", "1143"];

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) => of_server(&error),
            // Whatever is not the server's word leaves the state of the connection open.
            // The system's own words: the library puts the same two in front of them twice.
            Error::Io(IoError::Io(error)) => Self::lost(error.to_string()),
            Error::Io(IoError::Tls(_)) | Error::Driver(_) | Error::Other(_) | Error::Url(_) => {
                Self::lost(error.to_string())
            }
        }
    }
}

fn of_server(error: &ServerError) -> Failure {
    let kind = kind(error.code, &error.state);
    let text = match kind {
        Kind::Refused => refused_text(error),
        Kind::ConnectionLost | Kind::Retry | Kind::Fatal if has_no_values(error.code) => {
            format!("{} (error {})", error.message, error.code)
        }
        Kind::ConnectionLost | Kind::Retry | Kind::Fatal => format!("error {} (SQLSTATE {})", error.code, error.state),
    };
    let column = (kind == Kind::Refused).then(|| column(error)).flatten();
    Failure { kind, code: error.code.to_string(), column, text }
}

/// Numbers of MySQL (reference manual, server error messages) and of MariaDB, which has its own from 1900 and 4000 on.
fn kind(code: u16, state: &str) -> Kind {
    match code {
        // Length, range, null, unknown label, no default, character set, partition, check, JSON, size of a row.
        1048 | 1062 | 1118 | 1263 | 1264 | 1265 | 1292 | 1364 | 1366 | 1367 | 1406 | 1411 | 1526 | 1644 | 1690
        | 1748 | 3140 | 3141 | 3819 | 3988 | 4025 | 4038 => Kind::Refused,
        // Locks, limits, memory, disk, a person or a time limit that interrupts, a definition that just changed.
        1020 | 1021 | 1030 | 1037 | 1038 | 1040 | 1041 | 1047 | 1114 | 1203 | 1205 | 1206 | 1213 | 1226 | 1317
        | 1412 | 1615 | 1637 | 1969 | 3024 | 3058 => Kind::Retry,
        // 1290, 1792, 1836: a server that became a replica; the one to write to is elsewhere, and a new connection finds it.
        1053 | 1077 | 1079 | 1080 | 1152 | 1153 | 1156..=1161 | 1184 | 1290 | 1792 | 1836 | 1927 | 3169 | 4031 => {
            Kind::ConnectionLost
        }
        _ => match state.get(..2).unwrap_or_default() {
            // 45: what a trigger signals.
            "22" | "23" | "45" => Kind::Refused,
            "40" | "70" => Kind::Retry,
            "08" => Kind::ConnectionLost,
            _ => Kind::Fatal,
        },
    }
}

/// Messages that speak of sessions, schema and resources, never of what is in a row. Not 1064, which quotes the statement.
fn has_no_values(code: u16) -> bool {
    matches!(
        code,
        1021 | 1040
            | 1041
            | 1044
            | 1045
            | 1049
            | 1053
            | 1054
            | 1071
            | 1114
            | 1129
            | 1130
            | 1142
            | 1143
            | 1146
            | 1203
            | 1205
            | 1213
            | 1226
            | 1227
            | 1290
            | 1317
            | 1412
            | 1419
            | 1425
            | 1665
            | 1698
            | 1792
            | 1836
            | 1927
            | 1969
            | 3024
    )
}

/// Names the column and the constraint, never the rest of the message.
fn refused_text(error: &ServerError) -> String {
    let mut text = format!("{} (error {})", condition(error.code, &error.state), error.code);
    let constraint = match error.code {
        1062 => named(&error.message, "for key "),
        3819 => named(&error.message, "Check constraint "),
        1451 | 1452 | 4025 => named(&error.message, "CONSTRAINT "),
        _ => None,
    };
    if let Some(constraint) = constraint {
        text.push_str(&format!(", constraint \"{constraint}\""));
    }
    if let Some(column) = column(error) {
        text.push_str(&format!(", column \"{column}\""));
    }
    text
}

/// What a trigger signals is its author's text, whatever it looks like.
fn column(error: &ServerError) -> Option<String> {
    let signalled = error.code == 1644 || error.state.starts_with("45");
    if signalled { None } else { named(&error.message, "column ") }
}

/// The name in quotes behind the last `marker`: values stand before it. Of `db`.`table`.`column` the last part.
fn named(message: &str, marker: &str) -> Option<String> {
    let (_, rest) = message.rsplit_once(marker)?;
    let quote = rest.chars().next().filter(|c| ['\'', '`'].contains(c))?;
    let mut name = None;
    let mut rest = rest;
    while let Some((part, behind)) = rest.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
        name = Some(part);
        let Some(next) = behind.strip_prefix('.') else { break };
        rest = next;
    }
    let plain = |c: char| c.is_alphanumeric() || "_-$.".contains(c);
    name.filter(|name| !name.is_empty() && name.len() <= 64 && name.chars().all(plain)).map(str::to_owned)
}

fn condition(code: u16, state: &str) -> &'static str {
    match code {
        1406 => "text too long for its column",
        1264 | 1690 => "number out of range",
        1292 | 1411 => "value that its column's type does not accept",
        1265 => "value that its column does not hold",
        1366 | 3988 => "value or character that the column cannot store",
        1048 | 1263 | 1364 => "null in a column that must not be null",
        1216 | 1217 | 1451 | 1452 => "foreign key violated",
        1062 | 1169 => "unique constraint violated",
        3819 | 4025 => "check constraint violated",
        3140 | 3141 | 4038 => "text that is not JSON",
        1118 => "row too large for the table",
        1526 | 1748 => "no partition for the row",
        1644 => "refused by a trigger",
        _ if state.starts_with("45") => "refused by a trigger",
        _ if state.starts_with("23") => "constraint violated",
        _ => "value not accepted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16, state: &str, message: &str) -> Failure {
        Error::Server(ServerError { code, message: message.to_owned(), state: state.to_owned() }).into()
    }

    #[test]
    fn a_lost_connection_is_told_once() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let failure = Failure::from(Error::from(refused));
        assert_eq!((failure.kind, failure.text.as_str()), (Kind::ConnectionLost, "connection refused"));
    }

    #[test]
    fn every_error_has_its_meaning() {
        for (code, state, expected) in [
            (1406, "22001", Kind::Refused),
            (1265, "01000", Kind::Refused),
            (1048, "23000", Kind::Refused),
            (1452, "23000", Kind::Refused),
            (4025, "23000", Kind::Refused),
            (9999, "45000", Kind::Refused),
            (1205, "HY000", Kind::Retry),
            (1213, "40001", Kind::Retry),
            (1040, "08004", Kind::Retry),
            (1290, "HY000", Kind::ConnectionLost),
            (1792, "25006", Kind::ConnectionLost),
            (1836, "HY000", Kind::ConnectionLost),
            (1927, "70100", Kind::ConnectionLost),
            (1153, "08S01", Kind::ConnectionLost),
            (1045, "28000", Kind::Fatal),
            (1142, "42000", Kind::Fatal),
            (1146, "42S02", Kind::Fatal),
            (1064, "42000", Kind::Fatal),
        ] {
            assert_eq!(failure(code, state, "").kind, expected, "{code}");
        }
    }

    #[test]
    fn values_of_a_row_are_not_told() {
        for (code, state, message, expected) in [
            (1062, "23000", "Duplicate entry 'for key 'secret'' for key 'kv.email'", "constraint \"kv.email\""),
            (1366, "22007", "Incorrect integer value: 'secret' for column `d`.`t`.`v` at row 1", "column \"v\""),
            (1406, "22001", "Data too long for column 'k' at row 1", "column \"k\""),
            (4025, "23000", "CONSTRAINT `sane` failed for `d`.`t`", "constraint \"sane\""),
            (1064, "42000", "You have an error near 'secret'", "error 1064"),
            (1644, "45000", "secret for column 'secret'", "refused by a trigger"),
        ] {
            let failure = failure(code, state, message);
            assert!(failure.text.contains(expected), "{failure}");
            assert!(!failure.text.contains("secret") && failure.column.is_none_or(|c| !c.contains("secret")));
        }
    }
}
