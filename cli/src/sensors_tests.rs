use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::stream::Kind;
use crate::testing::{Judge, START_US, job, late, play, shares_are};

const JOB: &str = include_str!("../../jobs/iot-sensors.toml");

fn mixed() -> SensorsOptions {
    let mix = Mix { count: Some(10_000), invalid: 0.05, late: 0.02, ..Mix::default() };
    SensorsOptions { mix, sensors: 37 }
}

fn paced() -> SensorsOptions {
    let mut options = mixed();
    options.mix.rate = Some(1000.0);
    options
}

#[test]
fn the_job_accepts_all_but_the_flawed_and_those_for_their_flaw() {
    let (sent, _) = play(sensors(mixed()).unwrap());
    let mut judge = Judge::new(&job(JOB));
    let mut flaws = BTreeSet::new();
    for (_, message) in &sent {
        let verdict = judge.judge(message.key.as_bytes(), Some(&message.payload), message.timestamp_ms);
        let Kind::Invalid(flaw) = message.kind else {
            assert_eq!(verdict, Ok(()), "{}", String::from_utf8_lossy(&message.payload));
            continue;
        };
        let reason = match flaw {
            Flaw::Malformed => "invalid_json",
            Flaw::NoTemperature | Flaw::NoSensor => "missing_field",
            Flaw::OutOfRange => "out_of_range",
            Flaw::DecimalComma => "wrong_type",
            Flaw::UnknownStatus => "not_one_of",
            Flaw::NoSuchDay => "invalid_format",
            Flaw::FarFuture => "too_far_in_future",
        };
        assert!(verdict.unwrap_err().contains(reason), "{flaw:?}");
        flaws.insert(reason);
    }
    assert_eq!(flaws.len(), 7);
}

#[test]
fn shares_are_as_asked_and_the_same_seed_gives_the_same_stream() {
    for options in [mixed(), paced()] {
        let (sent, counts) = play(sensors(options.clone()).unwrap());
        assert_eq!(counts.messages, 10_000);
        shares_are(counts, 0.3, 0.0, 0.05, 0.02);
        if options.mix.rate.is_some() {
            assert_eq!(late(&sent, |row| row.time_ms), counts.late);
        }
        assert!(sent == play(sensors(options.clone()).unwrap()).0);
        let other = SensorsOptions { mix: Mix { seed: 2, ..options.mix.clone() }, ..options };
        assert!(sent != play(sensors(other).unwrap()).0);
    }
}

/// The first of each sensor and time, in JSON, against the rows that are promised, in CSV.
#[test]
fn the_rows_promised_are_those_an_independent_reader_finds() {
    let (sent, counts) = play(sensors(mixed()).unwrap());
    let mut found = BTreeMap::new();
    for (_, message) in sent.iter().filter(|(_, message)| !matches!(message.kind, Kind::Invalid(_))) {
        let value: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        let (sensor, local) = (value["sensor_id"].as_i64().unwrap(), value["data_hora"].as_str().unwrap().to_owned());
        found.entry((sensor, local)).or_insert(value);
    }
    let rows: Vec<String> = sent.iter().filter_map(|(_, message)| message.row.as_ref()).map(Reading::csv).collect();
    assert_eq!((rows.len() as u64, found.len() as u64), (counts.distinct, counts.distinct));
    for row in rows {
        let [sensor, temperature, humidity, utc, city, status] = row.trim_end().split(',').collect::<Vec<_>>()[..]
        else {
            panic!("{row}")
        };
        let utc: Timestamp = utc.parse().unwrap();
        // Since 2019 the zone has been three hours behind all year.
        let local = (utc - jiff::SignedDuration::from_hours(3)).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string();
        let value = &found[&(sensor.parse().unwrap(), local)];
        assert_eq!(value["temperatura"].to_string(), temperature);
        assert_eq!(value["umidade"].to_string(), humidity);
        assert_eq!((value["cidade"].as_str(), value["status"].as_str()), (Some(city), Some(status)));
    }
}

#[test]
fn afternoons_are_warm_and_every_status_and_city_appears() {
    let average = |hour: i64| {
        let stream = sensors(SensorsOptions {
            mix: Mix { rate: Some(100.0), count: Some(2_000), ..Mix::default() },
            sensors: 40,
        });
        let mut stream = stream.unwrap();
        // START_US is 11:13 in São Paulo.
        let now = START_US + (hour - 11) * 3_600_000_000;
        let (mut sum, mut count) = (0, 0);
        while let Some(message) = stream.next(now) {
            sum += message.row.map_or(0, |row| row.temperature);
            count += 1;
        }
        f64::from(sum) / f64::from(count)
    };
    assert!(average(15) > average(3) + 30.0, "{} {}", average(15), average(3));
    let (sent, _) = play(sensors(paced()).unwrap());
    let rows: Vec<_> = sent.iter().filter_map(|(_, message)| message.row.as_ref()).collect();
    let statuses: BTreeSet<_> = rows.iter().map(|row| row.status()).collect();
    let cities: BTreeMap<_, BTreeSet<_>> = rows.iter().fold(BTreeMap::new(), |mut cities, row| {
        cities.entry(row.city).or_insert_with(BTreeSet::new).insert(row.sensor);
        cities
    });
    assert_eq!((statuses.len(), cities.len()), (3, CITIES.len()));
    assert!(cities.values().all(|sensors| sensors.len() >= 3));
}

#[test]
fn status_follows_the_thresholds() {
    let zone = TimeZone::get(ZONE).unwrap();
    let status = |temperature, humidity| {
        Reading { zone: zone.clone(), sensor: 1, temperature, humidity, time_ms: 0, city: "Recife" }.status()
    };
    assert_eq!([status(329, 301), status(330, 500), status(200, 300)], ["OK", "ALERTA", "ALERTA"]);
    assert_eq!([status(379, 151), status(380, 500), status(200, 150)], ["ALERTA", "CRITICO", "CRITICO"]);
    assert_eq!(Tenths(-5).to_string(), "-0.5");
}

#[test]
fn senseless_options_are_refused() {
    assert!(sensors(SensorsOptions { sensors: 0, ..mixed() }).is_err());
    let corrected = Mix { corrections: 0.1, ..mixed().mix };
    assert!(sensors(SensorsOptions { mix: corrected, ..mixed() }).unwrap_err().contains("corrections"));
}
