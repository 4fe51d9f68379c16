use std::collections::{BTreeMap, BTreeSet};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::generator::run;
use crate::stream::Kind;
use crate::testing::{late, play, shares_are};

const JOB: &str = include_str!("../../jobs/ward-files.toml");

fn mixed() -> WardOptions {
    let mix = Mix { count: Some(2_000), corrections: 0.1, invalid: 0.05, late: 0.03, ..Mix::default() };
    WardOptions { mix, patients: 20, records: 12, bad_records: 0.1 }
}

fn paced() -> WardOptions {
    let mut options = mixed();
    options.mix.rate = Some(50.0);
    options
}

/// By patient, sensor and local time: value and unit.
type Rows = BTreeMap<(u64, String, String), (f64, String)>;

/// The last value of each: found without the generator's help.
fn stored<'a>(files: impl Iterator<Item = &'a [u8]>) -> (Rows, usize) {
    let (mut rows, mut dead_letters) = (BTreeMap::new(), 0);
    for file in files {
        let Ok(file) = serde_json::from_slice::<serde_json::Value>(file) else { continue };
        let patient = file["paciente"]["id"].as_u64().unwrap();
        for record in file["records"].as_array().unwrap() {
            let text = |name: &str| record[name].as_str().map(str::to_owned);
            let (sensor, unit, time) = (text("sensor"), text("unidade"), text("timestamp"));
            let value = record["valor"].as_f64().filter(|value| ((value * 100.0).round() / 100.0 - value).abs() < 1e-9);
            let known = sensor.clone().filter(|sensor| SENSORS.iter().any(|(name, ..)| name == sensor));
            let day = time.clone().filter(|time| !time.starts_with("2026-02-30"));
            match (known, value, unit, day) {
                (Some(sensor), Some(value), Some(unit), Some(time)) => {
                    rows.insert((patient, sensor, time), (value, unit));
                }
                _ => dead_letters += 1,
            }
        }
    }
    (rows, dead_letters)
}

fn promised<'a>(batches: impl Iterator<Item = &'a Batch>) -> Rows {
    let mut rows = BTreeMap::new();
    for line in batches.flat_map(|batch| batch.csv().lines().map(str::to_owned).collect::<Vec<_>>()) {
        let [patient, sensor, value, unit, utc] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let local = utc.parse::<Timestamp>().unwrap() - jiff::SignedDuration::from_hours(3);
        let local = local.strftime("%Y-%m-%dT%H:%M:%S%.3f").to_string();
        let key = (patient.parse().unwrap(), sensor.to_owned(), local);
        assert!(rows.insert(key, (value.parse().unwrap(), unit.to_owned())).is_none(), "{line} twice");
    }
    rows
}

#[test]
fn the_rows_promised_are_those_an_independent_reader_finds() {
    for options in [mixed(), paced()] {
        let (sent, counts) = play(ward(options).unwrap());
        shares_are(counts, 0.3, 0.1, 0.05, 0.03);
        let (rows, dead_letters) = stored(sent.iter().map(|(_, message)| &message.payload[..]));
        assert_eq!(rows, promised(sent.iter().filter_map(|(_, message)| message.row.as_ref())));
        let share = dead_letters as f64 / ((counts.messages - counts.invalid) * 12) as f64;
        assert!((share - 0.1).abs() < 0.01, "{share}");
    }
}

#[test]
fn the_same_seed_gives_the_same_files_and_every_flaw_appears() {
    let (sent, _) = play(ward(paced()).unwrap());
    assert!(sent == play(ward(paced()).unwrap()).0);
    let mut other = paced();
    other.mix.seed = 2;
    assert!(sent != play(ward(other).unwrap()).0);
    let mut flaws = BTreeSet::new();
    for (_, message) in &sent {
        let json = serde_json::from_slice::<serde_json::Value>(&message.payload);
        if let Kind::Invalid(flaw) = message.kind {
            assert!(json.is_err(), "{flaw:?}");
            flaws.insert(format!("{flaw:?}"));
        } else {
            assert!(json.is_ok());
        }
    }
    assert_eq!(flaws.len(), Batch::FLAWS.len());
    let bad: BTreeSet<String> = sent
        .iter()
        .filter_map(|(_, message)| message.row.as_ref())
        .flat_map(|batch| batch.readings.iter().filter_map(|reading| reading.bad.map(|bad| format!("{bad:?}"))))
        .collect();
    assert_eq!(bad.len(), BAD_READINGS.len());
}

/// The shape that the job's [fields] name; values are compared above.
#[test]
fn files_have_what_the_job_reads() {
    for part in
        ["each = \"records\"", "\"^paciente.id\"", "sensor     =", "valor      =", "unidade    =", "timestamp  ="]
    {
        assert!(JOB.contains(part), "{part}");
    }
    assert!(JOB.contains(&format!("assume_zone = \"{ZONE}\"")) && JOB.contains("decimal(6,2)"));
    let mut options = mixed();
    options.bad_records = 0.0;
    let (sent, _) = play(ward(options).unwrap());
    let file: serde_json::Value = serde_json::from_slice(&sent[0].1.payload).unwrap();
    assert!(file["paciente"]["id"].is_u64());
    let records = file["records"].as_array().unwrap();
    assert_eq!(records.len(), 12);
    for record in records {
        let members: Vec<&str> = record.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(BTreeSet::from_iter(members), BTreeSet::from(["sensor", "valor", "unidade", "timestamp"]));
        assert!(record["valor"].is_number() && record["timestamp"].as_str().unwrap().len() == 23);
    }
}

#[test]
fn files_are_whole_named_in_order_and_newer_where_they_correct() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = mixed();
    options.mix.count = Some(200);
    let mut sent = Vec::new();
    let outlet = Folder::create(&folder.path().join("raw")).unwrap();
    let summary = run(ward(options).unwrap(), outlet, None, &CancellationToken::new(), |message, _| {
        sent.push(message.clone());
        Ok(())
    });
    assert_eq!(summary.unwrap().counts.messages, 200);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path().join("raw")).unwrap().map(|file| file.unwrap().path()).collect();
    names.sort();
    assert!(names.iter().all(|name| name.extension().is_some_and(|ending| ending == "json")));
    let files: Vec<Vec<u8>> = names.iter().map(|name| std::fs::read(name).unwrap()).collect();
    assert_eq!(files.len(), 200);
    for name in &names {
        let modified = name.metadata().unwrap().modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_millis();
        assert!(name.file_name().unwrap().to_str().unwrap().starts_with(&format!("{modified:013}-")), "{name:?}");
    }
    // In the order of (modification time, path), in which the last of each key wins.
    let mut order: Vec<usize> = (0..200).collect();
    order.sort_by_key(|at| (names[*at].metadata().unwrap().modified().unwrap(), &names[*at]));
    assert!(order.is_sorted());
    let (rows, _) = stored(order.iter().map(|at| &files[*at][..]));
    assert_eq!(rows, promised(sent.iter().filter_map(|message| message.row.as_ref())));
    // Some appear twice under other names.
    assert!(files.iter().collect::<BTreeSet<_>>().len() < 170);
}

#[test]
fn no_reading_is_ahead_of_the_clock_and_senseless_options_are_refused() {
    let (sent, counts) = play(ward(paced()).unwrap());
    assert_eq!(late(&sent, |batch| batch.readings[0].time_ms), counts.late);
    for (_, message) in &sent {
        let times = message.row.iter().flat_map(|batch| &batch.readings).map(|reading| reading.time_ms);
        assert!(times.max().is_none_or(|time| time <= message.timestamp_ms));
    }
    let refused = |change: fn(&mut WardOptions)| {
        let mut options = paced();
        change(&mut options);
        ward(options).is_err()
    };
    assert!(refused(|options| options.patients = 0));
    assert!(refused(|options| options.records = 0));
    assert!(refused(|options| options.bad_records = 1.1));
    assert!(refused(|options| options.mix.rate = Some(100.0)));
    assert!(refused(|options| (options.mix.rate, options.mix.count) = (None, None)));
}
