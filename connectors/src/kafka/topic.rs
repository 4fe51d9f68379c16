//! A topic as the JobManager sees it: its partitions, and where reading them starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pulso_core::ids::{Position, SplitId};
use pulso_job::spec::{KafkaSourceSpec, StartPosition};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{self, Consumer, partition};
use super::error::KafkaError;

const TIMEOUT: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(200);
/// This client fetches no records.
const BUFFER: u64 = 0;

/// Splits of the topic and the positions where the job starts to read, resolved now.
///
/// # Errors
/// [`KafkaError::MissingTopic`], [`KafkaError::Denied`], [`KafkaError::Unreachable`] after 10 s.
pub async fn discover(spec: &KafkaSourceSpec) -> Result<BTreeMap<SplitId, Position>, KafkaError> {
    let topic = KafkaTopic::open(spec)?;
    let began = Instant::now();
    loop {
        match topic.splits_and_starts(spec.start).await {
            // A topic that was just made has no leaders for a moment.
            Err(KafkaError::Unreachable { .. }) if began.elapsed() < TIMEOUT => tokio::time::sleep(AGAIN).await,
            found => return found,
        }
    }
}

/// A client that is kept, for who asks again and again.
#[derive(Clone)]
pub struct KafkaTopic {
    consumer: Arc<Consumer>,
    brokers: String,
    topic: String,
}

impl KafkaTopic {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`KafkaError::Invalid`]
    pub fn open(spec: &KafkaSourceSpec) -> Result<Self, KafkaError> {
        let consumer = Arc::new(client::consumer(spec, "pulso-discovery", BUFFER)?);
        Ok(Self { consumer, brokers: spec.brokers.clone(), topic: spec.topic.clone() })
    }

    /// The partitions that the topic has now.
    ///
    /// # Errors
    /// As [`discover`].
    pub async fn splits(&self) -> Result<BTreeSet<SplitId>, KafkaError> {
        self.blocking(Self::splits_now).await
    }

    /// Where reading these splits starts; `Earliest` is the first record that is still there.
    ///
    /// # Errors
    /// As [`discover`].
    pub async fn starts(
        &self,
        splits: BTreeSet<SplitId>,
        start: StartPosition,
    ) -> Result<BTreeMap<SplitId, Position>, KafkaError> {
        self.blocking(move |topic| topic.starts_now(&splits, start)).await
    }

    async fn splits_and_starts(&self, start: StartPosition) -> Result<BTreeMap<SplitId, Position>, KafkaError> {
        let splits = self.splits().await?;
        self.starts(splits, start).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Self) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let topic = self.clone();
        let asked = tokio::task::spawn_blocking(move || ask(&topic)).await;
        asked.unwrap_or_else(|e| Err(self.unreachable(e.to_string())))
    }

    fn splits_now(&self) -> Result<BTreeSet<SplitId>, KafkaError> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), TIMEOUT)
            .map_err(|e| KafkaError::of_request(&e, &self.brokers, &self.topic))?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == self.topic) else {
            return Err(self.missing());
        };
        if let Some(error) = topic.error() {
            let code = RDKafkaErrorCode::from(error);
            return Err(KafkaError::of_code(Some(code), code.to_string(), &self.brokers, &self.topic));
        }
        let splits: BTreeSet<SplitId> =
            topic.partitions().iter().filter_map(|partition| u32::try_from(partition.id()).ok()).map(SplitId).collect();
        if splits.is_empty() { Err(self.missing()) } else { Ok(splits) }
    }

    fn starts_now(
        &self,
        splits: &BTreeSet<SplitId>,
        start: StartPosition,
    ) -> Result<BTreeMap<SplitId, Position>, KafkaError> {
        let watermarks = |split: SplitId| {
            self.consumer
                .fetch_watermarks(&self.topic, partition(split), TIMEOUT)
                .map_err(|e| KafkaError::of_request(&e, &self.brokers, &self.topic))
        };
        match start {
            StartPosition::Earliest => {
                splits.iter().map(|&split| Ok((split, Position(watermarks(split)?.0)))).collect()
            }
            StartPosition::Latest => splits.iter().map(|&split| Ok((split, Position(watermarks(split)?.1)))).collect(),
            StartPosition::At(micros) => {
                let found = self.offsets_at(splits, micros)?;
                // After the last record there is none yet: the next one counts.
                let resolve = |&split: &SplitId| match found.get(&split) {
                    Some(position) => Ok((split, *position)),
                    None => Ok((split, Position(watermarks(split)?.1))),
                };
                splits.iter().map(resolve).collect()
            }
        }
    }

    /// The first record of each split with this timestamp or a later one, where there is one.
    fn offsets_at(&self, splits: &BTreeSet<SplitId>, micros: i64) -> Result<BTreeMap<SplitId, Position>, KafkaError> {
        let request = |e: &rdkafka::error::KafkaError| KafkaError::of_request(e, &self.brokers, &self.topic);
        // Records have milliseconds: one before the asked microsecond does not count.
        let millis = micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) > 0);
        let mut times = TopicPartitionList::new();
        for &split in splits {
            times
                .add_partition_offset(&self.topic, partition(split), Offset::Offset(millis.max(0)))
                .map_err(|e| request(&e))?;
        }
        let offsets = self.consumer.offsets_for_times(times, TIMEOUT).map_err(|e| request(&e))?;
        let mut found = BTreeMap::new();
        for element in offsets.elements() {
            element.error().map_err(|e| request(&e))?;
            if let (Offset::Offset(offset), Ok(split)) = (element.offset(), u32::try_from(element.partition())) {
                found.insert(SplitId(split), Position(offset));
            }
        }
        Ok(found)
    }

    fn missing(&self) -> KafkaError {
        KafkaError::MissingTopic { brokers: self.brokers.clone(), topic: self.topic.clone() }
    }

    fn unreachable(&self, reason: String) -> KafkaError {
        KafkaError::Unreachable { brokers: self.brokers.clone(), topic: self.topic.clone(), reason }
    }
}
