//! Sessions and locks that stand in the way of a writer.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::Change;

use crate::cases::takeover::many;
use crate::proxy::{Action, Proxy, contains};
use crate::support::{Database, Writer, client, key_value, kv, upsert};

#[tokio::test(flavor = "multi_thread")]
async fn takeover_waits_until_the_locks_of_the_one_that_it_ends_are_gone() {
    let database = Database::create().await;
    let proxy = Proxy::start(database.port).await;
    let mut old = Writer::first(&key_value(&database.url_by(proxy.port), upsert())).await;
    // All rows are written and the ledger's are locked; COMMIT does not arrive.
    proxy.rule(|bytes| if contains(bytes, b"\x03COMMIT") { Action::StallInHalf } else { Action::Forward });
    let paused = tokio::spawn(async move { old.transact(vec![many()]).await });
    proxy.stalled().await;
    proxy.rule(|_| Action::Forward);
    let mut new = Writer::of(&key_value(&database.url, upsert()), &[0, 1]);
    let began = Instant::now();
    new.take_over(2, false).await.unwrap();
    new.commit(vec![kv(&[("key 1", Some(9), Change::Insert)])]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    proxy.wake();
    assert!(paused.await.unwrap().is_err());
    assert_eq!(database.text("select k, v from kv").await, "key 1|9");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_came_back_is_not_ended() {
    let database = Database::create().await;
    let spec = key_value(&database.url, upsert());
    Writer::first(&spec).await;
    // Whatever the rows named is gone; the session that now has any number is somebody else's.
    let mut stranger = client(&database.url).await;
    database.query("update pulso_ledger set session = 'pulso/11111111-1111-1111-1111-111111111111'").await;
    let mut writer = Writer::of(&spec, &[0, 1]);
    writer.take_over(2, false).await.unwrap();
    stranger.query_drop("select 1").await.unwrap();
}

/// A writer's transaction, paused before its COMMIT, locks its own rows of the ledger and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn writers_of_other_key_groups_do_not_wait_for_each_other() {
    let database = Database::create().await;
    let proxy = Proxy::start(database.port).await;
    let mut slow = Writer::of(&key_value(&database.url_by(proxy.port), upsert()), &[0]);
    slow.take_over(1, true).await.unwrap();
    let mut quick = Writer::of(&key_value(&database.url, upsert()), &[1, 2, 3]);
    quick.take_over(1, true).await.unwrap();
    proxy.rule(|bytes| if contains(bytes, b"\x03COMMIT") { Action::StallInHalf } else { Action::Forward });
    let paused = tokio::spawn(async move { slow.transact(vec![kv(&[("a", Some(1), Change::Insert)])]).await });
    proxy.stalled().await;
    proxy.rule(|_| Action::Forward);
    let began = Instant::now();
    for value in 0..3 {
        quick.commit(vec![kv(&[("b", Some(value), Change::Insert)])]).await;
    }
    quick.take_over(2, false).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    proxy.wake();
    assert_eq!(paused.await.unwrap().unwrap(), Outcome::Committed);
    assert_eq!(database.text("select k, v from kv order by k").await, "a|1 b|2");
}

/// From the guard on nobody else may move the rows, or write for their key groups.
#[tokio::test(flavor = "multi_thread")]
async fn the_guard_locks_the_ledger_before_the_first_row() {
    let database = Database::create().await;
    let proxy = Proxy::start(database.port).await;
    let mut writer = Writer::first(&key_value(&database.url_by(proxy.port), upsert())).await;
    proxy.rule(|bytes| if contains(bytes, b"INSERT INTO `kv`") { Action::StallInHalf } else { Action::Forward });
    let paused = tokio::spawn(async move { writer.transact(vec![many()]).await });
    proxy.stalled().await;
    proxy.rule(|_| Action::Forward);
    let mut other = client(&database.url).await;
    other.query_drop("set innodb_lock_wait_timeout = 1").await.unwrap();
    let moved = other.query_drop("update pulso_ledger set attempt = 9 where key_group = 1").await;
    assert!(moved.is_err_and(|e| e.to_string().contains("1205")));
    proxy.wake();
    assert_eq!(paused.await.unwrap().unwrap(), Outcome::Committed);
}

/// A lock time-out rolls back its statement alone, so everything before it must go too.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_locked_rolls_the_whole_transaction_back() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    writer.commit(vec![kv(&[("z", Some(1), Change::Insert)])]).await;
    let connection = writer.writer.connection();
    let mut blocker = client(&database.url).await;
    blocker.query_drop("start transaction").await.unwrap();
    blocker.query_drop("update kv set v = 2 where k = 'z'").await.unwrap();
    let rows = || vec![kv(&[("a", Some(1), Change::Insert), ("z", Some(3), Change::Correction)])];
    let outcome = writer.transact(rows()).await.unwrap();
    assert!(matches!(&outcome, Outcome::RolledBack { reason } if reason.contains("1205")), "{outcome:?}");
    blocker.query_drop("rollback").await.unwrap();
    assert_eq!(database.text("select k, v from kv").await, "z|1");
    writer.commit(rows()).await;
    assert_eq!(database.text("select k, v from kv order by k").await, "a|1 z|3");
    assert_eq!(writer.writer.connection(), connection);
}

/// Statements go in one flight: one that fails behind another must not pass for done.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_behind_another_statement_is_seen() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert), ("b", Some(1), Change::Insert)])]).await;
    let mut blocker = client(&database.url).await;
    blocker.query_drop("start transaction").await.unwrap();
    blocker.query_drop("update kv set v = 2 where k = 'b'").await.unwrap();
    let deletes = || vec![kv(&[("a", None, Change::Delete), ("b", None, Change::Delete)])];
    let outcome = writer.transact(deletes()).await.unwrap();
    assert!(matches!(&outcome, Outcome::RolledBack { reason } if reason.contains("1205")), "{outcome:?}");
    blocker.query_drop("rollback").await.unwrap();
    assert_eq!(database.text("select k from kv order by k").await, "a b");
    writer.commit(deletes()).await;
    assert_eq!(database.text("select count(*) from kv").await, "0");
}
