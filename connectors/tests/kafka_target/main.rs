//! Kafka as a target, against a real broker.
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod messages;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "tests of databases need the rest")]
mod shared;
mod support;
mod takeover;
mod trouble;

use pulso_servers::{Kafka, KafkaOptions};

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_target_writes_each_epoch_once() {
    let folder = pulso_servers::temporary_folder().unwrap();
    let mut options = KafkaOptions { heap_mib: 384, partitions: 3, ..KafkaOptions::new(folder.path().join("kafka")) };
    // What is missing must be made by its own name and settings, not by its first use.
    options.settings.push(("auto.create.topics.enable".to_owned(), "false".to_owned()));
    let mut kafka = Kafka::start(options).await.unwrap();
    let brokers = kafka.brokers().to_owned();

    messages::rows_become_messages(&brokers).await;
    messages::dead_letters_keep_the_record(&brokers).await;
    messages::what_is_too_large_is_kept_elsewhere(&brokers).await;
    takeover::writers_of_one_attempt_do_not_mind_each_other(&brokers).await;
    takeover::a_zombie_writes_nothing(&brokers).await;
    takeover::an_open_transaction_of_a_zombie_is_never_seen(&brokers).await;
    takeover::what_was_under_way_is_settled_by_the_ledger(&brokers).await;
    takeover::a_guard_that_misses_writes_nothing(&brokers).await;
    trouble::missing_topics_are_told(&brokers).await;
    trouble::a_broker_that_restarts_is_waited_for(&mut kafka).await;
}
