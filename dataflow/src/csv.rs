//! CSV as RFC 4180 has it: where a record ends, and its fields. Lines may end with LF too.

use std::ops::Range;

/// Where the record that begins at `from` ends (behind its line break), and where its text ends. `None`: the bytes end
/// before it does.
#[must_use]
pub fn record_end(bytes: &[u8], from: usize, delimiter: u8) -> Option<(usize, usize)> {
    let mut at = from;
    let mut field_start = true;
    while let Some(byte) = bytes.get(at) {
        match *byte {
            b'"' if field_start => {
                at = closing_quote(bytes, at + 1)?;
                field_start = false;
            }
            b'\n' => {
                let text = if at > from && bytes[at - 1] == b'\r' { at - 1 } else { at };
                return Some((at + 1, text));
            }
            byte => {
                field_start = byte == delimiter;
                at += 1;
            }
        }
    }
    None
}

/// Behind the quote that closes a field; a doubled one does not.
fn closing_quote(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == b'"')? + 1;
        if bytes.get(at) != Some(&b'"') {
            return Some(at);
        }
        at += 1;
    }
}

/// One field of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvField {
    /// Of the text without quotes.
    pub text: Range<usize>,
    pub quoted: bool,
}

/// A quote in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadQuote;

/// Splits a record's text; what the fields stand for is appended to `plain`.
///
/// # Errors
/// [`BadQuote`]
pub fn fields(record: &str, delimiter: u8, plain: &mut String, fields: &mut Vec<CsvField>) -> Result<(), BadQuote> {
    fields.clear();
    let delimiter = char::from(delimiter);
    let mut rest = record;
    loop {
        let start = plain.len();
        let quoted = rest.starts_with('"');
        if quoted {
            rest = unquote(&rest[1..], plain)?;
            if !rest.is_empty() && !rest.starts_with(delimiter) {
                return Err(BadQuote);
            }
        } else {
            let end = rest.find(delimiter).unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err(BadQuote);
            }
            plain.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        fields.push(CsvField { text: start..plain.len(), quoted });
        match rest.strip_prefix(delimiter) {
            Some(next) => rest = next,
            None => return Ok(()),
        }
    }
}

/// Whether a line gives each column a name, and no two the same.
#[must_use]
pub fn is_header(line: &str, delimiter: u8) -> bool {
    let (mut plain, mut found) = (String::new(), Vec::new());
    if fields(line, delimiter, &mut plain, &mut found).is_err() {
        return false;
    }
    let mut names: Vec<&str> = found.iter().map(|field| plain[field.text.clone()].trim()).collect();
    names.sort_unstable();
    names.windows(2).all(|pair| pair[0] != pair[1]) && !names.contains(&"")
}

/// Takes the text of a quoted field; returns what follows its closing quote.
fn unquote<'a>(mut rest: &'a str, plain: &mut String) -> Result<&'a str, BadQuote> {
    loop {
        let end = rest.find('"').ok_or(BadQuote)?;
        plain.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                plain.push('"');
                rest = next;
            }
            None => return Ok(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(record: &str) -> Result<Vec<String>, BadQuote> {
        let (mut plain, mut found) = (String::new(), Vec::new());
        fields(record, b',', &mut plain, &mut found)?;
        Ok(found.iter().map(|field| plain[field.text.clone()].to_owned()).collect())
    }

    #[test]
    fn fields_are_those_of_rfc_4180() {
        assert_eq!(split("a,b,,d").unwrap(), ["a", "b", "", "d"]);
        assert_eq!(split("").unwrap(), [""]);
        assert_eq!(split("a,").unwrap(), ["a", ""]);
        assert_eq!(
            split(
                r#""a,""b""",é,"x
y""#
            )
            .unwrap(),
            [r#"a,"b""#, "é", "x\ny"]
        );
        for bad in [r#"a"b"#, r#""a"b"#, r#""a"#, r#"x,"y"z"#] {
            assert_eq!(split(bad), Err(BadQuote), "{bad}");
        }
    }

    #[test]
    fn a_header_names_every_column_once() {
        assert!(is_header("id, v ,\"a,b\"", b',') && is_header("a,b;c", b';'));
        for bad in ["", "id,", "id, id", "id,\"v", "a;a"] {
            assert!(!is_header(bad, if bad.contains(';') { b';' } else { b',' }), "{bad}");
        }
    }

    #[test]
    fn a_record_ends_at_a_line_break_outside_of_quotes() {
        let text = b"a,b\r\n\"x\ny\",2\nlast";
        assert_eq!(record_end(text, 0, b','), Some((5, 3)));
        assert_eq!(record_end(text, 5, b','), Some((13, 12)));
        assert_eq!(record_end(text, 13, b','), None);
        assert_eq!(record_end(b"\"open\n", 0, b','), None);
        assert_eq!(record_end(b"in\"ch,1\n", 0, b','), Some((8, 7)));
        assert_eq!(record_end(b"\"a\"\"\n\"\n", 0, b','), Some((7, 6)));
    }
}
