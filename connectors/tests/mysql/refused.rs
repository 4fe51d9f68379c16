//! Rows that the database does not take.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::Change;

use crate::cases::refused::numbers;
use crate::support::{Database, Writer, key_value, kv, upsert};

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
