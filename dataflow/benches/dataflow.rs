//! A record's way through the operators, stage by stage: 1 M records, 30 % of them duplicates, epochs of 20 thousand.
//!
//! `cargo bench -p pulso-dataflow --profile dev --bench dataflow`
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pulso_core::ids::{Epoch, EventTime, KeyGroup, Stage, WallTime};
use pulso_core::message::Counters;
use pulso_dataflow::decode::Decoder;
use pulso_dataflow::keyed::KeyedStage;
use pulso_dataflow::state::{DiskState, KeyGroupState, States};
use pulso_dataflow::{Payload, Result};

const RECORDS: usize = 1_000_000;
const EPOCH: usize = 20_000;

struct NoDisk;

impl DiskState for NoDisk {
    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>> {
        Ok(vec![None; keys.len()])
    }
}

#[derive(Default)]
struct Groups(BTreeMap<KeyGroup, KeyGroupState>);

impl States for Groups {
    fn hosted(&self) -> Vec<KeyGroup> {
        self.0.keys().copied().collect()
    }

    fn state(&mut self, key_group: KeyGroup) -> Option<(&mut KeyGroupState, &dyn DiskState)> {
        Some((self.0.entry(key_group).or_default(), &NoDisk))
    }
}

#[derive(Default)]
struct Times(BTreeMap<&'static str, Duration>);

impl Times {
    fn measure<T>(&mut self, stage: &'static str, run: impl FnOnce() -> T) -> T {
        let (made, time) = support::measure(run);
        *self.0.entry(stage).or_default() += time;
        made
    }
}

fn main() -> Result<()> {
    let job = support::job("update");
    let records = support::records(support::size(RECORDS), 30);
    let owner_of: Vec<usize> = (0..usize::from(job.key_groups)).map(|group| group % 2).collect();
    let stage = KeyedStage::new(job.clone(), Stage(0))?;
    for _ in 0..3 {
        let mut times = Times::default();
        let mut decoder = Decoder::new(job.clone())?;
        let mut groups = Groups::default();
        let (mut total, mut bytes, mut rows) = (Counters::default(), 0, 0);
        for (number, epoch) in records.chunks(EPOCH).enumerate() {
            let decoded = times.measure("1 decode", || {
                let first = number * EPOCH;
                for (position, record) in (first as i64..).zip(epoch) {
                    decoder.push(record.raw(position));
                }
                decoder.close(WallTime(1_700_000_000_000_000))
            })?;
            let parts = times.measure("2 route to two", || decoded.payload.route(&owner_of, 2))?;
            let sent: Vec<Vec<u8>> =
                times.measure("3 encode", || parts.iter().map(Payload::encode).collect::<Result<_>>())?;
            bytes += sent.iter().map(Vec::len).sum::<usize>();
            let arrived = times
                .measure("4 decode the payload", || sent.iter().map(|b| Payload::decode(b)).collect::<Result<_>>())?;
            let (skip, muted) = (BTreeSet::new(), BTreeMap::new());
            let done = times.measure("5 process: dedup and sink rows", || {
                stage.process(&mut groups, Epoch(number as u64 + 1), EventTime::MIN, arrived, &skip, &muted)
            })?;
            done.counters.values().for_each(|c| total.add(c));
            rows += done.outputs.values().map(|(rows, _)| rows.rows_count()).sum::<usize>();
        }
        let settled: usize = times.measure("6 settle the whole overlay", || {
            groups.0.values().map(|state| state.settle(Epoch(u64::MAX)).len()).sum()
        });
        let memory: usize = groups.0.values().map(KeyGroupState::memory).sum();
        for (stage, time) in &times.0 {
            println!("{:6.3} µs per record  {stage}", time.as_secs_f64() * 1e6 / RECORDS as f64);
        }
        println!(
            "{rows} rows, {} duplicates, {} bytes a record on the wire, {settled} entries of {} bytes in memory\n",
            total.duplicates,
            bytes / RECORDS,
            memory / settled.max(1),
        );
    }
    Ok(())
}
