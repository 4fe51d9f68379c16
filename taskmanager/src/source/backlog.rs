//! What a source task has read before its epoch, split by split, and how it comes to the decoder.

use std::collections::VecDeque;

use pulso_connectors::kafka::Flow;
use pulso_core::ids::{Position, SplitId};
use pulso_core::source::{Mismatch, Offer, Source};
use pulso_dataflow::decode::{Decoder, RawRecord};

use super::PART_BYTES;
use super::reader::Input;

/// Records of a split that belong to later epochs are kept up to this many bytes before the split is paused.
const HELD_BYTES: usize = 4 << 20;

/// What came before its epoch.
enum Held {
    Record {
        position: Position,
        timestamp_ms: i64,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
    },
    /// Nothing lies before this position any more.
    End(Position),
}

impl Held {
    fn of(item: &Input<'_>) -> Self {
        match *item {
            Input::Record(RawRecord { position, timestamp_ms, key, value, .. }) => {
                Self::Record { position, timestamp_ms, key: key.map(<[u8]>::to_vec), value: value.map(<[u8]>::to_vec) }
            }
            Input::End { position, .. } => Self::End(position),
        }
    }

    fn input(&self, split: SplitId) -> Input<'_> {
        match self {
            Self::Record { position, timestamp_ms, key, value } => Input::Record(RawRecord {
                split,
                position: *position,
                timestamp_ms: *timestamp_ms,
                key: key.as_deref(),
                value: value.as_deref(),
            }),
            Self::End(position) => Input::End { split, position: *position },
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Record { key, value, .. } => {
                64 + key.as_ref().map_or(0, Vec::len) + value.as_ref().map_or(0, Vec::len)
            }
            Self::End(_) => 64,
        }
    }
}

#[derive(Default)]
pub(super) struct Backlog {
    records: VecDeque<Held>,
    bytes: usize,
    pub(super) paused: bool,
}

impl Backlog {
    /// Takes what was read, or keeps it where its epoch has not begun. `Stop` where this is enough.
    pub(super) fn take(
        &mut self,
        machine: &mut Source,
        decoder: &mut Decoder,
        item: &Input<'_>,
    ) -> Result<Flow, Mismatch> {
        if decoder.bytes() >= PART_BYTES {
            self.hold(item);
            return Ok(Flow::Stop);
        }
        if self.records.is_empty() && offer(machine, decoder, item)? != Offer::Hold {
            return Ok(Flow::Continue);
        }
        self.hold(item);
        // One call of the reader may hand out thousands of records, each as long as a record may be.
        Ok(if self.is_full() { Flow::Stop } else { Flow::Continue })
    }

    /// Offers again what is kept; false where the decoder has enough before that is done.
    pub(super) fn offer(
        &mut self,
        split: SplitId,
        machine: &mut Source,
        decoder: &mut Decoder,
    ) -> Result<bool, Mismatch> {
        while let Some(held) = self.records.front() {
            if decoder.bytes() >= PART_BYTES {
                return Ok(false);
            }
            if offer(machine, decoder, &held.input(split))? == Offer::Hold {
                break;
            }
            self.bytes -= held.bytes();
            self.records.pop_front();
        }
        Ok(true)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes > HELD_BYTES
    }

    /// So little is left that there may be more to keep.
    pub(super) fn is_low(&self) -> bool {
        self.bytes < HELD_BYTES / 2
    }

    fn hold(&mut self, item: &Input<'_>) {
        let held = Held::of(item);
        self.bytes += held.bytes();
        self.records.push_back(held);
    }
}

/// Lets the machine decide, and decodes what it takes.
fn offer(machine: &mut Source, decoder: &mut Decoder, item: &Input<'_>) -> Result<Offer, Mismatch> {
    match *item {
        Input::Record(record) => {
            let RawRecord { split, position, timestamp_ms, key, value } = record;
            let offer = machine.offer(split, position, timestamp_ms, key, value)?;
            if offer == Offer::Take {
                decoder.push(record);
            }
            Ok(offer)
        }
        Input::End { split, position } => machine.advance(split, position),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use pulso_core::cut::{Cut, CutHash, SplitCut};
    use pulso_core::ids::{Attempt, Epoch, EventTime, JobId, TaskManagerId, WallTime};
    use pulso_core::message::Deployment;
    use pulso_core::placement::Plan;
    use pulso_core::record::JobDefinition;
    use pulso_core::source::SourceLimits;
    use pulso_job::Submission;
    use uuid::Uuid;

    use super::*;

    const SPLIT: SplitId = SplitId(0);

    /// A source whose epochs end after one record.
    fn machine() -> Source {
        let me = TaskManagerId(Uuid::from_u128(1));
        let job = JobId(Uuid::from_u128(2));
        let split = SplitCut { end: Position(0), count: 0, hash: 0, greatest: None };
        let start = Cut {
            epoch: Epoch(0),
            clock: WallTime(0),
            splits: BTreeMap::from([(SPLIT, split)]),
            watermark: EventTime::MIN,
            idle: BTreeSet::new(),
            last: false,
            lookups: None,
            previous: CutHash(0),
        };
        let definition = JobDefinition {
            id: job,
            name: "ward".to_owned(),
            submission: String::new(),
            fingerprint: 0,
            key_groups: 1,
            stages: 1,
            targets: Vec::new(),
            delay: 0,
            idle_after: 0,
            has_windows: false,
        };
        let deployment = Deployment {
            job,
            attempt: Attempt(1),
            since: Epoch::ZERO,
            until: None,
            rewound: false,
            definition,
            plan: Plan { splits: BTreeMap::from([(SPLIT, me)]), ..Plan::default() },
            resume: BTreeMap::new(),
            restore: BTreeMap::new(),
            committed: Epoch(0),
            start,
            replay: Vec::new(),
            files: Vec::new(),
            joined: BTreeMap::new(),
            window: 4,
        };
        Source::new(me, &deployment, SourceLimits { epoch_records: 1, epoch_bytes: u64::MAX })
    }

    fn decoder() -> Decoder {
        let toml = "version = 1\nname = \"ward\"\n[source]\ntype = \"kafka\"\nbrokers = \"localhost:9092\"\n\
                    topic = \"t\"\n[target.db]\ntype = \"postgres\"\nurl = \"postgres://localhost/x\"\n[fields]\n\
                    id = { type = \"int64\", required = true }\n[[sink]]\nto = \"db\"\ntable = \"t\"\nwrite = \"append\"\n";
        let submission = Submission {
            toml: toml.to_owned(),
            environment: BTreeMap::new(),
            folder: "/".to_owned(),
            ..Submission::default()
        };
        Decoder::new(Arc::new(pulso_job::check(&submission, "job.toml").unwrap().0)).unwrap()
    }

    fn record(position: i64, value: &[u8]) -> Input<'_> {
        let position = Position(position);
        Input::Record(RawRecord { split: SPLIT, position, timestamp_ms: 0, key: None, value: Some(value) })
    }

    #[test]
    fn what_is_kept_before_its_epoch_has_a_bound() {
        let (mut machine, mut decoder, value) = (machine(), decoder(), vec![b'x'; 100_000]);
        let mut backlog = Backlog::default();
        let mut taken = Vec::new();
        // As a reader that hands out a thousand records at a time would.
        for position in 0..1_000 {
            taken.push(backlog.take(&mut machine, &mut decoder, &record(position, &value)).unwrap());
            if taken.ends_with(&[Flow::Stop]) {
                break;
            }
        }
        assert!(backlog.is_full() && taken.len() < 50, "{} records, {} bytes", taken.len(), backlog.bytes);
        assert_eq!(backlog.records.len(), taken.len() - 1, "the first one is in its epoch");
        // The first one that is kept may be too long by itself.
        let (mut machine, mut backlog, long) = (self::machine(), Backlog::default(), vec![b'x'; HELD_BYTES + 1]);
        assert_eq!(backlog.take(&mut machine, &mut decoder, &record(0, b"{}")), Ok(Flow::Continue));
        assert_eq!(backlog.take(&mut machine, &mut decoder, &record(1, &long)), Ok(Flow::Stop));
    }
}
