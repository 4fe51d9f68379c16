//! The records of a file that has one after the other: lines of JSON, or CSV. Pure but for the reading.

use std::io::{self, Read};

use pulso_dataflow::csv;
use pulso_dataflow::decode::MAX_FILE_RECORD;

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;
/// Of a record that is too long.
const KEPT: usize = MAX_FILE_RECORD + 1;

/// How records end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Jsonl,
    Csv { delimiter: u8 },
}

/// The next record: the byte of the file where it begins; where it and its text end in the buffer.
struct Bounds {
    at: u64,
    end: usize,
    text: usize,
}

/// A part of a file, record by record.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    shape: Shape,
    buffer: Vec<u8>,
    /// Of the buffer: where the next record begins.
    start: usize,
    /// Of the file: where the buffer begins.
    offset: u64,
    /// Bytes of the file that are not in the buffer yet.
    left: u64,
}

impl<R: Read> Lines<R> {
    /// `input` stands at byte `from`; nothing at or behind byte `to` is read.
    pub(super) fn new(input: R, shape: Shape, from: u64, to: u64) -> Self {
        Self { input, shape, buffer: Vec::new(), start: 0, offset: from, left: to.saturating_sub(from) }
    }

    /// The next record and the byte where it begins; `None` behind the last one. A record that is too long comes with
    /// its first bytes, so many that the decoder refuses it too. Records without text are passed over.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        loop {
            let Some(Bounds { at, end, text }) = self.bounds()? else { return Ok(None) };
            let start = std::mem::replace(&mut self.start, end);
            if !self.buffer[start..text].iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
                return Ok(Some((at, &self.buffer[start..text])));
            }
        }
    }

    fn bounds(&mut self) -> io::Result<Option<Bounds>> {
        loop {
            let at = self.offset + self.start as u64;
            if let Some((end, text)) = record(&self.buffer, self.start, self.shape) {
                return Ok(Some(Bounds { at, end, text }));
            }
            let long = self.buffer.len() - self.start > KEPT;
            if self.left == 0 || long {
                if let Some((end, text)) = line(&self.buffer, self.start) {
                    return Ok(Some(Bounds { at, end, text: text.min(self.start + KEPT) }));
                }
                if long {
                    let (end, text) = self.too_long()?;
                    return Ok(Some(Bounds { at, end, text }));
                }
                let end = self.buffer.len();
                let text = if self.buffer[self.start..].ends_with(b"\r") { end - 1 } else { end };
                return Ok((self.start < end).then_some(Bounds { at, end, text }));
            }
            self.fill()?;
        }
    }

    /// Reads on to the line's end and keeps only its first bytes.
    fn too_long(&mut self) -> io::Result<(usize, usize)> {
        self.buffer.drain(..self.start);
        self.offset += self.start as u64;
        self.start = 0;
        loop {
            if let Some((end, _)) = line(&self.buffer, KEPT.min(self.buffer.len())) {
                return Ok((end, KEPT));
            }
            if self.left == 0 {
                return Ok((self.buffer.len(), KEPT));
            }
            // What lies between is never looked at again: the offset moves along.
            let between = self.buffer.len() - KEPT;
            self.buffer.truncate(KEPT);
            self.offset += between as u64;
            self.read_chunk()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.offset += self.start as u64;
        self.start = 0;
        self.read_chunk()
    }

    fn read_chunk(&mut self) -> io::Result<()> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(CHUNK);
        let old = self.buffer.len();
        self.buffer.resize(old + wanted, 0);
        let read = self.input.read(&mut self.buffer[old..])?;
        self.buffer.truncate(old + read);
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends too early"));
        }
        self.left -= read as u64;
        Ok(())
    }
}

/// The record that begins at `from`: where it ends, and its text. `None` where these bytes end before it does, and where
/// it is too long, whatever else was read with it: a replay reads other pieces.
fn record(bytes: &[u8], from: usize, shape: Shape) -> Option<(usize, usize)> {
    // The end of a line may have two bytes.
    let bytes = &bytes[..bytes.len().min(from + MAX_FILE_RECORD + 2)];
    let found = match shape {
        Shape::Jsonl => line(bytes, from),
        Shape::Csv { delimiter } => csv::record_end(bytes, from, delimiter),
    };
    found.filter(|(_, text)| text - from <= MAX_FILE_RECORD)
}

/// The line that begins at `from`: where it ends, and its text.
fn line(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let end = from + bytes.get(from..)?.iter().position(|byte| *byte == b'\n')?;
    let text = if end > from && bytes[end - 1] == b'\r' { end - 1 } else { end };
    Some((end + 1, text))
}

/// Where the last complete record of these bytes ends. A quote that nobody closes must not keep what follows it from
/// being read: as soon as its record is too long, its line alone is the bad record.
pub(super) fn complete_until(bytes: &[u8], shape: Shape) -> usize {
    if shape == Shape::Jsonl {
        return bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    }
    let mut at = 0;
    loop {
        let too_long = || line(bytes, at).filter(|_| bytes.len() - at > KEPT);
        match record(bytes, at, shape).or_else(too_long) {
            Some((end, _)) => at = end,
            None => return at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8], shape: Shape) -> Vec<(u64, Vec<u8>)> {
        let mut lines = Lines::new(text, shape, 0, text.len() as u64);
        let mut found = Vec::new();
        while let Some((at, record)) = lines.next().unwrap() {
            found.push((at, record.to_vec()));
        }
        found
    }

    fn texts(text: &[u8], shape: Shape) -> Vec<String> {
        all(text, shape).into_iter().map(|(at, record)| format!("{at} {}", String::from_utf8_lossy(&record))).collect()
    }

    const CSV: Shape = Shape::Csv { delimiter: b',' };

    #[test]
    fn records_are_lines_and_the_last_may_have_no_end() {
        assert_eq!(texts(b"{}\r\n\n  \n[1]\nlast", Shape::Jsonl), ["0 {}", "8 [1]", "12 last"]);
        assert_eq!(texts(b"", Shape::Jsonl), [""; 0]);
        assert_eq!(texts(b"a,\"b\nc\"\n\nd,e\r\nf\r", CSV), ["0 a,\"b\nc\"", "9 d,e", "14 f"]);
    }

    #[test]
    fn a_quote_that_nobody_closes_costs_one_line() {
        assert_eq!(texts(b"a,b\n\"open,c\nd,e\nf,g\n", CSV), ["0 a,b", "4 \"open,c", "12 d,e", "16 f,g"]);
    }

    #[test]
    fn a_record_that_is_too_long_is_cut_and_the_next_one_is_found() {
        for extra in [1, CHUNK, 3 * CHUNK + 7] {
            let long = MAX_FILE_RECORD + extra;
            let text = [b"{}\n".as_slice(), &vec![b'x'; long], b"\nnext\n"].concat();
            for shape in [Shape::Jsonl, CSV] {
                let found = all(&text, shape);
                let sizes: Vec<(u64, usize)> = found.iter().map(|(at, record)| (*at, record.len())).collect();
                assert_eq!(sizes, [(0, 2), (3, MAX_FILE_RECORD + 1), (4 + long as u64, 4)], "{extra} {shape:?}");
            }
        }
    }

    #[test]
    fn many_records_come_whole_over_the_edges_of_what_is_read_at_once() {
        let lines: Vec<String> = (0..40_000).map(|i| format!("{i},\"{}\"", "y".repeat(i % 23))).collect();
        let text = lines.join("\n");
        for shape in [Shape::Jsonl, CSV] {
            let found: Vec<String> =
                all(text.as_bytes(), shape).into_iter().map(|(_, r)| String::from_utf8(r).unwrap()).collect();
            assert_eq!(found, lines);
        }
    }

    #[test]
    fn complete_is_what_ends_with_a_line_break_outside_of_quotes() {
        assert_eq!(complete_until(b"a\nb", Shape::Jsonl), 2);
        assert_eq!(complete_until(b"ab", Shape::Jsonl), 0);
        assert_eq!(complete_until(b"a\n\"b\nc", CSV), 2);
        assert_eq!(complete_until(b"a\n\"b\"\n", CSV), 6);
    }

    #[test]
    fn a_quote_that_nobody_closes_ends_with_its_line_once_its_record_would_be_too_long() {
        let line = "x,y\n";
        let open = |after: usize| format!("a,b\n\"open,c\n{}z", line.repeat(after / line.len()));
        assert_eq!(complete_until(open(1_000).as_bytes(), CSV), 4, "it may yet be closed");
        let text = open(MAX_FILE_RECORD);
        let end = complete_until(text.as_bytes(), CSV);
        assert_eq!(end, text.len() - 1);
        // What reads up to there comes to the same records.
        let found = texts(&text.as_bytes()[..end], CSV);
        assert_eq!(found[..3], ["0 a,b", "4 \"open,c", "12 x,y"]);
        assert_eq!(found.len(), 2 + MAX_FILE_RECORD / line.len());
    }

    #[test]
    fn a_record_is_the_same_however_much_is_read_with_it() {
        // It is as long as what is read before it is given up, but for what comes before it.
        let long = "w".repeat(MAX_FILE_RECORD + CHUNK - 3);
        let closed_late = format!("\"v\n{}\"", &long[5..]);
        for text in [format!("first\n{long}\nlast"), format!("first\n{closed_late}\nlast")] {
            for shape in [Shape::Jsonl, CSV] {
                let whole = all(text.as_bytes(), shape);
                for (begin, _) in &whole {
                    let from = usize::try_from(*begin).unwrap();
                    let rest = all(&text.as_bytes()[from..], shape).into_iter().map(|(at, r)| (at + begin, r.len()));
                    let same = whole.iter().filter(|(at, _)| at >= begin).map(|(at, r)| (*at, r.len()));
                    assert!(rest.eq(same), "from {begin}");
                }
            }
        }
    }
}
