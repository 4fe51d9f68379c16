//! What ends up in the tables, by value, for every way to write.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use pulso_dataflow::batch::{Change, TargetRows};
use pulso_job::spec::{DedupSpec, FieldType, JobSpec, OnChanged, WriteMode};

use crate::support::{Database, KEY, LETTERS, Writer, field, job, key_value, kv, rows, sink, upsert};

const ALL: &str = "select k, v from kv order by k";

#[tokio::test(flavor = "multi_thread")]
async fn upsert_follows_corrections_and_deletes() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    writer
        .commit(vec![
            kv(&[("a", Some(1), Change::Insert), ("b", Some(1), Change::Insert), ("c", Some(1), Change::Insert)]),
            kv(&[("b", Some(2), Change::Correction), ("d", Some(1), Change::Insert), ("d", None, Change::Delete)]),
        ])
        .await;
    assert_eq!(database.text(ALL).await, "a|1 b|2 c|1");
    writer
        .commit(vec![
            kv(&[("c", None, Change::Delete), ("a", Some(3), Change::Correction), ("x", Some(1), Change::Correction)]),
            kv(&[("c", Some(9), Change::Insert), ("b", None, Change::Delete), ("a", None, Change::Correction)]),
        ])
        .await;
    assert_eq!(database.text(ALL).await, "a|null c|9 x|1");
    // State forgets after keep_for: a key that should be new is there, and the row is overwritten all the same.
    writer.commit(vec![kv(&[("a", Some(7), Change::Insert), ("e", Some(7), Change::Insert)])]).await;
    writer.commit(vec![kv(&[("f", Some(8), Change::Insert), ("e", Some(8), Change::Insert)])]).await;
    assert_eq!(database.text(ALL).await, "a|7 c|9 e|8 f|8 x|1");
    assert_eq!(database.text(&format!("select count(*) from {LETTERS}")).await, "0");
}

/// Any sequence of changes, cut into transactions anyhow, leaves what a map would hold.
#[test]
fn upsert_equals_a_map() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (database, writer) = runtime.block_on(async {
        let database = Database::create().await;
        let writer = Writer::first(&key_value(&database.url, upsert())).await;
        (database, writer)
    });
    let state = std::cell::RefCell::new((writer, BTreeMap::<String, i64>::new()));
    let change = prop_oneof![Just(Change::Insert), Just(Change::Correction), Just(Change::Delete)];
    let epoch = prop::collection::vec((0..6u8, 0..100i64, change), 0..12);
    let transactions = prop::collection::vec(prop::collection::vec(epoch, 1..4), 1..4);
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    runner
        .run(&transactions, |transactions| {
            let (writer, expected) = &mut *state.borrow_mut();
            for transaction in transactions {
                let mut outputs = Vec::new();
                for epoch in transaction {
                    let keys: Vec<String> = epoch.iter().map(|row| format!("k{}", row.0)).collect();
                    let of: Vec<_> = keys.iter().zip(&epoch).map(|(k, row)| (k.as_str(), Some(row.1), row.2)).collect();
                    for (key, value, change) in &of {
                        if *change == Change::Delete {
                            expected.remove(*key);
                        } else {
                            expected.insert((*key).to_owned(), value.unwrap());
                        }
                    }
                    outputs.push(if of.is_empty() { TargetRows::default() } else { kv(&of) });
                }
                runtime.block_on(writer.commit(outputs));
            }
            let table = runtime.block_on(database.text(ALL));
            let map: Vec<String> = expected.iter().map(|(k, v)| format!("{k}|{v}")).collect();
            prop_assert_eq!(table, map.join(" "));
            Ok(())
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_first_keeps_the_first() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, WriteMode::KeepFirst { key: vec![0] })).await;
    writer
        .commit(vec![
            kv(&[("a", Some(1), Change::Insert), ("b", Some(1), Change::Insert), ("a", Some(2), Change::Correction)]),
            kv(&[("b", None, Change::Delete), ("c", Some(1), Change::Correction), ("c", Some(2), Change::Correction)]),
        ])
        .await;
    assert_eq!(database.text(ALL).await, "a|1 b|1 c|1");
    writer
        .commit(vec![kv(&[
            ("a", Some(3), Change::Insert),
            ("b", Some(3), Change::Correction),
            ("d", Some(3), Change::Insert),
        ])])
        .await;
    assert_eq!(database.text(ALL).await, "a|1 b|1 c|1 d|3");
}

#[tokio::test(flavor = "multi_thread")]
async fn append_takes_every_row_and_marks_it() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, WriteMode::Append);
    spec.dedup =
        Some(DedupSpec { state: 0, key: vec![0], keep_for: std::time::Duration::MAX, changed: OnChanged::Update });
    let mut writer = Writer::first(&spec).await;
    writer
        .commit(vec![
            kv(&[("a", Some(1), Change::Insert), ("a", Some(1), Change::Insert), ("a", Some(2), Change::Correction)]),
            kv(&[("a", None, Change::Delete)]),
        ])
        .await;
    assert_eq!(
        database.text("select k, v, pulso_change from kv order by coalesce(pulso_change, '')").await,
        "a|1|null a|1|null a|2|correction a|null|delete"
    );
}

fn newest_by(url: &str) -> JobSpec {
    let fields = vec![
        field("k", FieldType::String, true),
        field("v", FieldType::Int64, false),
        field("at", FieldType::Int64, false),
    ];
    let sinks = vec![sink("kv", &fields, WriteMode::Upsert { key: vec![0], newest_by: Some(2) })];
    job(url, fields, sinks)
}

fn at(of: &[(&str, i64, Option<i64>, Change)]) -> TargetRows {
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(of.iter().map(|row| row.0)));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(of.iter().map(|row| row.1)));
    let times: ArrayRef = Arc::new(of.iter().map(|row| row.2).collect::<Int64Array>());
    rows(0, vec![("k", keys), ("v", values), ("at", times)], of.iter().map(|row| row.3).collect())
}

/// The same rows in any order and cut into any transactions leave the same table.
#[tokio::test(flavor = "multi_thread")]
async fn newest_by_does_not_depend_on_order() {
    let (i, c, d) = (Change::Insert, Change::Correction, Change::Delete);
    let mut all = vec![
        ("a", 1, Some(10), i),
        ("a", 2, Some(30), c),
        ("a", 3, Some(20), i),
        ("a", 9, Some(99), d),
        // Equally new: the one whose columns come later as text.
        ("b", 4, Some(50), i),
        ("b", 6, Some(50), c),
        ("b", 5, Some(50), i),
        ("b", 6, Some(50), i),
        ("c", 7, None, i),
        ("c", 8, Some(i64::MIN), c),
    ];
    for turn in 0..all.len() {
        all.rotate_left(1);
        let database = Database::create().await;
        let mut writer = Writer::first(&newest_by(&database.url)).await;
        let (one, rest) = all.split_at(1 + turn % 4);
        let (two, three) = rest.split_at(3);
        writer.commit(vec![at(one), at(two)]).await;
        writer.commit(vec![at(three)]).await;
        let table = database.text("select k, v, at from kv order by k").await;
        assert_eq!(table, format!("a|2|30 b|6|50 c|8|{}", i64::MIN), "turn {turn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_in_the_key_meets_no_row() {
    let database = Database::create().await;
    database.query(&format!("create table kv (k {KEY} unique, v bigint)")).await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    let keys: ArrayRef = Arc::new(StringArray::from(vec![None, None, Some("a"), None]));
    let values: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    let changes = vec![Change::Insert, Change::Correction, Change::Correction, Change::Delete];
    writer.commit(vec![rows(0, vec![("k", keys), ("v", values)], changes)]).await;
    assert_eq!(database.text("select k, v from kv order by v").await, "null|1 null|2 a|3");
}
