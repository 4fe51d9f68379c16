//! Lines of text as the records that the job's source would make of them.

use pulso_core::ids::{Position, SplitId};
use pulso_dataflow::csv;
use pulso_dataflow::decode::{Decoder, RawRecord};
use pulso_dataflow::document::{FileKey, elements};
use pulso_job::{JobSpec, SourceFormat, SourceSpec};

/// All records come from one split, in the order in which they are pushed.
const SPLIT: SplitId = SplitId(0);
/// A line that begins with this word is a record without value; what follows is its key.
const TOMBSTONE: &[u8] = b"tombstone";
/// Spreadsheets put one before CSV.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What a line is.
#[derive(Debug)]
pub(super) enum Feed {
    /// The value of a record, or `tombstone KEY`.
    Topic,
    /// A file of its own.
    Document { each: Option<Vec<String>>, root: Vec<Vec<String>> },
    /// A record, whichever file it is from.
    Lines,
    /// The header of a file, or a record of it.
    Csv(CsvFile),
}

/// A file of CSV, line by line.
#[derive(Debug)]
pub(super) struct CsvFile {
    delimiter: u8,
    has_header: bool,
    rest: Rest,
}

/// What the next line of the file is.
#[derive(Debug)]
enum Rest {
    First,
    /// A record with this key.
    Record(Vec<u8>),
    /// Nothing: the file has no header that says what it would be.
    Nothing,
}

impl Feed {
    pub(super) fn new(spec: &JobSpec) -> Self {
        let SourceSpec::Files(source) = &spec.source else { return Self::Topic };
        match &source.format {
            SourceFormat::Json { each } => {
                let root = spec.file_paths().into_iter().map(<[String]>::to_vec).collect();
                Self::Document { each: each.clone(), root }
            }
            SourceFormat::Jsonl => Self::Lines,
            SourceFormat::Csv { header, delimiter } => {
                Self::Csv(CsvFile { delimiter: *delimiter, has_header: *header, rest: Rest::First })
            }
        }
    }

    /// The next line is the first one of another file.
    pub(super) fn next_file(&mut self) {
        match self {
            Self::Csv(file) => file.rest = Rest::First,
            Self::Topic | Self::Document { .. } | Self::Lines => {}
        }
    }

    /// Pushes what the line holds, all with the number of the line as their position; returns how many records that are.
    pub(super) fn push(&mut self, line: &[u8], number: u64, decoder: &mut Decoder) -> u64 {
        let position = Position(i64::try_from(number).unwrap_or(i64::MAX));
        let mut push = |key: Option<&[u8]>, value: Option<&[u8]>| {
            // As of a broker that sets none: only the clock says what is too far in the future.
            decoder.push(RawRecord { split: SPLIT, position, timestamp_ms: -1, key, value });
        };
        match self {
            Self::Topic => {
                let key = line.trim_ascii().strip_prefix(TOMBSTONE).filter(|r| r.first().is_none_or(|c| *c == b' '));
                let value = key.is_none().then_some(line);
                push(key.map(<[u8]>::trim_ascii).filter(|key| !key.is_empty()), value);
                1
            }
            Self::Document { each, root } => {
                let root: Vec<&[String]> = root.iter().map(Vec::as_slice).collect();
                match elements(line, each.as_deref(), &root) {
                    Ok(found) => {
                        let key = FileKey { root: Some(found.root), ..FileKey::default() }.encode();
                        found.records.iter().for_each(|range| push(Some(&key), line.get(range.clone())));
                        found.records.len() as u64
                    }
                    Err(error) => {
                        push(Some(&bad(error.reason())), Some(line));
                        1
                    }
                }
            }
            Self::Lines => {
                push(Some(&FileKey::default().encode()), Some(line));
                1
            }
            Self::Csv(file) => match file.record(line) {
                Some((key, record)) => {
                    push(Some(&key), Some(record));
                    1
                }
                None => 0,
            },
        }
    }
}

impl CsvFile {
    /// Key and value of the record that the line is.
    fn record<'l>(&mut self, line: &'l [u8]) -> Option<(Vec<u8>, &'l [u8])> {
        match &self.rest {
            Rest::First => {
                let text = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
                let header = std::str::from_utf8(text).ok();
                let header = header.filter(|text| self.has_header && csv::is_header(text, self.delimiter));
                if self.has_header && header.is_none() {
                    self.rest = Rest::Nothing;
                    return Some((bad("bad_header"), line));
                }
                let key = FileKey { header: header.map(str::to_owned), ..FileKey::default() }.encode();
                self.rest = Rest::Record(key.clone());
                // Behind the mark there may be nothing: an empty line is no record.
                (!self.has_header && !text.trim_ascii().is_empty()).then_some((key, text))
            }
            Rest::Record(key) => Some((key.clone(), line)),
            Rest::Nothing => None,
        }
    }
}

/// The key of a file that is none of its format.
fn bad(reason: &str) -> Vec<u8> {
    FileKey { bad: Some(reason.to_owned()), ..FileKey::default() }.encode()
}
