use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::stream::{Counts, Kind};

type Message = crate::stream::Message<Reading>;

const START_US: i64 = 1_790_000_000_000_000;

/// Sends everything at the moment it is due.
fn run(options: VitalsOptions) -> (Vec<(Duration, Message)>, Counts) {
    let mut stream = vitals(options).unwrap();
    let mut sent = Vec::new();
    while let Some(due) = stream.due() {
        let now = START_US + i64::try_from(due.as_micros()).unwrap();
        sent.push((due, stream.next(now).unwrap()));
    }
    assert!(stream.next(START_US).is_none());
    (sent, stream.counts())
}

fn mixed() -> VitalsOptions {
    let mix = Mix { count: Some(20_000), corrections: 0.1, invalid: 0.05, late: 0.02, ..Mix::default() };
    VitalsOptions { mix, patients: 37 }
}

fn paced() -> VitalsOptions {
    with(|mix| mix.rate = Some(2000.0))
}

/// [`mixed`] with a change.
fn with(change: impl FnOnce(&mut Mix)) -> VitalsOptions {
    let mut options = mixed();
    change(&mut options.mix);
    options
}

/// What a table must hold, found without the generator's help: parse, check, greatest (timestamp, partition, offset).
fn stored(sent: &[(Duration, Message)], partitions: usize) -> BTreeMap<(String, i64), String> {
    type Position = (i64, usize, usize);
    let mut winners: BTreeMap<(String, i64), (Position, String)> = BTreeMap::new();
    for (n, (_, message)) in sent.iter().enumerate() {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(&message.payload) else { continue };
        let (Some(patient), Some(time)) = (value["patientId"].as_str(), value["timestamp"].as_i64()) else { continue };
        let Some(heart) = value["heartRate"].as_f64() else { continue };
        if !(heart > 0.0 && heart <= 300.0) || time > START_US / 1000 + 1_000_000 {
            continue;
        }
        let position = (message.timestamp_ms, n % partitions, n / partitions);
        let values = format!("{} {} {}", value["heartRate"], value["temperature"], value["oxygenSaturation"]);
        let row = format!("{values} {}", value["large_data"].as_str().unwrap());
        let winner = winners.entry((patient.to_owned(), time)).or_insert((position, row.clone()));
        if position >= winner.0 {
            *winner = (position, row);
        }
    }
    winners.into_iter().map(|(key, (_, row))| (key, row)).collect()
}

fn expected(sent: &[(Duration, Message)]) -> BTreeMap<(String, i64), String> {
    let rows: Vec<&Reading> = sent.iter().filter_map(|(_, message)| message.row.as_ref()).collect();
    let map: BTreeMap<_, _> = rows
        .iter()
        .map(|row| {
            let values = format!("{:?} {:?} {:?}", tenth(row.heart), tenth(row.temperature), tenth(row.oxygen));
            ((row.patient.to_string(), row.time_ms), format!("{values} {}", row.large_data))
        })
        .collect();
    assert_eq!(map.len(), rows.len(), "one row for each patient and time");
    map
}

#[test]
fn the_rows_promised_are_those_an_independent_reader_finds() {
    for options in [mixed(), paced()] {
        for partitions in [1, 8] {
            let (sent, counts) = run(options.clone());
            let rows = expected(&sent);
            assert_eq!(rows.len() as u64, counts.distinct);
            assert_eq!(rows, stored(&sent, partitions));
        }
    }
}

#[test]
fn counts_and_shares_are_as_asked() {
    for options in [mixed(), paced()] {
        let (sent, counts) = run(options);
        assert_eq!(sent.len(), 20_000);
        assert_eq!(counts.messages, 20_000);
        assert_eq!(counts.distinct + counts.duplicates + counts.corrections + counts.invalid, 20_000);
        for (what, count, share) in [
            ("duplicates", counts.duplicates, 0.3),
            ("corrections", counts.corrections, 0.1),
            ("invalid", counts.invalid, 0.05),
            ("late", counts.late, 0.02),
        ] {
            let got = count as f64 / 20_000.0;
            assert!((got - share).abs() < 0.02, "{what}: {got}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_stream() {
    assert_eq!(run(paced()).0, run(paced()).0);
    assert_ne!(run(paced()).0, run(with(|mix| (mix.rate, mix.seed) = (Some(2000.0), 2))).0);
}

#[test]
fn duplicates_come_50_to_200_ms_later_and_are_the_same_bytes() {
    let (sent, _) = run(with(|mix| (mix.rate, mix.corrections) = (Some(2000.0), 0.0)));
    let mut last: BTreeMap<&[u8], Duration> = BTreeMap::new();
    let mut seen = 0;
    for (at, message) in &sent {
        let before = last.insert(&message.payload, *at);
        if message.kind == Kind::Duplicate {
            let after = (*at - before.unwrap()).as_millis();
            assert!((50..=200).contains(&after), "{after} ms");
            seen += 1;
        } else {
            assert!(before.is_none());
        }
    }
    assert!(seen > 5000);
}

#[test]
fn the_rate_is_kept() {
    let (sent, _) = run(paced());
    let took = sent.last().unwrap().0.as_secs_f64();
    assert!((9.0..12.0).contains(&took), "20,000 at 2,000/s took {took} s");
    assert!(sent.is_sorted_by_key(|(at, _)| *at));
}

#[test]
fn late_readings_lie_back() {
    let (sent, counts) = run(paced());
    assert_eq!(crate::testing::late(&sent, |reading| reading.time_ms), counts.late);
}

#[test]
fn a_correction_has_a_greater_timestamp_than_all_before_it() {
    // All at one instant, the worst case.
    let mut stream = vitals(mixed()).unwrap();
    let mut greatest: BTreeMap<(String, i64), i64> = BTreeMap::new();
    let mut corrections = 0;
    while let Some(message) = stream.next(START_US) {
        if matches!(message.kind, Kind::Invalid(_)) {
            continue;
        }
        let value: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        let key = (value["patientId"].as_str().unwrap().to_owned(), value["timestamp"].as_i64().unwrap());
        let before = greatest.insert(key, message.timestamp_ms).unwrap_or(i64::MIN);
        assert!(message.timestamp_ms >= before);
        if message.kind == Kind::Correction {
            assert!(message.timestamp_ms > before);
            corrections += 1;
        }
    }
    assert!(corrections > 1000);
}

#[test]
fn every_flaw_appears_and_large_data_is_100_bytes() {
    let (sent, _) = run(mixed());
    let flaws: BTreeSet<String> = sent
        .iter()
        .filter_map(
            |(_, message)| if let Kind::Invalid(flaw) = message.kind { Some(format!("{flaw:?}")) } else { None },
        )
        .collect();
    assert_eq!(flaws.len(), Reading::FLAWS.len());
    for row in sent.iter().filter_map(|(_, message)| message.row.as_ref()) {
        assert_eq!(row.large_data.len(), LARGE_DATA);
        let sent_us: i64 = row.large_data.split_once(':').unwrap().0.parse().unwrap();
        assert!(sent_us >= START_US);
    }
}

#[test]
fn finish_still_sends_what_was_promised() {
    let mut stream = vitals(with(|mix| (mix.rate, mix.count) = (Some(2000.0), None))).unwrap();
    let mut sent = Vec::new();
    for _ in 0..5000 {
        sent.push((Duration::ZERO, stream.next(START_US).unwrap()));
    }
    stream.finish();
    while let Some(message) = stream.next(START_US) {
        assert!(!matches!(message.kind, Kind::New | Kind::Invalid(_)));
        sent.push((Duration::ZERO, message));
    }
    assert_eq!(expected(&sent), stored(&sent, 8));
}

#[test]
fn csv_is_what_copy_reads() {
    let row = Reading {
        patient: "P0007".into(),
        time_ms: 1_790_000_000_004,
        heart: 710,
        temperature: 366,
        oxygen: 975,
        large_data: "1:x".into(),
    };
    assert_eq!(row.csv(), "P0007,2026-09-21 14:13:20.004+00,71,36.6,97.5,1:x\n");
}

#[test]
fn what_is_sent_at_once_has_event_times_up_to_the_start() {
    let (sent, _) = run(mixed());
    let times = sent.iter().filter_map(|(_, message)| message.row.as_ref()).map(|row| row.time_ms);
    let (start_ms, last) = (START_US / 1000, times.max().unwrap());
    assert!((start_ms - 60_000..=start_ms).contains(&last), "{} ms before the start", start_ms - last);
}

#[test]
fn senseless_options_are_refused() {
    let refused = |change: fn(&mut Mix)| vitals(with(change)).is_err();
    assert!(refused(|mix| mix.duplicates = 1.5));
    assert!(refused(|mix| (mix.duplicates, mix.invalid) = (0.5, 0.5)));
    assert!(refused(|mix| mix.corrections = 0.6));
    assert!(refused(|mix| mix.duplicates = f64::NAN));
    assert!(refused(|mix| mix.rate = Some(0.0)));
    assert!(vitals(VitalsOptions { patients: 0, ..mixed() }).is_err());
}
