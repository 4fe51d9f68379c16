//! Whole epochs through both stages, against an oracle that keeps the records of every window in a map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use pulso_core::ids::{Epoch, EventTime, KeyGroup, Position, SplitId, Stage, WallTime};
use pulso_job::JobSpec;

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
                       spread = \"max(v) - min(v)\"\nmean = \"avg(v)\"\n";

fn spec(changed: &str) -> Arc<JobSpec> {
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
struct Host {
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
    fn new(job: &Arc<JobSpec>, stage: u8) -> Self {
        let groups = (0..job.key_groups).map(|group| (KeyGroup(group), Default::default())).collect();
        Self { stage: Arc::new(KeyedStage::new(Arc::clone(job), Stage(stage)).unwrap()), groups }
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

/// Group, start, end, rows, sum, max, spread, mean.
type Row = (String, i64, i64, i64, Option<f64>, Option<f64>, Option<f64>, Option<f64>);

fn read(batch: &RecordBatch, row: usize) -> Row {
    let start = batch.schema().index_of("window_start").unwrap();
    let groups: Vec<&str> = (0..start).map(|at| batch.column(at).as_string::<i32>().value(row)).collect();
    let time = |at: usize| batch.column(at).as_primitive::<TimestampMicrosecondType>().value(row);
    let count = batch.column(start + 2).as_primitive::<Int64Type>().iter().nth(row).unwrap().unwrap_or(-1);
    let float = |at: usize| batch.column(at).as_primitive::<Float64Type>().iter().nth(row).unwrap();
    let [sum, max, spread, mean] = [3, 4, 5, 6].map(|at| float(start + at));
    (groups.join("/"), time(start), time(start + 1), count, sum, max, spread, mean)
}

/// What a database would hold of sinks 0 to 4, and how many records were late.
#[derive(Debug, Default, Clone, PartialEq)]
struct Tables {
    keyed: [BTreeMap<(String, i64), Row>; 5],
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
                let read = read(&sink.batch, row);
                let (table, key) = (&mut self.keyed[sink.sink], (read.0.clone(), read.1));
                match change {
                    Change::Insert => assert_eq!(table.insert(key, read), None, "it was there: sink {}", sink.sink),
                    Change::Correction => {
                        let before = table.insert(key, read.clone());
                        assert!(before.is_some_and(|before| before != read), "nothing changed: sink {}", sink.sink);
                    }
                    Change::Delete => assert!(table.remove(&key).is_some(), "nothing to delete: sink {}", sink.sink),
                }
            }
        }
    }
}

type Records = BTreeMap<(u8, u8, i64), Option<f64>>;

/// The five aggregates, as plainly as can be.
#[derive(Default)]
struct Oracle {
    /// What dedup knows: a value, or deleted.
    known: BTreeMap<(u8, u8, i64), Option<Option<f64>>>,
    windows: [BTreeMap<(String, i64, i64), Records>; 3],
    /// Sessions, those that are closed too.
    sessions: [BTreeMap<String, Vec<Records>>; 2],
    late: usize,
}

fn group(aggregate: usize, (g, id, _): (u8, u8, i64)) -> String {
    match aggregate {
        0 | 4 => id.to_string(),
        2 => format!("{g}/{id}"),
        _ => g.to_string(),
    }
}

fn starts(aggregate: usize, time: i64) -> Vec<(i64, i64)> {
    let (size, slide) = [(10, 10), (10, 4), (5, 5)][aggregate];
    let all = (-20..20).map(|number| number * slide * MINUTE).map(|start| (start, start + size * MINUTE));
    all.filter(|(start, end)| *start <= time && time < *end).collect()
}

fn span(records: &Records) -> (i64, i64) {
    let times = || records.keys().map(|(.., time)| *time);
    (times().min().unwrap(), times().max().unwrap() + GAP)
}

impl Oracle {
    fn apply(&mut self, event: &Event, changes: bool, watermark: i64) {
        let key = event.key();
        let new = (!event.delete).then(|| event.value());
        match self.known.get(&key) {
            Some(known) if *known == new || (known.is_some() && new.is_some() && !changes) => return,
            _ => {}
        }
        let is_correction = self.known.get(&key).is_some_and(Option::is_some);
        self.known.insert(key, new);
        for aggregate in 0..3 {
            let counts = aggregate != 1 || new.flatten().is_none_or(|v| v > 0.0);
            let value = new.filter(|_| counts);
            if value.is_none() && !is_correction && !event.delete {
                continue;
            }
            let mut late = true;
            for (start, end) in starts(aggregate, key.2) {
                if end + LATENESS <= watermark {
                    continue;
                }
                late = false;
                let records = self.windows[aggregate].entry((group(aggregate, key), start, end)).or_default();
                match value {
                    Some(value) => records.insert(key, value),
                    None => records.remove(&key),
                };
            }
            self.late += usize::from(late);
        }
        for aggregate in 3..5 {
            let is_late = self.session(aggregate, key, new, is_correction, watermark);
            self.late += usize::from(is_late);
        }
    }

    fn session(
        &mut self,
        aggregate: usize,
        key: (u8, u8, i64),
        value: Option<Option<f64>>,
        is_correction: bool,
        watermark: i64,
    ) -> bool {
        let all = self.sessions[aggregate - 3].entry(group(aggregate, key)).or_default();
        let is_open = |records: &Records| span(records).1 + LATENESS > watermark;
        let own_end = key.2 + GAP;
        let touches = |records: &Records| span(records).0 <= own_end && key.2 <= span(records).1;
        if own_end + LATENESS <= watermark || all.iter().any(|records| !is_open(records) && touches(records)) {
            return true;
        }
        let holds = |records: &Records| is_open(records) && span(records).0 <= key.2 && key.2 < span(records).1;
        if (is_correction || value.is_none())
            && let Some(at) = all.iter().position(holds)
        {
            let mut records = all.remove(at);
            match value {
                Some(value) => drop(records.insert(key, value)),
                None => drop(records.remove(&key)),
            }
            all.extend(parts(records));
            return false;
        }
        let Some(value) = value else { return false };
        let (touched, others): (Vec<Records>, Vec<Records>) = all.drain(..).partition(|records| touches(records));
        let mut merged: Records = touched.into_iter().flatten().collect();
        merged.insert(key, value);
        *all = others;
        all.push(merged);
        false
    }

    fn tables(&self, watermark: i64, slack: i64) -> [BTreeMap<(String, i64), Row>; 5] {
        let row = |group: &str, start: i64, end: i64, records: &Records| -> ((String, i64), Row) {
            let values: Vec<f64> = records.values().flatten().copied().collect();
            let most = values.iter().copied().reduce(f64::max);
            let least = values.iter().copied().reduce(f64::min);
            let mut sum = crate::aggregate::tests::Sum::default();
            values.iter().for_each(|value| sum.add(*value));
            let total = (!values.is_empty()).then(|| sum.value());
            let mean = total.map(|total| total / values.len() as f64);
            let spread = most.zip(least).map(|(most, least)| most - least);
            let row = (group.to_owned(), start, end, records.len() as i64, total, most, spread, mean);
            ((group.to_owned(), start), row)
        };
        std::array::from_fn(|aggregate| {
            let closed = |end: i64| aggregate % 2 == 1 || aggregate == 0 || end + LATENESS <= watermark;
            if aggregate < 3 {
                let windows =
                    self.windows[aggregate].iter().filter(|((.., end), records)| closed(*end) && !records.is_empty());
                windows.map(|((group, start, end), records)| row(group, *start, *end, records)).collect()
            } else {
                let all = self.sessions[aggregate - 3].iter();
                let sessions = all.flat_map(|(group, all)| all.iter().map(move |records| (group, records)));
                sessions
                    .map(|(group, records)| (group, span(records), records))
                    .filter(|(_, (_, end), _)| closed(end + slack))
                    .map(|(group, (start, end), records)| row(group, start, end, records))
                    .collect()
            }
        })
    }
}

/// A sum of tenths, exact as long as they are few: added up as whole numbers.
#[derive(Default)]
struct Sum(Vec<f64>);

impl Sum {
    fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The exact sum of the binary values, rounded once: tenths below 10 are whole numbers of 2^-60.
    fn value(&self) -> f64 {
        let scale = 2f64.powi(60);
        self.0.iter().map(|value| (value * scale) as i128).sum::<i128>() as f64 / scale
    }
}

fn parts(records: Records) -> Vec<Records> {
    let mut by_time: Vec<((u8, u8, i64), Option<f64>)> = records.into_iter().collect();
    by_time.sort_by_key(|((.., time), _)| *time);
    let mut parts: Vec<Records> = Vec::new();
    for (key, value) in by_time {
        match parts.last_mut() {
            Some(part) if key.2 <= span(part).1 => drop(part.insert(key, value)),
            _ => parts.push(BTreeMap::from([(key, value)])),
        }
    }
    parts
}

fn payload(job: &Arc<JobSpec>, first: i64, events: &[Event]) -> Payload {
    let mut decoder = Decoder::new(Arc::clone(job)).unwrap();
    for (position, event) in (first..).zip(events) {
        let Event { g, id, minute, value, delete } = event;
        let head = format!("\"g\":\"{g}\",\"id\":\"{id}\",\"at\":{}", minute * MINUTE);
        let value = value.map_or("null".to_owned(), |_| event.value().unwrap().to_string());
        let (key, text) = (format!("{{{head}}}"), format!("{{{head},\"v\":{value}}}"));
        decoder.push(RawRecord {
            split: SplitId(0),
            position: Position(position),
            timestamp_ms: 100 * 60_000,
            key: Some(key.as_bytes()),
            value: (!delete).then_some(text.as_bytes()),
        });
    }
    let decoded = decoder.close(WallTime(1_000 * MINUTE)).unwrap();
    assert_eq!(decoded.payload.letters, None);
    decoded.payload
}

fn run(changed: &str, steps: &[Step]) -> std::result::Result<(), TestCaseError> {
    let job = spec(changed);
    let (mut first, mut second) = (Host::new(&job, 0), Host::new(&job, 1));
    let (mut oracle, mut tables) = (Oracle::default(), Tables::default());
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
        let (epoch, payload) = (done.len() + 1, payload(&job, position, &step.events));
        position += step.events.len() as i64;
        let one = first.process(epoch, watermark, payload.clone());
        let two = second.process(epoch, watermark, one.forward.clone());
        tables.apply(&one);
        tables.apply(&two);
        step.events.iter().for_each(|event| oracle.apply(event, changed == "update", watermark.0));
        let expected = oracle.tables(watermark.0, 0);
        prop_assert_eq!(&tables.keyed[..4], &expected[..4], "epoch {}", epoch);
        // Sessions are closed when somebody looks, which may be a part of the gap later.
        let surely = oracle.tables(watermark.0, GAP / 16)[4].clone();
        prop_assert!(tables.keyed[4].iter().all(|(key, row)| expected[4].get(key) == Some(row)), "epoch {}", epoch);
        prop_assert!(surely.keys().all(|key| tables.keyed[4].contains_key(key)), "epoch {}", epoch);
        prop_assert_eq!(tables.late, oracle.late);
        let late = one.counters.values().chain(two.counters.values()).map(|c| c.late as usize).sum::<usize>();
        prop_assert!(late <= oracle.late);
        done.push((watermark, payload, one, two));
        if step.settle {
            settled = epoch;
            [&mut first, &mut second].into_iter().for_each(|host| host.settle(epoch, watermark));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn aggregates_with_corrections_and_deletes_are_those_of_the_oracle(steps in prop::collection::vec(step(true), 1..14)) {
        run("update", &steps)?;
    }

    #[test]
    fn aggregates_of_first_records_are_those_of_the_oracle(steps in prop::collection::vec(step(false), 1..14)) {
        run("drop", &steps)?;
    }
}

/// Found by chance: a session that a delete cuts short.
#[test]
fn a_session_that_lost_its_last_row_closes_earlier() {
    let event = |g, minute, delete| Event { g, id: 1, minute, value: None, delete };
    let step = |events: Vec<Event>, moves| Step { events, moves, back: 0, settle: false };
    let mut steps = vec![step(vec![event(1, 14, false)], 7), step(vec![event(0, 11, false)], 2), step(vec![], 4)];
    steps.push(step(vec![event(1, 14, true)], 4));
    steps.extend([1, 2, 4, 3].map(|moves| step(vec![], moves)));
    run("update", &steps).unwrap();
}

#[test]
fn nothing_is_left_of_windows_that_closed() {
    let job = spec("update");
    let (mut first, mut second) = (Host::new(&job, 0), Host::new(&job, 1));
    let events: Vec<Event> =
        (0..200).map(|n| Event { g: 0, id: n, minute: i64::from(n) % 30, value: Some(1), delete: false }).collect();
    let one = first.process(1, EventTime::MIN, payload(&job, 0, &events));
    second.process(1, EventTime::MIN, one.forward);
    let end = EventTime(3_000 * MINUTE);
    let one = first.process(2, end, Payload::default());
    second.process(2, end, one.forward);
    for host in [&mut first, &mut second] {
        host.settle(2, end);
        assert_eq!(host.groups.values().map(|(_, disk)| disk.0.len()).sum::<usize>(), 0);
    }
}
