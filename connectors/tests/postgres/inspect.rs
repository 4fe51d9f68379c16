//! What `check --online` sees of a database: all that a takeover would refuse, and nothing is changed by looking.

use pulso_connectors::postgres::inspect_database;
use pulso_connectors::target::Inspection;
use pulso_job::spec::{DeadLettersTo, JobSpec, SinkTo, WriteMode};

use crate::support::{Database, Writer, field, key_value, sink, upsert};

async fn look(spec: &JobSpec) -> Inspection {
    inspect_database(spec, 0).await.unwrap()
}

fn texts(found: &Inspection) -> Vec<&str> {
    found.findings.iter().map(|finding| finding.text.as_str()).collect()
}

fn without_create(mut spec: JobSpec) -> JobSpec {
    for sink in &mut spec.sinks {
        let SinkTo::Table(table) = &mut sink.to else { panic!("a table") };
        table.create = false;
    }
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_made_is_told_and_not_made() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, upsert());
    spec.dead_letter.to = DeadLettersTo::Table(("public".to_owned(), "letters".to_owned()));
    let found = look(&spec).await;
    let to_be_made = vec!["\"public\".\"letters\"".to_owned(), "\"public\".\"kv\"".to_owned()];
    assert_eq!(found, Inspection { findings: Vec::new(), to_be_made });
    let made =
        "select (select count(*) from pg_tables where schemaname in ('public', 'pulso')), to_regnamespace('pulso')";
    assert_eq!(database.text(made).await, "0|null");

    let found = look(&without_create(spec)).await;
    assert_eq!((found.findings.len(), found.findings[0].sink), (1, Some(0)));
    let statement = found.findings[0].text.split_once("run: ").unwrap().1;
    database.query(statement).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_with_all_tables_is_told() {
    let database = Database::create().await;
    database.query("create table kv (k text, v integer); create view seen as select 1 as k").await;
    let mut spec = key_value(&database.url, upsert());
    spec.sinks.push(sink("seen", &spec.fields, WriteMode::Append));
    let mut nowhere = sink("t", &spec.fields, WriteMode::Append);
    let SinkTo::Table(table) = &mut nowhere.to else { panic!("a table") };
    table.name.0 = "no_such".to_owned();
    spec.sinks.push(nowhere);
    let found = look(&spec).await;
    let at: Vec<Option<usize>> = found.findings.iter().map(|finding| finding.sink).collect();
    assert_eq!(at, [Some(0), Some(0), Some(1), Some(2)]);
    let words =
        ["does not hold every bigint", "no unique index on exactly", "is not a table", "CREATE SCHEMA \"no_such\""];
    for (text, words) in texts(&found).iter().zip(words) {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_jobs_table_is_told_and_ones_own_is_not() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, upsert());
    Writer::first(&spec).await;
    assert_eq!(look(&spec).await, Inspection::default());
    spec.name = "other".to_owned();
    assert_eq!(texts(&look(&spec).await), ["belongs to job vitals"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_is_told_all_it_lacks() {
    let database = Database::create().await;
    database.query("do $$ begin create role bare login; exception when duplicate_object then null; end $$").await;
    database.query("revoke create on schema public from public; create table kv (k text primary key, v bigint)").await;
    let mut spec = key_value(&database.url.replace("postgres@", "bare@"), upsert());
    spec.sinks.push(sink("made", &[field("k", spec.fields[0].kind.clone(), true)], WriteMode::Append));
    let found = look(&spec).await;
    let expected = [
        "CREATE SCHEMA pulso AUTHORIZATION bare;",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON \"public\".\"kv\" TO bare;",
        "GRANT USAGE, CREATE ON SCHEMA \"public\" TO bare;",
    ];
    assert_eq!(found.findings.len(), expected.len(), "{found:?}");
    for (text, statement) in texts(&found).iter().zip(expected) {
        assert!(text.ends_with(statement), "`{statement}` is not in: {text}");
        database.query(statement).await;
    }
    assert_eq!(texts(&look(&spec).await), [] as [&str; 0]);
    Writer::first(&spec).await;

    // The ledger is there, and a person took rights away.
    database.query("alter schema pulso owner to postgres; revoke all on schema pulso from bare").await;
    assert!(texts(&look(&spec).await)[0].ends_with("GRANT USAGE ON SCHEMA pulso TO bare;"));
    database.query("grant usage on schema pulso to bare; alter table pulso.ledger owner to postgres").await;
    database.query("revoke all on pulso.ledger from bare").await;
    let found = look(&spec).await;
    assert!(texts(&found)[0].ends_with("GRANT SELECT, INSERT, UPDATE ON pulso.ledger TO bare;"), "{found:?}");
    // `text` of the whole: one finding, for the ledger alone.
    assert_eq!(found.findings.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_answer_is_an_error_without_credentials() {
    let spec = key_value("postgres://app:hunter2@127.0.0.1:1/x", upsert());
    let error = inspect_database(&spec, 0).await.unwrap_err();
    assert!(error.contains("connecting") && !error.contains("hunter2"), "{error}");
    let database = Database::create().await;
    let spec = key_value(&format!("{}_missing", database.url), upsert());
    let error = inspect_database(&spec, 0).await.unwrap_err();
    assert!(error.contains("does not exist"), "{error}");
}
