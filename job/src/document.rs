//! The TOML document as sections of entries with spans, in file order, that know which of their keys were asked for.

use std::cell::RefCell;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// A key and its value.
#[derive(Clone)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a str,
    pub(crate) key_span: Range<usize>,
    pub(crate) value: &'a DeValue<'a>,
    pub(crate) span: Range<usize>,
}

/// A table of the document. What nobody asks for is an unknown key.
pub(crate) struct Section<'a> {
    /// As people write it: `[source]`, `[[sink]]`; empty for the top of the file.
    pub(crate) place: String,
    /// Where a missing key is reported.
    pub(crate) span: Range<usize>,
    pub(crate) entries: Vec<Entry<'a>>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(place: impl Into<String>, span: Range<usize>, table: &'a DeTable<'a>) -> Self {
        let mut entries: Vec<Entry<'a>> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref(),
                key_span: key.span(),
                value: value.get_ref(),
                span: value.span(),
            })
            .collect();
        // The map behind a table is sorted by key; order matters to [derive] and to sinks.
        entries.sort_by_key(|entry| entry.key_span.start);
        Self { place: place.into(), span, entries, asked: RefCell::default() }
    }

    /// The value of a key, which is thereby known.
    pub(crate) fn take(&self, key: &'static str) -> Option<Entry<'a>> {
        self.know(&[key]);
        self.entries.iter().find(|entry| entry.key == key).cloned()
    }

    /// Makes keys known without reading them.
    pub(crate) fn know(&self, keys: &[&'static str]) {
        let mut asked = self.asked.borrow_mut();
        for key in keys {
            if !asked.contains(key) {
                asked.push(key);
            }
        }
    }

    pub(crate) fn known(&self) -> Vec<&'static str> {
        self.asked.borrow().clone()
    }

    pub(crate) fn unknown(&self) -> impl Iterator<Item = &Entry<'a>> {
        let asked = self.known();
        self.entries.iter().filter(move |entry| !asked.contains(&entry.key))
    }
}

/// Number of keys and elements in a table, all levels.
pub(crate) fn count(table: &DeTable<'_>) -> usize {
    table.iter().map(|(_, value)| 1 + count_value(value.get_ref())).sum()
}

// The parser bounds nesting at 80 levels for keys and for values, so this cannot recurse far.
fn count_value(value: &DeValue<'_>) -> usize {
    match value {
        DeValue::Table(table) => count(table),
        DeValue::Array(array) => array.iter().map(|value| 1 + count_value(value.get_ref())).sum(),
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => 0,
    }
}

/// Text of the file that may be put into a message: short, without control characters.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut shown: String = text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().count() > LONGEST {
        shown.push('…');
    }
    shown
}

/// The name that was probably meant.
pub(crate) fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.to_lowercase();
    let plain = name.replace(['_', '-'], "");
    let scored = names.into_iter().map(|candidate| {
        let lower = candidate.to_lowercase();
        let score = strsim::jaro_winkler(&name, &lower).max(strsim::jaro_winkler(&plain, &lower.replace('_', "")));
        // Two letters swapped in a short name.
        let close = strsim::osa_distance(&name, &lower) <= 1 && name.len() > 1;
        (if close { score.max(0.85) } else { score }, candidate)
    });
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))?;
    (best.0 > 0.8).then_some(best.1)
}

/// `a`, `b` or `c`
pub(crate) fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    const LONGEST: usize = 20;
    let names: Vec<&str> = names.into_iter().collect();
    let shown: Vec<String> = names.iter().take(LONGEST).map(|name| format!("`{}`", printable(name))).collect();
    let more = names.len().saturating_sub(LONGEST);
    match (shown.split_last(), more) {
        (None, _) => "nothing".to_owned(),
        (Some((only, [])), _) => only.clone(),
        (Some((last, rest)), 0) => format!("{} or {last}", rest.join(", ")),
        (Some(_), more) => format!("{} or {more} others", shown.join(", ")),
    }
}
