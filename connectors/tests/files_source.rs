//! A folder as a source: what is found when, what is read from where, what is moved away.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pulso_connectors::files::{FilesError, FilesReader, Folder, Item, Looked, retire};
use pulso_connectors::kafka::Flow;
use pulso_core::cut::{Cut, CutHash, SplitCut};
use pulso_core::files::{FileNumber, FilesState, FoundFile, PlacedFile, ReadFile, path_hash};
use pulso_core::ids::{Epoch, EventTime, Position, SplitId, WallTime};
use pulso_dataflow::document::FileKey;
use pulso_job::{FieldPath, FilesSourceSpec, JobSpec, PathStart, SourceSpec, Submission};
use pulso_servers::{TemporaryFolder, temporary_folder};

struct Rig {
    folder: TemporaryFolder,
    job: JobSpec,
    /// When the newest file was written, by its own account.
    written: Cell<SystemTime>,
}

impl Rig {
    fn new(source: &str) -> Self {
        let folder = temporary_folder().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        let toml = format!(
            "version = 1\nname = \"ward\"\n[source]\ntype = \"files\"\npath = \"in/*.txt\"\n{source}\n\
             [target.db]\ntype = \"postgres\"\nurl = \"postgres://localhost/x\"\n\
             [fields]\nid = {{ type = \"int64\", required = true }}\n\
             [[sink]]\nto = \"db\"\ntable = \"t\"\nwrite = \"append\"\n"
        );
        let place = folder.path().to_string_lossy().into_owned();
        let submission = Submission { toml, environment: BTreeMap::new(), folder: place, ..Submission::default() };
        let job = pulso_job::check(&submission, "job.toml").unwrap_or_else(|m| panic!("{}", m.render(false))).0;
        Self { folder, job, written: Cell::new(UNIX_EPOCH) }
    }

    fn spec(&self) -> FilesSourceSpec {
        match &self.job.source {
            SourceSpec::Files(files) => files.clone(),
            SourceSpec::Kafka(_) => panic!("files"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("in").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        // Files of one millisecond have no order that a test could expect.
        let time = SystemTime::now().max(self.written.get() + Duration::from_millis(2));
        fs::File::options().append(true).open(self.path(name)).unwrap().set_modified(time).unwrap();
        self.written.set(time);
    }
}

fn names(looked: &Looked) -> Vec<String> {
    let show = |file: &FoundFile| {
        let name = file.path.rsplit('/').next().unwrap();
        format!("{name} {}..{} {}", file.from, file.to, file.bad.as_deref().unwrap_or("-"))
    };
    looked.found.iter().map(show).collect()
}

fn place(files: &[FoundFile], number: u32) -> Vec<PlacedFile> {
    (number..)
        .zip(files)
        .map(|(number, file)| PlacedFile { split: SplitId(0), number: FileNumber(number), file: file.clone() })
        .collect()
}

fn state(placed: &[PlacedFile]) -> FilesState {
    let cut = Cut {
        epoch: Epoch(0),
        clock: WallTime(0),
        splits: BTreeMap::from([(SplitId(0), SplitCut { end: Position(0), count: 0, hash: 0, greatest: None })]),
        watermark: EventTime::MIN,
        idle: Default::default(),
        last: false,
        lookups: None,
        previous: CutHash::default(),
    };
    let mut state = FilesState::default();
    let files: Vec<FoundFile> = placed.iter().map(|placed| placed.file.clone()).collect();
    for placed in state.place(&files, &cut) {
        let queue = state.queues.entry(placed.split).or_default();
        queue.next = placed.number.next();
        queue.files.insert(placed.number, placed.file);
    }
    state
}

#[test]
fn a_document_is_found_once_it_is_one_and_bad_when_it_stays_none() {
    let rig = Rig::new("each = \"r\"\nfollow = true");
    let mut folder = Folder::new(&rig.job, &rig.spec());
    let (none, now) = (FilesState::default(), Instant::now());
    rig.write("half.txt", "{\"r\":[{\"id\":1}");
    rig.write("whole.txt", "{\"r\":[]}");
    rig.write(".hidden.txt", "{\"r\":[]}");
    let looked = folder.look(&none, now).unwrap();
    assert_eq!((names(&looked), looked.complete), (vec!["whole.txt 0..8 -".to_owned()], false));
    rig.write("half.txt", "{\"r\":[{\"id\":1}]}");
    let looked = folder.look(&none, now + Duration::from_secs(1)).unwrap();
    assert_eq!(names(&looked), ["whole.txt 0..8 -", "half.txt 0..16 -"]);
    rig.write("half.txt", "{\"r\":[{\"id\":");
    let later = now + Duration::from_secs(2);
    assert_eq!(names(&folder.look(&none, later).unwrap()), ["whole.txt 0..8 -"]);
    let looked = folder.look(&none, later + Duration::from_secs(11)).unwrap();
    assert_eq!(names(&looked), ["whole.txt 0..8 -", "half.txt 0..12 invalid_json"]);
    assert!(looked.complete);
}

#[test]
fn an_empty_document_waits_to_be_written_and_is_bad_when_it_stays_empty() {
    let rig = Rig::new("each = \"r\"\nfollow = true");
    let mut folder = Folder::new(&rig.job, &rig.spec());
    let (none, now) = (FilesState::default(), Instant::now());
    rig.write("empty.txt", "");
    for after in [0, 4, 9] {
        assert_eq!(names(&folder.look(&none, now + Duration::from_secs(after)).unwrap()), [] as [&str; 0]);
    }
    let looked = folder.look(&none, now + Duration::from_secs(11)).unwrap();
    assert_eq!(names(&looked), ["empty.txt 0..0 invalid_json"]);
}

#[test]
fn of_lines_those_are_found_that_end_and_parts_go_on_where_the_last_ended() {
    let rig = Rig::new("format = \"jsonl\"\nfollow = true");
    let mut folder = Folder::new(&rig.job, &rig.spec());
    let now = Instant::now();
    rig.write("log.txt", "{\"id\":1}\n{\"id\"");
    let first = folder.look(&FilesState::default(), now).unwrap();
    assert_eq!(names(&first), ["log.txt 0..9 -"]);
    let known = state(&place(&first.found, 0));
    assert_eq!(names(&folder.look(&known, now).unwrap()), [""; 0]);
    rig.write("log.txt", "{\"id\":1}\n{\"id\":2}\n{\"id\":3}");
    assert_eq!(names(&folder.look(&known, now).unwrap()), ["log.txt 9..18 -"]);
    let looked = folder.look(&known, now + Duration::from_secs(6)).unwrap();
    assert_eq!(names(&looked), ["log.txt 9..26 -"]);
}

#[test]
fn what_was_read_is_not_read_again_unless_it_changes() {
    let rig = Rig::new("each = \"r\"");
    let mut folder = Folder::new(&rig.job, &rig.spec());
    rig.write("a.txt", "{\"r\":[]}");
    let found = folder.look(&FilesState::default(), Instant::now()).unwrap().found;
    let path = rig.path("a.txt").to_string_lossy().into_owned();
    let read = ReadFile { size: found[0].to, modified: found[0].modified, inode: found[0].inode };
    let gone = path_hash("/not/there");
    let known = FilesState { read: BTreeMap::from([(path_hash(&path), read), (gone, read)]), ..FilesState::default() };
    let looked = folder.look(&known, Instant::now()).unwrap();
    assert_eq!((names(&looked), looked.gone, looked.complete), (vec![], vec![gone], true));
    rig.write("a.txt", "{\"r\":[7]}");
    assert_eq!(names(&folder.look(&known, Instant::now()).unwrap()), ["a.txt 0..9 -"]);
}

fn read_to_its_end(found: &FoundFile) -> FilesState {
    let read = ReadFile { size: found.to, modified: found.modified, inode: found.inode };
    FilesState { read: BTreeMap::from([(path_hash(&found.path), read)]), ..FilesState::default() }
}

#[test]
fn what_cannot_be_looked_at_is_not_taken_for_gone() {
    let rig = Rig::new("format = \"jsonl\"");
    let mut folder = Folder::new(&rig.job, &rig.spec());
    rig.write("a.txt", "1\n");
    rig.write("b.txt", "2\n");
    let found = folder.look(&FilesState::default(), Instant::now()).unwrap().found;
    let known = read_to_its_end(&found[0]);
    let gone = vec![path_hash(&found[0].path)];
    let mut look = || folder.look(&known, Instant::now()).unwrap();
    fs::remove_file(rig.path("a.txt")).unwrap();
    assert_eq!((look().gone, look().complete), (gone.clone(), true));
    // Its folder is in trouble.
    std::os::unix::fs::symlink("a.txt", rig.path("a.txt")).unwrap();
    let looked = look();
    assert_eq!((names(&looked), looked.gone, looked.complete), (vec!["b.txt 0..2 -".to_owned()], vec![], false));
    assert!(looked.trouble.is_some_and(|trouble| trouble.contains("a.txt: ")));
    fs::remove_file(rig.path("a.txt")).unwrap();
    fs::remove_file(rig.path("b.txt")).unwrap();
    // As it is where nothing is mounted.
    assert!(look().gone.is_empty());
    rig.write("c.txt", "3\n");
    assert_eq!(look().gone, gone);
}

#[test]
fn a_file_in_the_place_of_another_one_is_read_from_its_beginning() {
    let rig = Rig::new("format = \"jsonl\"\nfollow = true");
    let mut folder = Folder::new(&rig.job, &rig.spec());
    rig.write("log.txt", "1\n");
    let first = folder.look(&FilesState::default(), Instant::now()).unwrap().found;
    let (needed, read) = (state(&place(&first, 0)), read_to_its_end(&first[0]));
    let mut look = |known: &FilesState| names(&folder.look(known, Instant::now()).unwrap());
    rig.write("log.txt", "1\n2\n");
    assert_eq!((look(&needed), look(&read)), (vec!["log.txt 2..4 -".to_owned()], vec!["log.txt 2..4 -".to_owned()]));
    fs::rename(rig.path("log.txt"), rig.path("log.1")).unwrap();
    rig.write("log.txt", "3\n4\n5\n");
    // A replay may need what was there: the new one waits.
    assert_eq!(look(&needed), [""; 0]);
    assert_eq!(look(&read), ["log.txt 0..6 -"]);
    // A copy that was put back is the same file.
    rig.write("log.txt", "1\n");
    fs::File::options().append(true).open(rig.path("log.txt")).unwrap().set_modified(time_of(&first[0])).unwrap();
    assert_eq!(look(&read), [""; 0]);
}

fn time_of(file: &FoundFile) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(file.modified.unsigned_abs())
}

fn items(reader: &mut FilesReader) -> Vec<String> {
    let mut items = Vec::new();
    let mut take = |item: Item<'_>| {
        items.push(match item {
            Item::Record { position, value, .. } => {
                let number = FileNumber::of(position);
                let byte = pulso_core::files::byte_of(position);
                format!("{}/{byte} {}", number.0, String::from_utf8_lossy(value))
            }
            Item::End { position, .. } => format!("end {}", FileNumber::of(position).0),
        });
        Flow::Continue
    };
    while reader.poll(100, &mut take).unwrap() > 0 {}
    items
}

#[test]
fn files_are_read_one_after_the_other_and_from_where_a_cut_ended() {
    let rig = Rig::new("each = \"r\"");
    rig.write("a.txt", "{\"r\":[{\"id\":1}, {\"id\":2}]}");
    rig.write("b.txt", "broken");
    rig.write("c.txt", "{\"r\":[]}");
    let found = Folder::new(&rig.job, &rig.spec()).look(&FilesState::default(), Instant::now()).unwrap().found;
    assert_eq!(found.len(), 3);
    let placed = place(&found, 4);
    let open = |start| FilesReader::open(&rig.job, BTreeMap::from([(SplitId(0), start)]), placed.clone());
    let all = ["4/6 {\"id\":1}", "4/16 {\"id\":2}", "end 5", "5/0 broken", "end 6", "end 7"];
    assert_eq!(items(&mut open(Position(0))), all);
    // Behind the first record: it may come again, and is passed over by who asked.
    let after = Position(FileNumber(4).position(6).0 + 1);
    assert_eq!(items(&mut open(after)), all);
    let after = Position(FileNumber(4).position(16).0 + 1);
    assert_eq!(items(&mut open(after)), all[1..]);
    assert_eq!(items(&mut open(FileNumber(5).position(0))), all[3..]);
    fs::remove_file(rig.path("c.txt")).unwrap();
    let gone = open(FileNumber(6).position(0)).poll(9, &mut |_| Flow::Continue).unwrap_err();
    assert!(matches!(&gone, FilesError::Gone { path } if path.ends_with("c.txt")) && gone.is_fatal(), "{gone}");
}

#[test]
fn csv_goes_on_within_a_file_and_keeps_its_header() {
    let rig = Rig::new("format = \"csv\"");
    rig.write("a.txt", "id,n\n1,\"x\ny\"\n2,z\n");
    let found = Folder::new(&rig.job, &rig.spec()).look(&FilesState::default(), Instant::now()).unwrap().found;
    let open = |start| FilesReader::open(&rig.job, BTreeMap::from([(SplitId(0), start)]), place(&found, 0));
    assert_eq!(items(&mut open(Position(0))), ["0/5 1,\"x\ny\"", "0/13 2,z", "end 1"]);
    assert_eq!(items(&mut open(Position(14))), ["0/13 2,z", "end 1"]);
}

#[test]
fn files_are_moved_and_nothing_is_overwritten() {
    let rig = Rig::new("each = \"r\"\nwhen_done = { move_to = \"done\" }\nwhen_bad = { move_to = \"bad\" }");
    rig.write("a.txt", "{\"r\":[]}");
    rig.write("b.txt", "broken");
    rig.write("c.txt", "{\"r\":[]}");
    let found = Folder::new(&rig.job, &rig.spec()).look(&FilesState::default(), Instant::now()).unwrap().found;
    let placed = place(&found, 0);
    fs::create_dir(rig.folder.path().join("done")).unwrap();
    fs::write(rig.folder.path().join("done/a.txt"), "another").unwrap();
    // Something was added to it since.
    rig.write("c.txt", "{\"r\":[1,2,3]}");
    let (retired, trouble) = retire(&rig.spec(), &placed);
    let stays: Vec<bool> = retired.iter().map(|(.., stays)| *stays).collect();
    assert_eq!((stays, trouble), (vec![false, false, true], None));
    let read = |name: &str| fs::read_to_string(rig.folder.path().join(name)).unwrap();
    assert_eq!((read("done/a.txt").as_str(), read("done/a-2.txt").as_str()), ("another", "{\"r\":[]}"));
    assert_eq!((read("bad/b.txt").as_str(), read("in/c.txt").as_str()), ("broken", "{\"r\":[1,2,3]}"));
    // Again, as after a crash: what is moved is moved.
    let (again, trouble) = retire(&rig.spec(), &placed);
    assert_eq!((again.len(), trouble), (3, None));
    assert!(!rig.path("a.txt").exists());
}

#[test]
fn a_document_that_was_written_anew_stays() {
    let rig = Rig::new("each = \"r\"\nwhen_done = { move_to = \"done\" }");
    rig.write("a.txt", "{\"r\":[1]}");
    let found = Folder::new(&rig.job, &rig.spec()).look(&FilesState::default(), Instant::now()).unwrap().found;
    rig.write("a.txt", "{\"r\":[2]}");
    let (retired, trouble) = retire(&rig.spec(), &place(&found, 0));
    assert_eq!((retired, trouble), (vec![(SplitId(0), FileNumber(0), true)], None));
    // Its new contents are found.
    let looked = Folder::new(&rig.job, &rig.spec()).look(&read_to_its_end(&found[0]), Instant::now()).unwrap();
    assert_eq!(names(&looked), ["a.txt 0..9 -"]);
}

#[test]
fn a_file_is_not_lost_where_its_folder_has_another_name_too() {
    let rig = Rig::new("each = \"r\"\nwhen_done = { move_to = \"done\" }");
    rig.write("a.txt", "{\"r\":[1]}");
    let found = Folder::new(&rig.job, &rig.spec()).look(&FilesState::default(), Instant::now()).unwrap().found;
    let done = rig.folder.path().join("done");
    std::os::unix::fs::symlink("in", &done).unwrap();
    let (retired, trouble) = retire(&rig.spec(), &place(&found, 0));
    assert!(retired.is_empty() && trouble.is_some_and(|reason| reason.contains("that very folder")));
    assert!(rig.path("a.txt").exists());
    // Nor where a link to it has the name that it would get.
    fs::remove_file(&done).unwrap();
    fs::create_dir(&done).unwrap();
    std::os::unix::fs::symlink("../in/a.txt", done.join("a.txt")).unwrap();
    let (retired, trouble) = retire(&rig.spec(), &place(&found, 0));
    assert_eq!((retired.len(), trouble), (1, None));
    assert_eq!(fs::read_to_string(done.join("a-2.txt")).unwrap(), "{\"r\":[1]}");
}

#[test]
fn a_document_is_judged_alike_when_it_is_found_and_when_it_is_read() {
    let mut rig = Rig::new("each = \"r\"");
    let root = FieldPath { from: PathStart::File, keys: vec!["ward".to_owned()] };
    rig.job.fields[0].paths = vec![root];
    rig.write("good.txt", "{\"ward\":1,\"r\":[1]}");
    rig.write("large.txt", &format!("{{\"ward\":\"{}\",\"r\":[1]}}", "w".repeat(1 << 20)));
    rig.write("twice.txt", "{\"ward\":1,\"ward\":2,\"r\":[1]}");
    let looked = Folder::new(&rig.job, &rig.spec()).look(&FilesState::default(), Instant::now()).unwrap();
    let bad: Vec<Option<&str>> = looked.found.iter().map(|file| file.bad.as_deref()).collect();
    assert_eq!(bad, [None, Some("too_large"), Some("duplicate_key")]);
    let mut reader = FilesReader::open(&rig.job, BTreeMap::from([(SplitId(0), Position(0))]), place(&looked.found, 0));
    let mut keys = Vec::new();
    let mut take = |item: Item<'_>| {
        if let Item::Record { key, .. } = item {
            keys.push(FileKey::decode(key).unwrap());
        }
        Flow::Continue
    };
    while reader.poll(100, &mut take).unwrap() > 0 {}
    assert_eq!(keys.iter().map(|key| key.bad.as_deref()).collect::<Vec<_>>(), bad);
    assert_eq!(keys[0].root.as_deref(), Some("{\"ward\":1}"));
}
