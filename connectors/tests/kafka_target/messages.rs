//! What stands in the topics.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, UInt16Array, UInt32Array};
use pulso_core::ids::JobId;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, TargetRows, letters_schema};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use uuid::Uuid;

use super::support::{PATIENCE, Writer, client, committed, job, kv, writer_of};

pub(crate) async fn rows_become_messages(brokers: &str) {
    let (id, spec) = (JobId(Uuid::new_v4()), job(brokers, "rows"));
    let mut writer = writer_of(id, &spec, &[0, 1, 2]);
    assert_eq!(writer.take_over(1, true).await.unwrap(), writer.all_at(1, 0));
    let many: Vec<String> = (0..40).map(|i| format!("k{i}")).collect();
    let inserts: Vec<_> = many.iter().map(|key| (key.as_str(), Some(1), Change::Insert)).collect();
    writer.commit(vec![kv(&inserts)]).await;
    // One transaction of two epochs, which hold in this order.
    let changed = kv(&[("k0", Some(2), Change::Correction), ("k1", None, Change::Insert)]);
    writer.commit(vec![changed, kv(&[("k0", None, Change::Delete)])]).await;
    assert_eq!(writer.read().await.unwrap(), writer.all_at(1, 3));

    let seen = committed(brokers, "rows");
    assert_eq!(seen.len(), 43);
    let of = |key: &str| {
        let found = seen.iter().filter(|m| m.key.as_deref() == Some(key));
        let change = |m: &super::support::Seen| m.headers.get("pulso_change").cloned().unwrap_or_default();
        found.map(|m| (m.value.clone().unwrap(), change(m))).collect::<Vec<_>>()
    };
    let message = |value: &str, change: &str| (value.to_owned(), change.to_owned());
    let k0 = [
        message(r#"{"k":"k0","v":1}"#, ""),
        message(r#"{"k":"k0","v":2}"#, "correction"),
        message(r#"{"k":"k0"}"#, "delete"),
    ];
    assert_eq!(of("k0"), k0);
    assert_eq!(of("k1"), [message(r#"{"k":"k1","v":1}"#, ""), message(r#"{"k":"k1","v":null}"#, "")]);
    keys_are_where_java_puts_them(brokers, &many);
    the_ledger_is_compacted(brokers, &format!("pulso-ledger-{}-kafka", id)).await;
}

/// Partitions of these keys as `kafka-console-producer.sh` (Kafka 4.1, three partitions) chooses them: murmur2.
fn keys_are_where_java_puts_them(brokers: &str, keys: &[String]) {
    let seen = committed(brokers, "rows");
    for key in keys {
        let expected = i32::try_from((murmur2(key.as_bytes()) & 0x7fff_ffff) % 3).unwrap();
        assert!(seen.iter().filter(|m| m.key.as_ref() == Some(key)).all(|m| m.partition == expected), "{key}");
    }
}

/// `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ u32::try_from(data.len()).unwrap();
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        h ^= rest.iter().rev().fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

async fn the_ledger_is_compacted(brokers: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().unwrap();
    let described = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &AdminOptions::new()).await.unwrap();
    let config = described.into_iter().next().unwrap().unwrap();
    assert_eq!(config.get("cleanup.policy").unwrap().value.as_deref(), Some("compact"));
}

pub(crate) async fn dead_letters_keep_the_record(brokers: &str) {
    let (id, spec) = (JobId(Uuid::new_v4()), job(brokers, "letters"));
    let mut writer = writer_of(id, &spec, &[0]);
    writer.take_over(1, true).await.unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from(vec![0, 0])),
        Arc::new(UInt32Array::from(vec![3, 4])),
        Arc::new(Int64Array::from(vec![17, 18])),
        Arc::new(Int64Array::from(vec![1_700_000_000_000, -1])),
        Arc::new(StringArray::from(vec!["out_of_range", "bad_key"])),
        Arc::new(StringArray::from(vec![Some("v"), None])),
        Arc::new(BinaryArray::from_opt_vec(vec![Some(b"key"), None])),
        Arc::new(BinaryArray::from_opt_vec(vec![Some(b"{\"v\":900}"), None])),
    ];
    let letters = Some(RecordBatch::try_new(letters_schema(), columns).unwrap());
    writer.commit(vec![TargetRows { letters, ..TargetRows::default() }]).await;
    let mut seen = committed(brokers, "letters-dlq");
    seen.sort_by_key(|m| m.headers["pulso_offset"].clone());
    let text = |m: &super::support::Seen| {
        let headers: Vec<String> = m.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (m.key.clone(), m.value.clone(), headers.join(" "))
    };
    let whole = "pulso_field=v pulso_job=vitals pulso_offset=17 pulso_partition=3 pulso_reason=out_of_range \
                 pulso_timestamp=1700000000000 pulso_topic=readings";
    assert_eq!(text(&seen[0]), (Some("key".to_owned()), Some("{\"v\":900}".to_owned()), whole.to_owned()));
    let bare = "pulso_job=vitals pulso_offset=18 pulso_partition=4 pulso_reason=bad_key pulso_topic=readings";
    assert_eq!(text(&seen[1]), (None, None, bare.to_owned()));
    assert_eq!(seen.len(), 2);
}

pub(crate) async fn what_is_too_large_is_kept_elsewhere(brokers: &str) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().unwrap();
    let small = NewTopic::new("small", 1, TopicReplication::Fixed(1)).set("max.message.bytes", "3000");
    assert!(admin.create_topics([&small], &AdminOptions::new()).await.unwrap().iter().all(Result::is_ok));
    let (id, spec) = (JobId(Uuid::new_v4()), job(brokers, "small"));
    let mut writer = writer_of(id, &spec, &[0]);
    writer.take_over(1, true).await.unwrap();
    // Together they are larger than a batch of that topic may be.
    let fits: Vec<String> = (0..50).map(|i| format!("{i}{}", random_text(1_000))).collect();
    let large = random_text(5_000);
    let mut rows: Vec<_> = fits.iter().map(|key| (key.as_str(), Some(1), Change::Insert)).collect();
    rows.insert(20, (large.as_str(), Some(2), Change::Correction));
    writer.commit(vec![kv(&rows)]).await;
    assert_eq!(committed(brokers, "small").len(), 50);
    let kept = committed(brokers, "pulso-dead-letters");
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].key.as_ref(), Some(&large));
    assert_eq!(kept[0].headers["pulso_refused_by"], "small");
    assert_eq!(kept[0].headers["pulso_change"], "correction");

    // Nothing takes what is larger than both.
    let huge = random_text(40 << 20);
    let outcome = writer.transact(vec![kv(&[(huge.as_str(), Some(3), Change::Insert)])]).await.unwrap();
    let Outcome::Failed { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("topic small") && reason.contains("the topic takes 3000"), "{reason}");
    assert!(!reason.contains(&huge[..100]));
    assert_eq!(committed(brokers, "small").len(), 50);
    // The job can go on from where it was.
    assert_eq!(writer.read().await.unwrap(), writer.all_at(1, 1));
    a_limit_that_sinks_is_noticed(brokers, writer).await;
}

/// The topic takes less than when the writer began: it looks again.
async fn a_limit_that_sinks_is_noticed(brokers: &str, mut writer: Writer) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().unwrap();
    let less = rdkafka::admin::AlterConfig::new(ResourceSpecifier::Topic("small")).set("max.message.bytes", "1024");
    assert!(admin.alter_configs([&less], &AdminOptions::new()).await.unwrap().iter().all(Result::is_ok));
    let text = random_text(1_200);
    let rows = || kv(&[(text.as_str(), Some(4), Change::Insert)]);
    let began = std::time::Instant::now();
    while matches!(writer.transact(vec![rows()]).await, Ok(Outcome::Committed)) {
        // The broker has not heard of it yet.
        assert!(began.elapsed() < PATIENCE);
    }
    let epoch = writer.epoch;
    assert_eq!(writer.register(1).await.unwrap(), writer.all_at(1, epoch));
    writer.commit(vec![rows()]).await;
    assert!(committed(brokers, "pulso-dead-letters").iter().any(|m| m.key.as_ref() == Some(&text)));
    // A producer of another kind still finds the topic in order.
    let other: BaseProducer = client(brokers).create().unwrap();
    other.send(BaseRecord::to("small").key("x").payload("{\"v\":0}")).unwrap();
    other.flush(PATIENCE).unwrap();
}

/// Text that does not compress to nothing.
fn random_text(bytes: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + u8::try_from(state % 90).unwrap())
    };
    (0..bytes).map(|_| next()).filter(|c| *c != '"' && *c != '\\').collect()
}
