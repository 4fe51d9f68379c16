//! Where the records of a JSON document are, and what of the document itself they carry along.

use std::fmt;
use std::ops::Range;

use crate::decode::field_map::{FieldMap, Found, Places};
use crate::json::{Flaw, Kind, Scanner, Token, unescape};

/// A document's records in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elements {
    /// Byte ranges of the document.
    pub records: Vec<Range<usize>>,
    /// The document with nothing but the values at the wanted paths: a JSON object.
    pub root: String,
}

/// Why a file is none of its format, as a whole. The words are reasons of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadDocument {
    InvalidUtf8,
    InvalidJson,
    TooDeep,
    /// A key on the way to the records, or to a value of the root, stands twice.
    DuplicateKey,
    /// There is no array at `each`.
    NoRecords,
}

impl BadDocument {
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::TooDeep => "too_deep",
            Self::DuplicateKey => "duplicate_key",
            Self::NoRecords => "no_records",
        }
    }
}

impl fmt::Display for BadDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl From<Flaw> for BadDocument {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Syntax => Self::InvalidJson,
            Flaw::Depth => Self::TooDeep,
            Flaw::Duplicate => Self::DuplicateKey,
            Flaw::NotAnObject => Self::NoRecords,
        }
    }
}

/// Checks the whole document and finds its records: the elements of the array at `each`, or else itself.
/// `root`: paths of values that go with every record, ascending.
///
/// # Errors
/// [`BadDocument`] where it is not one JSON document with that array.
pub fn elements(document: &[u8], each: Option<&[String]>, root: &[&[String]]) -> Result<Elements, BadDocument> {
    let text = std::str::from_utf8(document).map_err(|_| BadDocument::InvalidUtf8)?;
    let Some(each) = each else {
        let mut scanner = Scanner::new(text);
        let whole = scanner.value(0)?;
        scanner.end()?;
        return Ok(Elements { records: vec![span(whole)], root: "{}".to_owned() });
    };
    // The array may itself be a value of the root, and a map has no place twice.
    let paths: Vec<&[String]> = root.iter().copied().chain((!root.contains(&each)).then_some(each)).collect();
    let mut places = Places::default();
    FieldMap::new(paths.iter().copied()).walk(text, &mut places)?;
    let slot = paths.iter().position(|path| *path == each).ok_or(BadDocument::NoRecords)?;
    let Found::Value(array) = places.slots[slot] else { return Err(BadDocument::NoRecords) };
    if array.kind != Kind::Array {
        return Err(BadDocument::NoRecords);
    }
    let found: Vec<(&[String], Found)> =
        root.iter().map(|path| (*path, places.slots[paths.iter().position(|p| p == path).unwrap_or(0)])).collect();
    let mut pruned = String::new();
    prune(&found, 0, text, &mut pruned);
    Ok(Elements { records: array_elements(text, array)?, root: pruned })
}

/// The span with its quotes.
fn span(token: Token) -> Range<usize> {
    let quotes = usize::from(matches!(token.kind, Kind::Text { .. }));
    token.start - quotes..token.end + quotes
}

fn array_elements(text: &str, array: Token) -> Result<Vec<Range<usize>>, BadDocument> {
    let inside = text.get(array.start..array.end).ok_or(BadDocument::InvalidJson)?;
    let mut scanner = Scanner::new(inside);
    scanner.open(1)?;
    let mut records = Vec::new();
    if scanner.take(b']') {
        return Ok(records);
    }
    loop {
        let element = span(scanner.value(1)?);
        records.push(array.start + element.start..array.start + element.end);
        if !scanner.more(b']')? {
            return Ok(records);
        }
    }
}

/// Writes an object of what was found; paths are ascending and agree in their first `depth` keys.
fn prune(found: &[(&[String], Found)], depth: usize, text: &str, out: &mut String) {
    out.push('{');
    let mut rest = found;
    let mut first = true;
    while let Some(((path, _), _)) = rest.split_first() {
        let Some(key) = path.get(depth) else { break };
        let same = rest.iter().take_while(|(path, _)| path.get(depth) == Some(key)).count();
        let (group, others) = rest.split_at(same);
        rest = others;
        if group.iter().all(|(_, found)| *found == Found::Absent) {
            continue;
        }
        if !std::mem::replace(&mut first, false) {
            out.push(',');
        }
        quote(key, out);
        out.push(':');
        match group {
            // A value at this very place holds all below it.
            [(path, Found::Value(token)), ..] if path.len() == depth + 1 => {
                out.push_str(text.get(span(*token)).unwrap_or("null"));
            }
            _ if group.iter().any(|(_, found)| *found == Found::Blocked) => out.push_str("false"),
            _ => prune(group, depth + 1, text, out),
        }
    }
    out.push('}');
}

/// Appends a JSON string.
pub fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// What every record of a file carries as its key, so that it can be decoded and its dead letter says where it is from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileKey {
    pub file: String,
    /// Of a JSON document: see [`Elements::root`].
    pub root: Option<String>,
    /// Of a CSV file: its header line.
    pub header: Option<String>,
    /// The file is none of its format, and its one record is that.
    pub bad: Option<String>,
}

impl FileKey {
    /// A JSON object.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = String::from("{\"file\":");
        quote(&self.file, &mut out);
        if let Some(root) = &self.root {
            out.push_str(",\"root\":");
            out.push_str(root);
        }
        for (name, text) in [("header", &self.header), ("bad", &self.bad)] {
            if let Some(text) = text {
                out.push_str(&format!(",\"{name}\":"));
                quote(text, &mut out);
            }
        }
        out.push('}');
        out.into_bytes()
    }

    /// `None` for anything but what `encode` made.
    #[must_use]
    pub fn decode(key: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(key).ok()?;
        let names = ["file", "root", "header", "bad"].map(|name| [name.to_owned()]);
        let mut places = Places::default();
        FieldMap::new(names.iter().map(<[String; 1]>::as_slice)).walk(text, &mut places).ok()?;
        let value = |slot: usize| match places.slots[slot] {
            Found::Value(token) => Some((token, text.get(token.start..token.end)?)),
            Found::Absent | Found::Blocked => None,
        };
        let string = |slot: usize| {
            let (token, raw) = value(slot)?;
            let mut plain = String::new();
            matches!(token.kind, Kind::Text { .. }).then(|| unescape(raw, &mut plain))?;
            Some(plain)
        };
        let root = value(1).map(|(_, raw)| raw.to_owned());
        Some(Self { file: string(0)?, root, header: string(2), bad: string(3) })
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
