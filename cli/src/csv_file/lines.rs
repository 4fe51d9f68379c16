//! The bytes of a CSV file as lines: those that are whole, those that are wrong, and what is still being written.

use std::collections::{BTreeMap, BTreeSet};

use csv::{ByteRecord, ReaderBuilder};
use pulso_job::InputSpec;

use super::cells::Layout;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// How to read a file.
#[derive(Debug, Clone)]
pub struct Format {
    pub delimiter: u8,
    /// Columns by their names in the header line.
    pub key: Vec<String>,
    /// Types; without it every cell is text.
    pub input: Option<InputSpec>,
}

/// One good line: a record and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As editors count, from 1; a quoted cell may span several.
    pub number: u64,
    pub key: String,
    pub record: String,
}

/// What is wrong with a line, in words for people and without its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub line: u64,
    pub what: String,
}

/// Rows whose line cannot be read just now, so that nobody can say that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    Keys(BTreeSet<String>),
    All,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Lines {
    /// In file order; of a key that several lines have the first one.
    pub good: Vec<Line>,
    pub faults: Vec<Fault>,
    pub held: Held,
    /// The last line has no end yet and is not among the good ones.
    pub unfinished: bool,
    /// Required fields that no column of the file gives.
    pub missing: Vec<String>,
}

/// Reads a whole file. Its last line counts although it has no end where `closed`: nobody writes to it any more.
///
/// # Errors
/// In words for people, where there is no header line or not one of these records.
pub fn read(bytes: &[u8], format: &Format, closed: bool) -> Result<Lines, String> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut records = Records::new(bytes, format.delimiter);
    let Some(header) = records.next().filter(|header| header.whole || closed) else {
        return Err("there is no header line yet".to_owned());
    };
    let header: Vec<&str> = texts(&header.cells).map_err(|_| "the header line is not UTF-8".to_owned())?;
    let layout = Layout::new(header.iter().copied(), &format.key, format.input.as_ref())?;
    let missing = format.input.as_ref().map(|input| layout.missing(input)).unwrap_or_default();
    let lines =
        Lines { good: Vec::new(), faults: Vec::new(), held: Held::Keys(BTreeSet::new()), unfinished: false, missing };
    let mut reading = Reading { layout, lines, first: BTreeMap::new() };
    for record in records {
        reading.take(&record, closed);
    }
    Ok(reading.lines)
}

struct Reading {
    layout: Layout,
    lines: Lines,
    /// In which line each key was first.
    first: BTreeMap<String, u64>,
}

impl Reading {
    fn take(&mut self, record: &Record, closed: bool) {
        let good = texts(&record.cells);
        if !record.whole && (!closed || record.quote_is_open) {
            self.lines.unfinished = true;
            // The last cell may go on.
            let cells = good.unwrap_or_default();
            self.hold(cells.get(..cells.len().saturating_sub(1)).unwrap_or_default(), record);
            if closed {
                self.fault(record.line, "a quote is opened and not closed".to_owned());
            }
            return;
        }
        let Ok(cells) = good else {
            self.hold(&texts_or_empty(&record.cells), record);
            return self.fault(record.line, "not UTF-8; the line is not sent".to_owned());
        };
        let (has, wanted) = (cells.len(), self.layout.width());
        if has != wanted {
            self.hold(&cells, record);
            return self
                .fault(record.line, format!("{has} columns where the header has {wanted}; the line is not sent"));
        }
        match self.layout.key(&cells) {
            Ok(key) => self.good(record.line, key, &cells),
            Err(what) => self.fault(record.line, format!("{what}; the line is not sent")),
        }
    }

    fn good(&mut self, number: u64, key: String, cells: &[&str]) {
        if let Some(first) = self.first.get(&key) {
            return self.fault(number, format!("the key of line {first} again; the line is not sent"));
        }
        self.first.insert(key.clone(), number);
        let (record, wrong) = self.layout.record(cells);
        wrong.into_iter().for_each(|what| self.fault(number, what));
        self.lines.good.push(Line { number, key, record });
    }

    /// The row of a line that cannot be read stays as it is. A line that swallowed others, or hides its key, may be any.
    fn hold(&mut self, cells: &[&str], record: &Record) {
        let complete = self.layout.key_columns().iter().all(|at| *at < cells.len());
        let key = if complete && !record.spans_lines { self.layout.key(cells).ok() } else { None };
        match (&mut self.lines.held, key) {
            (Held::Keys(keys), Some(key)) => {
                keys.insert(key);
            }
            (held, None) => *held = Held::All,
            (Held::All, Some(_)) => {}
        }
    }

    fn fault(&mut self, line: u64, what: String) {
        self.lines.faults.push(Fault { line, what });
    }
}

fn texts(cells: &ByteRecord) -> Result<Vec<&str>, std::str::Utf8Error> {
    cells.iter().map(std::str::from_utf8).collect()
}

fn texts_or_empty(cells: &ByteRecord) -> Vec<&str> {
    cells.iter().map(|cell| std::str::from_utf8(cell).unwrap_or_default()).collect()
}

/// A record of the file as the `csv` crate reads it, and where it stands.
struct Record {
    cells: ByteRecord,
    line: u64,
    /// Nothing that may still be written behind it belongs to it.
    whole: bool,
    quote_is_open: bool,
    spans_lines: bool,
}

struct Records<'a> {
    bytes: &'a [u8],
    delimiter: u8,
    reader: csv::Reader<&'a [u8]>,
    /// Up to where line ends are counted, and the line there.
    counted: (usize, u64),
}

impl<'a> Records<'a> {
    fn new(bytes: &'a [u8], delimiter: u8) -> Records<'a> {
        Records { bytes, delimiter, reader: reader(bytes, delimiter), counted: (0, 1) }
    }

    /// Where a record begins, behind the rest of the line end before it and empty lines; counts the line ends up to there.
    fn start(&mut self, from: usize) -> usize {
        let ends = self.bytes[from..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let (counted, line) = self.counted;
        let more = self.bytes[counted..from + ends].iter().filter(|byte| **byte == b'\n').count();
        self.counted = (from + ends, line + more as u64);
        from + ends
    }

    /// How many records there would be if the file went on with this behind the last record.
    fn with(&self, from: usize, more: &[u8]) -> usize {
        let text = [&self.bytes[from..], more].concat();
        reader(&text, self.delimiter).byte_records().count()
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let mut cells = ByteRecord::new();
        // A flexible reader of bytes in memory has nothing to fail on.
        if !self.reader.read_byte_record(&mut cells).unwrap_or(false) {
            return None;
        }
        let end = self.reader.position().byte() as usize;
        let start = self.start(cells.position().map_or(0, csv::Position::byte) as usize);
        let (mut whole, mut quote_is_open) = (true, false);
        if end >= self.bytes.len() {
            whole = self.with(start, b"x") == 2;
            quote_is_open = !whole && self.with(start, b"\nx") == 1;
        }
        let text = self.bytes[start..end].trim_ascii();
        Some(Record {
            cells,
            line: self.counted.1,
            whole,
            quote_is_open,
            spans_lines: text.contains(&b'\n') || text.contains(&b'\r'),
        })
    }
}

fn reader(bytes: &[u8], delimiter: u8) -> csv::Reader<&[u8]> {
    ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(bytes)
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
