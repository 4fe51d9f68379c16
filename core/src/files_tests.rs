use std::collections::BTreeSet;

use super::*;
use crate::cut::{CutHash, SplitCut};
use crate::ids::{Epoch, EventTime, WallTime};

fn cut(ends: &[i64]) -> Cut {
    let part = |end: &i64| SplitCut { end: Position(*end), count: 0, hash: 0, greatest: None };
    Cut {
        epoch: Epoch(1),
        clock: WallTime(0),
        splits: (0..).map(SplitId).zip(ends.iter().map(part)).collect(),
        watermark: EventTime::MIN,
        idle: BTreeSet::new(),
        last: false,
        previous: CutHash::default(),
    }
}

/// Each path has a millisecond of its own.
fn file(path: &str, from: u64, to: u64) -> FoundFile {
    let modified = path.bytes().fold(0, |sum, byte| sum * 256 + i64::from(byte)) * 1_000;
    FoundFile { path: path.to_owned(), from, to, modified, inode: 1, bad: None }
}

fn with(placed: &[PlacedFile]) -> FilesState {
    let mut state = FilesState::default();
    placed.iter().for_each(|placed| state.add(placed));
    state
}

#[test]
fn a_position_is_a_file_and_a_byte() {
    for (number, byte) in [(0, 0), (0, MAX_FILE_BYTES), (1, 0), (u32::MAX >> 5, 17)] {
        let position = FileNumber(number).position(byte);
        assert_eq!((FileNumber::of(position), byte_of(position)), (FileNumber(number), byte));
    }
    assert!(FileNumber(0).position(MAX_FILE_BYTES) < FileNumber(1).position(0));
}

#[test]
fn files_go_where_the_fewest_bytes_wait_and_parts_of_one_file_stay_together() {
    let found = [file("a", 0, 100), file("b", 0, 10), file("c", 0, 10), file("d", 0, 10)];
    let placed = FilesState::default().place(&found, &cut(&[0, 0]));
    let places: Vec<(u32, u32)> = placed.iter().map(|p| (p.split.0, p.number.0)).collect();
    assert_eq!(places, [(0, 0), (1, 0), (1, 1), (1, 2)]);
    let state = with(&placed);
    let more = state.place(&[file("a", 100, 120), file("b", 5, 20), file("c", 0, 10)], &cut(&[0, 0]));
    assert_eq!(more.len(), 1, "{more:?}");
    assert_eq!((more[0].split, more[0].number), (SplitId(0), FileNumber(1)));
    // What is read does not count.
    let read = FileNumber(1).position(0).0;
    let next = state.place(&[file("e", 0, 1)], &cut(&[read, 0]));
    assert_eq!(next[0].split, SplitId(0));
}

#[test]
fn files_of_one_millisecond_are_read_in_the_order_in_which_they_were_found() {
    let at = |path: &str, modified| FoundFile { modified, ..file(path, 0, 10) };
    let found = [at("a", 5_000), at("b", 5_999), at("c", 6_000), at("d", 6_000), at("e", 5_100)];
    let placed = FilesState::default().place(&found, &cut(&[0, 0]));
    let places: Vec<(u32, u32)> = placed.iter().map(|p| (p.split.0, p.number.0)).collect();
    assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)]);
    let later = with(&placed).place(&[at("f", 6_400)], &cut(&[0, FileNumber(2).position(0).0]));
    assert_eq!((later[0].split, later[0].number), (SplitId(1), FileNumber(2)));
}

#[test]
fn a_split_is_drained_behind_its_last_file() {
    let state = with(&FilesState::default().place(&[file("a", 0, 9), file("b", 0, 9)], &cut(&[0, 0, 0])));
    assert!(!state.is_drained(SplitId(0), FileNumber(0).position(9)));
    assert!(state.is_drained(SplitId(0), FileNumber(1).position(0)));
    assert!(state.is_drained(SplitId(2), Position(0)), "nothing was found for it");
    assert!(!FilesState::default().is_drained(SplitId(0), Position(0)), "no job of files");
    let ends = [FileNumber(1).position(0).0, FileNumber(1).position(0).0, 0];
    assert!(!state.has_ended(&cut(&ends)));
    let complete = FilesState { complete: true, ..state };
    assert!(complete.has_ended(&cut(&ends)) && !complete.has_ended(&cut(&[ends[0], 5, 0])));
}

#[test]
fn files_retire_once_the_oldest_checkpoint_is_behind_them() {
    let found = [file("a", 0, 9), file("b", 0, 9), file("a", 9, 12)];
    let mut state = with(&FilesState::default().place(&found, &cut(&[0])));
    assert_eq!(state.unneeded(&cut(&[FileNumber(0).position(9).0])), []);
    let two = state.unneeded(&cut(&[FileNumber(2).position(0).0]));
    assert_eq!(two.iter().map(|p| p.file.path.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    state.retire(SplitId(0), FileNumber(0), true);
    state.retire(SplitId(0), FileNumber(1), true);
    assert_eq!(state.needed()["a"].1.to, 12);
    assert_eq!(state.read[&path_hash("b")], ReadFile { size: 9, modified: file("b", 0, 9).modified, inode: 1 });
    state.retire(SplitId(0), FileNumber(2), false);
    assert!(state.needed().is_empty() && !state.read.contains_key(&path_hash("a")));
    // Numbers go on, and a file that comes again is another one.
    let again = state.place(&[file("a", 0, 9)], &cut(&[0]));
    assert_eq!(again[0].number, FileNumber(3));
}

#[test]
fn only_so_many_files_are_taken_in_at_a_time() {
    let found: Vec<FoundFile> = (0..2_000).map(|i| file(&format!("{i}"), 0, 1)).collect();
    assert_eq!(FilesState::default().place(&found, &cut(&[0, 0])).len(), MOST_UNREAD);
}
