//! One pass over a JSON text, strict as RFC 8259 and UTF-8 want it, that says where values are and copies none.
//!
//! Not a serde reader because the exact text of a number is needed (decimals never pass through a float), as are limits and
//! faults of our own. The tests hold it against serde_json; `benches/decode.rs` measures it against others.

/// Containers inside containers, the outermost counted.
pub(crate) const MAX_DEPTH: u32 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    Syntax,
    Depth,
    /// A key that a field reads stands twice in one object.
    Duplicate,
    /// A document, but another value than an object.
    NotAnObject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    True,
    False,
    /// `integral`: neither fraction nor exponent.
    Number {
        integral: bool,
    },
    /// The span is between the quotes.
    Text {
        escaped: bool,
    },
    Object,
    Array,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Somewhere inside stands `\u0000`.
    pub(crate) nul: bool,
}

pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Seen so far.
    nuls: u32,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0, nuls: 0 }
    }

    /// The next byte that is not white space.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn nuls(&self) -> u32 {
        self.nuls
    }

    /// Nothing may follow the document.
    pub(crate) fn end(&mut self) -> Result<(), Flaw> {
        if self.peek().is_none() { Ok(()) } else { Err(Flaw::Syntax) }
    }

    /// Takes `byte` if it is next.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// The key of an object's member and the colon behind it.
    pub(crate) fn key(&mut self) -> Result<Token, Flaw> {
        if self.peek() != Some(b'"') {
            return Err(Flaw::Syntax);
        }
        let key = self.text()?;
        if self.take(b':') { Ok(key) } else { Err(Flaw::Syntax) }
    }

    /// After a member or element: true if another follows, false if `close` ended the container.
    pub(crate) fn more(&mut self, close: u8) -> Result<bool, Flaw> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(Flaw::Syntax),
        }
    }

    /// Checks one value of any kind. `depth` is the number of containers around it.
    pub(crate) fn value(&mut self, depth: u32) -> Result<Token, Flaw> {
        let first = self.peek();
        let (start, nuls) = (self.at, self.nuls);
        let kind = match first {
            Some(b'"') => return self.text(),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'{') => {
                self.object(depth + 1)?;
                Kind::Object
            }
            Some(b'[') => {
                self.array(depth + 1)?;
                Kind::Array
            }
            Some(b't') => self.literal(b"true", Kind::True)?,
            Some(b'f') => self.literal(b"false", Kind::False)?,
            Some(b'n') => self.literal(b"null", Kind::Null)?,
            _ => return Err(Flaw::Syntax),
        };
        Ok(Token { kind, start, end: self.at, nul: self.nuls != nuls })
    }

    fn object(&mut self, depth: u32) -> Result<(), Flaw> {
        self.open(depth)?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.key()?;
            self.value(depth)?;
            if !self.more(b'}')? {
                return Ok(());
            }
        }
    }

    fn array(&mut self, depth: u32) -> Result<(), Flaw> {
        self.open(depth)?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            if !self.more(b']')? {
                return Ok(());
            }
        }
    }

    /// Steps over the bracket of a container that is the `depth`th.
    pub(crate) fn open(&mut self, depth: u32) -> Result<(), Flaw> {
        self.at += 1;
        if depth > MAX_DEPTH { Err(Flaw::Depth) } else { Ok(()) }
    }

    fn literal(&mut self, literal: &[u8], kind: Kind) -> Result<Kind, Flaw> {
        let end = self.at + literal.len();
        if self.bytes.get(self.at..end) != Some(literal) {
            return Err(Flaw::Syntax);
        }
        self.at = end;
        Ok(kind)
    }

    fn number(&mut self) -> Result<Kind, Flaw> {
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut integral = true;
        if self.bytes.get(self.at) == Some(&b'.') {
            integral = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            integral = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Kind::Number { integral })
    }

    fn digits(&mut self) -> Result<(), Flaw> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.bytes.get(self.at) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Flaw::Syntax) }
    }

    /// A string; its opening quote is next.
    fn text(&mut self) -> Result<Token, Flaw> {
        let start = self.at + 1;
        let (mut at, mut escaped, nuls) = (start, false, self.nuls);
        loop {
            at += plain(&self.bytes[at..]);
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Token { kind: Kind::Text { escaped }, start, end: at, nul: self.nuls != nuls });
                }
                Some(b'\\') => {
                    escaped = true;
                    at = self.escape(at + 1)?;
                }
                _ => return Err(Flaw::Syntax),
            }
        }
    }

    /// Checks what stands behind a backslash; returns where it ends. A lone surrogate is no character, so no text.
    fn escape(&mut self, at: usize) -> Result<usize, Flaw> {
        match self.bytes.get(at) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 1),
            Some(b'u') => match self.hex(at + 1)? {
                0 => {
                    self.nuls += 1;
                    Ok(at + 5)
                }
                0xD800..=0xDBFF if self.bytes.get(at + 5..at + 7) == Some(b"\\u") => match self.hex(at + 7)? {
                    0xDC00..=0xDFFF => Ok(at + 11),
                    _ => Err(Flaw::Syntax),
                },
                0xD800..=0xDFFF => Err(Flaw::Syntax),
                _ => Ok(at + 5),
            },
            _ => Err(Flaw::Syntax),
        }
    }

    fn hex(&self, at: usize) -> Result<u32, Flaw> {
        hex(self.bytes.get(at..at + 4).ok_or(Flaw::Syntax)?).ok_or(Flaw::Syntax)
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

/// Length of the run without quote, backslash or control character, eight bytes at a time.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        // The lowest marked byte is right; borrows may mark wrong ones above it.
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let marks = (zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5C)) | control) & HIGH;
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
    at + bytes[at..].iter().position(special).unwrap_or(bytes.len() - at)
}

/// Appends what the text between the quotes of a checked string stands for.
pub(crate) fn unescape(raw: &str, out: &mut String) {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let bytes = rest.as_bytes();
        let unit = |at: usize| bytes.get(at..at + 4).and_then(hex).unwrap_or(0);
        let (char, length) = match bytes.get(at + 1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => match unit(at + 2) {
                high @ 0xD800..=0xDBFF => {
                    let code = 0x10000 + ((high - 0xD800) << 10) + (unit(at + 8).wrapping_sub(0xDC00) & 0x3FF);
                    (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
                }
                code => (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
            },
            other => (other.map_or('\\', |byte| char::from(*byte)), 2),
        };
        out.push(char);
        rest = rest.get(at + length..).unwrap_or("");
    }
    out.push_str(rest);
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
