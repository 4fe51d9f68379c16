//! What a reader of a topic sees who reads only what is committed, and raw records with their keys.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const WAIT: Duration = Duration::from_secs(20);

/// A committed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
}

impl Message {
    /// The value as text.
    pub fn text(&self) -> &str {
        self.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }

    /// Header `pulso_change`.
    pub fn change(&self) -> &str {
        self.headers.get("pulso_change").map_or("", String::as_str)
    }
}

/// All messages that are committed now, in order of each partition. An error where a transaction is open.
pub fn committed(brokers: &str, topic: &str) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    let of = |isolation: &str| -> Result<BaseConsumer> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", "oracle").set("enable.auto.commit", "false");
        Ok(config.set("isolation.level", isolation).set("enable.partition.eof", "true").create()?)
    };
    let (consumer, all) = (of("read_committed")?, of("read_uncommitted")?);
    let metadata = consumer.fetch_metadata(Some(topic), WAIT)?;
    let partitions = i32::try_from(metadata.topics().first().context("no such topic")?.partitions().len())?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        let end = |consumer: &BaseConsumer| Ok::<_, KafkaError>(consumer.fetch_watermarks(topic, partition, WAIT)?.1);
        let (stable, end) = (end(&consumer)?, end(&all)?);
        ensure!(stable == end, "a transaction is open in {topic}/{partition}: {stable} of {end}");
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut open = partitions;
    while open > 0 {
        let message = match consumer.poll(WAIT).context("the topic ends too early")? {
            Err(KafkaError::PartitionEOF(_)) => {
                open -= 1;
                continue;
            }
            other => other?,
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = message.headers().map(|all| {
            all.iter().map(|h| (h.key.to_owned(), h.value.map(text).unwrap_or_default())).collect::<BTreeMap<_, _>>()
        });
        messages.push(Message {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(text),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        });
    }
    Ok(messages)
}
