//! Whole epochs through decoder and keyed stage, against tables kept by hand and an oracle that only knows sets of records.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use pulso_core::ids::{Position, SplitId, Stage, WallTime};

use super::*;
use crate::batch::Change;
use crate::decode::{Decoder, RawRecord};
use crate::state::{DiskState, KeyGroupState};
use crate::testing::job;

const MINUTE: i64 = 60_000_000;
/// Sinks 0 to 4 see the same records in the five ways in which sinks can.
const JOB: &str = r#"
[fields]
id = { type = "string", required = true }
at = { type = "timestamp", epoch = "us", required = true }
v = { type = "float64" }
[filter]
keep = "v is null or v <> 99"
[derive]
double = "v * 2"
[time]
field = "at"
[dedup]
key = ["id", "at"]
route_by = ["id"]
keep_for = "1h"
changed = "update"
[[sink]]
to = "db"
table = "all_of_them"
key = ["id", "at"]
[[sink]]
to = "db"
table = "large"
where = "v > 1"
key = ["id", "at"]
[[sink]]
to = "db"
table = "living"
delete_when = "v = 0"
key = ["id", "at"]
[[sink]]
to = "db"
table = "firsts"
write = "keep_first"
key = ["id", "at"]
[[sink]]
to = "db"
table = "log"
write = "append"
[[sink]]
to = "db"
table = "latest"
key = ["id"]
newest_by = "at"
"#;

fn health(replace: (&str, &str)) -> Arc<JobSpec> {
    job("tombstone = { key = [\"id\", \"at\"] }", &JOB.replace(replace.0, replace.1))
}

/// A record, or a delete where there is no value. Its position is its place in the list of all.
#[derive(Debug, Clone)]
struct Event {
    id: u8,
    minute: i64,
    value: Option<u8>,
    split: u32,
    /// Decides which of two wins.
    timestamp_ms: i64,
    /// Which source task reads its split.
    task: usize,
    /// The epoch ends after it.
    cut: bool,
}

fn event(id: u8, minute: i64, value: Option<u8>, timestamp_ms: i64) -> Event {
    Event { id, minute, value, split: 0, timestamp_ms, task: 0, cut: true }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event =
        (0u8..3, 0i64..2, prop::option::weighted(0.85, 0u8..4), 0u32..3, 0i64..3, 0usize..2, prop::bool::weighted(0.3))
            .prop_map(|(id, minute, value, split, timestamp_ms, task, cut)| Event {
                id,
                minute,
                value,
                split,
                timestamp_ms,
                task,
                cut,
            });
    prop::collection::vec(event, 0..60)
}

/// The payloads of epochs as source tasks send them: one decoder each, asked now and then.
fn epochs(job: &Arc<JobSpec>, events: &[Event]) -> Vec<Vec<Payload>> {
    let clock = WallTime(1_000 * MINUTE);
    let mut tasks: Vec<Decoder> = (0..2).map(|_| Decoder::new(Arc::clone(job)).unwrap()).collect();
    let mut epochs = vec![Vec::new()];
    for (position, event) in (0..).zip(events) {
        let Event { id, minute, value, split, timestamp_ms, task, cut } = event;
        let key = format!("{{\"id\":\"{id}\",\"at\":{}}}", minute * MINUTE);
        let text = value.map(|value| format!("{{\"id\":\"{id}\",\"at\":{},\"v\":{value}}}", minute * MINUTE));
        tasks[*task].push(RawRecord {
            split: SplitId(*split),
            position: Position(position),
            timestamp_ms: *timestamp_ms,
            key: Some(key.as_bytes()),
            value: text.as_ref().map(String::as_bytes),
        });
        if position % 5 == 0 {
            epochs.last_mut().unwrap().push(tasks[*task].take(clock).unwrap().payload);
        }
        if *cut {
            epochs.last_mut().unwrap().extend(tasks.iter_mut().map(|task| task.close(clock).unwrap().payload));
            epochs.push(Vec::new());
        }
    }
    epochs.last_mut().unwrap().extend(tasks.iter_mut().map(|task| task.close(clock).unwrap().payload));
    epochs
}

#[derive(Default)]
struct Disk(BTreeMap<Vec<u8>, Vec<u8>>);

impl DiskState for Disk {
    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        Ok(keys.iter().map(|key| self.0.get(*key).cloned()).collect())
    }
}

/// All eight key groups of the job.
struct Host {
    stage: Arc<KeyedStage>,
    groups: BTreeMap<KeyGroup, (KeyGroupState, Disk)>,
}

impl States for Host {
    fn hosted(&self) -> Vec<KeyGroup> {
        panic!("only windows close without rows, and there are none")
    }

    fn state(&mut self, key_group: KeyGroup) -> Option<(&mut KeyGroupState, &dyn DiskState)> {
        self.groups.get_mut(&key_group).map(|(state, disk)| (state, disk as &dyn DiskState))
    }
}

impl Host {
    fn new(job: &Arc<JobSpec>) -> Self {
        let groups = (0..job.key_groups).map(|group| (KeyGroup(group), Default::default())).collect();
        Self { stage: Arc::new(KeyedStage::new(Arc::clone(job), Stage(0)).unwrap()), groups }
    }

    fn process(&mut self, epoch: u64, watermark: EventTime, payloads: &[Payload]) -> Processed {
        let stage = Arc::clone(&self.stage);
        let (skip, muted) = (BTreeSet::new(), BTreeMap::new());
        stage.process(self, Epoch(epoch), watermark, payloads.to_vec(), &skip, &muted).unwrap()
    }

    fn settle(&mut self, upto: u64) {
        for (state, disk) in self.groups.values_mut() {
            for (key, value) in state.settle(Epoch(upto)) {
                match value {
                    Some(value) => disk.0.insert(key.to_vec(), value),
                    None => disk.0.remove(&key[..]),
                };
            }
            state.settled(Epoch(upto));
        }
    }
}

type Key = (String, i64);
type Table = BTreeMap<Key, Option<f64>>;

/// The tables of sinks 0 to 3, and the log of sink 4, as a database would have them.
#[derive(Debug, Default, PartialEq)]
struct Tables {
    keyed: [Table; 4],
    log: Vec<(Key, Option<f64>, Change)>,
}

impl Tables {
    fn apply(&mut self, processed: &Processed) {
        let Some((rows, _)) = processed.outputs.get(&0) else { return };
        for sink in &rows.sinks {
            for (row, change) in sink.changes.iter().enumerate() {
                let (key, value) = cells(&sink.batch, row);
                match (self.keyed.get_mut(sink.sink), change) {
                    (Some(table), Change::Insert) => {
                        assert_eq!(table.insert(key, value), None, "an insert of a row that is there: {}", sink.sink);
                    }
                    (Some(table), Change::Correction) if sink.sink == 3 => drop(table.entry(key).or_insert(value)),
                    (Some(table), Change::Correction) => drop(table.insert(key, value)),
                    (Some(table), Change::Delete) => drop(table.remove(&key)),
                    (None, change) if sink.sink == 4 => self.log.push((key, value, *change)),
                    (None, change) => assert_eq!(*change, Change::Correction),
                }
            }
        }
    }
}

fn cells(batch: &RecordBatch, row: usize) -> (Key, Option<f64>) {
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let value = column("v").as_primitive::<Float64Type>();
    let value = value.is_valid(row).then(|| value.value(row));
    let double = column("double").as_primitive::<Float64Type>();
    assert_eq!(double.is_valid(row).then(|| double.value(row)), value.map(|v| v * 2.0));
    let at = column("at").as_primitive::<TimestampMicrosecondType>().value(row) / MINUTE;
    ((column("id").as_string::<i32>().value(row).to_owned(), at), value)
}

fn run(job: &Arc<JobSpec>, events: &[Event], settle: &[bool]) -> (Tables, BTreeMap<KeyGroup, Counters>) {
    let mut host = Host::new(job);
    let (mut tables, mut counters) = (Tables::default(), BTreeMap::<KeyGroup, Counters>::new());
    for (number, payloads) in (1..).zip(epochs(job, events)) {
        let processed = host.process(number, EventTime::MIN, &payloads);
        tables.apply(&processed);
        processed.counters.iter().for_each(|(group, c)| counters.entry(*group).or_default().add(c));
        if settle.get(number as usize).is_some_and(|settle| *settle) {
            host.settle(number - number % 2);
        }
    }
    (tables, counters)
}

/// What is true of a set of records, in whatever order they came: per key the greatest wins.
fn truth(events: &[Event]) -> [Table; 3] {
    let mut winners = BTreeMap::<Key, ((i64, u32, usize), Option<u8>)>::new();
    for (position, event) in events.iter().enumerate() {
        let rank = (event.timestamp_ms, event.split, position);
        let winner = winners.entry((event.id.to_string(), event.minute)).or_insert((rank, event.value));
        if winner.0 < rank {
            *winner = (rank, event.value);
        }
    }
    let rows = || winners.iter().filter_map(|(key, (_, value))| value.map(|value| (key.clone(), value)));
    let table = |keep: fn(u8) -> bool| rows().filter(|(_, v)| keep(*v)).map(|(k, v)| (k, Some(f64::from(v)))).collect();
    [table(|_| true), table(|value| value > 1), table(|value| value != 0)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    /// Neither cuts, nor payloads, nor what is on disk shows in the final rows, and the oracle agrees.
    #[test]
    fn the_final_rows_depend_on_the_records_alone(
        events in events(),
        other in prop::collection::vec((0usize..2, any::<bool>()), 60),
        settle in prop::collection::vec(any::<bool>(), 61),
    ) {
        let job = health(("", ""));
        let (tables, counters) = run(&job, &events, &[]);
        let [all, large, living] = truth(&events);
        prop_assert_eq!(&tables.keyed[0], &all);
        prop_assert_eq!(&tables.keyed[1], &large);
        prop_assert_eq!(&tables.keyed[2], &living);
        let mut spread = events.clone();
        for (event, (task, cut)) in spread.iter_mut().zip(other) {
            (event.task, event.cut) = (task, cut);
        }
        let (again, others) = run(&job, &spread, &settle);
        prop_assert_eq!(&again.keyed[..3], &tables.keyed[..3]);
        let total = |counters: &BTreeMap<KeyGroup, Counters>| counters.values().map(Counters::total).sum::<u64>();
        prop_assert_eq!(total(&counters), events.len() as u64);
        prop_assert_eq!(total(&others), events.len() as u64);
        prop_assert_eq!(tables.log.len() as u64, counters.values().map(|c| c.written).sum::<u64>());
    }

    /// State on disk or in memory, in one payload or several: the same changes, not only the same end.
    #[test]
    fn disk_and_payloads_change_nothing(events in events(), tasks in prop::collection::vec(0usize..2, 60), settle in prop::collection::vec(any::<bool>(), 61)) {
        let job = health(("", ""));
        let mut spread = events.clone();
        spread.iter_mut().zip(tasks).for_each(|(event, task)| event.task = task);
        prop_assert_eq!(run(&job, &spread, &settle), run(&job, &events, &[]));
    }

    /// An epoch that was taken back and comes again makes what it made.
    #[test]
    fn taken_back_epochs_come_again(events in events(), back in any::<prop::sample::Index>(), settled in any::<prop::sample::Index>()) {
        let job = health(("", ""));
        let epochs = epochs(&job, &events);
        let mut host = Host::new(&job);
        let first: Vec<_> = (1..).zip(&epochs).map(|(n, p)| host.process(n, EventTime::MIN, p)).collect();
        let upto = back.index(epochs.len() + 1);
        host.settle(settled.index(upto + 1) as u64);
        host.groups.values_mut().for_each(|(state, _)| state.take_back(Epoch(upto as u64)));
        let second: Vec<_> = (1..).zip(&epochs).skip(upto).map(|(n, p)| host.process(n, EventTime::MIN, p)).collect();
        prop_assert_eq!(&second[..], &first[upto..]);
    }

    /// `drop`: the first in processing order stays, until it is deleted.
    #[test]
    fn drop_keeps_the_first(mut events in events()) {
        let job = health(("changed = \"update\"", "changed = \"drop\""));
        events.iter_mut().for_each(|event| event.value = event.value.or(Some(0)));
        let (tables, counters) = run(&job, &events, &[]);
        let (mut first, mut epoch) = (BTreeMap::<Key, ((usize, u32, usize), u8)>::new(), 0);
        for (position, event) in events.iter().enumerate() {
            let (order, value) = ((epoch, event.split, position), event.value.unwrap());
            let kept = first.entry((event.id.to_string(), event.minute)).or_insert((order, value));
            *kept = (*kept).min((order, value));
            epoch += usize::from(event.cut);
        }
        let expected: Table = first.iter().map(|(key, (_, value))| (key.clone(), Some(f64::from(*value)))).collect();
        prop_assert_eq!(&tables.keyed[0], &expected);
        let written: u64 = counters.values().map(|c| c.written).sum();
        prop_assert_eq!(written, first.len() as u64);
    }
}

/// The changes that each sink gets, one letter a record, `-` where none.
fn changes(job: &Arc<JobSpec>, events: &[Event], sinks: usize) -> Vec<String> {
    let mut host = Host::new(job);
    let mut told = vec![String::new(); sinks];
    for (number, payloads) in (1..).zip(epochs(job, events)).take(events.len()) {
        let done = host.process(number, EventTime::MIN, &payloads);
        for (sink, told) in told.iter_mut().enumerate() {
            let rows = done.outputs.get(&0).and_then(|(rows, _)| rows.sinks.iter().find(|rows| rows.sink == sink));
            told.push(match rows.map(|rows| &*rows.changes) {
                None => '-',
                Some([Change::Insert]) => 'I',
                Some([Change::Correction]) => 'C',
                Some([Change::Delete]) => 'D',
                Some(other) => panic!("{other:?}"),
            });
        }
    }
    told
}

#[test]
fn every_kind_of_sink_hears_what_concerns_it() {
    let events = [
        event(1, 0, Some(2), 10), // new
        event(1, 0, Some(2), 11), // duplicate; moves the winner up
        event(1, 0, Some(3), 10), // superseded
        event(1, 0, Some(1), 12), // correction; no longer large
        event(1, 0, Some(0), 13), // correction; no longer living
        event(1, 0, Some(3), 14), // correction
        event(1, 0, None, 15),    // delete
        event(1, 0, None, 16),    // deleted already; moves up
        event(1, 0, Some(3), 15), // superseded by the delete
        event(1, 0, Some(3), 17), // counts again
    ];
    let told = changes(&health(("", "")), &events, 6);
    assert_eq!(told[0], "I--CCCD--I", "upsert");
    assert_eq!(told[1], "I--DDCD--I", "where");
    assert_eq!(told[2], "I--CDCD--I", "delete_when");
    assert_eq!(told[3], "I--------C", "keep_first");
    assert_eq!(told[4], "I--CCCD--I", "append");
    assert_eq!(told[5], "C--CCC---C", "newest_by");
}

#[test]
fn without_dedup_every_record_is_a_row() {
    let rest = "[fields]\nid = { type = \"string\", required = true }\nat = { type = \"timestamp\", epoch = \"us\" }\nv = { type = \"float64\" }\n\
                [[sink]]\nto = \"db\"\ntable = \"t\"\nkey = [\"id\"]\n[[sink]]\nto = \"db\"\ntable = \"l\"\nwrite = \"append\"\n";
    let job = job("", rest);
    let same = event(1, 0, Some(2), 10);
    assert_eq!(changes(&job, &[same.clone(), same], 2), ["CC", "II"]);
    let mut host = Host::new(&job);
    let done =
        host.process(1, EventTime::MIN, &epochs(&job, &[event(1, 0, None, 1), event(1, 0, Some(1), 1)]).concat());
    let total = Counters { written: 1, dead_letters: 1, ..Counters::default() };
    assert_eq!(
        done.counters.values().fold(Counters::default(), |mut sum, c| {
            sum.add(c);
            sum
        }),
        total
    );
    assert_eq!(done.outputs[&0].0.letters.as_ref().unwrap().num_rows(), 1);
}

#[test]
fn entries_older_than_keep_for_count_as_absent() {
    let job = health(("", ""));
    let record = |timestamp_ms| epochs(&job, &[event(1, 5, Some(2), timestamp_ms)]).concat();
    let step = |host: &mut Host, epoch, watermark: i64, timestamp_ms| {
        let done = host.process(epoch, EventTime(watermark), &record(timestamp_ms));
        done.outputs.get(&0).map(|(rows, _)| rows.sinks[0].changes[0])
    };
    // The last moment: 5 minutes + 1 hour.
    let last = 65 * MINUTE;
    let mut host = Host::new(&job);
    assert_eq!(step(&mut host, 1, last, 1), Some(Change::Insert));
    assert_eq!(step(&mut host, 2, last, 2), None);
    let held: usize = host.groups.values().map(|(state, _)| state.len()).sum();
    assert_eq!(held, 1);
    // From here on nobody can know, so the table must be asked; nothing more is kept.
    host.settle(2);
    assert_eq!(step(&mut host, 3, last + 1, 3), Some(Change::Correction));
    assert_eq!(step(&mut host, 4, last + 1, 3), Some(Change::Correction));
    assert!(host.groups.values().all(|(state, _)| state.is_empty()));
    // Whether a compaction came by meanwhile makes no difference.
    let entry = host.groups.values().find_map(|(_, disk)| disk.0.values().next()).unwrap();
    let horizon = |dedup| crate::state::Horizon { dedup: EventTime(dedup), windows: EventTime::MIN };
    assert!(crate::state::is_expired(entry, horizon(last + 1 - 60 * MINUTE)));
    assert!(!crate::state::is_expired(entry, horizon(last - 60 * MINUTE)));
    let mut fresh = Host::new(&job);
    assert_eq!(step(&mut fresh, 4, last + 1, 3), Some(Change::Correction));
    // Twice in one epoch: twice written.
    let twice = [record(1), record(2)].concat();
    let done = fresh.process(5, EventTime(last + 1), &twice);
    assert_eq!(done.counters.values().map(|c| (c.written, c.corrections)).collect::<Vec<_>>(), [(2, 0)]);
}

#[test]
fn skipped_and_muted_key_groups() {
    let job = health(("", ""));
    let list: Vec<Event> =
        (0..40).map(|id| Event { cut: false, ..event(id, 0, Some(if id == 7 { 99 } else { 2 }), 1) }).collect();
    let mut payloads = epochs(&job, &list).concat();
    let mut bad = Decoder::new(Arc::clone(&job)).unwrap();
    bad.push(RawRecord { split: SplitId(0), position: Position(40), timestamp_ms: 1, key: None, value: Some(b"{") });
    payloads.push(bad.close(WallTime(0)).unwrap().payload);
    let all = Host::new(&job).process(1, EventTime::MIN, &payloads);
    assert_eq!(all.counters.values().map(Counters::total).sum::<u64>(), 41);
    assert_eq!(all.counters.values().map(|c| (c.filtered, c.dead_letters)).max(), Some((1, 1)));
    let group = *all.counters.iter().find(|(_, c)| c.dead_letters == 1).unwrap().0;
    assert!(all.counters[&group].written > 0 && all.outputs[&0].1.contains(&group));

    let chosen = BTreeSet::from([group]);
    let stage = KeyedStage::new(Arc::clone(&job), Stage(0)).unwrap();
    let mut host = Host::new(&job);
    let skipped =
        stage.process(&mut host, Epoch(1), EventTime::MIN, payloads.clone(), &chosen, &BTreeMap::new()).unwrap();
    assert!(!skipped.counters.contains_key(&group) && host.groups[&group].0.is_empty());
    let (rows, with_rows) = &skipped.outputs[&0];
    assert!(!with_rows.contains(&group) && rows.letters.is_none());
    assert!(rows.sinks.iter().all(|sink| !sink.key_groups.contains(&group)));

    let mut host = Host::new(&job);
    let muted = stage
        .process(
            &mut host,
            Epoch(1),
            EventTime::MIN,
            payloads.clone(),
            &BTreeSet::new(),
            &BTreeMap::from([(0, chosen)]),
        )
        .unwrap();
    assert_eq!(muted.counters, all.counters);
    assert!(!host.groups[&group].0.is_empty());
    // Samples are of all records of the epoch.
    let rows = |processed: &Processed| {
        processed.outputs.values().map(|(rows, groups)| (rows.sinks.clone(), groups.clone())).collect::<Vec<_>>()
    };
    assert_eq!(rows(&muted), rows(&skipped));
    assert_eq!(muted.muted, BTreeMap::from([(0, BTreeSet::from([group]))]));
    assert!(all.muted.is_empty() && skipped.muted.is_empty());

    let everyone = BTreeMap::from([(0, all.counters.keys().copied().collect())]);
    let silent = stage.process(&mut Host::new(&job), Epoch(1), EventTime::MIN, payloads, &BTreeSet::new(), &everyone);
    assert_eq!(silent.unwrap().outputs, BTreeMap::new());
}

#[test]
fn a_key_group_that_is_not_hosted_is_an_error() {
    let job = health(("", ""));
    let stage = KeyedStage::new(Arc::clone(&job), Stage(0)).unwrap();
    let mut host = Host::new(&job);
    host.groups.clear();
    let payloads = epochs(&job, &[event(1, 0, Some(1), 1)]).concat();
    let result = stage.process(&mut host, Epoch(1), EventTime::MIN, payloads, &BTreeSet::new(), &BTreeMap::new());
    assert!(matches!(result, Err(DataflowError::State(_))));
}
