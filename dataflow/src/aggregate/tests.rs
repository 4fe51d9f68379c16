//! Whole epochs through both stages, against an oracle that keeps the records of every window in a map.

mod golden;
mod oracle;
mod results;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use pulso_core::ids::{Epoch, EventTime, KeyGroup, Position, SplitId, Stage, WallTime};
use pulso_job::JobSpec;

use self::oracle::{Expected, Oracle};
use crate::batch::{Change, Payload};
use crate::decode::{Decoder, RawRecord};
use crate::error::Result;
use crate::keyed::{KeyedStage, Processed};
use crate::state::{DiskState, Horizon, KeyGroupState, States, is_expired};
use crate::testing::job;

const MINUTE: i64 = 60_000_000;
const LATENESS: i64 = 2 * MINUTE;
const GAP: i64 = 3 * MINUTE;
/// Sink n shows aggregate n; the last one what was late.
const JOB: &str = r#"
[fields]
g = { type = "string", required = true }
id = { type = "string", required = true }
at = { type = "timestamp", epoch = "us", required = true }
v = { type = "float64" }
[time]
field = "at"
lateness = "2m"
[dedup]
key = ["g", "id", "at"]
route_by = ["id"]
keep_for = "24h"
CHANGED
[[aggregate]]
name = "shared"
group_by = ["id"]
window = { size = "10m" }
COLUMNS
[[aggregate]]
name = "sliding"
group_by = ["g"]
window = { size = "10m", slide = "4m" }
where = "v is null or v > 0"
COLUMNS
[[aggregate]]
name = "closing"
group_by = ["g", "id"]
window = { size = "5m" }
emit = "close"
COLUMNS
[[aggregate]]
name = "sessions"
group_by = ["g"]
window = { gap = "3m" }
where = "v is null or v > 0"
COLUMNS
[[aggregate]]
name = "closing_sessions"
group_by = ["id"]
window = { gap = "3m" }
emit = "close"
COLUMNS
[[sink]]
to = "db"
from = "shared"
table = "shared"
key = ["id", "window_start"]
[[sink]]
to = "db"
from = "sliding"
table = "sliding"
key = ["g", "window_start"]
[[sink]]
to = "db"
from = "closing"
table = "closing"
key = ["g", "id", "window_start"]
[[sink]]
to = "db"
from = "sessions"
table = "sessions"
key = ["g", "window_start"]
[[sink]]
to = "db"
from = "closing_sessions"
table = "closing_sessions"
write = "append"
[[sink]]
to = "db"
from = "late"
table = "late"
write = "append"
"#;
const COLUMNS: &str = "[aggregate.columns]\nrows = \"count(*)\"\ntotal = \"sum(v)\"\nmost = \"max(v)\"\n\
                       spread = \"max(v) - min(v)\"\nmean = \"avg(v)\"\n\
                       ids = \"count(distinct id)\"\nfirst = \"first_value(id)\"\n";

pub(super) fn spec(changed: &str) -> Arc<JobSpec> {
    let source = if changed == "drop" { "" } else { "tombstone = { key = [\"g\", \"id\", \"at\"] }" };
    let changed = format!("changed = \"{changed}\"");
    job(source, &JOB.replace("CHANGED", &changed).replace("COLUMNS", COLUMNS))
}

/// A record, or a delete.
#[derive(Debug, Clone)]
struct Event {
    g: u8,
    id: u8,
    minute: i64,
    /// In tenths; `None` is null.
    value: Option<i32>,
    delete: bool,
}

impl Event {
    fn key(&self) -> (u8, u8, i64) {
        (self.g, self.id, self.minute * MINUTE)
    }

    fn value(&self) -> Option<f64> {
        self.value.map(|tenths| f64::from(tenths) / 10.0)
    }
}

#[derive(Debug, Clone)]
struct Step {
    events: Vec<Event>,
    /// Minutes by which the watermark moves before the epoch.
    moves: i64,
    /// Epochs that are taken back and processed again before this one.
    back: usize,
    settle: bool,
}

fn step(deletes: bool) -> impl Strategy<Value = Step> {
    let event = (0u8..2, 0u8..3, 0i64..40, prop::option::weighted(0.9, -20i32..60), prop::bool::weighted(0.15))
        .prop_map(move |(g, id, minute, value, delete)| Event { g, id, minute, value, delete: delete && deletes });
    (prop::collection::vec(event, 0..12), 0i64..5, prop_oneof![5 => Just(0usize), 1 => 1usize..4], any::<bool>())
        .prop_map(|(events, moves, back, settle)| Step { events, moves, back, settle })
}

#[derive(Default)]
struct Disk(BTreeMap<Vec<u8>, Vec<u8>>);

impl DiskState for Disk {
    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        Ok(keys.iter().map(|key| self.0.get(*key).cloned()).collect())
    }
}

/// All key groups of one stage.
pub(super) struct Host {
    stage: Arc<KeyedStage>,
    groups: BTreeMap<KeyGroup, (KeyGroupState, Disk)>,
}

impl States for Host {
    fn hosted(&self) -> Vec<KeyGroup> {
        self.groups.keys().copied().collect()
    }

    fn state(&mut self, key_group: KeyGroup) -> Option<(&mut KeyGroupState, &dyn DiskState)> {
        self.groups.get_mut(&key_group).map(|(state, disk)| (state, disk as &dyn DiskState))
    }
}

impl Host {
    pub(super) fn new(job: &Arc<JobSpec>, stage: u8) -> Self {
        Self::of(Arc::new(KeyedStage::new(Arc::clone(job), Stage(stage)).unwrap()))
    }

    fn of(stage: Arc<KeyedStage>) -> Self {
        // As many as the job has.
        Self { stage, groups: (0..8).map(|group| (KeyGroup(group), Default::default())).collect() }
    }

    fn process(&mut self, epoch: usize, watermark: EventTime, payload: Payload) -> Processed {
        let stage = Arc::clone(&self.stage);
        let (skip, muted) = (BTreeSet::new(), BTreeMap::new());
        stage.process(self, Epoch(epoch as u64), watermark, vec![payload], &skip, &muted).unwrap()
    }

    fn take_back(&mut self, upto: usize) {
        self.groups.values_mut().for_each(|(state, _)| state.take_back(Epoch(upto as u64)));
    }

    /// Writes everything to disk and lets a compaction run.
    fn settle(&mut self, upto: usize, watermark: EventTime) {
        let horizon = Horizon { dedup: EventTime(watermark.0.saturating_sub(1_440 * MINUTE)), windows: watermark };
        for (state, disk) in self.groups.values_mut() {
            for (key, value) in state.settle(Epoch(upto as u64)) {
                match value {
                    Some(value) => disk.0.insert(key.to_vec(), value),
                    None => disk.0.remove(&key[..]),
                };
            }
            state.settled(Epoch(upto as u64));
            disk.0.retain(|_, value| !is_expired(value, horizon));
        }
    }
}

/// Group and start.
type Key = (String, i64);
/// End, rows, sum, max, spread, mean, ids.
type Row = (i64, i64, Option<f64>, Option<f64>, Option<f64>, Option<f64>, i64);
/// With the first id: which one is first is a matter of the canonical order.
type Shown = (Row, String);

fn read(batch: &RecordBatch, row: usize) -> (Key, Option<Shown>) {
    let start = batch.schema().index_of("window_start").unwrap();
    let groups: Vec<&str> = (0..start).map(|at| batch.column(at).as_string::<i32>().value(row)).collect();
    let time = |at: usize| batch.column(at).as_primitive::<TimestampMicrosecondType>().value(row);
    let count = |at: usize| batch.column(at).as_primitive::<Int64Type>().iter().nth(row).unwrap();
    let float = |at: usize| batch.column(at).as_primitive::<Float64Type>().iter().nth(row).unwrap();
    let [sum, max, spread, mean] = [3, 4, 5, 6].map(|at| float(start + at));
    let first = batch.column(start + 8).as_string::<i32>().iter().nth(row).unwrap();
    let shown = count(start + 2)
        .zip(count(start + 7))
        .zip(first)
        .map(|((rows, ids), first)| ((time(start + 1), rows, sum, max, spread, mean, ids), first.to_owned()));
    ((groups.join("/"), time(start)), shown)
}

/// What a database would hold of sinks 0 to 4, and how many records were late.
#[derive(Debug, Default, Clone, PartialEq)]
struct Tables {
    keyed: [BTreeMap<Key, Shown>; 5],
    late: usize,
}

impl Tables {
    fn apply(&mut self, processed: &Processed) {
        let Some((rows, _)) = processed.outputs.get(&0) else { return };
        for sink in &rows.sinks {
            if sink.sink == 5 {
                self.late += sink.changes.len();
                continue;
            }
            for (row, change) in sink.changes.iter().enumerate() {
                let ((key, read), table) = (read(&sink.batch, row), &mut self.keyed[sink.sink]);
                match change {
                    Change::Insert => assert_eq!(table.insert(key, read.unwrap()), None, "sink {}", sink.sink),
                    Change::Correction => {
                        let before = table.insert(key, read.clone().unwrap());
                        assert!(before.is_some() && before != read, "nothing changed: sink {}", sink.sink);
                    }
                    Change::Delete => assert!(table.remove(&key).is_some(), "nothing to delete: sink {}", sink.sink),
                }
            }
        }
    }
}

fn payload(decoder: &mut Decoder, first: i64, events: &[Event]) -> Payload {
    let record = |event: &Event| {
        let Event { g, id, minute, delete, .. } = event;
        let head = format!("\"g\":\"{g}\",\"id\":\"{id}\",\"at\":{}", minute * MINUTE);
        let value = event.value().map_or("null".to_owned(), |value| value.to_string());
        (format!("{{{head}}}"), (!delete).then(|| format!("{{{head},\"v\":{value}}}")))
    };
    decoded(decoder, first, &events.iter().map(record).collect::<Vec<_>>())
}

/// Of keys and values of records, all good.
fn decoded(decoder: &mut Decoder, first: i64, records: &[(String, Option<String>)]) -> Payload {
    for (position, (key, value)) in (first..).zip(records) {
        decoder.push(RawRecord {
            split: SplitId(0),
            position: Position(position),
            timestamp_ms: 100 * 60_000,
            key: Some(key.as_bytes()),
            value: value.as_ref().map(String::as_bytes),
        });
    }
    let decoded = decoder.close(WallTime(1_000 * MINUTE)).unwrap();
    assert_eq!(decoded.payload.letters, None);
    decoded.payload
}

fn agree(shown: &BTreeMap<Key, Shown>, expected: &BTreeMap<Key, Expected>) -> std::result::Result<(), TestCaseError> {
    let shown_rows: BTreeMap<&Key, &Row> = shown.iter().map(|(key, (row, _))| (key, row)).collect();
    prop_assert_eq!(shown_rows, expected.iter().map(|(key, (row, _))| (key, row)).collect());
    prop_assert!(shown.iter().all(|(key, (_, first))| expected[key].1.contains(first)), "{:?}", shown);
    Ok(())
}

/// Compiled once for many cases.
struct Fixture {
    changes: bool,
    decoder: RefCell<Decoder>,
    stages: [Arc<KeyedStage>; 2],
}

impl Fixture {
    fn new(changed: &str) -> Self {
        let job = spec(changed);
        Self {
            changes: changed == "update",
            decoder: RefCell::new(Decoder::new(Arc::clone(&job)).unwrap()),
            stages: [0, 1].map(|stage| Host::new(&job, stage).stage),
        }
    }
}

fn run(fixture: &Fixture, steps: &[Step]) -> std::result::Result<(), TestCaseError> {
    let [mut first, mut second] = fixture.stages.each_ref().map(|stage| Host::of(Arc::clone(stage)));
    let (mut oracle, mut tables, mut counted_late) = (Oracle::default(), Tables::default(), 0);
    let mut done: Vec<(EventTime, Payload, Processed, Processed)> = Vec::new();
    let (mut watermark, mut position, mut settled) = (EventTime::MIN, 0, 0);
    for step in steps {
        if step.moves > 0 {
            watermark = EventTime(watermark.0.max(-10 * MINUTE) + step.moves * MINUTE);
        }
        let again = done.len().saturating_sub(step.back).max(settled);
        [&mut first, &mut second].into_iter().for_each(|host| host.take_back(again));
        for (epoch, (watermark, payload, one, two)) in (again + 1..).zip(&done[again..]) {
            prop_assert_eq!(&first.process(epoch, *watermark, payload.clone()), one);
            prop_assert_eq!(&second.process(epoch, *watermark, one.forward.clone()), two);
        }
        let (epoch, payload) = (done.len() + 1, payload(&mut fixture.decoder.borrow_mut(), position, &step.events));
        position += step.events.len() as i64;
        let one = first.process(epoch, watermark, payload.clone());
        let two = second.process(epoch, watermark, one.forward.clone());
        tables.apply(&one);
        tables.apply(&two);
        oracle.close(watermark.0);
        step.events.iter().for_each(|event| oracle.apply(event, fixture.changes, watermark.0));
        let expected = oracle.tables(watermark.0, 0);
        (0..4).try_for_each(|aggregate| agree(&tables.keyed[aggregate], &expected[aggregate]))?;
        // Sessions are closed when somebody looks, which may be a part of the gap later.
        let (shown, [.., mut closed]) = (&tables.keyed[4], expected);
        let surely = oracle.tables(watermark.0, GAP / 16);
        prop_assert!(surely[4].keys().all(|key| shown.contains_key(key)), "epoch {}", epoch);
        closed.retain(|key, _| shown.contains_key(key));
        agree(shown, &closed)?;
        prop_assert_eq!(tables.late, oracle.late);
        counted_late += one.counters.values().chain(two.counters.values()).map(|c| c.late as usize).sum::<usize>();
        prop_assert_eq!(counted_late, oracle.late);
        done.push((watermark, payload, one, two));
        if step.settle {
            settled = epoch;
            [&mut first, &mut second].into_iter().for_each(|host| host.settle(epoch, watermark));
        }
    }
    Ok(())
}

/// As many cases as `PROPTEST_CASES` says.
fn check(changed: &str, deletes: bool) {
    let fixture = Fixture::new(changed);
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    let steps = prop::collection::vec(step(deletes), 1..14);
    if let Err(error) = runner.run(&steps, |steps| run(&fixture, &steps)) {
        panic!("{error}");
    }
}

#[test]
fn aggregates_with_corrections_and_deletes_are_those_of_the_oracle() {
    check("update", true);
}

#[test]
fn aggregates_of_first_records_are_those_of_the_oracle() {
    check("drop", false);
}

fn event(g: u8, minute: i64, value: Option<i32>) -> Event {
    Event { g, id: 1, minute, value, delete: false }
}

fn delete(g: u8, minute: i64) -> Event {
    Event { delete: true, ..event(g, minute, None) }
}

fn at(moves: i64, events: &[Event]) -> Step {
    Step { events: events.to_vec(), moves, back: 0, settle: false }
}

/// Found by chance: a session that a delete cuts short.
#[test]
fn a_session_that_lost_its_last_row_closes_earlier() {
    let mut steps = vec![at(7, &[event(1, 14, None)]), at(2, &[event(0, 11, None)]), at(4, &[])];
    steps.push(at(4, &[delete(1, 14)]));
    steps.extend([1, 2, 4, 3].map(|moves| at(moves, &[])));
    run(&Fixture::new("update"), &steps).unwrap();
}

/// Found by chance: nothing may come after it that would close it.
#[test]
fn a_session_that_a_delete_cuts_to_before_the_watermark_closes_with_it() {
    let steps = [at(19, &[event(0, 9, None), event(0, 6, None)]), at(3, &[delete(0, 9)])];
    run(&Fixture::new("update"), &steps).unwrap();
}

#[test]
fn a_correction_that_counts_from_now_on_joins_sessions() {
    let mut steps = vec![at(1, &[event(0, 0, Some(1)), event(0, 5, Some(2)), event(0, 2, Some(-3))])];
    steps.push(at(0, &[event(0, 2, Some(4))]));
    run(&Fixture::new("update"), &steps).unwrap();
}

#[test]
fn nothing_is_left_of_windows_that_closed() {
    let job = spec("update");
    let (mut first, mut second) = (Host::new(&job, 0), Host::new(&job, 1));
    let events: Vec<Event> =
        (0..200).map(|n| Event { g: 0, id: n, minute: i64::from(n) % 30, value: Some(1), delete: false }).collect();
    let payload = payload(&mut Decoder::new(Arc::clone(&job)).unwrap(), 0, &events);
    let one = first.process(1, EventTime::MIN, payload);
    second.process(1, EventTime::MIN, one.forward);
    let end = EventTime(3_000 * MINUTE);
    let one = first.process(2, end, Payload::default());
    second.process(2, end, one.forward);
    for host in [&mut first, &mut second] {
        host.settle(2, end);
        assert_eq!(host.groups.values().map(|(_, disk)| disk.0.len()).sum::<usize>(), 0);
    }
}
