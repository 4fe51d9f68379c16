//! Reads the splits of one source task, on the task's own thread.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pulso_core::ids::{Position, SplitId};
use pulso_job::spec::{KafkaSourceSpec, OnDataLoss};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{self, Consumer, partition};
use super::error::KafkaError;

/// How long one look at a split's bounds may hold up the thread while no broker answers.
const LOOK: Duration = Duration::from_millis(500);
/// Pause between such looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// One record, borrowed from the client's buffer.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub split: SplitId,
    pub position: Position,
    /// The broker's or the producer's; -1 where there is none.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// What the taker of a record wants next. It has taken the record either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// Come back: no more records in this call.
    Stop,
}

/// A client that reads some splits of a topic. Brokers that are down are waited for: see [`KafkaReader::trouble`].
pub struct KafkaReader {
    consumer: Consumer,
    brokers: String,
    topic: String,
    on_data_loss: OnDataLoss,
    /// Next record to take, per split.
    next: BTreeMap<SplitId, Position>,
    paused: BTreeSet<SplitId>,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Positions must be compared with what the brokers have, from this time on.
    Unchecked(Instant),
    Reading,
}

impl KafkaReader {
    /// `starts`: the splits to read, and the first record of each. `buffer`: bytes that may be fetched ahead. Positions
    /// are compared with the topic before the first record is handed out, by [`KafkaReader::poll`].
    ///
    /// # Errors
    /// [`KafkaError::Invalid`]
    pub fn open(
        spec: &KafkaSourceSpec,
        job_name: &str,
        starts: BTreeMap<SplitId, Position>,
        buffer: u64,
    ) -> Result<Self, KafkaError> {
        Ok(Self {
            consumer: client::consumer(spec, &format!("pulso-{job_name}"), buffer)?,
            brokers: spec.brokers.clone(),
            topic: spec.topic.clone(),
            on_data_loss: spec.on_data_loss,
            next: starts,
            paused: BTreeSet::new(),
            state: State::Unchecked(Instant::now()),
        })
    }

    /// Hands out at most `max` records; waits up to `timeout` for the first one. Records of one split come in order.
    /// Returns how many there were.
    ///
    /// # Errors
    /// [`KafkaError::DataLoss`] (unless the job skips), [`KafkaError::Recreated`], [`KafkaError::Denied`],
    /// [`KafkaError::Damaged`]. A broker that is down is none.
    pub fn poll(
        &mut self,
        timeout: Duration,
        max: usize,
        sink: &mut dyn FnMut(Record<'_>) -> Flow,
    ) -> Result<usize, KafkaError> {
        if let State::Unchecked(from) = self.state
            && !self.check(from, timeout)?
        {
            return Ok(0);
        }
        let mut count = 0;
        while count < max {
            let wait = if count == 0 { timeout } else { Duration::ZERO };
            let Some(polled) = self.consumer.poll(wait) else { break };
            let message = match polled {
                Ok(message) => message,
                Err(error) => {
                    self.heard(&error)?;
                    break;
                }
            };
            let Ok(split) = u32::try_from(message.partition()).map(SplitId) else { continue };
            let position = Position(message.offset());
            let Some(next) = self.next.get_mut(&split) else { continue };
            // After a new assignment the queue may still hold what was taken before it.
            if position < *next {
                continue;
            }
            *next = Position(position.0 + 1);
            let timestamp_ms = message.timestamp().to_millis().unwrap_or(-1);
            count += 1;
            let record = Record { split, position, timestamp_ms, key: message.key(), value: message.payload() };
            if sink(record) == Flow::Stop {
                break;
            }
        }
        Ok(count)
    }

    /// Hands out no more records of this split, and fetches none, until [`KafkaReader::resume`].
    ///
    /// # Errors
    /// [`KafkaError::Unreachable`] where the client does not know the split.
    pub fn pause(&mut self, split: SplitId) -> Result<(), KafkaError> {
        self.paused.insert(split);
        if matches!(self.state, State::Unchecked(_)) {
            return Ok(());
        }
        self.consumer.pause(&self.list([split])).map_err(|e| self.request(&e))
    }

    /// # Errors
    /// As [`KafkaReader::pause`].
    pub fn resume(&mut self, split: SplitId) -> Result<(), KafkaError> {
        self.paused.remove(&split);
        if matches!(self.state, State::Unchecked(_)) {
            return Ok(());
        }
        self.consumer.resume(&self.list([split])).map_err(|e| self.request(&e))
    }

    /// Tells the group `pulso-<job>` where the job is, for lag tools. Nothing depends on it, nothing waits for it.
    pub fn commit_group_offsets(&self, positions: &BTreeMap<SplitId, Position>) {
        let mut list = TopicPartitionList::new();
        for (split, position) in positions {
            if list.add_partition_offset(&self.topic, partition(*split), Offset::Offset(position.0)).is_err() {
                return;
            }
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(topic = %self.topic, %error, "offsets for lag tools were not sent");
        }
    }

    /// Where each split ends, as of the last second: what is read up to there is all there is.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<SplitId, Position> {
        self.consumer.context().ends()
    }

    /// Why nothing can be read at the moment; the reader goes on by itself.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.consumer.context().trouble()
    }

    /// Compares positions with what there is and starts to read. False while no broker answers.
    fn check(&mut self, from: Instant, timeout: Duration) -> Result<bool, KafkaError> {
        let wait = from.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait.min(timeout));
            return Ok(false);
        }
        match self.check_positions() {
            Ok(()) => {}
            // A topic that is not known is often not known yet: a broker that starts has no metadata.
            Err(error @ (KafkaError::Unreachable { .. } | KafkaError::MissingTopic { .. })) => {
                self.consumer.context().set_trouble(error.to_string());
                self.state = State::Unchecked(Instant::now() + LOOK_AGAIN);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.consumer.context().recovered();
        self.assign().map_err(|e| self.request(&e))?;
        self.state = State::Reading;
        Ok(true)
    }

    fn check_positions(&mut self) -> Result<(), KafkaError> {
        // A new client hears of the brokers at once where it asks for them, and only every half second where it waits.
        self.consumer
            .fetch_metadata(Some(&self.topic), LOOK)
            .map_err(|e| KafkaError::of_request(&e, &self.brokers, &self.topic))?;
        for (split, next) in &mut self.next {
            let (first, end) = self
                .consumer
                .fetch_watermarks(&self.topic, partition(*split), LOOK)
                .map_err(|e| KafkaError::of_request(&e, &self.brokers, &self.topic))?;
            let (topic, split, wanted) = (self.topic.clone(), *split, next.0);
            if wanted > end {
                return Err(KafkaError::Recreated { topic, split, wanted, end });
            }
            if wanted < first {
                match self.on_data_loss {
                    OnDataLoss::Fail => return Err(KafkaError::DataLoss { topic, split, wanted, first }),
                    OnDataLoss::Skip => {
                        tracing::warn!(%topic, %split, wanted, first, "kafka: records were deleted unread; skipped");
                        *next = Position(first);
                    }
                }
            }
        }
        Ok(())
    }

    fn assign(&self) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::new();
        for (split, next) in &self.next {
            list.add_partition_offset(&self.topic, partition(*split), Offset::Offset(next.0))?;
        }
        self.consumer.assign(&list)?;
        if !self.paused.is_empty() {
            self.consumer.pause(&self.list(self.paused.iter().copied()))?;
        }
        Ok(())
    }

    /// What an event of the client means. What it mends by itself is only noted.
    fn heard(&mut self, error: &ClientError) -> Result<(), KafkaError> {
        match error.rdkafka_error_code() {
            // A position is gone. Which one, and whether for good, is for the check to say.
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.state = State::Unchecked(Instant::now());
            }
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::InvalidMessage,
            ) => return Err(self.request(error)),
            _ => self.consumer.context().set_trouble(error.to_string()),
        }
        Ok(())
    }

    fn list(&self, splits: impl IntoIterator<Item = SplitId>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for split in splits {
            list.add_partition(&self.topic, partition(split));
        }
        list
    }

    fn request(&self, error: &ClientError) -> KafkaError {
        KafkaError::of_request(error, &self.brokers, &self.topic)
    }
}
