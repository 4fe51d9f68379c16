//! Rows that the database does not take.

use pulso_core::worker::Outcome;
use pulso_dataflow::batch::Change;

use crate::cases::refused::numbers;
use crate::support::{Database, Writer, key_value, kv, upsert};

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
