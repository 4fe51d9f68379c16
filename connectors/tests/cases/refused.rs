//! Rows that the database does not take.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, UInt16Array, UInt32Array};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, TargetRows, letters_schema};
use pulso_job::spec::DeadLettersTo;

use crate::support::{Database, KEY, LEDGER, LETTERS, LETTERS_OF_INPUT, SCHEMA, VALUE, Writer, key_value, kv, upsert};

pub(crate) fn numbers(range: std::ops::Range<i64>, change: Change) -> TargetRows {
    let keys: Vec<String> = range.clone().map(|i| format!("k{i:04}")).collect();
    let of: Vec<_> = keys.iter().zip(range).map(|(key, i)| (key.as_str(), Some(i), change)).collect();
    kv(&of)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_may_be_refused_too() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    writer.commit(vec![numbers(0..4, Change::Insert)]).await;
    database.query(&format!("create table child (k {KEY}, foreign key (k) references kv (k))")).await;
    database.query("insert into child values ('k0002')").await;
    writer.commit(vec![numbers(1..4, Change::Delete)]).await;
    assert_eq!(database.text("select k from kv order by k").await, "k0000 k0002");
    let letter = database.text(&format!("select reason, {VALUE} from {LETTERS}")).await;
    assert!(letter.starts_with("delete refused by the database: foreign key violated"), "{letter}");
    assert!(letter.contains(r#""k":"k0002""#), "{letter}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_stop_the_job_and_nothing_is_written() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    database.query("alter table kv add constraint even check (v % 2 = 0)").await;
    writer.take_over(2, false).await.unwrap();
    // Half of few rows is no verdict.
    writer.commit(vec![numbers(0..100, Change::Insert)]).await;
    let outcome = writer.transact(vec![numbers(100..1_100, Change::Insert)]).await.unwrap();
    let Outcome::Failed { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("max_refused") && reason.contains("\"even\""), "{reason}");
    assert_eq!(database.text("select count(*) from kv").await, "50");
    assert_eq!(database.text(&format!("select count(*) from {LETTERS}")).await, "50");
    assert_eq!(database.text(&format!("select distinct epoch from {LEDGER}")).await, "1");
    database.query("alter table kv drop constraint even").await;
    writer.take_over(3, false).await.unwrap();
    writer.commit(vec![numbers(100..1_100, Change::Insert)]).await;
    assert_eq!(database.text("select count(*) from kv").await, "1050");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_the_input_go_with_their_epoch() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, upsert());
    spec.dead_letter.to = DeadLettersTo::Table((SCHEMA.to_owned(), "bad vitals".to_owned()));
    let mut writer = Writer::first(&spec).await;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from(vec![0, 1])),
        Arc::new(UInt32Array::from(vec![3, 4])),
        Arc::new(Int64Array::from(vec![100, 5_000_000_000])),
        Arc::new(Int64Array::from(vec![1_700_000_000_123, -1])),
        Arc::new(StringArray::from(vec!["not JSON", "out of range"])),
        Arc::new(StringArray::from(vec![None, Some("heart_rate")])),
        Arc::new(BinaryArray::from(vec![Some(b"key".as_slice()), None])),
        Arc::new(BinaryArray::from(vec![Some(b"\xff\0".as_slice()), None])),
    ];
    let letters = RecordBatch::try_new(letters_schema(), columns).unwrap();
    let rows = TargetRows { letters: Some(letters), ..kv(&[("a", Some(1), Change::Insert)]) };
    writer.commit(vec![rows, TargetRows::default()]).await;
    assert_eq!(
        database.text(LETTERS_OF_INPUT).await,
        "3|100|2023-11-14 22:13:20.123000|not JSON|null|6B6579|FF00|null \
         4|5000000000|null|out of range|heart_rate|null|null|null"
    );
    assert_eq!(database.text("select k from kv").await, "a");
}
