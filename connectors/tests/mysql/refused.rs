//! Rows that the database does not take.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, UInt16Array, UInt32Array};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::{Change, TargetRows, letters_schema};
use pulso_job::spec::DeadLettersTo;

use crate::support::{Database, Writer, key_value, kv, upsert};

fn numbers(range: std::ops::Range<i64>, change: Change) -> TargetRows {
    let keys: Vec<String> = range.clone().map(|i| format!("k{i:04}")).collect();
    let of: Vec<_> = keys.iter().zip(range).map(|(key, i)| (key.as_str(), Some(i), change)).collect();
    kv(&of)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_refused_rows_become_dead_letters() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    database.query("alter table kv add constraint sane check (v not in (13, 400, 999)), modify k varchar(9) collate utf8mb4_nopad_bin").await;
    writer.take_over(2, false).await.unwrap();
    let odd = kv(&[
        ("nul\0byte", Some(1), Change::Insert),
        ("much too long", Some(1), Change::Correction),
        ("fine", None, Change::Correction),
    ]);
    writer.commit(vec![numbers(0..1_000, Change::Insert), odd]).await;
    assert_eq!(database.text("select count(*), sum(v), sum(v is null) from kv").await, "999|498089|1");
    let letters = database
        .text("select job_name, table_name, replace(reason, ' ', '_'), field, convert(value using utf8mb4) from pulso_dead_letters order by value")
        .await;
    let sane = "refused_by_the_database:_check_constraint_violated_(error_4025),_constraint_\"sane\"";
    let expected = [
        format!(r#"vitals|`kv`|{sane}|null|{{"k":"k0013","v":13}}"#),
        format!(r#"vitals|`kv`|{sane}|null|{{"k":"k0400","v":400}}"#),
        format!(r#"vitals|`kv`|{sane}|null|{{"k":"k0999","v":999}}"#),
        r#"vitals|`kv`|refused_by_the_database:_text_too_long_for_its_column_(error_1406),_column_"k"|k|{"k":"much too long","v":1}"#.to_owned(),
    ];
    assert_eq!(letters, expected.join(" "));
    // The guard stayed with the transaction through all savepoints.
    assert_eq!(database.text("select distinct epoch from pulso_ledger").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_refuses_without_a_word_of_the_record() {
    for signal in
        ["'45000' set message_text = 'patient is secret'", "'HY000' set mysql_errno = 1644, message_text = 'x'"]
    {
        let database = Database::create().await;
        let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
        database
            .query(&format!(
                "create trigger no before insert on kv for each row
                 begin if new.v = 7 then signal sqlstate {signal}; end if; end"
            ))
            .await;
        writer.commit(vec![numbers(0..20, Change::Insert)]).await;
        assert_eq!(database.text("select count(*) from kv").await, "19");
        assert_eq!(
            database.text("select reason from pulso_dead_letters").await,
            "refused by the database: refused by a trigger (error 1644)"
        );
    }
}

/// The server would end the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_longer_than_a_statement_may_be_is_refused() {
    use pulso_job::spec::{FieldType, WriteMode};

    use crate::support::{field, job, rows, sink};
    let database = Database::create().await;
    let fields = vec![field("t", FieldType::String, false)];
    let spec = job(&database.url, fields.clone(), vec![sink("long", &fields, WriteMode::Append)]);
    let mut writer = Writer::first(&spec).await;
    let (long, short) = ("x".repeat(5 << 20), "x".repeat(3 << 20));
    // Above the one it is told, below the one that the server has for the letter's digits.
    database.query("set global max_allowed_packet = 4 * 1024 * 1024").await;
    writer.register(1).await.unwrap();
    database.query("set global max_allowed_packet = 16 * 1024 * 1024").await;
    let texts: ArrayRef = Arc::new(StringArray::from(vec![short.as_str(), long.as_str()]));
    let outcome = writer.transact(vec![rows(0, vec![("t", texts)], vec![Change::Insert; 2])]).await.unwrap();
    // Its letter is longer still, and a letter must not be lost.
    assert!(matches!(&outcome, Outcome::Failed { reason } if reason.contains("max_allowed_packet")), "{outcome:?}");
    assert_eq!(database.text("select count(*) from `long`").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_may_be_refused_too() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    writer.commit(vec![numbers(0..4, Change::Insert)]).await;
    database
        .query("create table child (k varchar(768) collate utf8mb4_nopad_bin, foreign key (k) references kv (k))")
        .await;
    database.query("insert into child values ('k0002')").await;
    writer.commit(vec![numbers(1..4, Change::Delete)]).await;
    assert_eq!(database.text("select k from kv order by k").await, "k0000 k0002");
    let letter = database.text("select reason, convert(value using utf8mb4) from pulso_dead_letters").await;
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
    assert_eq!(database.text("select count(*) from pulso_dead_letters").await, "50");
    assert_eq!(database.text("select distinct epoch from pulso_ledger").await, "1");
    database.query("alter table kv drop constraint even").await;
    writer.take_over(3, false).await.unwrap();
    writer.commit(vec![numbers(100..1_100, Change::Insert)]).await;
    assert_eq!(database.text("select count(*) from kv").await, "1050");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_the_input_go_with_their_epoch() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, upsert());
    spec.dead_letter.to = DeadLettersTo::Table((String::new(), "bad vitals".to_owned()));
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
        database
            .text(
                "select split, position, record_time, reason, field, hex(`key`), hex(value), table_name
                 from `bad vitals` order by split"
            )
            .await,
        "3|100|2023-11-14 22:13:20.123000|not JSON|null|6B6579|FF00|null \
         4|5000000000|null|out of range|heart_rate|null|null|null"
    );
    assert_eq!(database.text("select k from kv").await, "a");
}
