//! What a source task reads from: the splits of a topic, or of a folder.

use std::collections::BTreeMap;
use std::time::Duration;

use pulso_connectors::files::{FilesError, FilesReader, Item};
use pulso_connectors::kafka::{Flow, KafkaError, KafkaReader, Record};
use pulso_core::files::PlacedFile;
use pulso_core::ids::{Position, SplitId};
use pulso_core::message::Deployment;
use pulso_core::source::Mismatch;
use pulso_dataflow::decode::RawRecord;
use pulso_job::spec::{JobSpec, SourceSpec};
use thiserror::Error;

#[derive(Debug, Error)]
pub(super) enum ReaderError {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Files(#[from] FilesError),
}

impl ReaderError {
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            Self::Kafka(error) => error.is_fatal(),
            Self::Files(error) => error.is_fatal(),
        }
    }
}

/// What comes next in a split.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input<'a> {
    Record(RawRecord<'a>),
    /// Nothing lies before this position any more.
    End {
        split: SplitId,
        position: Position,
    },
}

pub(super) enum Reader {
    Kafka(KafkaReader),
    Files(FilesReader),
}

impl Reader {
    pub(super) fn open(
        spec: &JobSpec,
        deployment: &Deployment,
        starts: BTreeMap<SplitId, Position>,
        buffer: u64,
    ) -> Result<Self, ReaderError> {
        Ok(match &spec.source {
            SourceSpec::Kafka(kafka) => Self::Kafka(KafkaReader::open(kafka, &spec.name, starts, buffer)?),
            SourceSpec::Files(_) => Self::Files(FilesReader::open(spec, starts, deployment.files.clone())),
        })
    }

    pub(super) fn add(&mut self, files: Vec<PlacedFile>) {
        match self {
            Self::Kafka(_) => {}
            Self::Files(reader) => reader.add(files),
        }
    }

    /// Nothing tells that there is more in a file: who polls it waits for something else meanwhile.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Kafka(_))
    }

    /// Hands out what is there, at most about `most` items; where nothing is, waits as long as `wait`, if it can.
    pub(super) fn poll(
        &mut self,
        wait: Duration,
        most: usize,
        take: &mut impl FnMut(Input<'_>) -> Flow,
    ) -> Result<usize, ReaderError> {
        match self {
            Self::Kafka(reader) => {
                let mut record = |record: Record<'_>| {
                    let Record { split, position, timestamp_ms, key, value } = record;
                    take(Input::Record(RawRecord { split, position, timestamp_ms, key, value }))
                };
                Ok(reader.poll(wait, most, &mut record)?)
            }
            Self::Files(reader) => {
                let mut item = |item: Item<'_>| {
                    take(match item {
                        Item::Record { split, position, timestamp_ms, key, value } => {
                            let (key, value) = (Some(key), Some(value));
                            Input::Record(RawRecord { split, position, timestamp_ms, key, value })
                        }
                        Item::End { split, position } => Input::End { split, position },
                    })
                };
                Ok(reader.poll(most, &mut item)?)
            }
        }
    }

    pub(super) fn pause(&mut self, split: SplitId) -> Result<(), ReaderError> {
        match self {
            Self::Kafka(reader) => reader.pause(split)?,
            Self::Files(reader) => reader.pause(split),
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, split: SplitId) -> Result<(), ReaderError> {
        match self {
            Self::Kafka(reader) => reader.resume(split)?,
            Self::Files(reader) => reader.resume(split),
        }
        Ok(())
    }

    /// Ends of the splits, where they say how far behind the reader is. A position in files says nothing of that.
    pub(super) fn ends(&self) -> BTreeMap<SplitId, Position> {
        match self {
            Self::Kafka(reader) => reader.ends(),
            Self::Files(_) => BTreeMap::new(),
        }
    }

    pub(super) fn trouble(&self) -> Option<String> {
        match self {
            Self::Kafka(reader) => reader.trouble(),
            Self::Files(_) => None,
        }
    }

    /// For outside lag tools.
    pub(super) fn commit_group_offsets(&self, positions: &BTreeMap<SplitId, Position>) {
        match self {
            Self::Kafka(reader) => reader.commit_group_offsets(positions),
            Self::Files(_) => {}
        }
    }

    /// Files that the contradiction may be about.
    pub(super) fn suspects(&self, mismatch: &Mismatch) -> Option<String> {
        let split = match mismatch {
            Mismatch::Missing { split, .. }
            | Mismatch::End { split, .. }
            | Mismatch::Contents { split, .. }
            | Mismatch::NoStart { split } => *split,
            Mismatch::Opening { .. } => return None,
        };
        match self {
            Self::Kafka(_) => None,
            Self::Files(reader) => Some(reader.suspects(split)).filter(|files| !files.is_empty()),
        }
    }
}
