//! Statements of many rows, in pieces that the server takes.

use super::connect::Connection;
use super::error::{Failure, Kind};

/// Longer ones win nothing.
const LENGTH: usize = 512 * 1024;
/// What stands around a statement in its packet, and to spare.
const AROUND: usize = 1_024;

/// A statement around its rows.
pub(crate) struct Around<'a> {
    pub(crate) head: &'a str,
    pub(crate) between: &'a str,
    pub(crate) tail: &'a str,
}

/// Appends row `i`.
pub(crate) type Put<'a> = &'a mut (dyn FnMut(usize, &mut String) + Send);

/// Sends as many statements as so many rows take.
pub(crate) async fn send(
    connection: &Connection,
    around: &Around<'_>,
    rows: usize,
    put: Put<'_>,
) -> Result<(), Failure> {
    let longest = connection.facts.max_packet.saturating_sub(AROUND + around.head.len() + around.tail.len());
    let (mut sql, mut one) = (String::new(), String::new());
    for row in 0..rows {
        one.clear();
        put(row, &mut one);
        if one.len() > longest {
            return Err(too_long());
        }
        if !sql.is_empty() && sql.len() + one.len() > LENGTH.min(longest) {
            sql.push_str(around.tail);
            connection.run(std::mem::take(&mut sql)).await?;
        }
        sql.push_str(if sql.is_empty() { around.head } else { around.between });
        sql.push_str(&one);
    }
    if sql.is_empty() {
        return Ok(());
    }
    sql.push_str(around.tail);
    connection.run(sql).await
}

/// The server would end the connection instead of saying so.
fn too_long() -> Failure {
    let text = "row longer than the server's max_allowed_packet".to_owned();
    Failure { kind: Kind::Refused, code: "1153".to_owned(), column: None, text }
}
