//! Reads typed values out of a document and gathers every mistake on the way.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use crate::code::{self, Code};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::document::{Entry, Section, list, nearest, printable};
use crate::unit::{self, UnitError, show_duration, show_size};

/// More mistakes than a person reads at once.
const MAX_LISTED: usize = 100;

/// Every key of the language and where it stands, to say where a misplaced one belongs.
const HOMES: &[(&str, &str)] = &[
    ("assume_zone", "a field of [fields]"),
    ("brokers", "[source] or [target.NAME]"),
    ("changed", "[dedup]"),
    ("chart", "[[panel]]"),
    ("columns", "[[sink]]"),
    ("create", "[[sink]]"),
    ("delay", "[time]"),
    ("delete_when", "[[sink]]"),
    ("every", "[[panel]]"),
    ("field", "[time]"),
    ("idle_after", "[time]"),
    ("keep", "[filter]"),
    ("keep_for", "[dedup]"),
    ("key_groups", "the top of the file"),
    ("lateness", "[time]"),
    ("max_bytes", "a field of [fields]"),
    ("max_future", "[time]"),
    ("max_record", "[source]"),
    ("max_refused", "[target.NAME]"),
    ("name", "the top of the file"),
    ("newest_by", "[[sink]]"),
    ("on_change", "[source]"),
    ("on_data_loss", "[source]"),
    ("one_of", "a field of [fields]"),
    ("one_to_one", "[[sink]]"),
    ("required", "a field of [fields]"),
    ("route_by", "[dedup]"),
    ("start", "[source]"),
    ("table", "[[sink]] or [dead_letter]"),
    ("tombstone", "[source]"),
    ("topic", "[source]"),
    ("url", "[target.NAME]"),
    ("version", "the top of the file"),
    ("where", "[[sink]]"),
    ("write", "[[sink]]"),
];

pub(crate) struct Reader<'a> {
    pub(crate) source: &'a str,
    pub(crate) environment: &'a BTreeMap<String, String>,
    diagnostics: Vec<Diagnostic>,
    /// Parts of the file that must not be shown.
    secrets: Vec<Range<usize>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a str, environment: &'a BTreeMap<String, String>) -> Self {
        Self { source, environment, diagnostics: Vec::new(), secrets: Vec::new() }
    }

    pub(crate) fn error(&mut self, code: Code, span: &Range<usize>, message: impl Into<String>) {
        self.report(Severity::Error, code, span, message.into(), None);
    }

    pub(crate) fn error_help(
        &mut self,
        code: Code,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Severity::Error, code, span, message.into(), Some(help.into()));
    }

    pub(crate) fn warn(
        &mut self,
        code: Code,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Severity::Warning, code, span, message.into(), Some(help.into()));
    }

    pub(crate) fn mask(&mut self, span: &Range<usize>) {
        self.secrets.push(span.clone());
    }

    fn report(&mut self, severity: Severity, code: Code, span: &Range<usize>, message: String, help: Option<String>) {
        let offset = floor_char(self.source, span.start);
        let end = floor_char(self.source, span.end.max(span.start)).max(offset);
        self.diagnostics.push(Diagnostic {
            code,
            severity,
            message,
            help,
            line: 0,
            column: 0,
            offset,
            length: end - offset,
        });
    }

    /// All that was reported, in file order: what is wrong if an error is among it, else the warnings.
    pub(crate) fn finish(mut self, file_name: &str) -> Result<Vec<Diagnostic>, Diagnostics> {
        self.diagnostics.sort_by_key(|found| (found.offset, found.severity, found.code));
        self.diagnostics.dedup();
        let starts: Vec<usize> =
            std::iter::once(0).chain(self.source.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        for diagnostic in &mut self.diagnostics {
            let line = starts.partition_point(|start| *start <= diagnostic.offset);
            diagnostic.line = line;
            diagnostic.column = self.source[starts[line - 1]..diagnostic.offset].chars().count() + 1;
        }
        if self.diagnostics.iter().all(|diagnostic| diagnostic.severity == Severity::Warning) {
            return Ok(self.diagnostics);
        }
        if self.diagnostics.len() > MAX_LISTED {
            // A cut list must still hold errors.
            self.diagnostics.sort_by_key(|diagnostic| diagnostic.severity);
        }
        let left_out = self.diagnostics.len().saturating_sub(MAX_LISTED);
        self.diagnostics.truncate(MAX_LISTED);
        let shown: Arc<str> = self.shown().into();
        Err(Diagnostics { file_name: printable(file_name), list: self.diagnostics, left_out, shown })
    }

    /// The file's text without its secrets.
    pub(crate) fn shown(&self) -> String {
        masked(self.source, &self.secrets)
    }

    // Tables

    pub(crate) fn section<'d>(&mut self, place: impl Into<String>, entry: &Entry<'d>) -> Option<Section<'d>> {
        let table = entry.value.as_table();
        if table.is_none() {
            self.wrong_type(entry, "a table");
        }
        Some(Section::new(place, entry.key_span.clone(), table?))
    }

    /// The tables of an array `[[key]]`.
    pub(crate) fn sections<'d>(&mut self, entry: &Entry<'d>, most: usize) -> Vec<Section<'d>> {
        let place = format!("[[{}]]", entry.key);
        let Some(array) = entry.value.as_array() else {
            self.error_help(
                code::WRONG_TYPE,
                &entry.key_span,
                format!("`{}` is {}, but a list of tables is wanted", entry.key, article(entry.value)),
                format!("each begins with {place}"),
            );
            return Vec::new();
        };
        if array.len() > most {
            self.error(
                code::TOO_LARGE,
                &entry.key_span,
                format!("there are {} {place}, at most {most} are allowed", array.len()),
            );
        }
        let mut sections = Vec::new();
        for element in array.iter().take(most) {
            match element.get_ref().as_table() {
                Some(table) => sections.push(Section::new(place.clone(), element.span(), table)),
                None => self.error(code::WRONG_TYPE, &element.span(), format!("each {place} is a table")),
            }
        }
        sections
    }

    pub(crate) fn required<'d>(&mut self, section: &Section<'d>, key: &'static str) -> Option<Entry<'d>> {
        let entry = section.take(key);
        if entry.is_none() {
            let place = if section.place.is_empty() { "the file".to_owned() } else { section.place.clone() };
            self.error(code::MISSING_KEY, &section.span, format!("{place} needs `{key}`"));
        }
        entry
    }

    /// Reports all keys that nobody asked for.
    pub(crate) fn no_others(&mut self, section: &Section<'_>) {
        let known = section.known();
        let place = if section.place.is_empty() { "a job file".to_owned() } else { section.place.clone() };
        for entry in section.unknown() {
            let name = printable(entry.key);
            if let Some((_, home)) = HOMES.iter().find(|(key, _)| *key == entry.key) {
                let message = format!("`{name}` does not belong into {place}");
                self.error_help(code::WRONG_TABLE, &entry.key_span, message, format!("it belongs into {home}"));
            } else if let Some(meant) = nearest(entry.key, known.iter().copied()) {
                let message = format!("{place} has no key `{name}`");
                self.error_help(code::UNKNOWN_KEY, &entry.key_span, message, format!("did you mean `{meant}`?"));
            } else {
                let message = format!("{place} has no key `{name}`");
                self.error_help(
                    code::UNKNOWN_KEY,
                    &entry.key_span,
                    message,
                    format!("allowed: {}", list(known.iter().copied())),
                );
            }
        }
    }

    // Values

    pub(crate) fn wrong_type(&mut self, entry: &Entry<'_>, wanted: &str) {
        self.error(
            code::WRONG_TYPE,
            &entry.span,
            format!("`{}` is {}, but {wanted} is wanted", printable(entry.key), article(entry.value)),
        );
    }

    pub(crate) fn string<'d>(&mut self, entry: &Entry<'d>) -> Option<&'d str> {
        let text = entry.value.as_str();
        if text.is_none() {
            if entry.value.as_table().is_some_and(|table| table.contains_key("env") || table.contains_key("file")) {
                let message = format!("`{}` is not a secret: it must be readable in the file", printable(entry.key));
                self.error(code::BAD_SECRET, &entry.span, message);
            } else {
                self.wrong_type(entry, "a string");
            }
        }
        text
    }

    pub(crate) fn boolean(&mut self, entry: &Entry<'_>) -> Option<bool> {
        let value = entry.value.as_bool();
        if value.is_none() {
            self.wrong_type(entry, "true or false");
        }
        value
    }

    pub(crate) fn integer(&mut self, entry: &Entry<'_>, range: RangeInclusive<i64>) -> Option<i64> {
        let Some(number) = entry.value.as_integer() else {
            self.wrong_type(entry, "a whole number");
            return None;
        };
        let value = i64::from_str_radix(number.as_str(), number.radix()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let message = format!("`{}` must be {} to {}", printable(entry.key), range.start(), range.end());
            self.error(code::OUT_OF_RANGE, &entry.span, message);
        }
        value
    }

    pub(crate) fn choice<T: Copy>(&mut self, entry: &Entry<'_>, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.string(entry)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let names = || choices.iter().map(|(name, _)| *name);
            let mut help = format!("allowed: {}", list(names()));
            if let Some(meant) = nearest(text, names()) {
                help = format!("did you mean `{meant}`? {help}");
            }
            self.error_help(code::NOT_ALLOWED, &entry.span, format!("`{}` cannot be this", printable(entry.key)), help);
        }
        found
    }

    pub(crate) fn duration(&mut self, entry: &Entry<'_>, range: RangeInclusive<Duration>) -> Option<Duration> {
        if let DeValue::Integer(_) | DeValue::Float(_) = entry.value {
            let message =
                format!("`{}` is {}, but a duration needs a unit", printable(entry.key), article(entry.value));
            let help = format!("write it as a string: \"{}s\"", &self.source[entry.span.clone()]);
            self.error_help(code::BAD_DURATION, &entry.span, message, help);
            return None;
        }
        let value = self.with_unit(entry, code::BAD_DURATION, unit::duration)?;
        let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
        self.in_range(entry, value, &range, &least, &most)
    }

    pub(crate) fn size(&mut self, entry: &Entry<'_>, range: RangeInclusive<u64>) -> Option<usize> {
        if let DeValue::Integer(_) | DeValue::Float(_) = entry.value {
            let message = format!("`{}` is {}, but a size needs a unit", printable(entry.key), article(entry.value));
            let help = format!("write it as a string: \"{}B\"", &self.source[entry.span.clone()]);
            self.error_help(code::BAD_SIZE, &entry.span, message, help);
            return None;
        }
        let value = self.with_unit(entry, code::BAD_SIZE, unit::size)?;
        let (least, most) = (show_size(*range.start()), show_size(*range.end()));
        self.in_range(entry, value, &range, &least, &most).and_then(|value| usize::try_from(value).ok())
    }

    fn with_unit<T>(&mut self, entry: &Entry<'_>, code: Code, read: fn(&str) -> Result<T, UnitError>) -> Option<T> {
        let text = self.string(entry)?;
        match read(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.error_help(code, &entry.span, error.message, error.help);
                None
            }
        }
    }

    fn in_range<T: PartialOrd>(
        &mut self,
        entry: &Entry<'_>,
        value: T,
        range: &RangeInclusive<T>,
        least: &str,
        most: &str,
    ) -> Option<T> {
        if range.contains(&value) {
            return Some(value);
        }
        self.error(code::OUT_OF_RANGE, &entry.span, format!("`{}` must be {least} to {most}", printable(entry.key)));
        None
    }

    /// Strings with their places; a list must hold at least one, and none twice.
    pub(crate) fn strings<'d>(&mut self, entry: &Entry<'d>) -> Option<Vec<(&'d str, Range<usize>)>> {
        let Some(array) = entry.value.as_array() else {
            self.wrong_type(entry, "a list of strings");
            return None;
        };
        let mut strings: Vec<(&str, Range<usize>)> = Vec::new();
        let mut good = true;
        for element in array {
            match element.get_ref().as_str() {
                Some(text) if strings.iter().any(|(known, _)| *known == text) => {
                    self.error(
                        code::DUPLICATE_NAME,
                        &element.span(),
                        format!("`{}` names this twice", printable(entry.key)),
                    );
                    good = false;
                }
                Some(text) => strings.push((text, element.span())),
                None => {
                    self.error(
                        code::WRONG_TYPE,
                        &element.span(),
                        format!("each element of `{}` is a string", printable(entry.key)),
                    );
                    good = false;
                }
            }
        }
        if array.is_empty() {
            self.error(
                code::NOT_ALLOWED,
                &entry.span,
                format!("`{}` is empty, but needs at least one element", printable(entry.key)),
            );
            good = false;
        }
        good.then_some(strings)
    }

    /// Whether a name is `[a-z_][a-z0-9_]{0,62}`, with a mistake where not.
    pub(crate) fn check_name(&mut self, what: &str, name: &str, span: &Range<usize>) -> bool {
        if is_name(name) {
            return true;
        }
        let message = format!("`{}` is not a name for {what}", printable(name));
        let lower: String =
            name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(63).collect();
        let mut help =
            "names are lower-case letters, digits and _, do not begin with a digit, and have at most 63 characters"
                .to_owned();
        if is_name(&lower) && name.chars().count() <= 63 && lower.chars().any(|c| c != '_') {
            help = format!("did you mean `{lower}`? {help}");
        }
        self.error_help(code::BAD_NAME, span, message, help);
        false
    }
}

pub(crate) fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c == b'_');
    first && name.len() <= 63 && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn floor_char(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// The text with secrets as asterisks and control characters as question marks, each byte in its place.
pub(crate) fn masked(text: &str, secrets: &[Range<usize>]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    for (offset, c) in text.char_indices() {
        let secret = secrets.iter().any(|span| span.contains(&offset));
        if c == '\n' || c == '\t' {
            bytes.push(c);
        } else if secret || c.is_control() {
            let mask = if secret { '*' } else { '?' };
            bytes.extend(std::iter::repeat_n(mask, c.len_utf8()));
        } else {
            bytes.push(c);
        }
    }
    bytes.into_iter().collect()
}
