//! Names and texts as parts of a statement.

/// A name in backquotes.
pub(crate) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A table with its database; an empty one is that of the connection.
pub(crate) fn table((schema, name): &(String, String)) -> String {
    if schema.is_empty() { identifier(name) } else { format!("{}.{}", identifier(schema), identifier(name)) }
}

pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(identifier).collect::<Vec<_>>().join(", ")
}

pub(crate) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    put_text(text, &mut out);
    out
}

/// Appends a text literal. Where it has a backslash it goes as hexadecimal digits, so that no `sql_mode` can take it for
/// something else.
pub(crate) fn put_text(text: &str, out: &mut String) {
    if text.contains('\\') {
        out.push_str("_utf8mb4 ");
        put_bytes(text.as_bytes(), out);
        return;
    }
    out.push('\'');
    for (i, part) in text.split('\'').enumerate() {
        out.push_str(if i > 0 { "''" } else { "" });
        out.push_str(part);
    }
    out.push('\'');
}

/// Appends a binary literal.
pub(crate) fn put_bytes(bytes: &[u8], out: &mut String) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    out.push_str("X'");
    out.extend(bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
    out.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_a_literal_early() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("'"), "''''");
        assert_eq!(literal("\\"), "_utf8mb4 X'5c'");
        assert_eq!(literal("\\' or 1=1 -- "), "_utf8mb4 X'5c27206f7220313d31202d2d20'");
        assert_eq!(identifier("a`b"), "`a``b`");
        assert_eq!(table(&(String::new(), "t".to_owned())), "`t`");
        assert_eq!(table(&("d".to_owned(), "t".to_owned())), "`d`.`t`");
    }
}
