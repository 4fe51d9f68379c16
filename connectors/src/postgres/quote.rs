//! Identifiers and literals in SQL text. Values of records never come here: they are COPY data.

/// `"name"`, quotes within doubled.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `"schema"."table"`
pub(crate) fn table(table: &(String, String)) -> String {
    format!("{}.{}", identifier(&table.0), identifier(&table.1))
}

/// `'text'`; sessions have `standard_conforming_strings` on.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Identifiers with commas between.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(identifier).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(table(&("a\"b".to_owned(), "x; drop".to_owned())), "\"a\"\"b\".\"x; drop\"");
        assert_eq!(literal("o'clock\\"), "'o''clock\\'");
        assert_eq!(list(["a", "b"]), "\"a\", \"b\"");
    }
}
