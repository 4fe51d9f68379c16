//! Files as input: what was found, where each file is read, and which of them a replay may still need.
//!
//! A job of files has a fixed number of splits. Each reads its files one after the other; a position is the number of a
//! file in its split and a byte of it. So a thousand new files change neither plan nor cut: docs/adr/0007.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::cut::Cut;
use crate::ids::{Position, SplitId};

/// Splits of a job that reads files: so many are read at a time.
pub const SPLITS: u32 = 8;
/// Found and not yet read to their ends; more wait in their folder.
pub const MOST_UNREAD: usize = 1_000;
/// Found and still needed by a replay, read or not.
pub const MOST_KNOWN: usize = 20_000;
/// Of a position: the byte in the file. 64 GiB, and 134 million files in each split.
const BYTE_BITS: u32 = 36;
/// Longest file.
pub const MAX_FILE_BYTES: u64 = (1 << BYTE_BITS) - 1;

/// Number of a file in its split, in the order of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct FileNumber(pub u32);

impl FileNumber {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Of the record that begins at this byte; the first position of a number is that of byte 0.
    #[must_use]
    pub fn position(self, byte: u64) -> Position {
        Position(i64::try_from((u64::from(self.0) << BYTE_BITS) | (byte & MAX_FILE_BYTES)).unwrap_or(i64::MAX))
    }

    #[must_use]
    pub fn of(position: Position) -> Self {
        Self(u32::try_from(position.0.max(0) >> BYTE_BITS).unwrap_or(u32::MAX))
    }
}

/// The byte that a position names in its file.
#[must_use]
pub fn byte_of(position: Position) -> u64 {
    position.0.max(0).unsigned_abs() & MAX_FILE_BYTES
}

/// A file, or what was added to one, that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundFile {
    pub path: String,
    /// Its bytes from here on were not read before.
    pub from: u64,
    pub to: u64,
    /// Microseconds since 1970 UTC; what the file's records have as their own time.
    pub modified: i64,
    /// With `modified` and the size tells whether it is still the same file.
    pub inode: u64,
    /// It is none of its format as a whole: the reason.
    pub bad: Option<String>,
}

impl FoundFile {
    /// What its records have as their own time.
    #[must_use]
    pub fn modified_ms(&self) -> i64 {
        self.modified.div_euclid(1_000)
    }
}

/// A found file and where it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFile {
    pub split: SplitId,
    pub number: FileNumber,
    pub file: FoundFile,
}

/// A file that was read, that nothing needs any more, and that is still in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFile {
    pub size: u64,
    pub modified: i64,
    pub inode: u64,
}

/// The files of one split.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileQueue {
    /// Of the next file that is found.
    pub next: FileNumber,
    /// Those that are not read yet, or that a replay may need.
    pub files: BTreeMap<FileNumber, FoundFile>,
}

/// What is durable of a job's files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FilesState {
    pub queues: BTreeMap<SplitId, FileQueue>,
    /// By the hash of their path: else they would be read again. As many as the folder holds.
    pub read: BTreeMap<u64, ReadFile>,
    /// No more files will be found: the input ends with those that are known.
    pub complete: bool,
}

/// The key of [`FilesState::read`].
#[must_use]
pub fn path_hash(path: &str) -> u64 {
    xxh3_64(path.as_bytes())
}

impl FilesState {
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.complete || !self.queues.is_empty()
    }

    /// Every path whose file a replay may need as it is: its split and its newest part.
    #[must_use]
    pub fn needed(&self) -> BTreeMap<&str, (SplitId, &FoundFile)> {
        let mut needed: BTreeMap<&str, (SplitId, &FoundFile)> = BTreeMap::new();
        for (split, queue) in &self.queues {
            for file in queue.files.values() {
                let newest = needed.entry(&file.path).or_insert((*split, file));
                if file.to > newest.1.to {
                    *newest = (*split, file);
                }
            }
        }
        needed
    }

    fn known(&self) -> usize {
        self.queues.values().map(|queue| queue.files.len()).sum()
    }

    /// No file is taken in before others leave.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.known() >= MOST_KNOWN
    }

    /// Gives found files their places, as many as there is room for. A path goes on where its last part is, and a file
    /// where those of its millisecond are: of two records of one key the one in the file modified later counts, and the
    /// clocks of file systems are coarse, so the order in which they were found has to decide, which is by path. Any other
    /// file goes to the split that has the fewest bytes before it. What is no new part of its path is passed over.
    #[must_use]
    pub fn place(&self, found: &[FoundFile], newest: &Cut) -> Vec<PlacedFile> {
        let end = |split: SplitId| newest.splits.get(&split).map_or(Position(0), |cut| cut.end);
        let splits = || newest.splits.keys().copied();
        let mut unread: BTreeMap<SplitId, (usize, u64)> = splits().map(|s| (s, self.unread(s, end(s)))).collect();
        let next = |split: SplitId| self.queues.get(&split).map(|queue| queue.next).unwrap_or_default();
        let mut next: BTreeMap<SplitId, FileNumber> = splits().map(|split| (split, next(split))).collect();
        let needed = self.needed();
        let mut parts: BTreeMap<&str, (SplitId, u64)> = BTreeMap::new();
        let queued = self.queues.iter().flat_map(|(split, queue)| queue.files.values().map(|file| (*split, file)));
        let mut times: BTreeMap<i64, SplitId> = queued.map(|(split, file)| (file.modified_ms(), split)).collect();
        let known = self.known();
        let mut placed = Vec::new();
        for file in found {
            let waiting: usize = unread.values().map(|(files, _)| files).sum();
            if waiting >= MOST_UNREAD || known + placed.len() >= MOST_KNOWN {
                break;
            }
            let of_needed = || needed.get(file.path.as_str()).map(|(split, file)| (*split, file.to));
            let before = parts.get(file.path.as_str()).copied().or_else(of_needed);
            if !self.continues(file, before.map(|(_, to)| to)) {
                continue;
            }
            let least = || unread.iter().min_by_key(|(split, (_, bytes))| (*bytes, **split)).map(|(split, _)| *split);
            let same_time = || times.get(&file.modified_ms()).copied();
            let split = before.map(|(split, _)| split).or_else(same_time).or_else(least);
            let Some((split, number)) = split.and_then(|split| Some((split, next.get_mut(&split)?))) else { break };
            if let Some((files, bytes)) = unread.get_mut(&split) {
                (*files, *bytes) = (*files + 1, *bytes + (file.to - file.from).max(1));
            }
            placed.push(PlacedFile { split, number: *number, file: file.clone() });
            *number = number.next();
            parts.insert(&file.path, (split, file.to));
            times.insert(file.modified_ms(), split);
        }
        placed
    }

    /// True where this is the next part of its path, of which `to` bytes are needed already.
    fn continues(&self, file: &FoundFile, to: Option<u64>) -> bool {
        match (to, self.read.get(&path_hash(&file.path))) {
            (Some(to), _) => file.from == to && file.to > to,
            (None, None) => file.from == 0,
            (None, Some(read)) => file.from == 0 || (file.from == read.size && file.to > read.size),
        }
    }

    /// Files and bytes behind a position.
    fn unread(&self, split: SplitId, end: Position) -> (usize, u64) {
        let files = self.queues.get(&split).into_iter().flat_map(|queue| &queue.files);
        let left =
            files.filter(|(number, _)| number.next().position(0) > end).map(|(_, file)| (file.to - file.from).max(1));
        left.fold((0, 0), |(files, bytes), left| (files + 1, bytes + left))
    }

    /// `gone`: hashes of paths that need not be remembered any more.
    pub(crate) fn found(&mut self, files: &[PlacedFile], gone: &[u64], complete: bool) {
        files.iter().for_each(|placed| self.add(placed));
        for hash in gone {
            self.read.remove(hash);
        }
        self.complete |= complete;
    }

    pub(crate) fn add(&mut self, placed: &PlacedFile) {
        let queue = self.queues.entry(placed.split).or_default();
        queue.next = queue.next.max(placed.number.next());
        queue.files.insert(placed.number, placed.file.clone());
    }

    /// Everything that was found for this split lies before `end`.
    #[must_use]
    pub fn is_drained(&self, split: SplitId, end: Position) -> bool {
        self.is_used() && self.queues.get(&split).is_none_or(|queue| queue.next.position(0) <= end)
    }

    /// The input is at its end.
    #[must_use]
    pub fn has_ended(&self, cut: &Cut) -> bool {
        self.complete && cut.splits.iter().all(|(split, part)| self.is_drained(*split, part.end))
    }

    /// Files that end before `oldest`, the cut of the oldest checkpoint that anybody may go back to.
    #[must_use]
    pub fn unneeded(&self, oldest: &Cut) -> Vec<PlacedFile> {
        let end = |split: &SplitId| oldest.splits.get(split).map_or(Position(0), |part| part.end);
        let of_queue = |(split, queue): (&SplitId, &FileQueue)| -> Vec<PlacedFile> {
            let before = queue.files.iter().take_while(|(number, _)| number.next().position(0) <= end(split));
            before.map(|(number, file)| PlacedFile { split: *split, number: *number, file: file.clone() }).collect()
        };
        self.queues.iter().flat_map(of_queue).collect()
    }

    /// Files that are read up to `newest` and have to wait for `oldest`.
    #[must_use]
    pub fn wait_for(&self, oldest: &Cut, newest: &Cut) -> bool {
        let end = |cut: &Cut, split: &SplitId| cut.splits.get(split).map_or(Position(0), |part| part.end);
        self.queues.iter().any(|(split, queue)| {
            let next = queue.files.range(FileNumber::of(end(oldest, split))..).next();
            next.is_some_and(|(number, _)| number.next().position(0) <= end(newest, split))
        })
    }

    /// A file leaves the queue: it was moved away, or stays where it is.
    pub(crate) fn retire(&mut self, split: SplitId, number: FileNumber, stays: bool) {
        let Some(file) = self.queues.get_mut(&split).and_then(|queue| queue.files.remove(&number)) else { return };
        let hash = path_hash(&file.path);
        if stays {
            self.read.insert(hash, ReadFile { size: file.to, modified: file.modified, inode: file.inode });
        } else {
            self.read.remove(&hash);
        }
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
