//! Sends records to a topic and answers for the delivery of every one of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

/// Nobody waits longer for a broker that is not there.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
const ADMIN: Duration = Duration::from_secs(30);
/// How long a broker may be away before a record counts as lost.
const DELIVERY: Duration = Duration::from_secs(120);
const QUEUE_FULL: Duration = Duration::from_millis(2);

/// Sends to one topic. Blocking: for a thread of its own.
pub struct Sender {
    producer: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
    topic: String,
    partitions: i32,
    sent: u64,
}

/// Figures of what was delivered, kept by librdkafka's callbacks.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<Outcome>>);

#[derive(Default)]
struct Outcome {
    delivered: u64,
    failed: u64,
    first_failure: Option<KafkaError>,
    /// What librdkafka last said about brokers and connections.
    last_error: Option<String>,
}

impl Deliveries {
    fn update<T>(&self, change: impl FnOnce(&mut Outcome) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
        self.update(|outcome| outcome.last_error = Some(reason.to_owned()));
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.update(|outcome| match result {
            Ok(_) => outcome.delivered += 1,
            Err((error, _)) => {
                outcome.failed += 1;
                outcome.first_failure.get_or_insert_with(|| error.clone());
            }
        });
    }
}

impl Sender {
    /// Creates the topic with `partitions` if it is missing; fails when no broker answers.
    pub async fn connect(brokers: &str, topic: &str, partitions: u32) -> Result<Sender> {
        create_topic(brokers, topic, partitions).await?;
        let deliveries = Deliveries::default();
        let producer: ThreadedProducer<Deliveries> = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", "healthctl")
            .set("enable.idempotence", "true")
            // Java's default, so that a key lands where other producers would put it.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "262144")
            .set("message.timeout.ms", DELIVERY.as_millis().to_string())
            .create_with_context(deliveries.clone())
            .context("making a producer")?;
        let (producer, partitions) = count_partitions(producer, brokers, topic).await?;
        Ok(Sender { producer, deliveries, topic: topic.to_owned(), partitions, sent: 0 })
    }

    /// Queues a record; without a key, the partitions take turns. Fails as soon as any record could not be delivered.
    pub fn send(&mut self, key: Option<&[u8]>, payload: &[u8], timestamp_ms: Option<i64>) -> Result<()> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).payload(payload);
        record = match key {
            Some(key) => record.key(key),
            None => record.partition(i32::try_from(self.sent % u64::try_from(self.partitions)?)?),
        };
        if let Some(timestamp_ms) = timestamp_ms {
            record = record.timestamp(timestamp_ms);
        }
        queue(&self.producer, record, || self.check())
            .with_context(|| format!("sending record {} to {}", self.sent + 1, self.topic))?;
        self.count()
    }

    /// Queues a record without value, in the partition of its key.
    pub fn send_tombstone(&mut self, key: &[u8]) -> Result<()> {
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).key(key);
        queue(&self.producer, record, || self.check())
            .with_context(|| format!("sending record {} to {}", self.sent + 1, self.topic))?;
        self.count()
    }

    /// Waits until every record is delivered and returns their number.
    pub fn finish(mut self) -> Result<u64> {
        self.flush()
    }

    /// Waits until every record so far is delivered and returns their number.
    pub fn flush(&mut self) -> Result<u64> {
        let flushed = self.producer.flush(DELIVERY + Duration::from_secs(10));
        self.check()?;
        flushed.with_context(|| self.unreachable("flushing"))?;
        let delivered = self.deliveries.update(|outcome| outcome.delivered);
        if delivered != self.sent {
            bail!("{} of {} records were not acknowledged", self.sent - delivered, self.sent);
        }
        Ok(delivered)
    }

    fn count(&mut self) -> Result<()> {
        self.sent += 1;
        if self.sent.is_multiple_of(1000) { self.check() } else { Ok(()) }
    }

    fn check(&self) -> Result<()> {
        let failure = self.deliveries.update(|outcome| outcome.first_failure.clone().map(|e| (e, outcome.failed)));
        match failure {
            None => Ok(()),
            Some((error, failed)) => {
                Err(anyhow!(error).context(self.unreachable(&format!("{failed} records were not delivered"))))
            }
        }
    }

    fn unreachable(&self, what: &str) -> String {
        let said = self.deliveries.update(|outcome| outcome.last_error.clone());
        said.map_or_else(|| what.to_owned(), |said| format!("{what} ({said})"))
    }
}

/// Waits for room in the queue, as long as `check` finds nothing wrong.
fn queue(
    producer: &ThreadedProducer<Deliveries>,
    mut record: BaseRecord<'_, [u8], [u8]>,
    check: impl Fn() -> Result<()>,
) -> Result<()> {
    while let Err((error, back)) = producer.send(record) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
            return Err(error.into());
        }
        check()?;
        std::thread::sleep(QUEUE_FULL);
        record = back;
    }
    Ok(())
}

/// Deletes the topic, if it is there.
pub async fn delete_topic(brokers: &str, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().context("making a Kafka client")?;
    let options = AdminOptions::new().request_timeout(Some(ADMIN)).operation_timeout(Some(ADMIN));
    for result in admin.delete_topics(&[topic], &options).await.with_context(|| format!("deleting topic {topic}"))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => bail!("deleting topic {topic}: {code}"),
        }
    }
    Ok(())
}

async fn create_topic(brokers: &str, topic: &str, partitions: u32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().context("making a Kafka client")?;
    // -1: as many replicas as the cluster makes by default.
    let new = NewTopic::new(topic, i32::try_from(partitions)?, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().request_timeout(Some(ADMIN)).operation_timeout(Some(ADMIN));
    let (admin, reached) = tokio::task::spawn_blocking(move || {
        let reached = admin.inner().fetch_metadata(None, FIRST_ANSWER).map(drop);
        (admin, reached)
    })
    .await?;
    reached.with_context(|| format!("no answer from Kafka at {brokers} (--brokers sets another)"))?;
    let created = admin.create_topics([&new], &options).await.with_context(|| format!("creating topic {topic}"))?;
    for result in created {
        match result {
            Ok(_) => tracing::info!(topic, partitions, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => bail!("creating topic {topic}: {code}"),
        }
    }
    Ok(())
}

/// Waits until all partitions of a topic that may be new have a leader.
async fn count_partitions(
    producer: ThreadedProducer<Deliveries>,
    brokers: &str,
    topic: &str,
) -> Result<(ThreadedProducer<Deliveries>, i32)> {
    let asked = topic.to_owned();
    let look = move || {
        let began = std::time::Instant::now();
        loop {
            let metadata = producer.client().fetch_metadata(Some(&asked), ADMIN)?;
            let partitions = metadata.topics().first().map(|topic| topic.partitions()).unwrap_or_default();
            if !partitions.is_empty() && partitions.iter().all(|partition| partition.leader() >= 0) {
                let count = i32::try_from(partitions.len())?;
                return Ok::<_, anyhow::Error>((producer, count));
            }
            if began.elapsed() > ADMIN {
                bail!("not all of its partitions have a leader");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    tokio::task::spawn_blocking(look).await?.with_context(|| format!("looking at topic {topic} on {brokers}"))
}

/// A record's key: the text of `field` in a JSON object, or its JSON where it is no text.
pub fn key_of(payload: &[u8], field: &str) -> Option<String> {
    let mut object: HashMap<String, serde_json::Value> = serde_json::from_slice(payload).ok()?;
    match object.remove(field)? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Null => None,
        other @ (serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_)) => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_text_or_json() {
        assert_eq!(key_of(br#"{"id":"a","n":1}"#, "id").as_deref(), Some("a"));
        assert_eq!(key_of(br#"{"id":"a","n":1}"#, "n").as_deref(), Some("1"));
        assert_eq!(key_of(br#"{"id":null}"#, "id"), None);
        assert_eq!(key_of(br#"{"id":"a"}"#, "other"), None);
        assert_eq!(key_of(b"{", "id"), None);
    }
}
