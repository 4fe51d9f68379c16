//! Sessions and locks that stand in the way of a writer.

use pulso_connectors::target::TargetError;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::Change;

use crate::support::{Database, JOB, Writer, client, key_value, kv, mark, upsert};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_not_in_the_ledger_does_not_block_a_takeover() {
    let database = Database::create().await;
    let spec = key_value(&database.url, upsert());
    let mut writer = Writer::first(&spec).await;
    // A session of the older attempt that no row names and that holds a row, as a refused guard does.
    let holder = client(&format!("{}?application_name=pulso/{JOB}/1", database.url)).await;
    holder.batch_execute("begin; update pulso.ledger set epoch = epoch where key_group = 1").await.unwrap();
    let rows = writer.take_over(2, false).await.unwrap();
    assert_eq!(rows, writer.all_at(2, 0));
    assert!(holder.simple_query("select 1").await.is_err());
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_costs_one_connection_and_no_more() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    let blocker = client(&database.url).await;
    blocker.batch_execute("begin; lock table kv").await.unwrap();
    // A COPY was sent along, in vain.
    let lost = writer.transact(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
    assert!(matches!(&lost, Err(TargetError::ConnectionLost { reason }) if reason.contains("55P03")), "{lost:?}");
    assert_eq!(writer.register(1).await.unwrap()[&0], Some((1, mark(0))));
    let connection = writer.writer.connection();
    for change in [Change::Insert, Change::Correction] {
        let outcome = writer.transact(vec![kv(&[("a", Some(1), change)])]).await.unwrap();
        assert!(matches!(&outcome, Outcome::RolledBack { reason } if reason.contains("55P03")), "{outcome:?}");
    }
    blocker.batch_execute("rollback").await.unwrap();
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
    assert_eq!(writer.writer.connection(), connection);
}
