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
    database.query("alter table kv add constraint sane check (v not in (13, 400, 999)), add constraint short check (length(k) < 9)").await;
    let odd = kv(&[
        ("nul\0byte", Some(1), Change::Insert),
        ("much too long", Some(1), Change::Correction),
        ("fine", None, Change::Correction),
    ]);
    writer.commit(vec![numbers(0..1_000, Change::Insert), odd]).await;
    assert_eq!(
        database.text("select count(*), sum(v), count(*) filter (where v is null) from kv").await,
        "998|498088|1"
    );
    let letters = database
        .text("select job_name, table_name, replace(reason, ' ', '_'), field, convert_from(value, 'UTF8') from pulso.dead_letters order by value")
        .await;
    let sane = "refused_by_the_database:_check_constraint_violated_(SQLSTATE_23514),_constraint_\"sane\"";
    let short = sane.replace("sane", "short");
    let expected = [
        format!(r#"vitals|"public"."kv"|{sane}|null|{{"k":"k0013","v":13}}"#),
        format!(r#"vitals|"public"."kv"|{sane}|null|{{"k":"k0400","v":400}}"#),
        format!(r#"vitals|"public"."kv"|{sane}|null|{{"k":"k0999","v":999}}"#),
        format!(r#"vitals|"public"."kv"|{short}|null|{{"k":"much too long","v":1}}"#),
        r#"vitals|"public"."kv"|refused_by_the_database:_character_that_the_database_cannot_store_(SQLSTATE_22021)|null|{"k":"nul\u0000byte","v":1}"#.to_owned(),
    ];
    assert_eq!(letters, expected.join(" "));
    // The guard stayed with the transaction through all savepoints.
    assert_eq!(database.text("select distinct epoch from pulso.ledger").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_refuses_without_a_word_of_the_record() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    database
        .query(
            "create function no() returns trigger language plpgsql as $$ begin
             if new.v = 7 then raise exception 'patient % is secret', new.k; end if; return new; end $$;
             create trigger no before insert or update on kv for each row execute function no()",
        )
        .await;
    writer.commit(vec![numbers(0..20, Change::Insert)]).await;
    assert_eq!(database.text("select count(*) from kv").await, "19");
    assert_eq!(
        database.text("select reason from pulso.dead_letters").await,
        "refused by the database: refused by a trigger (SQLSTATE P0001)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_of_a_triggers_own_is_about_the_row() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    database
        .query(
            "create function no() returns trigger language plpgsql as $$ begin
             if new.v = 7 then raise exception 'patient % is secret', new.k using errcode = 'HL007'; end if;
             return new; end $$;
             create trigger no before insert or update on kv for each row execute function no()",
        )
        .await;
    writer.commit(vec![numbers(0..20, Change::Insert)]).await;
    assert_eq!(database.text("select count(*) from kv").await, "19");
    let reason = database.text("select reason from pulso.dead_letters").await;
    assert_eq!(reason, "refused by the database: refused (SQLSTATE HL007)");
}

/// Refused before the first row, the answers of a COPY are out of step: that may cost connections, and never rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_refuses_before_the_first_row_makes_dead_letters() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    database
        .query(
            "create function closed() returns trigger language plpgsql as $$ begin
             raise exception 'closed for today'; end $$;
             create trigger closed before insert on kv for each statement execute function closed()",
        )
        .await;
    for _ in 0..5 {
        match writer.transact(vec![numbers(0..3, Change::Insert)]).await {
            Ok(Outcome::Committed) => {
                assert_eq!(database.text("select count(*) from kv").await, "0");
                assert_eq!(
                    database.text("select count(*), min(reason) = max(reason) from pulso.dead_letters").await,
                    "3|t"
                );
                return;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => drop(writer.register(1).await.unwrap()),
        }
    }
    panic!("tried for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_may_be_refused_too() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    writer.commit(vec![numbers(0..4, Change::Insert)]).await;
    database.query("create table child (k text references kv (k)); insert into child values ('k0002')").await;
    writer.commit(vec![numbers(1..4, Change::Delete)]).await;
    assert_eq!(database.text("select k from kv order by k").await, "k0000 k0002");
    let letter = database.text("select reason, convert_from(value, 'UTF8') from pulso.dead_letters").await;
    assert!(letter.starts_with("delete refused by the database: foreign key violated"), "{letter}");
    assert!(letter.contains(r#""k":"k0002""#), "{letter}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_stop_the_job_and_nothing_is_written() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    database.query("alter table kv add constraint even check (v % 2 = 0)").await;
    // Half of few rows is no verdict.
    writer.commit(vec![numbers(0..100, Change::Insert)]).await;
    let outcome = writer.transact(vec![numbers(100..1_100, Change::Insert)]).await.unwrap();
    let Outcome::Failed { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("max_refused") && reason.contains("\"even\""), "{reason}");
    assert_eq!(database.text("select count(*) from kv").await, "50");
    assert_eq!(database.text("select count(*) from pulso.dead_letters").await, "50");
    assert_eq!(database.text("select distinct epoch from pulso.ledger").await, "1");
    database.query("alter table kv drop constraint even").await;
    writer.commit(vec![numbers(100..1_100, Change::Insert)]).await;
    assert_eq!(database.text("select count(*) from kv").await, "1050");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_the_input_go_with_their_epoch() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, upsert());
    spec.dead_letter.to = DeadLettersTo::Table(("public".to_owned(), "bad vitals".to_owned()));
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
                "select split, position, record_time at time zone 'UTC', reason, field, key, value, table_name
                 from \"bad vitals\" order by split"
            )
            .await,
        "3|100|2023-11-14 22:13:20.123|not JSON|null|\\x6b6579|\\xff00|null \
         4|5000000000|null|out of range|heart_rate|null|null|null"
    );
    assert_eq!(database.text("select k from kv").await, "a");
}
