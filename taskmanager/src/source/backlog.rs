//! What a source task has read before its epoch, split by split, and how it comes to the decoder.

use std::collections::{BTreeMap, VecDeque};

use pulso_core::ids::{Position, SplitId};
use pulso_core::source::{Mismatch, Offer, Source};
use pulso_dataflow::decode::{Decoder, RawRecord};

use super::reader::Input;

/// Records of a split that belong to later epochs are kept up to this many bytes before the split is paused.
pub(super) const HELD_BYTES: usize = 4 << 20;

/// What came before its epoch.
pub(super) enum Held {
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

    pub(super) fn input(&self, split: SplitId) -> Input<'_> {
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

    pub(super) fn bytes(&self) -> usize {
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
    pub(super) records: VecDeque<Held>,
    pub(super) bytes: usize,
    pub(super) paused: bool,
}

/// Lets the machine decide, and decodes what it takes.
pub(super) fn offer(machine: &mut Source, decoder: &mut Decoder, item: &Input<'_>) -> Result<Offer, Mismatch> {
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

pub(super) fn hold(backlog: &mut BTreeMap<SplitId, Backlog>, split: SplitId, item: &Input<'_>) {
    let held = Held::of(item);
    let backlog = backlog.entry(split).or_default();
    backlog.bytes += held.bytes();
    backlog.records.push_back(held);
}
