//! Readings on their way into a topic.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use serde_json::json;

use crate::wait::until_ok;

/// One message of the health job.
#[derive(Debug, Clone)]
pub struct Reading {
    pub patient: String,
    pub timestamp_ms: i64,
    pub heart_rate: f64,
    pub text: String,
}

impl Reading {
    fn message(&self) -> String {
        json!({"patientId": self.patient, "timestamp": self.timestamp_ms, "heartRate": self.heart_rate,
               "temperature": 36.6, "oxygenSaturation": 97.5, "large_data": self.text})
        .to_string()
    }
}

/// A topic and a seeded stream of readings, duplicates and corrections into it, spread over partitions without keys.
pub struct Input {
    topic: String,
    partitions: i32,
    producer: FutureProducer,
    admin: AdminClient<DefaultClientContext>,
    random: SmallRng,
    sent: Vec<Reading>,
    first_ms: i64,
    sequence: u64,
}

impl Input {
    pub async fn create(brokers: &str, topic: &str, partitions: i32, seed: u64) -> Result<Self> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers);
        let admin: AdminClient<_> = config.create().context("admin client")?;
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for result in admin.create_topics([&new], &AdminOptions::new()).await? {
            result.map_err(|(topic, code)| anyhow!("creating {topic}: {code}"))?;
        }
        config.set("linger.ms", "2").set("enable.idempotence", "true");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let input = Self {
            topic: topic.to_owned(),
            partitions,
            producer: config.create().context("producer")?,
            admin,
            random: SmallRng::seed_from_u64(seed),
            sent: Vec::new(),
            first_ms: i64::try_from(now.as_millis())? - 3_600_000,
            sequence: 0,
        };
        input.partitions_are_served().await?;
        Ok(input)
    }

    /// Adds partitions; later readings go to them too.
    pub async fn add_partitions(&mut self, total: i32) -> Result<()> {
        let more = NewPartitions::new(&self.topic, usize::try_from(total)?);
        for result in self.admin.create_partitions([&more], &AdminOptions::new()).await? {
            result.map_err(|(topic, code)| anyhow!("adding partitions to {topic}: {code}"))?;
        }
        self.partitions = total;
        self.partitions_are_served().await
    }

    /// Waits until every partition answers, and the producer knows it: it refuses one that it has not heard of, and would
    /// hear of it minutes later.
    async fn partitions_are_served(&self) -> Result<()> {
        let (client, patience) = (self.producer.client(), Duration::from_secs(20));
        until_ok("the partitions to be served", patience, async || {
            let metadata = client.fetch_metadata(Some(&self.topic), patience)?;
            let known = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
            ensure!(known == usize::try_from(self.partitions)?, "{known} partitions are known");
            for partition in 0..self.partitions {
                client.fetch_watermarks(&self.topic, partition, patience)?;
            }
            Ok(())
        })
        .await
    }

    /// Sends these messages, each to a partition of chance.
    pub async fn send_all(&mut self, messages: &[String]) -> Result<()> {
        let mut waiting = Vec::with_capacity(messages.len());
        for message in messages {
            let partition = self.random.random_range(0..self.partitions);
            let record = FutureRecord::<str, String>::to(&self.topic).payload(message).partition(partition);
            match self.producer.send_result(record) {
                Ok(delivery) => waiting.push(delivery),
                Err((error, record)) => {
                    // The local queue is full: wait for room.
                    self.producer.send(record, Duration::from_secs(30)).await.map_err(|(e, _)| e).context(error)?;
                }
            }
        }
        for delivery in waiting {
            delivery.await?.map_err(|(error, _)| error)?;
        }
        Ok(())
    }

    /// Sends records with a key, which decides on the partition; one without value is a tombstone.
    pub async fn send_keyed(&self, records: &[(String, Option<String>)]) -> Result<()> {
        let mut waiting = Vec::with_capacity(records.len());
        for (key, value) in records {
            let mut record = FutureRecord::to(&self.topic).key(key);
            if let Some(value) = value {
                record = record.payload(value);
            }
            waiting.push(self.producer.send_result(record).map_err(|(error, _)| error)?);
        }
        for delivery in waiting {
            delivery.await?.map_err(|(error, _)| error)?;
        }
        Ok(())
    }

    /// Sends `count` messages: a fifth repeats an earlier one, a tenth corrects one, one in fifty is not good.
    pub async fn send(&mut self, count: usize) -> Result<()> {
        let messages: Vec<String> = (0..count).map(|_| self.next()).collect();
        self.send_all(&messages).await
    }

    /// The next `count` readings that repeat nothing, to be sent by [`Input::send_readings`].
    pub fn new_readings(&mut self, count: usize) -> Vec<Reading> {
        (0..count).map(|_| self.next_new()).collect()
    }

    pub async fn send_readings(&mut self, readings: &[Reading]) -> Result<()> {
        let messages: Vec<String> = readings.iter().map(Reading::message).collect();
        self.send_all(&messages).await
    }

    /// Sends `count` messages spread over `over`.
    pub async fn send_paced(&mut self, count: usize, over: Duration) -> Result<()> {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        let steps = usize::try_from(over.as_millis() / 20)?.max(1);
        for step in 0..steps {
            pace.tick().await;
            let due = count * (step + 1) / steps - count * step / steps;
            self.send(due).await?;
        }
        Ok(())
    }

    fn next(&mut self) -> String {
        let die = self.random.random_range(0..100);
        if die < 2 {
            return [
                "{\"patientId\":",
                "[]",
                r#"{"patientId":"P1","timestamp":1,"heartRate":900}"#,
                "{\"timestamp\":5}",
            ][usize::try_from(die).unwrap_or(0) * 2 + usize::from(self.random.random::<bool>())]
            .to_owned();
        }
        if die < 22 && !self.sent.is_empty() {
            return self.earlier().message();
        }
        if die < 32 && !self.sent.is_empty() {
            let mut corrected = self.earlier();
            corrected.heart_rate = f64::from(self.random.random_range(300..2000)) / 10.0;
            self.sent.push(corrected.clone());
            return corrected.message();
        }
        self.next_new().message()
    }

    fn next_new(&mut self) -> Reading {
        self.sequence += 1;
        let reading = Reading {
            patient: format!("P{:04}", self.random.random_range(0..200)),
            timestamp_ms: self.first_ms + i64::try_from(self.sequence).unwrap_or(i64::MAX),
            heart_rate: f64::from(self.random.random_range(300..2000)) / 10.0,
            text: format!("{:016x}", self.random.next_u64()),
        };
        self.sent.push(reading.clone());
        reading
    }

    fn earlier(&mut self) -> Reading {
        let from = self.sent.len().saturating_sub(5_000);
        let index = self.random.random_range(from..self.sent.len());
        self.sent[index].clone()
    }
}
