//! Who may write, and who may not any more.

use std::time::{Duration, Instant};

use pulso_connectors::target::TargetError;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, TargetRows};

use crate::proxy::{Action, Proxy, contains};
use crate::support::{
    Database, ENDED, LEDGER, LETTERS, LOCK_KV, LOCKED, READ_ONLY, READ_ONLY_AFTER_7, UNLOCK, WRITING, Writer, client,
    found, group, key_value, kv, mark, run, upsert, url_at,
};

pub(crate) fn many() -> TargetRows {
    let keys: Vec<String> = (0..2_000).map(|i| format!("key {i}")).collect();
    let of: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(1), Change::Insert)).collect();
    kv(&of)
}

#[tokio::test(flavor = "multi_thread")]
async fn takeover_ends_a_writer_in_the_middle_of_a_statement() {
    let database = Database::create().await;
    let proxy = Proxy::start(database.port).await;
    let spec = key_value(&database.url_by(proxy.port), upsert());
    let mut old = Writer::first(&spec).await;
    old.commit(vec![kv(&[("before", Some(1), Change::Insert)])]).await;
    proxy.rule(|bytes| if contains(bytes, WRITING) { Action::StallInHalf } else { Action::Forward });
    let paused = tokio::spawn(async move {
        let outcome = old.transact(vec![many()]).await;
        (old, outcome)
    });
    proxy.stalled().await;
    proxy.rule(|_| Action::Forward);

    let mut new = Writer::of(&key_value(&database.url, upsert()), &[0, 1]);
    let began = Instant::now();
    let rows = new.take_over(2, false).await.unwrap();
    assert_eq!(rows, new.all_at(2, 1));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

    proxy.wake();
    let (mut old, outcome) = paused.await.unwrap();
    assert!(matches!(outcome, Err(TargetError::ConnectionLost { .. })), "{outcome:?}");
    // It comes back with its old attempt: it may look, and nothing else.
    assert_eq!(old.register(1).await.unwrap(), old.all_at(2, 1));
    let missed = old.transact(vec![many()]).await.unwrap();
    assert!(matches!(missed, Outcome::GuardMissed { rows } if found(rows.clone())[&0] == Some((2, mark(1)))));

    new.epoch = 1;
    new.commit(vec![kv(&[("after", Some(2), Change::Insert)])]).await;
    assert_eq!(database.text("select k, v from kv order by k").await, "after|2 before|1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_takeover_of_an_older_attempt_takes_nothing() {
    let database = Database::create().await;
    let spec = key_value(&database.url, upsert());
    let mut newer = Writer::first(&spec).await;
    newer.take_over(5, false).await.unwrap();
    let mut older = Writer::of(&spec, &[0, 1]);
    assert_eq!(older.take_over(4, false).await.unwrap(), older.all_at(5, 0));
    // And the newer one's connection still lives.
    let connection = newer.writer.connection();
    newer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
    assert_eq!(newer.writer.connection(), connection);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_somebody_else_refuses_a_takeover_and_says_why() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    let mut stranger = client(&database.url).await;
    run(&mut stranger, &format!("begin; update {LEDGER} set epoch = epoch + 1 where key_group = 1")).await;
    let refused = writer.take_over(2, false).await;
    assert!(matches!(&refused, Err(TargetError::Retry { reason }) if reason.contains(LOCKED)), "{refused:?}");
    // Somebody else's session is not ours to end.
    run(&mut stranger, "rollback").await;
    writer.take_over(2, false).await.unwrap();
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_moves_away_does_not_end_the_connection_of_the_one_that_stays() {
    let database = Database::create().await;
    let spec = key_value(&database.url, upsert());
    let both = Writer::first(&spec).await;
    // Attempt 2: the first keeps key group 0 and its connection, the second gets key group 1.
    let mut stays = Writer { groups: Writer::of(&spec, &[0]).groups, ..both };
    stays.take_over(2, false).await.unwrap();
    let connection = stays.writer.connection();
    let mut comes = Writer::of(&spec, &[1]);
    assert_eq!(comes.take_over(2, false).await.unwrap(), [(1, Some((2, mark(0))))].into());
    stays.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
    comes.commit(vec![kv(&[("b", Some(2), Change::Insert)])]).await;
    assert_eq!(stays.writer.connection(), connection);
    assert_eq!(database.text("select k, v from kv order by k").await, "a|1 b|2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_does_not_match_writes_nothing() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
    // A guard of one key group: the worker compares the rows of all.
    let both = writer.groups.clone();
    writer.groups.retain(|id| *id == group(0));
    writer.epoch = 7;
    let outcome = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await.unwrap();
    let Outcome::GuardMissed { rows } = outcome else { panic!("{outcome:?}") };
    assert_eq!(found(rows), [0, 1].map(|group| (group, Some((1, mark(1))))).into());
    (writer.groups, writer.epoch) = (both, 1);
    // One row of two is elsewhere: it may not be half a commit.
    database.query(&format!("update {LEDGER} set epoch = 9 where key_group = 1")).await;
    let outcome = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await.unwrap();
    let Outcome::GuardMissed { rows } = outcome else { panic!("{outcome:?}") };
    let rows = found(rows);
    assert_eq!(rows[&0], Some((1, mark(1))));
    assert_eq!(rows[&1].unwrap().1.epoch.0, 9);
    assert_eq!(database.text("select k from kv").await, "a");
    // Missing rows are told as such.
    database.query(&format!("delete from {LEDGER} where key_group = 1")).await;
    assert_eq!(writer.read().await.unwrap()[&1], None);
    let outcome = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await.unwrap();
    assert!(matches!(outcome, Outcome::GuardMissed { .. }), "{outcome:?}");
    database.query(&format!("drop table {LEDGER}")).await;
    assert_eq!(writer.read().await.unwrap(), [(0, None), (1, None)].into());
    assert_eq!(writer.register(1).await.unwrap(), [(0, None), (1, None)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = url_at(silent.local_addr().unwrap().port(), "db");
    let mut writer = Writer::of(&key_value(&url, upsert()), &[0]);
    let done = tokio::time::timeout(Duration::from_secs(30), writer.take_over(1, true)).await.unwrap();
    assert!(matches!(&done, Err(TargetError::ConnectionLost { reason }) if reason.contains("10 s")), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_that_ends_is_noticed() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    database.end_the_writers_session().await;
    let reason = tokio::time::timeout(Duration::from_secs(5), writer.writer.closed()).await.unwrap();
    assert!(reason.contains(ENDED), "{reason}");
    assert!(matches!(writer.read().await, Err(TargetError::ConnectionLost { .. })));
    writer.register(1).await.unwrap();
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_costs_the_connection() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    let mut blocker = client(&database.url).await;
    run(&mut blocker, LOCK_KV).await;
    let given_up =
        tokio::time::timeout(Duration::from_millis(200), writer.transact(vec![kv(&[("a", Some(1), Change::Insert)])]));
    assert!(given_up.await.is_err());
    run(&mut blocker, UNLOCK).await;
    // Its transaction is open: whatever came next would be part of it.
    let lost = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await;
    assert!(matches!(lost, Err(TargetError::ConnectionLost { .. })), "{lost:?}");
    assert_eq!(writer.register(1).await.unwrap()[&0], Some((1, mark(0))));
    writer.commit(vec![kv(&[("c", Some(1), Change::Insert)])]).await;
    assert_eq!(database.text("select k from kv").await, "c");
}

/// A failover leaves the old server up: the connection to it must not be kept, or the job writes nothing ever after.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_becomes_read_only_costs_the_connection() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    database.query(READ_ONLY_AFTER_7).await;
    writer.take_over(2, false).await.unwrap();
    writer.commit(vec![kv(&[("a", Some(7), Change::Insert)])]).await;
    let lost = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await;
    assert!(matches!(&lost, Err(TargetError::ConnectionLost { reason }) if reason.contains(READ_ONLY)), "{lost:?}");
    assert_eq!(writer.register(2).await.unwrap(), writer.all_at(2, 1));
    writer.commit(vec![kv(&[("b", Some(1), Change::Insert)])]).await;
    writer.commit(vec![kv(&[("c", Some(7), Change::Insert)])]).await;
    let lost = writer.take_over(3, false).await;
    assert!(matches!(lost, Err(TargetError::ConnectionLost { .. })), "{lost:?}");
    assert_eq!(writer.take_over(3, false).await.unwrap(), writer.all_at(3, 3));
    assert_eq!(database.text("select k from kv order by k").await, "a b c");
    assert_eq!(database.text(&format!("select count(*) from {LETTERS}")).await, "0");
}
