//! One attempt after another, and what the older ones still try.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pulso_connectors::target::TargetError;
use pulso_core::ids::JobId;
use pulso_core::worker::Outcome;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::support::{Found, PATIENCE, client, job, mark, one, values, writer_of};

pub(crate) async fn writers_of_one_attempt_do_not_mind_each_other(brokers: &str) {
    let (id, spec) = (JobId(Uuid::new_v4()), job(brokers, "peers"));
    let (mut left, mut right) = (writer_of(id, &spec, &[0, 1]), writer_of(id, &spec, &[2, 3]));
    let (l, r) = tokio::join!(left.take_over(1, true), right.take_over(1, true));
    assert_eq!((l.unwrap(), r.unwrap()), (left.all_at(1, 0), right.all_at(1, 0)));
    for value in 0..5 {
        let (l, r) = tokio::join!(left.transact(vec![one(value)]), right.transact(vec![one(10 + value)]));
        assert_eq!((l.unwrap(), r.unwrap()), (Outcome::Committed, Outcome::Committed));
    }
    assert_eq!(left.read().await.unwrap(), left.all_at(1, 5));
    // One of them goes, the other one stays and gets a part of its key groups.
    drop(right);
    left.groups = writer_of(id, &spec, &[1, 2]).groups;
    assert_eq!(left.take_over(2, false).await.unwrap(), left.all_at(2, 5));
    let mut new = writer_of(id, &spec, &[0, 3]);
    assert_eq!(new.take_over(2, false).await.unwrap(), new.all_at(2, 5));
    new.epoch = 5;
    let (l, n) = tokio::join!(left.transact(vec![one(20)]), new.transact(vec![one(21)]));
    assert_eq!((l.unwrap(), n.unwrap()), (Outcome::Committed, Outcome::Committed));
    assert_eq!(values(brokers, "peers"), [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21]);
}

pub(crate) async fn a_zombie_writes_nothing(brokers: &str) {
    let (id, spec) = (JobId(Uuid::new_v4()), job(brokers, "zombie"));
    let mut zombie = writer_of(id, &spec, &[0, 1]);
    zombie.take_over(1, true).await.unwrap();
    zombie.commit(vec![one(1)]).await;
    let mut heir = writer_of(id, &spec, &[0, 1]);
    assert_eq!(heir.take_over(2, false).await.unwrap(), heir.all_at(2, 1));
    let lost = zombie.transact(vec![one(2)]).await;
    assert!(matches!(lost, Err(TargetError::ConnectionLost { .. })), "{lost:?}");
    heir.epoch = 1;
    heir.commit(vec![one(3)]).await;
    // What it said of itself is gone.
    for partition in [0, 1] {
        let of = |attempt: &str| {
            let all = ledger(brokers, id, partition).into_iter().filter(|(key, _)| !key.starts_with("mark/"));
            all.filter(|(key, _)| key.contains(attempt)).map(|(_, value)| value.is_some()).collect::<Vec<_>>()
        };
        assert_eq!((of("-kafka-1-"), of("-kafka-2-")), (vec![false], vec![true]), "partition {partition}");
    }
    // It comes back, and sees that it has no business here any more, again and again.
    let fenced: Found = [(0, Some((2, mark(0)))), (1, Some((2, mark(0))))].into();
    for _ in 0..2 {
        assert_eq!(zombie.register(1).await.unwrap(), fenced);
    }
    let late = writer_of(id, &spec, &[0]).take_over(1, false).await.unwrap();
    assert_eq!(late, [(0, Some((2, mark(0))))].into());
    // Its visits cost the heir nothing.
    heir.commit(vec![one(4)]).await;
    assert_eq!(heir.read().await.unwrap(), heir.all_at(2, 3));
    assert_eq!(values(brokers, "zombie"), [1, 3, 4]);
}

/// The newest value of each key in a partition of the ledger of this job.
fn ledger(brokers: &str, id: JobId, partition: i32) -> BTreeMap<String, Option<String>> {
    let consumer: BaseConsumer =
        client(brokers).set("group.id", "test").set("enable.partition.eof", "true").create().unwrap();
    let mut assignment = TopicPartitionList::new();
    let topic = format!("pulso-ledger-{id}-kafka");
    assignment.add_partition_offset(&topic, partition, Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    let mut records = BTreeMap::new();
    while let Ok(message) = consumer.poll(PATIENCE).unwrap() {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        records.insert(text(message.key().unwrap()), message.payload().map(text));
    }
    records
}

/// Transactional ids of the writers that have made themselves known, in the ledger of this job.
fn transactional_ids(brokers: &str, id: JobId) -> Vec<String> {
    ledger(brokers, id, 0).keys().map(|key| key.strip_prefix("writer/").unwrap().to_owned()).collect()
}

/// A process that was stopped in the middle of a transaction: what it sent is there, and its commit is still to come.
pub(crate) async fn an_open_transaction_of_a_zombie_is_never_seen(brokers: &str) {
    let (id, spec) = (JobId(Uuid::new_v4()), job(brokers, "stopped"));
    let mut stopped = writer_of(id, &spec, &[0, 1]);
    stopped.take_over(1, true).await.unwrap();
    stopped.commit(vec![one(1)]).await;
    let ledger = format!("pulso-ledger-{id}-kafka");
    let ids = transactional_ids(brokers, id);
    let producer: BaseProducer = client(brokers).set("transactional.id", &ids[0]).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to(&ledger).partition(1).key("mark/0/0").payload("1 2 00")).unwrap();
    producer.send(BaseRecord::to("stopped").key("k").payload("{\"v\":2}")).unwrap();
    producer.flush(PATIENCE).unwrap();

    let mut heir = writer_of(id, &spec, &[0, 1]);
    let began = Instant::now();
    assert_eq!(heir.take_over(2, false).await.unwrap(), heir.all_at(2, 1));
    // It does not wait until the brokers give the transaction up.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    heir.epoch = 1;
    heir.commit(vec![one(3)]).await;
    let refused = producer.commit_transaction(PATIENCE);
    assert!(refused.is_err(), "a zombie commits");
    assert_eq!(heir.read().await.unwrap(), heir.all_at(2, 2));
    assert_eq!(values(brokers, "stopped"), [1, 3]);
}

/// A call that is given up anywhere, the commit too: the ledger says what became of it, and the topic agrees.
pub(crate) async fn what_was_under_way_is_settled_by_the_ledger(brokers: &str) {
    let (id, spec) = (JobId(Uuid::new_v4()), job(brokers, "settled"));
    let mut writer = writer_of(id, &spec, &[0, 1]);
    writer.take_over(1, true).await.unwrap();
    let mut expected = Vec::new();
    for value in 0..12 {
        let patience = Duration::from_micros(800 * u64::try_from(value).unwrap());
        let answered = tokio::time::timeout(patience, writer.transact(vec![one(value)])).await;
        if let Ok(done) = answered {
            assert_eq!(done.unwrap(), Outcome::Committed);
            expected.push(value);
            continue;
        }
        assert!(matches!(writer.read().await, Err(TargetError::ConnectionLost { .. })));
        let found = writer.register(1).await.unwrap();
        if found == writer.all_at(1, writer.epoch + 1) {
            writer.epoch += 1;
            expected.push(value);
        } else {
            assert_eq!(found, writer.all_at(1, writer.epoch));
        }
    }
    assert_eq!(values(brokers, "settled"), expected);
    assert!(expected.len() < 12, "none was given up in time");
}

pub(crate) async fn a_guard_that_misses_writes_nothing(brokers: &str) {
    let (id, spec) = (JobId(Uuid::new_v4()), job(brokers, "guard"));
    let mut writer = writer_of(id, &spec, &[0, 1]);
    writer.take_over(1, true).await.unwrap();
    writer.commit(vec![one(1)]).await;
    writer.epoch = 0;
    let missed = writer.transact(vec![one(2)]).await.unwrap();
    let Outcome::GuardMissed { rows } = missed else { panic!("{missed:?}") };
    assert!(rows.values().all(|row| row.unwrap().mark == mark(1)));
    writer.epoch = 1;
    writer.commit(vec![one(3)]).await;
    assert_eq!(values(brokers, "guard"), [1, 3]);
}
