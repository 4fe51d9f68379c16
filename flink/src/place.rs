//! Where the parts of a job stand in its file.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One step into the document.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    /// Of an array of tables, from 0.
    Item(usize),
}

pub(crate) struct Places<'t> {
    text: &'t str,
    document: Option<Spanned<DeTable<'t>>>,
}

impl<'t> Places<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, document: DeTable::parse(text).ok() }
    }

    /// The line (from 1) of the deepest part of the path that the file has.
    pub(crate) fn line(&self, path: &[Step<'_>]) -> usize {
        let (offset, _) = self.walk(path);
        self.text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1)
    }

    /// The value at exactly this path.
    pub(crate) fn value(&self, path: &[Step<'_>]) -> Option<&DeValue<'t>> {
        self.walk(path).1
    }

    fn walk(&self, path: &[Step<'_>]) -> (usize, Option<&DeValue<'t>>) {
        let Some(document) = &self.document else { return (0, None) };
        let (Some(Step::Key(first)), mut offset) = (path.first(), 0) else { return (0, None) };
        let Some((key, value)) = entry(document.get_ref(), first) else { return (0, None) };
        offset = offset.max(key);
        let mut value = value;
        for step in path.iter().skip(1) {
            let found = match step {
                Step::Key(name) => value.as_table().and_then(|table| entry(table, name)),
                Step::Item(index) => {
                    let item = value.as_array().and_then(|array| array.get(*index));
                    item.map(|item| (item.span().start, item.get_ref()))
                }
            };
            let Some((at, inner)) = found else { return (offset, None) };
            (offset, value) = (at, inner);
        }
        (offset, Some(value))
    }
}

fn entry<'d, 't>(table: &'d DeTable<'t>, name: &str) -> Option<(usize, &'d DeValue<'t>)> {
    let found = table.iter().find(|(key, _)| key.get_ref() == name);
    found.map(|(key, value)| (key.span().start, value.get_ref()))
}
