//! The source against a real broker.
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pulso_connectors::kafka::{Flow, KafkaError, KafkaReader, KafkaTopic, discover};
use pulso_core::ids::{Position, SplitId};
use pulso_job::spec::{KafkaSourceSpec, OnChange, OnDataLoss, StartPosition};
use pulso_servers::{Kafka, KafkaOptions};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(60);

fn spec(kafka: &Kafka, topic: &str, start: StartPosition) -> KafkaSourceSpec {
    KafkaSourceSpec {
        brokers: kafka.brokers().to_owned(),
        topic: topic.to_owned(),
        start,
        tombstone_key: None,
        on_data_loss: OnDataLoss::Fail,
        on_change: OnChange::Fail,
        security: Vec::new(),
        max_record: 1 << 20,
    }
}

fn client(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers());
    config
}

async fn create(kafka: &Kafka, topic: &str, partitions: i32) -> AdminClient<DefaultClientContext> {
    let admin: AdminClient<DefaultClientContext> = client(kafka).create().unwrap();
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let made = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    admin
}

/// Sends numbers, each with a timestamp of its own, and with headers that nobody looks at: many, and no text.
fn send(producer: &BaseProducer, topic: &str, partition: i32, values: std::ops::Range<i64>) {
    for value in values {
        let text = value.to_string();
        let headers = (0..100).fold(OwnedHeaders::new(), |headers, _| {
            headers.insert(Header { key: "trace", value: Some(b"\xff\xfe\0") })
        });
        let record = BaseRecord::to(topic).partition(partition).key("k").payload(&text).timestamp(hours(value));
        let record = record.headers(headers);
        producer.send(record).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

fn hours(value: i64) -> i64 {
    1_700_000_000_000 + value * 3_600_000
}

fn positions(of: &[(u32, i64)]) -> BTreeMap<SplitId, Position> {
    of.iter().map(|(split, position)| (SplitId(*split), Position(*position))).collect()
}

fn open(spec: &KafkaSourceSpec, starts: &[(u32, i64)]) -> KafkaReader {
    KafkaReader::open(spec, "vitals", positions(starts), 64 << 20).unwrap()
}

/// Split, position and value of the next records, until `enough`.
fn read(reader: &mut KafkaReader, mut enough: impl FnMut(&[(u32, i64, i64)]) -> bool) -> Vec<(u32, i64, i64)> {
    let (began, mut all) = (Instant::now(), Vec::new());
    while !enough(&all) {
        assert!(began.elapsed() < PATIENCE, "{all:?} {:?}", reader.trouble());
        reader
            .poll(Duration::from_millis(50), 7, &mut |record| {
                let value: i64 = std::str::from_utf8(record.value.unwrap()).unwrap().parse().unwrap();
                assert_eq!((record.timestamp_ms, record.key), (hours(value), Some(b"k".as_slice())));
                all.push((record.split.0, record.position.0, value));
                Flow::Continue
            })
            .unwrap();
    }
    all
}

fn fails(reader: &mut KafkaReader) -> KafkaError {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE);
        match reader.poll(Duration::from_millis(50), 7, &mut |_| Flow::Continue) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => return error,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_what_is_committed_from_where_it_should() {
    let folder = pulso_servers::temporary_folder().unwrap();
    let mut options = KafkaOptions { heap_mib: 384, ..KafkaOptions::new(folder.path().join("kafka")) };
    // Timestamps are of long ago.
    options.settings.push(("log.retention.ms".to_owned(), "-1".to_owned()));
    options.settings.push(("log.cleaner.backoff.ms".to_owned(), "200".to_owned()));
    let mut kafka = Kafka::start(options).await.unwrap();

    starts_are_resolved(&kafka).await;
    records_come_in_order_and_pause(&kafka).await;
    aborted_records_are_never_seen(&kafka).await;
    lost_records_are_told(&kafka).await;
    brokers_that_do_not_fit_are_told(&kafka).await;
    the_time_of_appending_is_the_records(&kafka).await;
    compaction_leaves_gaps(&kafka).await;
    a_small_batch_with_a_huge_record_is_one_record(&kafka).await;
    a_broker_that_restarts_is_waited_for(&mut kafka).await;
    kafka.stop().await.unwrap();
}

async fn starts_are_resolved(kafka: &Kafka) {
    let missing = discover(&spec(kafka, "absent", StartPosition::Earliest)).await.unwrap_err();
    assert!(matches!(&missing, KafkaError::MissingTopic { topic, .. } if topic == "absent"), "{missing}");
    assert!(missing.is_fatal());

    create(kafka, "starts", 3).await;
    let producer: BaseProducer = client(kafka).create().unwrap();
    send(&producer, "starts", 0, 0..10);
    send(&producer, "starts", 1, 5..6);
    let at = |start| discover_owned(spec(kafka, "starts", start));
    assert_eq!(at(StartPosition::Earliest).await, positions(&[(0, 0), (1, 0), (2, 0)]));
    assert_eq!(at(StartPosition::Latest).await, positions(&[(0, 10), (1, 1), (2, 0)]));
    // Of record 7 exactly, and a microsecond later: the next one. Where there is none, the end.
    assert_eq!(at(StartPosition::At(hours(7) * 1_000)).await, positions(&[(0, 7), (1, 1), (2, 0)]));
    assert_eq!(at(StartPosition::At(hours(7) * 1_000 + 1)).await, positions(&[(0, 8), (1, 1), (2, 0)]));

    let topic = KafkaTopic::open(&spec(kafka, "starts", StartPosition::Latest)).unwrap();
    let splits: BTreeSet<SplitId> = topic.splits().await.unwrap();
    assert_eq!(splits, (0..3).map(SplitId).collect());
    assert_eq!(topic.starts([SplitId(1)].into(), StartPosition::Earliest).await.unwrap(), positions(&[(1, 0)]));
}

async fn discover_owned(spec: KafkaSourceSpec) -> BTreeMap<SplitId, Position> {
    discover(&spec).await.unwrap()
}

async fn records_come_in_order_and_pause(kafka: &Kafka) {
    create(kafka, "order", 2).await;
    let producer: BaseProducer = client(kafka).create().unwrap();
    send(&producer, "order", 0, 0..50);
    send(&producer, "order", 1, 100..150);
    let spec = spec(kafka, "order", StartPosition::Earliest);
    let mut reader = open(&spec, &[(0, 10), (1, 0)]);
    reader.pause(SplitId(1)).unwrap();
    let first = read(&mut reader, |all| all.len() >= 40);
    assert_eq!(first, (10..50).map(|i| (0, i, i)).collect::<Vec<_>>());
    reader.resume(SplitId(1)).unwrap();
    reader.pause(SplitId(0)).unwrap();
    send(&producer, "order", 0, 50..60);
    let second = read(&mut reader, |all| all.len() >= 50);
    assert_eq!(second, (0..50).map(|i| (1, i, 100 + i)).collect::<Vec<_>>());
    reader.resume(SplitId(0)).unwrap();
    let third = read(&mut reader, |all| all.len() >= 10);
    assert_eq!(third, (50..60).map(|i| (0, i, i)).collect::<Vec<_>>());
    // A taker that stops gets the rest later, and nothing twice.
    send(&producer, "order", 1, 150..155);
    let (began, mut taken) = (Instant::now(), Vec::new());
    while taken.len() < 5 {
        assert!(began.elapsed() < PATIENCE);
        let count = reader
            .poll(Duration::from_millis(50), 100, &mut |record| {
                taken.push(record.position.0);
                Flow::Stop
            })
            .unwrap();
        assert!(count <= 1);
    }
    assert_eq!(taken, (50..55).collect::<Vec<_>>());
    figures_reach_lag_tools(kafka, &mut reader);
}

fn figures_reach_lag_tools(kafka: &Kafka, reader: &mut KafkaReader) {
    reader.commit_group_offsets(&positions(&[(0, 60), (1, 17)]));
    let tool: BaseConsumer = client(kafka).set("group.id", "pulso-vitals").create().unwrap();
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE);
        reader.poll(Duration::from_millis(50), 1, &mut |_| Flow::Continue).unwrap();
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range("order", 0, 1);
        let committed = tool.committed_offsets(asked, PATIENCE).unwrap().to_topic_map();
        let of = |partition: i32| committed[&("order".to_owned(), partition)];
        if of(0) == Offset::Offset(60) && of(1) == Offset::Offset(17) && reader.ends() == positions(&[(0, 60), (1, 55)])
        {
            return;
        }
    }
}

async fn aborted_records_are_never_seen(kafka: &Kafka) {
    create(kafka, "transactions", 1).await;
    let producer: BaseProducer = client(kafka).set("transactional.id", "t").create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for (values, commit) in [(0..3, true), (3..6, false), (6..9, true)] {
        producer.begin_transaction().unwrap();
        send(&producer, "transactions", 0, values);
        if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }.unwrap();
    }
    let mut reader = open(&spec(kafka, "transactions", StartPosition::Earliest), &[(0, 0)]);
    let all = read(&mut reader, |all| all.len() >= 6);
    // Positions have gaps: markers and aborted records.
    assert_eq!(all, [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 8, 6), (0, 9, 7), (0, 10, 8)]);
    // From the position behind the last record, in front of its marker: nothing, and no complaint.
    let mut behind = open(&spec(kafka, "transactions", StartPosition::Earliest), &[(0, 11)]);
    for _ in 0..20 {
        assert_eq!(behind.poll(Duration::from_millis(20), 9, &mut |_| Flow::Continue).unwrap(), 0);
    }
    assert_eq!(behind.trouble(), None);
}

async fn lost_records_are_told(kafka: &Kafka) {
    let admin = create(kafka, "lost", 1).await;
    let producer: BaseProducer = client(kafka).create().unwrap();
    send(&producer, "lost", 0, 0..20);
    let mut before = TopicPartitionList::new();
    before.add_partition_offset("lost", 0, Offset::Offset(15)).unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.unwrap();
    let mut spec = spec(kafka, "lost", StartPosition::Earliest);
    assert_eq!(discover(&spec).await.unwrap(), positions(&[(0, 15)]));
    let lost = fails(&mut open(&spec, &[(0, 10)]));
    let expected = KafkaError::DataLoss { topic: "lost".to_owned(), split: SplitId(0), wanted: 10, first: 15 };
    assert_eq!(lost, expected);
    let made_anew = fails(&mut open(&spec, &[(0, 21)]));
    let expected = KafkaError::Recreated { topic: "lost".to_owned(), split: SplitId(0), wanted: 21, end: 20 };
    assert_eq!(made_anew, expected);
    spec.on_data_loss = OnDataLoss::Skip;
    let mut reader = open(&spec, &[(0, 10)]);
    assert_eq!(read(&mut reader, |all| all.len() >= 5), (15..20).map(|i| (0, i, i)).collect::<Vec<_>>());

    // Deleted while it is read: paused, so that nothing is fetched ahead.
    spec.on_data_loss = OnDataLoss::Fail;
    let mut reader = open(&spec, &[(0, 20)]);
    assert_eq!(reader.poll(Duration::from_millis(50), 9, &mut |_| Flow::Continue).unwrap(), 0);
    reader.pause(SplitId(0)).unwrap();
    send(&producer, "lost", 0, 20..30);
    let mut before = TopicPartitionList::new();
    before.add_partition_offset("lost", 0, Offset::Offset(25)).unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.unwrap();
    reader.resume(SplitId(0)).unwrap();
    let expected = KafkaError::DataLoss { topic: "lost".to_owned(), split: SplitId(0), wanted: 20, first: 25 };
    assert_eq!(fails(&mut reader), expected);
}

/// TLS and SASL where the brokers have none, and a name that nobody knows: each is told with the address, and worth
/// another try, because it is the broker's to be mended as well as the job's.
async fn brokers_that_do_not_fit_are_told(kafka: &Kafka) {
    let secured = |settings: &[(&str, &str)]| KafkaSourceSpec {
        security: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect(),
        ..spec(kafka, "starts", StartPosition::Earliest)
    };
    let tls = secured(&[("security.protocol", "ssl")]);
    let sasl = secured(&[
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "app"),
        ("sasl.password", "hunter2"),
    ]);
    let unknown = KafkaSourceSpec {
        brokers: "no-such-host.invalid:9092".to_owned(),
        ..spec(kafka, "starts", StartPosition::Earliest)
    };
    let (tls, sasl, unknown) = tokio::join!(discover(&tls), discover(&sasl), discover(&unknown));
    for (error, address) in [(tls, kafka.brokers()), (sasl, kafka.brokers()), (unknown, "no-such-host.invalid:9092")] {
        let error = error.unwrap_err();
        assert!(matches!(error, KafkaError::Unreachable { .. }) && !error.is_fatal(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(address) && text.contains("is the address right") && !text.contains("hunter2"), "{text}");
    }
}

async fn create_with(kafka: &Kafka, topic: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = client(kafka).create().unwrap();
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
    let made = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

/// Positions, times and lengths of the next records, until `enough`.
fn seen(reader: &mut KafkaReader, mut enough: impl FnMut(&[(i64, i64, usize)]) -> bool) -> Vec<(i64, i64, usize)> {
    let (began, mut all) = (Instant::now(), Vec::new());
    while !enough(&all) {
        assert!(began.elapsed() < PATIENCE, "{all:?} {:?}", reader.trouble());
        let mut take = |record: pulso_connectors::kafka::Record<'_>| {
            all.push((record.position.0, record.timestamp_ms, record.value.map_or(0, <[u8]>::len)));
            Flow::Continue
        };
        reader.poll(Duration::from_millis(50), 100, &mut take).unwrap();
    }
    all
}

async fn the_time_of_appending_is_the_records(kafka: &Kafka) {
    create_with(kafka, "appended", &[("message.timestamp.type", "LogAppendTime")]).await;
    let producer: BaseProducer = client(kafka).create().unwrap();
    let now = || i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let before = now();
    send(&producer, "appended", 0, 0..3);
    let mut reader = open(&spec(kafka, "appended", StartPosition::Earliest), &[(0, 0)]);
    let all = seen(&mut reader, |all| all.len() >= 3);
    assert!(all.iter().all(|(_, time, _)| (before - 1..=now() + 1).contains(time)), "{all:?} {before}");
}

/// Of records of one key the newest is left, and positions between are gone.
async fn compaction_leaves_gaps(kafka: &Kafka) {
    const SEGMENT: Duration = Duration::from_millis(100);
    let age = SEGMENT.as_millis().to_string();
    let compact = [
        ("cleanup.policy", "compact"),
        ("segment.ms", age.as_str()),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "100"),
    ];
    create_with(kafka, "compacted", &compact).await;
    let producer: BaseProducer = client(kafka).create().unwrap();
    let spec = spec(kafka, "compacted", StartPosition::Earliest);
    send(&producer, "compacted", 0, 0..20);
    let began = Instant::now();
    // The newest segment is never compacted, so something has to follow; what comes when it is old enough begins the next.
    for next in 20.. {
        assert!(began.elapsed() < PATIENCE, "nothing was compacted");
        tokio::time::sleep(SEGMENT + Duration::from_millis(50)).await;
        send(&producer, "compacted", 0, next..next + 1);
        let mut reader = open(&spec, &[(0, 0)]);
        let all = seen(&mut reader, |all| all.last().is_some_and(|(position, ..)| *position == next));
        if usize::try_from(next).unwrap() > all.len() {
            assert!(all.is_sorted() && all[0].0 > 0, "{all:?}");
            // From a position that is gone: the next one that is there, and no complaint.
            let mut behind = open(&spec, &[(0, 3)]);
            assert!(!seen(&mut behind, |all| !all.is_empty()).is_empty() && behind.trouble().is_none());
            return;
        }
    }
}

/// The broker's limit is on what is sent, which is a thousandth of it.
async fn a_small_batch_with_a_huge_record_is_one_record(kafka: &Kafka) {
    const HUGE: usize = 32 << 20;
    create(kafka, "bomb", 1).await;
    let producer: BaseProducer = client(kafka)
        .set("compression.type", "gzip")
        .set("message.max.bytes", (2 * HUGE).to_string())
        .create()
        .unwrap();
    producer.send(BaseRecord::<str, _>::to("bomb").payload(&vec![b'a'; HUGE])).unwrap();
    producer.send(BaseRecord::<str, str>::to("bomb").payload("small")).unwrap();
    producer.flush(PATIENCE).unwrap();
    let mut reader = open(&spec(kafka, "bomb", StartPosition::Earliest), &[(0, 0)]);
    let all = seen(&mut reader, |all| all.len() >= 2);
    assert_eq!(all.iter().map(|(position, _, length)| (*position, *length)).collect::<Vec<_>>(), [(0, HUGE), (1, 5)]);
}

async fn a_broker_that_restarts_is_waited_for(kafka: &mut Kafka) {
    create(kafka, "restart", 1).await;
    let producer: BaseProducer = client(kafka).create().unwrap();
    send(&producer, "restart", 0, 0..3);
    let spec = spec(kafka, "restart", StartPosition::Earliest);
    let mut reader = open(&spec, &[(0, 0)]);
    read(&mut reader, |all| all.len() >= 3);
    assert_eq!(reader.trouble(), None);
    kafka.kill().await.unwrap();
    let mut late = open(&spec, &[(0, 1)]);
    let began = Instant::now();
    while reader.trouble().is_none() || late.trouble().is_none() {
        assert!(began.elapsed() < PATIENCE);
        assert_eq!(reader.poll(Duration::from_millis(20), 9, &mut |_| Flow::Continue).unwrap(), 0);
        assert_eq!(late.poll(Duration::from_millis(20), 9, &mut |_| Flow::Continue).unwrap(), 0);
    }
    kafka.restart().await.unwrap();
    send(&producer, "restart", 0, 3..6);
    assert_eq!(read(&mut reader, |all| all.len() >= 3), [(0, 3, 3), (0, 4, 4), (0, 5, 5)]);
    assert_eq!(read(&mut late, |all| all.len() >= 5).len(), 5);
    let began = Instant::now();
    while reader.trouble().is_some() {
        assert!(began.elapsed() < PATIENCE);
        reader.poll(Duration::from_millis(50), 9, &mut |_| Flow::Continue).unwrap();
    }
}
