//! Lines of text as the records that the job's source would make of them.

use pulso_core::ids::{Position, SplitId};
use pulso_dataflow::decode::{Decoder, RawRecord};
use pulso_dataflow::document::{FileKey, elements};
use pulso_job::{JobSpec, SourceFormat, SourceSpec};

/// All records come from one split, in the order in which they are pushed.
const SPLIT: SplitId = SplitId(0);
/// A line that begins with this word is a record without value; what follows is its key.
const TOMBSTONE: &[u8] = b"tombstone";

/// What a line is.
#[derive(Debug)]
pub(super) enum Feed {
    /// The value of a record, or `tombstone KEY`.
    Topic,
    /// A file of its own.
    Document { each: Option<Vec<String>>, root: Vec<Vec<String>> },
    /// A line of one file.
    Lines { key: Vec<u8> },
    /// The header of one file: the lines behind it are its records.
    Header,
}

impl Feed {
    pub(super) fn new(spec: &JobSpec) -> Self {
        let SourceSpec::Files(source) = &spec.source else { return Self::Topic };
        match &source.format {
            SourceFormat::Json { each } => {
                let root = spec.file_paths().into_iter().map(<[String]>::to_vec).collect();
                Self::Document { each: each.clone(), root }
            }
            SourceFormat::Csv { header: true, .. } => Self::Header,
            SourceFormat::Jsonl | SourceFormat::Csv { header: false, .. } => Self::Lines { key: key(None) },
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
                        let bad = Some(error.reason().to_owned());
                        push(Some(&FileKey { bad, ..FileKey::default() }.encode()), Some(line));
                        1
                    }
                }
            }
            Self::Lines { key } => {
                push(Some(key), Some(line));
                1
            }
            Self::Header => {
                *self = Self::Lines { key: key(Some(&String::from_utf8_lossy(line))) };
                0
            }
        }
    }
}

fn key(header: Option<&str>) -> Vec<u8> {
    FileKey { header: header.map(str::to_owned), ..FileKey::default() }.encode()
}
