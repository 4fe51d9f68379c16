use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::cut::CutHash;
use crate::ids::{Attempt, JobId};
use crate::placement::Plan;
use crate::record::JobDefinition;

const ME: TaskManagerId = TaskManagerId(Uuid::from_u128(1));
const OTHER: TaskManagerId = TaskManagerId(Uuid::from_u128(2));
const NO_LIMITS: SourceLimits = SourceLimits { epoch_records: u64::MAX, epoch_bytes: u64::MAX };

#[derive(Debug, Clone, PartialEq)]
struct Record {
    split: SplitId,
    position: Position,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

fn record(split: u32, position: i64, value: &str) -> Record {
    Record { split: SplitId(split), position: Position(position), key: None, value: Some(value.into()) }
}

fn offer(source: &mut Source, record: &Record) -> Result<Offer, Mismatch> {
    source.offer(record.split, record.position, record.position.0, record.key.as_deref(), record.value.as_deref())
}

fn start(splits: u32) -> Cut {
    let split = SplitCut { end: Position(10), count: 0, hash: 0, greatest: None };
    Cut {
        epoch: Epoch(0),
        clock: WallTime(0),
        splits: (0..splits).map(|s| (SplitId(s), split)).collect(),
        watermark: EventTime(-5),
        idle: std::collections::BTreeSet::new(),
        last: false,
        lookups: None,
        previous: CutHash(0),
    }
}

fn deployment(start: Cut, replay: Vec<Cut>) -> Deployment {
    let splits = start.splits.keys().map(|split| (*split, ME)).collect();
    Deployment {
        job: JobId(Uuid::from_u128(9)),
        attempt: Attempt(1),
        since: Epoch::ZERO,
        until: None,
        rewound: false,
        definition: JobDefinition {
            id: JobId(Uuid::from_u128(9)),
            name: "vitals".into(),
            submission: String::new(),
            fingerprint: 0,
            key_groups: 1,
            stages: 1,
            targets: vec![],
            delay: 0,
            idle_after: 0,
            has_windows: false,
        },
        plan: Plan { splits, ..Plan::default() },
        resume: BTreeMap::new(),
        restore: BTreeMap::new(),
        committed: start.epoch,
        start,
        replay,
        files: Vec::new(),
        joined: BTreeMap::new(),
        window: 4,
    }
}

fn source(deployment: &Deployment) -> Source {
    Source::new(ME, deployment, NO_LIMITS)
}

fn opening(epoch: u64) -> Opening {
    Opening {
        epoch: Epoch(epoch),
        clock: WallTime(epoch as i64 * 100),
        watermark: EventTime(epoch as i64 - 1),
        lookups: None,
    }
}

/// What the JobManager makes of a report.
fn cut_of(before: &Cut, opening: Opening, report: &BTreeMap<SplitId, SplitReport>) -> Cut {
    let split = |(split, r): (&SplitId, &SplitReport)| {
        (*split, SplitCut { end: r.end, count: r.count, hash: r.hash, greatest: r.greatest })
    };
    let mut splits = before.splits.clone();
    splits.extend(report.iter().map(split));
    Cut {
        epoch: opening.epoch,
        clock: opening.clock,
        splits,
        watermark: EventTime(opening.epoch.0 as i64),
        lookups: opening.lookups,
        previous: before.hash(),
        ..before.clone()
    }
}

#[test]
fn lookups_of_an_opening_are_for_the_epoch_after_it_and_those_of_a_cut_too() {
    let lookups = |n| Some(crate::ids::LookupsId(Uuid::from_u128(n)));
    let start = Cut { lookups: lookups(1), ..start(1) };
    let mut source = source(&deployment(start.clone(), vec![]));
    let mut cuts = Vec::new();
    for (epoch, version) in [(1, 1), (2, 2), (3, 3)] {
        source.opened(Opening { lookups: lookups(version), ..opening(epoch) }).unwrap();
        let report = source.closed(&BTreeMap::new()).unwrap();
        let before = cuts.last().unwrap_or(&start);
        cuts.push(cut_of(before, Opening { lookups: lookups(version), ..opening(epoch) }, &report));
        assert_eq!(source.lookups(), lookups(version));
    }
    let mut source = self::source(&deployment(start, cuts));
    let mut seen = vec![source.lookups()];
    while source.boundary().unwrap().is_some() {
        source.closed(&BTreeMap::new());
        seen.push(source.lookups());
    }
    assert_eq!(seen, [lookups(1), lookups(1), lookups(2), lookups(3)]);
}

/// Reads `epochs` live and returns their cuts.
fn live(deployment: &Deployment, epochs: &[Vec<Record>]) -> Vec<Cut> {
    let mut source = source(deployment);
    let mut before = deployment.start.clone();
    let mut cuts = Vec::new();
    for records in epochs {
        for record in records {
            assert_eq!(offer(&mut source, record), Ok(Offer::Take));
        }
        let opening = opening(source.epoch().0);
        source.opened(opening).unwrap();
        let boundary = source.boundary().unwrap().unwrap();
        assert!(boundary.live);
        assert_eq!((boundary.epoch, boundary.watermark), (opening.epoch, opening.watermark));
        before = cut_of(&before, opening, &source.closed(&BTreeMap::new()).unwrap());
        source.committed(before.epoch);
        cuts.push(before.clone());
    }
    cuts
}

/// Offers each split's records in order, as a reader that pauses a split at `Hold` and reads on behind it would;
/// returns what was taken, per epoch, once nothing moves any more.
fn replay(source: &mut Source, log: &[Record]) -> Result<BTreeMap<Epoch, Vec<Record>>, Mismatch> {
    let mut left: BTreeMap<SplitId, VecDeque<Record>> = BTreeMap::new();
    for record in log {
        left.entry(record.split).or_default().push_back(record.clone());
    }
    let mut taken: BTreeMap<Epoch, Vec<Record>> = BTreeMap::new();
    loop {
        let mut moved = false;
        for records in left.values_mut() {
            while let Some(record) = records.front() {
                match offer(source, record)? {
                    Offer::Hold => break,
                    Offer::Skip => {}
                    Offer::Take => taken.entry(source.epoch()).or_default().push(record.clone()),
                }
                records.pop_front();
                moved = true;
            }
        }
        while let Some(boundary) = source.boundary()? {
            assert!(!boundary.live);
            assert_eq!(source.closed(&BTreeMap::new()), None);
            source.committed(boundary.epoch);
            moved = true;
        }
        if !moved {
            return Ok(taken);
        }
    }
}

#[test]
fn a_live_epoch_reports_all_its_splits_and_starts_the_next_one() {
    let deployment = deployment(start(2), vec![]);
    let mut source = source(&deployment);
    assert_eq!(source.starts(), BTreeMap::from([(SplitId(0), Position(10)), (SplitId(1), Position(10))]));
    assert_eq!(source.waiting(), None);
    assert_eq!(offer(&mut source, &record(0, 9, "old")), Ok(Offer::Skip));
    assert_eq!(offer(&mut source, &record(0, 12, "a")), Ok(Offer::Take));
    assert_eq!(offer(&mut source, &record(0, 12, "a")), Ok(Offer::Skip));
    assert_eq!(source.waiting(), Some(Waiting { epoch: Epoch(1), full: false }));
    assert_eq!(source.waiting(), None);
    assert_eq!(source.boundary(), Ok(None));
    source.opened(opening(1)).unwrap();
    assert_eq!(source.clock(), Some(WallTime(100)));
    let boundary = Boundary { epoch: Epoch(1), watermark: EventTime(0), clock: WallTime(100), live: true };
    assert_eq!(source.boundary(), Ok(Some(boundary)));
    let report = source.closed(&BTreeMap::from([(SplitId(0), EventTime(7))])).unwrap();
    assert_eq!((report[&SplitId(0)].end, report[&SplitId(0)].count), (Position(13), 1));
    assert_eq!(report[&SplitId(0)].greatest, Some(EventTime(7)));
    let untouched = SplitReport { end: Position(10), count: 0, hash: 0, greatest: None };
    assert_eq!(report[&SplitId(1)], untouched);
    assert_eq!((source.epoch(), source.boundary()), (Epoch(2), Ok(None)));
}

#[test]
fn a_full_epoch_holds_records_and_says_so_once() {
    let deployment = deployment(start(1), vec![]);
    let mut source = Source::new(ME, &deployment, SourceLimits { epoch_records: 2, epoch_bytes: 100 });
    assert_eq!(offer(&mut source, &record(0, 10, "a")), Ok(Offer::Take));
    assert_eq!(source.waiting(), Some(Waiting { epoch: Epoch(1), full: false }));
    assert!(source.may_read(SplitId(0)));
    assert_eq!(offer(&mut source, &record(0, 11, "b")), Ok(Offer::Take));
    assert!(!source.may_read(SplitId(0)));
    assert_eq!(offer(&mut source, &record(0, 12, "c")), Ok(Offer::Hold));
    assert_eq!(source.waiting(), Some(Waiting { epoch: Epoch(1), full: true }));
    assert_eq!(source.waiting(), None);
    source.opened(opening(1)).unwrap();
    source.closed(&BTreeMap::new());
    assert_eq!(offer(&mut source, &record(0, 12, &"x".repeat(200))), Ok(Offer::Take));
    assert_eq!(source.waiting(), Some(Waiting { epoch: Epoch(2), full: true }));
}

#[test]
fn no_more_than_the_window_is_read_beyond_what_is_committed() {
    let deployment = Deployment { window: 1, ..deployment(start(1), vec![]) };
    let mut source = source(&deployment);
    assert_eq!(offer(&mut source, &record(0, 10, "a")), Ok(Offer::Take));
    source.opened(opening(1)).unwrap();
    source.closed(&BTreeMap::new());
    assert!(!source.may_read(SplitId(0)));
    assert_eq!(offer(&mut source, &record(0, 11, "b")), Ok(Offer::Hold));
    source.committed(Epoch(1));
    assert!(source.may_read(SplitId(0)));
    assert_eq!(offer(&mut source, &record(0, 11, "b")), Ok(Offer::Take));
}

#[test]
fn replay_waits_for_the_window_and_the_first_epoch_never_does() {
    let epochs: Vec<_> = (10..14).map(|p| vec![record(0, p, "a")]).collect();
    let cuts = live(&deployment(start(1), vec![]), &epochs);
    let deployment = Deployment { window: 0, committed: Epoch(0), ..deployment(start(1), cuts) };
    let mut source = source(&deployment);
    assert_eq!(offer(&mut source, &record(0, 10, "a")), Ok(Offer::Take));
    assert!(source.boundary().unwrap().is_some());
    source.closed(&BTreeMap::new());
    assert_eq!(offer(&mut source, &record(0, 11, "a")), Ok(Offer::Hold));
    source.committed(Epoch(1));
    assert_eq!(offer(&mut source, &record(0, 11, "a")), Ok(Offer::Take));
}

#[test]
fn an_opening_that_comes_during_replay_is_kept_for_its_epoch() {
    let epochs = vec![vec![record(0, 10, "a")], vec![record(0, 11, "b")]];
    let cuts = live(&deployment(start(1), vec![]), &epochs);
    let deployment = deployment(start(1), cuts);
    let mut source = source(&deployment);
    source.opened(opening(3)).unwrap();
    assert_eq!(source.opened(opening(4)), Err(Mismatch::Opening { asked: Epoch(4), running: Epoch(3) }));
    assert_eq!(source.boundary(), Ok(None));
    assert_eq!(source.clock(), Some(WallTime(100)));
    for (epoch, records) in epochs.iter().enumerate() {
        assert_eq!(offer(&mut source, &records[0]), Ok(Offer::Take));
        let boundary = source.boundary().unwrap().unwrap();
        assert!(!boundary.live);
        // The watermark of an epoch is what the cut before it decided.
        assert_eq!(boundary.watermark, if epoch == 0 { EventTime(-5) } else { EventTime(1) });
        assert_eq!(source.closed(&BTreeMap::new()), None);
    }
    assert_eq!(source.boundary().unwrap().map(|b| (b.epoch, b.live)), Some((Epoch(3), true)));
    assert!(source.closed(&BTreeMap::new()).is_some());
    // Once more, late.
    source.opened(opening(3)).unwrap();
    assert_eq!(source.boundary(), Ok(None));
}

#[test]
fn a_split_that_joined_begins_where_it_joined() {
    let cuts = live(&deployment(start(1), vec![]), &[vec![record(0, 10, "a")]]);
    let mut with_joined = deployment(start(1), cuts);
    with_joined.plan.splits.extend([(SplitId(1), ME), (SplitId(2), OTHER)]);
    with_joined.joined = BTreeMap::from([(SplitId(1), Position(3))]);
    let mut source = source(&with_joined);
    assert_eq!(source.starts().get(&SplitId(1)), Some(&Position(3)));
    assert_eq!(offer(&mut source, &record(2, 0, "not mine")), Ok(Offer::Skip));
    assert_eq!(offer(&mut source, &record(1, 3, "b")), Ok(Offer::Hold));
    assert_eq!(offer(&mut source, &record(0, 10, "a")), Ok(Offer::Take));
    assert!(source.boundary().unwrap().is_some());
    source.closed(&BTreeMap::new());
    assert_eq!(offer(&mut source, &record(1, 3, "b")), Ok(Offer::Take));

    with_joined.joined.clear();
    let source = self::source(&with_joined);
    assert_eq!(source.boundary(), Err(Mismatch::NoStart { split: SplitId(1) }));
}

#[test]
fn rows_go_only_to_key_groups_that_lack_the_epoch() {
    let source = source(&deployment(Cut { epoch: Epoch(4), ..start(1) }, vec![]));
    assert_eq!(source.epoch(), Epoch(5));
    assert!(source.sends_to(Epoch(4)));
    assert!(!source.sends_to(Epoch(5)));
}

#[test]
fn replay_names_what_differs() {
    let epochs = vec![vec![record(0, 10, "a"), record(0, 11, "b"), record(0, 12, "c")]];
    let cuts = live(&deployment(start(1), vec![]), &epochs);
    let again = |log: &[Record]| replay(&mut source(&deployment(start(1), cuts.clone())), log).map(|_| ());
    let (a, b, c) = (record(0, 10, "a"), record(0, 11, "b"), record(0, 12, "c"));
    assert_eq!(again(&[a.clone(), b.clone(), c.clone()]), Ok(()));
    let (split, epoch) = (SplitId(0), Epoch(1));
    let gone = Mismatch::Missing { split, epoch, wanted: 3, found: 2, end: Position(13) };
    assert_eq!(again(&[a.clone(), b.clone(), record(0, 13, "d")]), Err(gone));
    let changed = again(&[a.clone(), record(0, 11, "B"), c]);
    assert!(matches!(changed, Err(Mismatch::Contents { .. })), "{changed:?}");

    let gap = vec![vec![a.clone(), record(0, 15, "f")]];
    let cuts = live(&deployment(start(1), vec![]), &gap);
    let added = replay(&mut source(&deployment(start(1), cuts)), &[a, b, record(0, 15, "f")]);
    let end = Mismatch::End { split, epoch, wanted: Position(16), found: Position(11) };
    assert_eq!(added, Err(end));
}

/// Records of three splits with gaps between positions, cut into epochs, and the order in which splits are polled.
fn epochs() -> impl Strategy<Value = Vec<Vec<Record>>> {
    let one = (0..3_u32, 1..4_i64, proptest::option::of("[a-c]{0,2}"), proptest::option::of("[a-z]{0,6}"));
    proptest::collection::vec(proptest::collection::vec(one, 0..12), 1..8).prop_map(|epochs| {
        let mut next = BTreeMap::new();
        let mut place = |(split, gap, key, value): (u32, i64, Option<String>, Option<String>)| {
            let position = next.entry(split).or_insert(9_i64);
            *position += gap;
            Record {
                split: SplitId(split),
                position: Position(*position),
                key: key.map(String::into_bytes),
                value: value.map(String::into_bytes),
            }
        };
        epochs.into_iter().map(|epoch| epoch.into_iter().map(&mut place).collect()).collect()
    })
}

fn by_split(records: &[Record]) -> BTreeMap<SplitId, Vec<Record>> {
    let mut splits: BTreeMap<SplitId, Vec<Record>> = BTreeMap::new();
    for record in records {
        splits.entry(record.split).or_default().push(record.clone());
    }
    splits
}

proptest! {
    #[test]
    fn replay_gives_the_batches_that_were_cut(epochs in epochs(), from in 0..8_usize, reversed: bool) {
        let first = deployment(start(3), vec![]);
        let cuts = live(&first, &epochs);
        let from = from.min(epochs.len());
        let begin = from.checked_sub(1).map_or_else(|| start(3), |i| cuts[i].clone());
        let mut source = source(&deployment(begin, cuts[from..].to_vec()));
        let mut log = epochs.concat();
        if reversed {
            // Splits race: only the order inside a split is given.
            log.sort_by_key(|r| std::cmp::Reverse(r.split));
        }
        log.push(record(0, 1_000, "later"));
        let taken = replay(&mut source, &log).unwrap();
        for (epoch, records) in (1..).map(Epoch).zip(&epochs).skip(from) {
            let again = taken.get(&epoch).map(Vec::as_slice).unwrap_or_default();
            prop_assert_eq!(by_split(again), by_split(records));
        }
        let live_from = Epoch(epochs.len() as u64 + 1);
        prop_assert_eq!(source.epoch(), live_from);
        prop_assert_eq!(&taken[&live_from], &vec![record(0, 1_000, "later")]);
    }

    #[test]
    fn replay_finds_every_change(epochs in epochs(), at in any::<prop::sample::Index>(), kind in 0..4) {
        let cuts = live(&deployment(start(3), vec![]), &epochs);
        let mut log = epochs.concat();
        prop_assume!(!log.is_empty());
        let at = at.index(log.len());
        let original = log[at].clone();
        match kind {
            0 => log[at].value = Some(b"changed!".to_vec()),
            1 => log[at].key = Some(b"changed!".to_vec()),
            2 => {
                log.remove(at);
            }
            // Between the record and the next one of its split, where offsets leave room.
            _ => {
                let position = Position(original.position.0 + 1);
                prop_assume!(log.iter().all(|r| r.split != original.split || r.position != position));
                prop_assume!(log[at..].iter().any(|r| r.split == original.split && r.position > position));
                log.insert(at + 1, Record { position, ..original.clone() });
            }
        }
        // Something follows in every split, or a missing last record would be waited for.
        log.extend((0..3).map(|split| record(split, 1_000, "later")));
        let found = replay(&mut source(&deployment(start(3), cuts)), &log);
        prop_assert!(found.is_err(), "{:?} went unnoticed", original);
    }
}
