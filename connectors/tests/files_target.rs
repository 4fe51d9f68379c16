//! A folder as a target: each row once, whoever takes over and whoever crashes, and zombies write nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

#[path = "files_target/tables.rs"]
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray};
use futures::FutureExt as _;
use pulso_connectors::files::FilesWriter;
use pulso_connectors::target::{Rows, TargetError};
use pulso_core::cut::CutHash;
use pulso_core::ids::{Attempt, Epoch, JobId, KeyGroup, KeyGroupId, Stage, TargetId};
use pulso_core::ledger::{GuardRow, Mark, transaction};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, SinkRows, TargetRows};
use pulso_job::{JobSpec, Submission};
use pulso_servers::{TemporaryFolder, temporary_folder};

fn job(folder: &Path, roll: &str, format: &str) -> Arc<JobSpec> {
    let toml = format!(
        "version = 1\nname = \"ward\"\n[source]\ntype = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"t\"\n\
         [target.out]\ntype = \"files\"\npath = \"{}\"\nroll = \"{roll}\"\n\
         [fields]\nid = {{ type = \"int64\", required = true }}\nname = {{ type = \"string\" }}\n\
         value = {{ type = \"decimal(6,2)\" }}\nat = {{ type = \"timestamp\", required = true }}\n\
         [time]\nfield = \"at\"\n[dedup]\nkey = [\"id\", \"at\"]\nkeep_for = \"1h\"\n\
         [[sink]]\nto = \"out\"\nformat = \"{format}\"\ncolumns = {{ id = \"id\", name = \"name\", value = \"value\" }}\n\
         [dead_letter]\nto = \"out\"\n",
        folder.display()
    );
    let submission = Submission { toml, environment: BTreeMap::new(), folder: "/".to_owned(), ..Submission::default() };
    match pulso_job::check(&submission, "job.toml") {
        Ok((job, _)) => Arc::new(job),
        Err(mistakes) => panic!("{}", mistakes.render(false)),
    }
}

struct Rig {
    folder: TemporaryFolder,
    job: Arc<JobSpec>,
}

impl Rig {
    fn new(roll: &str, format: &str) -> Self {
        let folder = temporary_folder().unwrap();
        let job = job(&folder.path().join("out"), roll, format);
        Self { folder, job }
    }

    fn writer(&self) -> FilesWriter {
        FilesWriter::new(JobId::default(), TargetId(0), &self.job).unwrap()
    }

    /// The lines of all files that readers see, sorted.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in std::fs::read_dir(self.folder.path().join("out")).into_iter().flatten().flatten() {
            if entry.path().is_file() {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                assert!(text.is_empty() || text.ends_with('\n'), "readers see whole files only");
                lines.extend(text.lines().map(str::to_owned));
            }
        }
        lines.sort();
        lines
    }

    async fn wait_for(&self, count: usize) {
        for _ in 0..500 {
            if self.lines().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} lines do not come: {:?}", self.lines());
    }
}

fn id(group: u16) -> KeyGroupId {
    KeyGroupId { stage: Stage(0), group: KeyGroup(group) }
}

fn ids(groups: &[u16]) -> BTreeSet<KeyGroupId> {
    groups.iter().map(|group| id(*group)).collect()
}

fn mark(epoch: u64) -> Mark {
    if epoch == 0 { Mark::NOTHING } else { Mark { epoch: Epoch(epoch), hash: CutHash(u128::from(epoch) * 7) } }
}

fn rows(of: &[(i64, &str, Change)]) -> TargetRows {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(of.iter().map(|(id, ..)| Some(*id)).collect::<Int64Array>())),
        ("name", Arc::new(of.iter().map(|(_, name, _)| (*name != "null").then_some(*name)).collect::<StringArray>())),
        (
            "value",
            Arc::new(
                of.iter()
                    .map(|(id, ..)| Some(i128::from(*id) * 5))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(6, 2)
                    .unwrap(),
            ),
        ),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let changes: Vec<Change> = of.iter().map(|(.., change)| *change).collect();
    let key_groups = vec![KeyGroup(0); of.len()];
    let sink = SinkRows { sink: 0, batch, changes: changes.into(), key_groups: key_groups.into() };
    TargetRows { sinks: vec![sink], ..TargetRows::default() }
}

/// Commits one row `id` for each of these key groups, from one epoch to another.
async fn commit(writer: &mut FilesWriter, groups: &[u16], from: u64, to: u64, row: i64) -> Outcome {
    let guard = groups.iter().map(|group| GuardRow { key_group: id(*group), from: mark(from), to: mark(to) }).collect();
    let steps = transaction(guard, vec![Epoch(to)]);
    writer.transact(&steps, &[(Epoch(to), rows(&[(row, "x", Change::Insert)]))]).await.unwrap()
}

fn epochs(rows: &Rows) -> Vec<Option<(u64, u64)>> {
    rows.values().map(|row| row.map(|row| (row.attempt.0, row.mark.epoch.0))).collect()
}

#[tokio::test]
async fn rows_become_visible_when_they_are_old_enough() {
    let rig = Rig::new("100ms", "jsonl");
    let mut writer = rig.writer();
    let taken = writer.take_over(Attempt(1), &ids(&[0, 1]), true).await.unwrap();
    assert_eq!(epochs(&taken), [Some((1, 0)), Some((1, 0))]);
    assert_eq!(commit(&mut writer, &[0], 0, 3, 1).await, Outcome::Committed);
    assert_eq!(rig.lines(), [""; 0]);
    assert_eq!(epochs(&writer.read_ledger(&ids(&[0, 1])).await.unwrap()), [Some((1, 3)), Some((1, 0))]);
    tokio::time::timeout(Duration::from_millis(600), writer.closed()).await.unwrap_err();
    assert_eq!(rig.lines(), [r#"{"id":1,"name":"x","value":0.05}"#]);
    assert_eq!(
        commit(&mut writer, &[0, 1], 3, 4, 2).await,
        Outcome::GuardMissed { rows: writer.read_ledger(&ids(&[0, 1])).await.unwrap() }
    );
    assert_eq!(commit(&mut writer, &[0], 3, 4, 2).await, Outcome::Committed);
    writer.finish().await.unwrap();
    assert_eq!(rig.lines().len(), 2);
    // Nothing new: no empty file.
    writer.finish().await.unwrap();
    assert_eq!(std::fs::read_dir(rig.folder.path().join("out")).unwrap().count(), 3);
}

#[tokio::test]
async fn a_takeover_learns_what_is_committed_publishes_it_and_fences_the_zombie() {
    let rig = Rig::new("1h", "jsonl");
    let (mut zombie, mut other) = (rig.writer(), rig.writer());
    zombie.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    other.take_over(Attempt(1), &ids(&[1]), true).await.unwrap();
    commit(&mut zombie, &[0], 0, 5, 1).await;
    commit(&mut other, &[1], 0, 6, 2).await;
    let mut next = rig.writer();
    let taken = next.take_over(Attempt(2), &ids(&[0, 1]), false).await.unwrap();
    assert_eq!(epochs(&taken), [Some((2, 5)), Some((2, 6))]);
    assert_eq!(rig.lines().len(), 2);
    // A guard that would match, but for the attempt. Its chain is gone, so it has to look, and finds who was faster.
    let guard = vec![GuardRow { key_group: id(0), from: mark(5), to: mark(7) }];
    let steps = transaction(guard, vec![Epoch(7)]);
    let done = zombie.transact(&steps, &[(Epoch(7), rows(&[(666, "z", Change::Insert)]))]).await;
    assert!(matches!(done, Err(TargetError::ConnectionLost { .. })), "{done:?}");
    let found = zombie.register(Attempt(1), &ids(&[0])).await.unwrap();
    assert!(found[&id(0)].unwrap().attempt > Attempt(1), "{found:?}");
    assert_eq!(
        commit(&mut next, &[0, 1], 5, 7, 3).await,
        Outcome::GuardMissed { rows: next.read_ledger(&ids(&[0, 1])).await.unwrap() }
    );
    assert_eq!(commit(&mut next, &[0], 5, 7, 3).await, Outcome::Committed);
    // Older attempts find that they are too late.
    let late = rig.writer().take_over(Attempt(1), &ids(&[0]), false).await.unwrap();
    assert!(late[&id(0)].unwrap().attempt > Attempt(1), "{late:?}");
    next.finish().await.unwrap();
    assert_eq!(rig.lines().len(), 3);
    drop((zombie, other));
}

#[tokio::test]
async fn a_lost_connection_is_settled_by_what_is_there() {
    let rig = Rig::new("1h", "jsonl");
    let mut writer = rig.writer();
    writer.take_over(Attempt(3), &ids(&[0, 1]), true).await.unwrap();
    let first = writer.connection();
    commit(&mut writer, &[0], 0, 2, 1).await;
    assert_eq!(epochs(&writer.register(Attempt(3), &ids(&[0, 1])).await.unwrap()), [Some((3, 2)), Some((3, 0))]);
    assert!(writer.connection() > first);
    assert_eq!(
        commit(&mut writer, &[0, 1], 2, 4, 2).await,
        Outcome::GuardMissed { rows: writer.read_ledger(&ids(&[0, 1])).await.unwrap() }
    );
    // A transaction that is given up in the middle: its outcome is one or the other, never both.
    let guard = vec![GuardRow { key_group: id(0), from: mark(2), to: mark(4) }];
    let (steps, outputs) = (transaction(guard, vec![Epoch(4)]), [(Epoch(4), rows(&[(7, "y", Change::Insert)]))]);
    assert!(writer.transact(&steps, &outputs).now_or_never().is_none(), "given up before it is done");
    assert!(writer.read_ledger(&ids(&[0])).await.is_err(), "the connection is in no known state");
    let epoch = writer.register(Attempt(3), &ids(&[0, 1])).await.unwrap()[&id(0)].unwrap().mark.epoch;
    if epoch == Epoch(2) {
        assert_eq!(commit(&mut writer, &[0], 2, 4, 7).await, Outcome::Committed);
    }
    writer.finish().await.unwrap();
    assert_eq!(rig.lines().len(), 2, "{:?}", rig.lines());
}

#[tokio::test]
async fn a_folder_that_is_gone_reads_as_a_ledger_that_went_back() {
    let rig = Rig::new("1h", "jsonl");
    let mut writer = rig.writer();
    writer.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    commit(&mut writer, &[0], 0, 2, 1).await;
    std::fs::remove_dir_all(rig.folder.path().join("out/_pulso")).unwrap();
    assert!(writer.read_ledger(&ids(&[0])).await.is_err());
    assert_eq!(epochs(&writer.register(Attempt(1), &ids(&[0])).await.unwrap()), [None]);
    assert_eq!(epochs(&rig.writer().take_over(Attempt(2), &ids(&[0]), false).await.unwrap()), [None]);
}

/// The folders of the writers that have not gone.
fn chains(rig: &Rig) -> Vec<PathBuf> {
    let ledger = rig.folder.path().join("out/_pulso").join(JobId::default().to_string());
    std::fs::read_dir(ledger).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn rows_that_were_decided_and_not_published_are_published_by_who_claims_next() {
    let rig = Rig::new("1h", "jsonl");
    let mut writer = rig.writer();
    writer.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    commit(&mut writer, &[0], 0, 1, 1).await;
    // Something lies where the file is to be.
    let chain = chains(&rig).pop().unwrap();
    let part = chain.file_name().unwrap().to_string_lossy()[11..19].to_owned();
    let obstacle = rig.folder.path().join(format!("out/ward-sink1-1-{part}-00000002.jsonl"));
    std::fs::create_dir(&obstacle).unwrap();
    let failed = writer.finish().await;
    assert!(matches!(failed, Err(TargetError::ConnectionLost { .. })), "{failed:?}");
    let failed = writer.register(Attempt(1), &ids(&[0])).await;
    assert!(matches!(failed, Err(TargetError::Retry { .. })), "{failed:?}");
    std::fs::remove_dir(&obstacle).unwrap();
    assert_eq!(epochs(&writer.register(Attempt(1), &ids(&[0])).await.unwrap()), [Some((1, 1))]);
    assert_eq!(rig.lines(), [r#"{"id":1,"name":"x","value":0.05}"#]);
    assert_eq!(commit(&mut writer, &[0], 1, 2, 2).await, Outcome::Committed);
    writer.finish().await.unwrap();
    assert_eq!(rig.lines().len(), 2);
}

#[tokio::test]
async fn csv_has_a_header_in_every_file_and_marks_what_changed() {
    let rig = Rig::new("1h", "csv");
    let mut writer = rig.writer();
    writer.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    let guard = vec![GuardRow { key_group: id(0), from: mark(0), to: mark(1) }];
    let rows = rows(&[(1, "a,\"b\"", Change::Insert), (2, "null", Change::Correction), (3, "", Change::Delete)]);
    writer.transact(&transaction(guard, vec![Epoch(1)]), &[(Epoch(1), rows)]).await.unwrap();
    drop(writer);
    rig.wait_for(4).await;
    let mut expected =
        ["id,name,value,pulso_change", "1,\"a,\"\"b\"\"\",0.05,", "2,,0.10,correction", "3,\"\",0.15,delete"];
    expected.sort_unstable();
    assert_eq!(rig.lines(), expected);
}

#[tokio::test]
async fn a_formula_stays_the_text_that_it_is() {
    let rig = Rig::new("1h", "csv");
    let mut writer = rig.writer();
    writer.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    let guard = vec![GuardRow { key_group: id(0), from: mark(0), to: mark(1) }];
    let rows = rows(&[(1, "=1+1", Change::Insert), (2, "@SUM(A1,B1)", Change::Insert)]);
    writer.transact(&transaction(guard, vec![Epoch(1)]), &[(Epoch(1), rows)]).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(rig.lines()[..2], ["1,=1+1,0.05,", "2,\"@SUM(A1,B1)\",0.10,"]);
}

/// Writers come, crash, are taken over, and try to go on all the same: what readers see is what was committed, once.
#[tokio::test]
async fn every_committed_row_is_seen_once_through_crashes() {
    for seed in 0..12_u64 {
        let rig = Rig::new("1h", "jsonl");
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let groups: [&[u16]; 2] = [&[0, 1], &[2]];
        let (mut committed, mut row, mut attempt) = (Vec::new(), 0, 1);
        let mut writers = [rig.writer(), rig.writer()];
        let mut zombies: Vec<(FilesWriter, usize, u64)> = Vec::new();
        for (writer, groups) in writers.iter_mut().zip(groups) {
            writer.take_over(Attempt(attempt), &ids(groups), true).await.unwrap();
        }
        let mut marks = [0_u64, 0];
        for epoch in 1..25 {
            let which = random(2) as usize;
            row += 1;
            if commit(&mut writers[which], groups[which], marks[which], epoch, row).await == Outcome::Committed {
                (marks[which], _) = (epoch, committed.push(row));
            }
            match random(6) {
                0 => writers[which].finish().await.unwrap(),
                1 => {
                    let read = writers[which].register(Attempt(attempt), &ids(groups[which])).await.unwrap();
                    assert_eq!(read[&id(groups[which][0])].unwrap().mark.epoch, Epoch(marks[which]), "seed {seed}");
                }
                2 => {
                    attempt += 1;
                    for which in 0..2 {
                        let old = std::mem::replace(&mut writers[which], rig.writer());
                        zombies.push((old, which, marks[which]));
                        let read =
                            writers[which].take_over(Attempt(attempt), &ids(groups[which]), false).await.unwrap();
                        assert_eq!(read[&id(groups[which][0])].unwrap().mark.epoch, Epoch(marks[which]), "seed {seed}");
                    }
                }
                _ => {}
            }
            if let Some((zombie, which, from)) = zombies.last_mut() {
                row += 1;
                let (guard, to) = (groups[*which], epoch + 1_000);
                let guard = guard.iter().map(|g| GuardRow { key_group: id(*g), from: mark(*from), to: mark(to) });
                let steps = transaction(guard.collect(), vec![Epoch(to)]);
                let done = zombie.transact(&steps, &[(Epoch(to), rows(&[(row, "z", Change::Insert)]))]).await;
                assert!(!matches!(done, Ok(Outcome::Committed)), "seed {seed}: a zombie commits");
            }
        }
        // They are as good as killed: nothing of theirs runs on.
        zombies.into_iter().for_each(|(zombie, ..)| std::mem::forget(zombie));
        writers.into_iter().for_each(std::mem::forget);
        let all = ids(&[0, 1, 2]);
        let mut last = rig.writer();
        last.take_over(Attempt(attempt + 1), &all, false).await.unwrap();
        let mut expected: Vec<String> = committed
            .iter()
            .map(|row| format!(r#"{{"id":{row},"name":"x","value":{}.{:02}}}"#, row * 5 / 100, row * 5 % 100))
            .collect();
        expected.sort();
        assert_eq!(rig.lines(), expected, "seed {seed}");
        let chains = std::fs::read_dir(rig.folder.path().join("out/_pulso").join(JobId::default().to_string()));
        assert_eq!(chains.unwrap().count(), 1, "seed {seed}: old chains are taken away");
    }
}
