//! Topics that are missing, and brokers that are away.

use std::time::Instant;

use pulso_connectors::target::TargetError;
use pulso_core::ids::JobId;
use pulso_core::worker::Outcome;
use pulso_servers::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use uuid::Uuid;

use super::support::{PATIENCE, client, job, one, values, writer_of};

pub(crate) async fn missing_topics_are_told(brokers: &str) {
    let (id, spec) = (JobId(Uuid::new_v4()), job(brokers, "missing"));
    let mut writer = writer_of(id, &spec, &[0, 1]);
    let Err(TargetError::Fatal { reason }) = writer.take_over(1, false).await else { panic!("no topic") };
    assert!(reason.contains("kafka-topics.sh") && reason.contains("--topic missing"), "{reason}");
    writer.take_over(1, true).await.unwrap();
    writer.commit(vec![one(1)]).await;

    // Without its ledger the cluster is one that went back, never one that has everything.
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().unwrap();
    let ledger = format!("pulso-ledger-{id}-kafka");
    assert!(admin.delete_topics(&[&ledger], &AdminOptions::new()).await.unwrap()[0].is_ok());
    let mut heir = writer_of(id, &spec, &[0, 1]);
    assert_eq!(heir.take_over(2, false).await.unwrap(), [(0, None), (1, None)].into());
    let nothing = heir.read().await;
    assert!(matches!(nothing, Err(TargetError::ConnectionLost { .. })), "{nothing:?}");
}

pub(crate) async fn a_broker_that_restarts_is_waited_for(kafka: &mut Kafka) {
    let brokers = kafka.brokers().to_owned();
    let (id, spec) = (JobId(Uuid::new_v4()), job(&brokers, "restart"));
    let mut writer = writer_of(id, &spec, &[0, 1]);
    writer.take_over(1, true).await.unwrap();
    writer.commit(vec![one(1)]).await;
    kafka.kill().await.unwrap();
    let lost = writer.transact(vec![one(2)]).await;
    assert!(matches!(lost, Err(TargetError::ConnectionLost { .. })), "{lost:?}");
    let away = writer.register(1).await;
    assert!(matches!(away, Err(TargetError::Retry { .. } | TargetError::ConnectionLost { .. })), "{away:?}");
    kafka.restart().await.unwrap();
    let began = Instant::now();
    let found = loop {
        match writer.register(1).await {
            Ok(found) => break found,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
    };
    let through = found == writer.all_at(1, 2);
    assert!(through || found == writer.all_at(1, 1), "{found:?}");
    if through {
        writer.epoch = 2;
    } else {
        assert_eq!(writer.transact(vec![one(2)]).await.unwrap(), Outcome::Committed);
    }
    assert_eq!(values(&brokers, "restart"), [1, 2]);
}
