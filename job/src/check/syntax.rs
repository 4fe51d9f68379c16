//! What the TOML parser complains about.

use std::ops::Range;

use crate::code;
use crate::reader::Reader;

/// Lines that may hold a secret, which a caret must not show: the file has no structure yet that would tell.
const SECRET_KEYS: [&str; 6] = ["url", "password", "username", "default", "key", "brokers"];

/// Reports the parser's errors. True if the document is complete enough to be read nevertheless.
pub(super) fn report(reader: &mut Reader<'_>, text: &str, errors: &[toml::de::Error]) -> bool {
    if errors.is_empty() {
        return true;
    }
    for span in secret_lines(text) {
        reader.mask(&span);
    }
    let mut only_keys_twice = true;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().trim().to_owned();
        if message == "duplicate key" {
            let line = text.get(..span.start).map_or("", |before| before.rsplit('\n').next().unwrap_or(""));
            // The later of two tables replaces the earlier, whose keys are then missing: mistakes that are none.
            only_keys_twice &= !line.trim_start().starts_with('[');
            reader.error_help(
                code::SYNTAX,
                &span,
                "this is defined twice",
                "a key or a table stands once in a file; remove one of them",
            );
            continue;
        }
        only_keys_twice = false;
        match hint(text, &span) {
            Some(hint) => reader.error_help(code::SYNTAX, &span, format!("not TOML: {message}"), hint),
            None => reader.error(code::SYNTAX, &span, format!("not TOML: {message}")),
        }
    }
    only_keys_twice
}

fn hint(text: &str, span: &Range<usize>) -> Option<&'static str> {
    let start = text.get(..span.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(start..)?.lines().next()?;
    if line.contains(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}', '\u{201e}']) {
        return Some("the line has typographic quotes; TOML wants straight ones: \"");
    }
    line.contains('\0').then_some("the line holds a NUL byte: is this a text file?")
}

fn secret_lines(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        for key in SECRET_KEYS {
            let Some(at) = line.find(key) else {
                continue;
            };
            let rest = &line[at + key.len()..];
            if rest.trim_start_matches(['"', '\'']).trim_start().starts_with('=') {
                let value = at + key.len() + rest.find('=').unwrap_or(0) + 1;
                spans.push(offset + value..offset + line.len());
            }
        }
        offset += line.len();
    }
    spans
}
