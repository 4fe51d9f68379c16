//! One record of a chain: what a key group has committed, and the rows that were committed with it, in one file.

use std::collections::BTreeMap;

use pulso_core::ids::{Attempt, KeyGroupId};
use pulso_core::ledger::Mark;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const MAGIC: &str = "pulso-files";

/// Rows of one kind that one file can hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Stream {
    /// `sink1`, `dead_letters`: a part of the file's name.
    pub(super) name: String,
    pub(super) extension: String,
    /// First line of every file.
    pub(super) header: String,
}

/// A file whose contents are whole, and the name under which readers shall see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Publication {
    /// In the chain's folder, unique. It is renamed, so it is gone once readers have it.
    pub(super) ready: String,
    /// In the target's folder.
    pub(super) name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// The chain's beginning: from now on whoever looks sees that this attempt is there.
    Announced,
    /// The key groups that the writer hosts, and what they had committed when it took them over.
    TookOver,
    Committed,
    /// All rows before this record are in these files.
    Published {
        files: Vec<Publication>,
    },
    /// Nothing may follow: a newer attempt, or a newer connection of the same one, has taken over.
    Sealed {
        by: Attempt,
        files: Vec<Publication>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    version: u32,
    pub(super) kind: Kind,
    /// Of all key groups of the chain, each time: so only the newest record has to be read.
    pub(super) marks: Marks,
    /// What follows the head: so many bytes of rows of each stream.
    pub(super) rows: Vec<(Stream, u64)>,
}

pub(super) type Marks = BTreeMap<KeyGroupId, Mark>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) head: Head,
    pub(super) rows: Vec<(Stream, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Corrupt(String);

impl Record {
    pub(super) fn new(kind: Kind, marks: Marks, rows: Vec<(Stream, Vec<u8>)>) -> Self {
        let lengths = rows.iter().map(|(stream, bytes)| (stream.clone(), bytes.len() as u64)).collect();
        Self { head: Head { version: VERSION, kind, marks, rows: lengths }, rows }
    }

    /// One line with checksum and length of the head, the head as JSON, then the rows.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = serde_json::to_vec(&self.head).expect("marks and names are JSON");
        let head = body.len();
        self.rows.iter().for_each(|(_, bytes)| body.extend_from_slice(bytes));
        let mut out = format!("{MAGIC} {:08x} {head}\n", crc32fast::hash(&body)).into_bytes();
        out.extend_from_slice(&body);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let wrong = |what: &str| Corrupt(what.to_owned());
        let line = bytes.iter().take(64).position(|byte| *byte == b'\n').ok_or_else(|| wrong("no first line"))?;
        let first = std::str::from_utf8(&bytes[..line]).map_err(|_| wrong("no first line"))?;
        let mut words = first.split(' ');
        let (magic, checksum, head) = (words.next(), words.next(), words.next());
        let checksum = checksum.and_then(|word| u32::from_str_radix(word, 16).ok());
        let head = head.and_then(|word| word.parse::<usize>().ok());
        let (Some(MAGIC), Some(checksum), Some(length)) = (magic, checksum, head) else {
            return Err(wrong("the first line is none of a ledger"));
        };
        let body = &bytes[line + 1..];
        if crc32fast::hash(body) != checksum || length > body.len() {
            return Err(wrong("the checksum is wrong"));
        }
        let (head, mut rest) = body.split_at(length);
        let head: Head = serde_json::from_slice(head).map_err(|error| Corrupt(error.to_string()))?;
        if head.version != VERSION {
            return Err(Corrupt(format!("version {} is not known", head.version)));
        }
        let mut rows = Vec::with_capacity(head.rows.len());
        for (stream, length) in &head.rows {
            let length = usize::try_from(*length).unwrap_or(usize::MAX);
            let part = rest.get(..length).ok_or_else(|| wrong("rows are missing"))?;
            rows.push((stream.clone(), part.to_vec()));
            rest = &rest[length..];
        }
        Ok(Self { head, rows })
    }

    /// Files that this record decided to publish.
    pub(super) fn publications(&self) -> &[Publication] {
        match &self.head.kind {
            Kind::Published { files } | Kind::Sealed { files, .. } => files,
            Kind::Announced | Kind::TookOver | Kind::Committed => &[],
        }
    }

    pub(super) fn sealed_by(&self) -> Option<Attempt> {
        match self.head.kind {
            Kind::Sealed { by, .. } => Some(by),
            Kind::Announced | Kind::TookOver | Kind::Committed | Kind::Published { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use pulso_core::cut::CutHash;
    use pulso_core::ids::Epoch;

    use super::*;

    fn record() -> Record {
        let stream =
            |name: &str| Stream { name: name.to_owned(), extension: "csv".to_owned(), header: "a,b\n".to_owned() };
        let marks = Marks::from([(KeyGroupId::default(), Mark { epoch: Epoch(7), hash: CutHash(9) })]);
        let rows = vec![(stream("sink1"), b"1,2\n".to_vec()), (stream("sink2"), vec![0, 255])];
        Record::new(Kind::Sealed { by: Attempt(4), files: Vec::new() }, marks, rows)
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        assert_eq!(Record::decode(&record().encode()), Ok(record()));
        assert_eq!(record().sealed_by(), Some(Attempt(4)));
    }

    #[test]
    fn a_flipped_bit_and_a_lost_tail_are_noticed() {
        let whole = record().encode();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(Record::decode(&flipped) != Ok(record()), "byte {at}");
            assert!(Record::decode(&whole[..at]).is_err(), "cut at {at}");
        }
    }
}
