//! JSON to Arrow: the decoder with all its checks, beside what other parsers take for reading the same six members.
//!
//! `cargo bench -p pulso-dataflow --profile dev --bench decode`
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod support;

use std::hint::black_box;

use pulso_core::ids::WallTime;
use pulso_dataflow::decode::Decoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use sonic_rs::JsonValueTrait;

/// The members of a record, numbers as their text: what the decoder needs before it can check anything.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reading<'a> {
    patient_id: &'a str,
    #[serde(borrow)]
    timestamp: &'a RawValue,
    #[serde(borrow)]
    heart_rate: Option<&'a RawValue>,
    #[serde(borrow)]
    temperature: Option<&'a RawValue>,
    #[serde(borrow)]
    oxygen_saturation: Option<&'a RawValue>,
    #[serde(rename = "large_data")]
    large_data: Option<&'a str>,
}

fn main() {
    let records = support::records(support::size(1_000_000), 0);
    let bytes: usize = records.iter().map(|r| r.value.len()).sum();
    println!("{} records of {} bytes on average", records.len(), bytes / records.len());
    for _ in 0..3 {
        measure("decoder: parse, check, columns, rules, route", records.len(), || {
            let mut decoder = Decoder::new(support::job("update")).expect("the job compiles");
            for (position, record) in (0..).zip(&records) {
                decoder.push(record.raw(position));
                if position % 20_000 == 19_999 {
                    black_box(decoder.close(WallTime(i64::MAX / 2)).expect("decodes"));
                }
            }
            decoder.len()
        });
        measure("serde_json: parse alone, into a struct of borrowed texts", records.len(), || {
            let parse = |r: &support::Record| serde_json::from_slice::<Reading<'_>>(&r.value).map(|r| weight(&r));
            records.iter().filter_map(|r| parse(r).ok()).sum()
        });
        measure("sonic-rs: parse alone, six lazy values", records.len(), || {
            records.iter().map(|record| lazy(&record.value)).sum()
        });
    }
}

fn weight(reading: &Reading<'_>) -> usize {
    let raw = |value: Option<&RawValue>| value.map_or(0, |value| value.get().len());
    let vitals = raw(reading.heart_rate) + raw(reading.temperature) + raw(reading.oxygen_saturation);
    reading.patient_id.len() + reading.timestamp.get().len() + vitals + reading.large_data.map_or(0, str::len)
}

fn lazy(value: &[u8]) -> usize {
    let mut weight = 0;
    for member in sonic_rs::to_object_iter(value) {
        let Ok((key, value)) = member else { return weight };
        weight += match key.as_ref() {
            "patientId" | "large_data" => value.as_str().map_or(0, str::len),
            "timestamp" | "heartRate" | "temperature" | "oxygenSaturation" => value.as_raw_str().len(),
            _ => 0,
        };
    }
    weight
}

fn measure(what: &str, records: usize, run: impl FnOnce() -> usize) {
    let (_, time) = support::measure(|| black_box(run()));
    println!("{:6.3} µs per record  {what}", time.as_secs_f64() * 1e6 / records as f64);
}
