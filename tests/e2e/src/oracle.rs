//! What must be in the table, from what is in the topic and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;

/// Heart rate, temperature, oxygen saturation, text.
pub type Row = (Option<f64>, Option<f64>, Option<f64>, Option<String>);
pub type Rows = BTreeMap<Key, Row>;
/// Patient and time in ms.
pub type Key = (String, i64);
/// Record timestamp, partition, offset: the greatest wins.
type Position = (i64, i32, i64);

/// A record as the broker holds it.
pub struct Record {
    pub timestamp_ms: i64,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// Reads the whole topic.
pub fn records(brokers: &str, topic: &str) -> Result<Vec<Record>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "oracle")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()?;
    let wait = Duration::from_secs(20);
    let metadata = consumer.fetch_metadata(Some(topic), wait)?;
    let partitions = metadata.topics().first().context("no such topic")?.partitions().len();
    let mut assignment = TopicPartitionList::new();
    let mut total = 0;
    for partition in 0..i32::try_from(partitions)? {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        let (low, high) = consumer.fetch_watermarks(topic, partition, wait)?;
        total += usize::try_from(high - low)?;
    }
    consumer.assign(&assignment)?;
    let mut records = Vec::with_capacity(total);
    while records.len() < total {
        let message = consumer.poll(wait).context("the topic ends too early")??;
        records.push(Record {
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
        });
    }
    Ok(records)
}

/// Of several good records of one key the one with the greatest (record timestamp, partition, offset) wins. The second
/// value counts all records.
pub fn expected(brokers: &str, topic: &str) -> Result<(Rows, u64)> {
    let records = records(brokers, topic)?;
    let mut winners: BTreeMap<Key, (Position, Row)> = BTreeMap::new();
    for record in &records {
        let position = (record.timestamp_ms, record.partition, record.offset);
        let Some((key, row)) = record.value.as_deref().and_then(good) else { continue };
        match winners.get(&key) {
            Some((winner, _)) if *winner > position => {}
            _ => {
                winners.insert(key, (position, row));
            }
        }
    }
    let total = u64::try_from(records.len())?;
    Ok((winners.into_iter().map(|(key, (_, row))| (key, row)).collect(), total))
}

/// All rows that good records of one key have: one of them is stored where the job keeps whichever comes first.
pub fn any_expected(brokers: &str, topic: &str) -> Result<BTreeMap<Key, Vec<Row>>> {
    let mut rows: BTreeMap<Key, Vec<Row>> = BTreeMap::new();
    for (key, row) in records(brokers, topic)?.iter().filter_map(|record| good(record.value.as_deref()?)) {
        let of_key = rows.entry(key).or_default();
        if !of_key.contains(&row) {
            of_key.push(row);
        }
    }
    Ok(rows)
}

/// Values of records by partition and offset.
pub type Rejected = BTreeMap<(i32, i64), Option<Vec<u8>>>;

/// Records that are no good: each is a dead letter.
pub fn rejected(brokers: &str, topic: &str) -> Result<Rejected> {
    let all = records(brokers, topic)?.into_iter();
    let bad = all.filter(|record| record.value.as_deref().and_then(good).is_none());
    Ok(bad.map(|record| ((record.partition, record.offset), record.value)).collect())
}

/// The row of a message that the health job accepts.
fn good(payload: &[u8]) -> Option<(Key, Row)> {
    let value: Value = serde_json::from_slice(payload).ok()?;
    let object = value.as_object()?;
    let patient = object.get("patientId").or_else(|| object.get("patient_id"))?.as_str()?.to_owned();
    let timestamp = object.get("timestamp")?.as_i64()?;
    let number = |name: &str, low: f64, high: f64| match object.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => value.as_f64().filter(|v| (low..=high).contains(v)).map(Some),
    };
    let heart_rate = number("heartRate", 0.0, 300.0)?;
    let temperature = number("temperature", 10.0, 50.0)?;
    let oxygen = number("oxygenSaturation", 0.0, 100.0)?;
    if (heart_rate, temperature, oxygen) == (None, None, None) || heart_rate == Some(0.0) || oxygen == Some(0.0) {
        return None;
    }
    let text = object.get("large_data").and_then(Value::as_str).map(str::to_owned);
    Some(((patient, timestamp), (heart_rate, temperature, oxygen, text)))
}

/// What is in the table.
pub async fn stored(database: &tokio_postgres::Client, table: &str) -> Result<Rows> {
    let select = format!(
        "select patient_id, (extract(epoch from timestamp) * 1000)::bigint, heart_rate, temperature, \
         oxygen_saturation, large_data from {table}"
    );
    let mut rows = Rows::new();
    for row in database.query(&select, &[]).await? {
        let key: Key = (row.try_get(0)?, row.try_get(1)?);
        let values = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
        if rows.insert(key.clone(), values).is_some() {
            bail!("{table} holds {key:?} twice");
        }
    }
    Ok(rows)
}

/// Says how the two differ: the first few keys that are missing, too many, or wrong.
pub fn compare(expected: &Rows, stored: &Rows) -> Result<()> {
    let missing: Vec<_> = expected.keys().filter(|key| !stored.contains_key(*key)).collect();
    let extra: Vec<_> = stored.keys().filter(|key| !expected.contains_key(*key)).collect();
    let wrong: Vec<_> =
        expected.iter().filter_map(|(key, row)| stored.get(key).filter(|s| *s != row).map(|s| (key, row, s))).collect();
    if missing.is_empty() && extra.is_empty() && wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "{} missing {:?}, {} too many {:?}, {} wrong (key, expected, stored) {:?}",
        missing.len(),
        &missing[..missing.len().min(3)],
        extra.len(),
        &extra[..extra.len().min(3)],
        wrong.len(),
        &wrong[..wrong.len().min(3)]
    )
}
