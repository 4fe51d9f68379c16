//! SQL that a database runs for a job: one statement that only reads.

use crate::code::{self, Code};
use crate::document::Entry;
use crate::reader::Reader;

/// Words of statements that write, lock or hand out files; none is needed to read.
const WRITING: [&str; 17] = [
    "insert", "update", "delete", "merge", "into", "truncate", "drop", "create", "alter", "grant", "revoke", "copy",
    "call", "do", "lock", "vacuum", "set",
];

pub(super) fn text(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<String> {
    let text = reader.string(entry)?;
    if text.trim().is_empty() {
        reader.error(code::NOT_ALLOWED, &entry.span, format!("`{}` is empty", entry.key));
        return None;
    }
    Some(text.to_owned())
}

/// `what`: whose statement it is.
pub(super) fn select(reader: &mut Reader<'_>, entry: &Entry<'_>, what: &str, code: Code) -> Option<String> {
    let sql = text(reader, entry)?;
    match not_read_only(&sql, what) {
        None => Some(sql),
        Some(problem) => {
            reader.error(code, &entry.span, problem);
            None
        }
    }
}

/// Why the text is not one SELECT. A guard against mistakes; the database runs it in a read-only transaction besides.
fn not_read_only(sql: &str, what: &str) -> Option<String> {
    let words = match outside_quotes(sql) {
        Some(words) => words.to_lowercase(),
        None => return Some("a quote or comment is not closed".to_owned()),
    };
    let words = words.trim().trim_end_matches(';').to_owned();
    if words.contains(';') {
        return Some(format!("a {what} has one statement"));
    }
    let mut words = words.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    if !matches!(words.next(), Some("select" | "with")) {
        return Some(format!("a {what}'s SQL begins with SELECT or WITH"));
    }
    let writing = words.find(|word| WRITING.contains(word));
    writing.map(|word| format!("a {what} only reads, but its SQL has `{}`", word.to_uppercase()))
}

/// The text without what stands in quotes and comments; None if one is not closed.
fn outside_quotes(sql: &str) -> Option<String> {
    let mut outside = String::new();
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let closing = match c {
            '\'' => Some((1, "'")),
            '"' => Some((1, "\"")),
            '-' if rest.starts_with("--") => Some((2, "\n")),
            '/' if rest.starts_with("/*") => Some((2, "*/")),
            '$' => dollar_quote(rest).map(|quote| (quote.len(), quote)),
            _ => None,
        };
        let Some((opening, closing)) = closing else {
            outside.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        let inside = &rest[opening..];
        rest = match inside.find(closing) {
            Some(end) => &inside[end + closing.len()..],
            // A comment may end with the text.
            None if closing == "\n" => "",
            None => return None,
        };
        outside.push(' ');
    }
    Some(outside)
}

/// `$$` or `$tag$` at the start of a text.
fn dollar_quote(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 2;
    let tag = &text[1..end - 1];
    let good = tag.chars().all(|c| c.is_alphanumeric() || c == '_') && !tag.starts_with(|c: char| c.is_ascii_digit());
    good.then(|| &text[..end])
}
