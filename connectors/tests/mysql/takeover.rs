//! Who may write, and who may not any more.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use pulso_connectors::target::TargetError;
use pulso_core::ids::Attempt;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, TargetRows};

use crate::proxy::{Action, Proxy, contains};
use crate::support::{Database, Writer, client, found, group, key_value, kv, mark, upsert};

fn many() -> TargetRows {
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
    proxy.rule(|bytes| if contains(bytes, b"INSERT INTO `kv`") { Action::StallInHalf } else { Action::Forward });
    let paused = tokio::spawn(async move {
        let outcome = old.transact(vec![many()]).await;
        (old, outcome)
    });
    proxy.stalled().await;
    proxy.rule(|_| Action::Forward);

    let mut new = Writer::of(&key_value(&database.url, upsert()), &[0, 1]);
    let began = Instant::now();
    let rows = new.take_over(2, false).await.unwrap();
    assert_eq!(rows, [(0, Some((2, mark(1)))), (1, Some((2, mark(1))))].into());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

    proxy.wake();
    let (mut old, outcome) = paused.await.unwrap();
    assert!(matches!(outcome, Err(TargetError::ConnectionLost { .. })), "{outcome:?}");
    // It comes back with its old attempt: it may look, and nothing else.
    assert_eq!(old.register(1).await.unwrap(), [(0, Some((2, mark(1)))), (1, Some((2, mark(1))))].into());
    let missed = old.transact(vec![many()]).await.unwrap();
    assert!(matches!(missed, Outcome::GuardMissed { rows } if found(rows.clone())[&0] == Some((2, mark(1)))));

    new.epoch = 1;
    new.commit(vec![kv(&[("after", Some(2), Change::Insert)])]).await;
    assert_eq!(database.text("select k, v from kv order by k").await, "after|2 before|1");
}

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
async fn a_late_takeover_of_an_older_attempt_takes_nothing() {
    let database = Database::create().await;
    let spec = key_value(&database.url, upsert());
    let mut newer = Writer::first(&spec).await;
    newer.take_over(5, false).await.unwrap();
    let mut older = Writer::of(&spec, &[0, 1]);
    assert_eq!(older.take_over(4, false).await.unwrap(), [(0, Some((5, mark(0)))), (1, Some((5, mark(0))))].into());
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
    stranger.query_drop("start transaction").await.unwrap();
    stranger.query_drop("update pulso_ledger set epoch = epoch + 1 where key_group = 1").await.unwrap();
    let refused = writer.take_over(2, false).await;
    assert!(matches!(&refused, Err(TargetError::Retry { reason }) if reason.contains("1205")), "{refused:?}");
    // Somebody else's session is not ours to end.
    stranger.query_drop("rollback").await.unwrap();
    writer.take_over(2, false).await.unwrap();
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
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
    assert_eq!(found(rows), [(0, Some((1, mark(1)))), (1, Some((1, mark(1))))].into());
    (writer.groups, writer.epoch) = (both, 1);
    // One row of two is elsewhere: it may not be half a commit.
    database
        .query("update pulso_ledger set epoch = 9, hash = X'00000000000000000000000000000009' where key_group = 1")
        .await;
    let outcome = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await.unwrap();
    let Outcome::GuardMissed { rows } = outcome else { panic!("{outcome:?}") };
    let rows = found(rows);
    assert_eq!(rows[&0], Some((1, mark(1))));
    assert_eq!(rows[&1].unwrap().1.epoch.0, 9);
    assert_eq!(database.text("select k from kv").await, "a");
    // Missing rows are told as such.
    database.query("delete from pulso_ledger where key_group = 1").await;
    assert_eq!(found(writer.writer.read_ledger(&writer.groups).await.unwrap())[&1], None);
    let outcome = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await.unwrap();
    assert!(matches!(outcome, Outcome::GuardMissed { .. }), "{outcome:?}");
    database.query("drop table pulso_ledger").await;
    assert_eq!(found(writer.writer.read_ledger(&writer.groups).await.unwrap()), [(0, None), (1, None)].into());
    assert_eq!(writer.register(1).await.unwrap(), [(0, None), (1, None)].into());
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

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("mysql://root@{}/db", silent.local_addr().unwrap());
    let mut writer = Writer::of(&key_value(&url, upsert()), &[0]);
    let done = tokio::time::timeout(Duration::from_secs(30), writer.take_over(1, true)).await.unwrap();
    assert!(matches!(&done, Err(TargetError::ConnectionLost { reason }) if reason.contains("10 s")), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_that_ends_is_noticed() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    let number = database.text("select is_used_lock(session) from pulso_ledger limit 1").await;
    database.query(&format!("kill connection {number}")).await;
    tokio::time::timeout(Duration::from_secs(5), writer.writer.closed()).await.unwrap();
    let lost = writer.writer.read_ledger(&writer.groups).await;
    assert!(matches!(lost, Err(TargetError::ConnectionLost { .. })));
    writer.writer.register(Attempt(1), &writer.groups).await.unwrap();
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_costs_the_connection() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    let mut blocker = client(&database.url).await;
    blocker.query_drop("lock tables kv write").await.unwrap();
    let given_up =
        tokio::time::timeout(Duration::from_millis(200), writer.transact(vec![kv(&[("a", Some(1), Change::Insert)])]));
    assert!(given_up.await.is_err());
    blocker.query_drop("unlock tables").await.unwrap();
    // Its transaction is open: whatever came next would be part of it.
    let lost = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await;
    assert!(matches!(lost, Err(TargetError::ConnectionLost { .. })), "{lost:?}");
    assert_eq!(writer.register(1).await.unwrap()[&0], Some((1, mark(0))));
    writer.commit(vec![kv(&[("c", Some(1), Change::Insert)])]).await;
    assert_eq!(database.text("select k from kv").await, "c");
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
