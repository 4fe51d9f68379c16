//! Reads the splits of one source task, on the task's own thread: in each split one file after the other.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use pulso_core::files::{FileNumber, FoundFile, PlacedFile};
use pulso_core::ids::{Position, SplitId};
use pulso_job::spec::{JobSpec, SourceFormat, SourceSpec};

use super::error::FilesError;
use super::opened::OpenFile;
use crate::kafka::Flow;

/// Files of a split that can still be named after they were read.
const REMEMBERED: usize = 1_000;

/// What comes next in a split.
#[derive(Debug, Clone, Copy)]
pub enum Item<'a> {
    Record {
        split: SplitId,
        position: Position,
        /// When its file was modified last.
        timestamp_ms: i64,
        key: &'a [u8],
        value: &'a [u8],
    },
    /// A file is read: nothing lies before this position any more.
    End { split: SplitId, position: Position },
}

/// The files of some splits.
#[derive(Debug)]
pub struct FilesReader {
    format: SourceFormat,
    root: Vec<Vec<String>>,
    lanes: BTreeMap<SplitId, Lane>,
    /// Which split had its turn last.
    last: SplitId,
}

#[derive(Debug)]
struct Lane {
    files: BTreeMap<FileNumber, FoundFile>,
    /// What lies before was handed out, or read in an earlier attempt.
    next: Position,
    open: Option<OpenFile>,
    paused: bool,
}

impl FilesReader {
    /// `starts`: the splits to read, and the first record of each.
    #[must_use]
    pub fn open(job: &JobSpec, starts: BTreeMap<SplitId, Position>, files: Vec<PlacedFile>) -> Self {
        let format = match &job.source {
            SourceSpec::Files(files) => files.format.clone(),
            SourceSpec::Kafka(_) => SourceFormat::Jsonl,
        };
        let lane = |next| Lane { files: BTreeMap::new(), next, open: None, paused: false };
        let lanes = starts.into_iter().map(|(split, next)| (split, lane(next))).collect();
        let root = job.file_paths().into_iter().map(<[String]>::to_vec).collect();
        let mut reader = Self { format, root, lanes, last: SplitId(0) };
        reader.add(files);
        reader
    }

    /// More files; those of other splits are passed over.
    pub fn add(&mut self, files: Vec<PlacedFile>) {
        for PlacedFile { split, number, file } in files {
            if let Some(lane) = self.lanes.get_mut(&split).filter(|lane| number >= FileNumber::of(lane.next)) {
                lane.files.insert(number, file);
            }
        }
    }

    /// Hands out what is there, at most about `most` items.
    ///
    /// # Errors
    /// [`FilesError`]
    pub fn poll(&mut self, most: usize, take: &mut impl FnMut(Item<'_>) -> Flow) -> Result<usize, FilesError> {
        let root: Vec<&[String]> = self.root.iter().map(Vec::as_slice).collect();
        let later = self.lanes.range((Bound::Excluded(self.last), Bound::Unbounded)).map(|(split, _)| *split);
        let turns: Vec<SplitId> = later.chain(self.lanes.range(..=self.last).map(|(split, _)| *split)).collect();
        let mut taken = 0;
        // Every split in turn, so that a long file holds up no other.
        let share = (most / turns.len().max(1)).max(1);
        for split in turns {
            let Some(lane) = self.lanes.get_mut(&split).filter(|lane| !lane.paused) else { continue };
            let (items, flow) = lane.hand_out(split, share, &self.format, &root, take)?;
            taken += items;
            self.last = split;
            if flow == Flow::Stop {
                break;
            }
        }
        Ok(taken)
    }

    pub fn pause(&mut self, split: SplitId) {
        self.set_paused(split, true);
    }

    pub fn resume(&mut self, split: SplitId) {
        self.set_paused(split, false);
    }

    fn set_paused(&mut self, split: SplitId, paused: bool) {
        if let Some(lane) = self.lanes.get_mut(&split) {
            lane.paused = paused;
        }
    }

    /// Files that may be why a split does not replay as it was read: those that changed since they were found, or else
    /// those that were read last.
    #[must_use]
    pub fn suspects(&self, split: SplitId) -> String {
        let Some(lane) = self.lanes.get(&split) else { return String::new() };
        let read = || lane.files.range(..=FileNumber::of(lane.next)).map(|(_, file)| file);
        let changed: Vec<&str> = read().filter(|file| is_changed(file)).map(|file| file.path.as_str()).collect();
        let last = || read().rev().take(1).map(|file| file.path.as_str()).collect::<Vec<_>>();
        let named = if changed.is_empty() { last() } else { changed };
        named.into_iter().take(3).collect::<Vec<_>>().join(", ")
    }
}

impl Lane {
    fn hand_out(
        &mut self,
        split: SplitId,
        most: usize,
        format: &SourceFormat,
        root: &[&[String]],
        take: &mut impl FnMut(Item<'_>) -> Flow,
    ) -> Result<(usize, Flow), FilesError> {
        let mut taken = 0;
        while taken < most {
            // Files before it stay known: they may have to be named.
            let Some((number, file)) = self.files.range(FileNumber::of(self.next)..).next() else { break };
            let number = *number;
            let open = match &mut self.open {
                Some(open) if open.number == number => open,
                other => other.insert(OpenFile::open(number, file, format, root, self.next)?),
            };
            let (timestamp_ms, path) = (open.timestamp_ms, Path::new(&file.path));
            let key = Arc::clone(&open.key);
            let (flow, next) = match open.next().map_err(|error| FilesError::of(path, &error))? {
                Some((position, value)) => {
                    let record = Item::Record { split, position, timestamp_ms, key: &key, value };
                    (take(record), Position(position.0 + 1))
                }
                None => {
                    let position = number.next().position(0);
                    self.open = None;
                    while self.files.len() > REMEMBERED
                        && self.files.first_key_value().is_some_and(|(n, _)| *n < number)
                    {
                        self.files.pop_first();
                    }
                    (take(Item::End { split, position }), position)
                }
            };
            self.next = self.next.max(next);
            taken += 1;
            if flow == Flow::Stop {
                return Ok((taken, flow));
            }
        }
        Ok((taken, Flow::Continue))
    }
}

fn is_changed(file: &FoundFile) -> bool {
    match super::look::identity(Path::new(&file.path)) {
        Ok(now) => now.inode != file.inode || now.modified != file.modified,
        Err(_) => true,
    }
}
