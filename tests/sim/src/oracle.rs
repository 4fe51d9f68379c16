//! What must come out, computed one record after another from Kafka's records and, for what depends on them, the cuts.

use std::collections::BTreeMap;

use pulso_core::cut::{Cut, CutHash};
use pulso_core::ids::{Epoch, KeyGroupId, SplitId, TargetId};
use pulso_core::message::Counters;

use crate::dedup::{At, Row, SECOND, State, Written, count, fate, forwarded, written};
use crate::kafka::{Kafka, decode};

/// Rows of one key group and epoch in one target.
pub(crate) type Key = (TargetId, Epoch, KeyGroupId);

#[derive(Default)]
pub(crate) struct Oracle {
    /// Of the definition in force: the first ones.
    pub(crate) targets: u16,
    pub(crate) key_groups: u16,
    pub(crate) stages: u8,
    /// Hash of every sealed cut.
    pub(crate) cuts: BTreeMap<Epoch, CutHash>,
    pub(crate) rows: BTreeMap<Key, Vec<Written>>,
    pub(crate) counters: Counters,
    changes: BTreeMap<Epoch, BTreeMap<KeyGroupId, State>>,
    state: State,
    /// Of the second stage.
    second: State,
    read: BTreeMap<SplitId, usize>,
    newest: Option<Cut>,
}

impl Oracle {
    pub(crate) fn new(targets: u16, key_groups: u16, stages: u8) -> Self {
        Self { targets, key_groups, stages, ..Self::default() }
    }

    pub(crate) fn sealed(&self) -> Epoch {
        self.newest.as_ref().map_or(Epoch::ZERO, |c| c.epoch)
    }

    pub(crate) fn start(&mut self, cut: Cut) {
        self.cuts.insert(cut.epoch, cut.hash());
        self.newest = Some(cut);
    }

    /// A cut became durable: works its epoch off.
    pub(crate) fn seal(&mut self, cut: &Cut, since: Epoch, kafka: &Kafka) -> Result<(), String> {
        if let Some(hash) = self.cuts.get(&cut.epoch) {
            return if *hash == cut.hash() {
                Ok(())
            } else {
                Err(format!("epoch {} was sealed with another cut", cut.epoch))
            };
        }
        let Some(previous) = &self.newest else { return Err("a cut before the job".to_owned()) };
        if cut.epoch != previous.epoch.next() || cut.previous != previous.hash() || cut.watermark < previous.watermark {
            return Err(format!("cut {} does not follow cut {}", cut.epoch, previous.epoch));
        }
        let at = At { epoch: cut.epoch, since, watermark: previous.watermark };
        for row in self.take(cut, kafka)? {
            self.process(at, &row);
        }
        self.cuts.insert(cut.epoch, cut.hash());
        self.newest = Some(cut.clone());
        Ok(())
    }

    fn take(&mut self, cut: &Cut, kafka: &Kafka) -> Result<Vec<Row>, String> {
        let mut rows = Vec::new();
        for (split, part) in &cut.splits {
            let from = self.read.entry(*split).or_default();
            let to = *from + usize::try_from(part.count).unwrap_or(usize::MAX);
            let records = kafka.splits.get(split).and_then(|records| records.get(*from..to));
            let records =
                records.ok_or_else(|| format!("cut {} counts records that split {split} lacks", cut.epoch))?;
            if records.last().is_some_and(|r| r.position.0 + 1 != part.end.0) {
                return Err(format!("cut {} ends split {split} elsewhere than its last record", cut.epoch));
            }
            *from = to;
            rows.extend(records.iter().map(|r| decode(*split, r, self.key_groups)));
        }
        Ok(rows)
    }

    fn process(&mut self, at: At, row: &Row) {
        let epoch = at.epoch;
        let is_second = row.key_group.stage == SECOND;
        let state = if is_second { &mut self.second } else { &mut self.state };
        let (fate, change) = fate(row, row.content.and_then(|c| state.get(&c.key)).copied());
        if !is_second {
            count(fate, &mut self.counters);
        }
        if let Some((key, winner)) = change {
            state.insert(key, winner);
            self.changes.entry(epoch).or_default().entry(row.key_group).or_default().insert(key, winner);
        }
        for target in (0..self.targets).map(TargetId) {
            if let Some(row) = written(target, at, row, fate) {
                self.rows.entry((target, epoch, row.key_group)).or_default().push(row);
            }
        }
        if self.stages > 1
            && !is_second
            && let Some(row) = forwarded(row, fate, self.key_groups)
        {
            self.process(at, &row);
        }
    }

    /// State of one key group after an epoch.
    pub(crate) fn state(&self, key_group: KeyGroupId, epoch: Epoch) -> State {
        let mut state = State::new();
        for changes in self.changes.range(..=epoch).filter_map(|(_, changes)| changes.get(&key_group)) {
            state.extend(changes);
        }
        state
    }

    /// The keyed table, from the records alone: per key the value of its newest record, wherever cuts fell.
    pub(crate) fn keyed(&self, kafka: &Kafka) -> BTreeMap<u32, u32> {
        let mut newest = BTreeMap::new();
        for (split, records) in &kafka.splits {
            for row in records.iter().map(|r| decode(*split, r, self.key_groups)) {
                let Some(content) = row.content else { continue };
                let rank = (row.timestamp_ms, row.split, row.position);
                let best = newest.entry(content.key).or_insert((rank, content.value));
                if rank > best.0 {
                    *best = (rank, content.value);
                }
            }
        }
        newest.into_iter().map(|(key, (_, value))| (key, value)).collect()
    }
}
