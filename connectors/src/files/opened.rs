//! One file that is being read: its records, each with what goes along as its key.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use pulso_core::files::{FileNumber, FoundFile, byte_of};
use pulso_core::ids::Position;
use pulso_dataflow::csv;
use pulso_dataflow::decode::MAX_FILE_RECORD;
use pulso_dataflow::document::{self, Elements, FileKey};
use pulso_job::spec::SourceFormat;

use super::error::FilesError;
use super::lines::{Lines, Shape};

/// Longest JSON document: it is in memory as a whole while it is read.
pub(super) const MAX_DOCUMENT: u64 = 64 << 20;
/// Longest header line.
const MAX_HEADER: u64 = 64 << 10;
/// So much of a file that is none of its format goes into its dead letter.
const BAD_BYTES: u64 = 64 << 10;

/// Reads the records of one part of a file.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) number: FileNumber,
    pub(super) timestamp_ms: i64,
    /// What every record has as its key.
    pub(super) key: Arc<[u8]>,
    records: Records,
    /// Before this byte nothing is wanted.
    from: u64,
}

#[derive(Debug)]
enum Records {
    Document {
        bytes: Vec<u8>,
        elements: std::vec::IntoIter<Range<usize>>,
    },
    Lines(Lines<File>),
    /// The file as a whole is the one record.
    Bad {
        bytes: Vec<u8>,
        told: bool,
    },
}

impl OpenFile {
    /// `next`: what lies before was read already.
    pub(super) fn open(
        number: FileNumber,
        found: &FoundFile,
        format: &SourceFormat,
        root: &[&[String]],
        next: Position,
    ) -> Result<Self, FilesError> {
        let path = Path::new(&found.path);
        let wrong = |error: io::Error| FilesError::of(path, &error);
        let mut file = File::open(path).map_err(wrong)?;
        let size = file.metadata().map_err(wrong)?.len();
        if size < found.to {
            return Err(FilesError::CutOff { path: found.path.clone(), wanted: found.to, found: size });
        }
        // A position is one behind the first byte of the last record: that one is read again and passed over.
        let read = if FileNumber::of(next) == number { byte_of(next).saturating_sub(1) } else { 0 };
        let from = found.from.max(read);
        let mut key = FileKey { file: found.path.clone(), ..FileKey::default() };
        let records = match format {
            SourceFormat::Json { each } => {
                document(&mut file, found, each.as_deref(), root, &mut key).map_err(wrong)?
            }
            SourceFormat::Jsonl => lines(file, Shape::Jsonl, from, found.to).map_err(wrong)?,
            SourceFormat::Csv { header: false, delimiter } => {
                let start = if from == 0 { byte_order_mark(&mut file).map_err(wrong)? } else { from };
                lines(file, Shape::Csv { delimiter: *delimiter }, start, found.to).map_err(wrong)?
            }
            SourceFormat::Csv { header: true, delimiter } => {
                with_header(file, *delimiter, from, found.to, &mut key).map_err(wrong)?
            }
        };
        Ok(Self { number, timestamp_ms: found.modified_ms(), key: key.encode().into(), records, from })
    }

    /// The next record and where it begins; `None` behind the last one.
    pub(super) fn next(&mut self) -> io::Result<Option<(Position, &[u8])>> {
        let number = self.number;
        let found = match &mut self.records {
            Records::Document { bytes, elements } => {
                let from = self.from;
                let element = elements.find(|element| element.start as u64 >= from);
                element.map(|element| (element.start as u64, &bytes[element]))
            }
            Records::Lines(lines) => lines.next()?,
            Records::Bad { bytes, told } => (!std::mem::replace(told, true)).then_some((0, bytes.as_slice())),
        };
        Ok(found.map(|(byte, record)| (number.position(byte), record)))
    }
}

fn document(
    file: &mut File,
    found: &FoundFile,
    each: Option<&[String]>,
    root: &[&[String]],
    key: &mut FileKey,
) -> io::Result<Records> {
    match elements(file, found.to, each, root)? {
        Ok((bytes, elements)) => {
            key.root = each.map(|_| elements.root);
            Ok(Records::Document { bytes, elements: elements.records.into_iter() })
        }
        Err(reason) => bad(file, reason, key),
    }
}

/// A document's bytes and its records, or why it is bad.
fn elements(
    file: &mut File,
    size: u64,
    each: Option<&[String]>,
    root: &[&[String]],
) -> io::Result<Result<(Vec<u8>, Elements), &'static str>> {
    if size > MAX_DOCUMENT {
        return Ok(Err("too_large"));
    }
    let mut bytes = Vec::new();
    file.take(size).read_to_end(&mut bytes)?;
    Ok(match document::elements(&bytes, each, root) {
        // It goes along with each of the records.
        Ok(elements) if elements.root.len() > MAX_FILE_RECORD => Err("too_large"),
        Ok(elements) => Ok((bytes, elements)),
        Err(error) => Err(error.reason()),
    })
}

fn bad(file: &mut File, reason: &str, key: &mut FileKey) -> io::Result<Records> {
    key.bad = Some(reason.to_owned());
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(BAD_BYTES).read_to_end(&mut bytes)?;
    Ok(Records::Bad { bytes, told: false })
}

fn lines(mut file: File, shape: Shape, from: u64, to: u64) -> io::Result<Records> {
    file.seek(SeekFrom::Start(from))?;
    Ok(Records::Lines(Lines::new(file, shape, from, to)))
}

fn with_header(mut file: File, delimiter: u8, from: u64, to: u64, key: &mut FileKey) -> io::Result<Records> {
    let shape = Shape::Csv { delimiter };
    if to == 0 {
        return lines(file, shape, 0, 0);
    }
    let mut start = Vec::new();
    (&mut file).take(to.min(MAX_HEADER)).read_to_end(&mut start)?;
    match header(&start, delimiter, to <= MAX_HEADER) {
        Some((text, end)) => {
            key.header = Some(text.to_owned());
            lines(file, shape, from.max(end as u64), to)
        }
        None => bad(&mut file, "bad_header", key),
    }
}

/// The header line of a file that begins with these bytes, and where the first record begins.
pub(super) fn header(start: &[u8], delimiter: u8, is_whole: bool) -> Option<(&str, usize)> {
    let mark = mark_length(start);
    let whole = is_whole.then_some((start.len(), start.len()));
    let (end, text) = csv::record_end(start, mark, delimiter).or(whole)?;
    let text = std::str::from_utf8(&start[mark..text]).ok()?.trim_end_matches('\r');
    csv::is_header(text, delimiter).then_some((text, end))
}

fn byte_order_mark(file: &mut File) -> io::Result<u64> {
    let mut start = Vec::new();
    file.take(3).read_to_end(&mut start)?;
    Ok(mark_length(&start) as u64)
}

/// Spreadsheets put one before CSV.
fn mark_length(start: &[u8]) -> usize {
    if start.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 }
}

/// Why a file as a whole is none of its format; `None` where its records can be read. Looks at no more than it has to.
pub(super) fn whole_fault(
    file: &mut File,
    size: u64,
    format: &SourceFormat,
    root: &[&[String]],
) -> io::Result<Option<String>> {
    match format {
        SourceFormat::Json { each } => Ok(elements(file, size, each.as_deref(), root)?.err().map(str::to_owned)),
        SourceFormat::Csv { header: true, delimiter } if size > 0 => {
            let mut start = Vec::new();
            file.take(size.min(MAX_HEADER)).read_to_end(&mut start)?;
            let found = header(&start, *delimiter, size <= MAX_HEADER);
            Ok(found.is_none().then(|| "bad_header".to_owned()))
        }
        SourceFormat::Csv { .. } | SourceFormat::Jsonl => Ok(None),
    }
}
