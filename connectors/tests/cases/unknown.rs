//! A connection that breaks around COMMIT: the ledger says what came of it, both ways.

use pulso_connectors::target::TargetError;
use pulso_dataflow::batch::Change;

use crate::proxy::{Action, Proxy, contains};
use crate::support::{COMMIT, Database, Writer, key_value, kv, upsert};

async fn cut_at_commit(arrives: bool) -> (Database, Writer) {
    let database = Database::create().await;
    let proxy = Proxy::start(database.port).await;
    let mut writer = Writer::first(&key_value(&database.url_by(proxy.port), upsert())).await;
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
    proxy.rule(move |bytes| match (contains(bytes, COMMIT), arrives) {
        (false, _) => Action::Forward,
        (true, true) => Action::CutAfterAnswer,
        (true, false) => Action::CutBefore,
    });
    let lost = writer.transact(vec![kv(&[("a", Some(2), Change::Correction), ("b", Some(2), Change::Insert)])]).await;
    assert!(matches!(lost, Err(TargetError::ConnectionLost { .. })), "{lost:?}");
    proxy.rule(|_| Action::Forward);
    (database, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_arrived_is_found_in_the_ledger() {
    let (database, mut writer) = cut_at_commit(true).await;
    assert_eq!(writer.register(1).await.unwrap(), writer.all_at(1, 2));
    assert_eq!(database.text("select k, v from kv order by k").await, "a|2 b|2");
    writer.epoch = 2;
    writer.commit(vec![kv(&[("c", Some(3), Change::Insert)])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_did_not_arrive_is_made_again() {
    let (database, mut writer) = cut_at_commit(false).await;
    assert_eq!(writer.register(1).await.unwrap(), writer.all_at(1, 1));
    assert_eq!(database.text("select k, v from kv order by k").await, "a|1");
    writer.commit(vec![kv(&[("a", Some(2), Change::Correction), ("b", Some(2), Change::Insert)])]).await;
    assert_eq!(database.text("select k, v from kv order by k").await, "a|2 b|2");
}
