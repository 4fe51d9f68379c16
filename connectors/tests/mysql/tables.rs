//! Tables that are made, and tables that will not do: the message holds the statement that mends it.

use std::sync::Arc;

use pulso_connectors::mysql::MySqlWriter;
use pulso_connectors::target::TargetError;
use pulso_core::ids::{JobId, TargetId};
use pulso_dataflow::batch::Change;
use pulso_job::spec::{FieldType, JobSpec, SinkTo, TimestampText, WriteMode};
use uuid::Uuid;

use crate::support::{Database, Writer, field, group, job, key_value, kv, query, sink, upsert};

async fn refused(spec: &JobSpec) -> String {
    match Writer::of(spec, &[0]).take_over(1, true).await {
        Err(TargetError::Fatal { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_from_the_job() {
    let database = Database::create().await;
    let mut short = field("ward", FieldType::String, true);
    short.max_bytes = 32;
    let fields = vec![
        field("id", FieldType::Uuid, true),
        short,
        field("at", FieldType::Timestamp(TimestampText::Epoch { per_second: 1 }), true),
        field("amount", FieldType::Decimal { precision: 12, scale: 2 }, true),
        field("note", FieldType::Json, false),
        field("text", FieldType::String, false),
        field("good", FieldType::Bool, false),
    ];
    let sinks = vec![sink("made", &fields, WriteMode::Upsert { key: vec![0, 1, 2], newest_by: None })];
    Writer::first(&job(&database.url, fields, sinks)).await;
    let columns = "select column_name, column_type, is_nullable, coalesce(collation_name, '-')
        from information_schema.columns where table_schema = database() and table_name = 'made' order by ordinal_position";
    assert_eq!(
        database.text(columns).await,
        "id|char(36)|NO|ascii_bin ward|varchar(32)|NO|utf8mb4_nopad_bin at|datetime(6)|NO|- amount|decimal(12,2)|NO|- \
         note|longtext|YES|utf8mb4_bin text|longtext|YES|utf8mb4_nopad_bin good|tinyint(1)|YES|-"
    );
    let key = "select group_concat(column_name order by seq_in_index) from information_schema.statistics
        where table_schema = database() and table_name = 'made' and index_name = 'PRIMARY'";
    assert_eq!(database.text(key).await, "id,ward,at");
    // The longest text that an index takes: 3072 bytes.
    Writer::of(&key_value(&database.url, upsert()), &[0]).take_over(1, true).await.unwrap();
    assert_eq!(
        database.text("select column_type from information_schema.columns where table_schema = database() and table_name = 'kv' and column_name = 'k'").await,
        "varchar(768)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_writers_may_make_the_same_things_at_once() {
    let database = Database::create().await;
    let spec = key_value(&database.url, upsert());
    let mut writers: Vec<Writer> = (0..4).map(|group| Writer::of(&spec, &[group])).collect();
    let all = futures::future::join_all(writers.iter_mut().map(|writer| writer.take_over(1, true))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(database.text("select count(*) from pulso_ledger where attempt = 1").await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_comes_with_its_statement() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, upsert());
    let SinkTo::Table(table) = &mut spec.sinks[0].to else { panic!("a table") };
    table.create = false;
    let reason = refused(&spec).await;
    let statement = reason.split_once("must run: ").unwrap().1.to_owned();
    assert!(
        statement.starts_with("CREATE TABLE `kv` (`k` VARCHAR(768) NOT NULL, `v` BIGINT, PRIMARY KEY (`k`))"),
        "{statement}"
    );
    database.query(&statement).await;
    let mut writer = Writer::first(&spec).await;
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_told_at_once_and_can_be_run() {
    let database = Database::create().await;
    database
        .query("create table kv (k varchar(10), v int, must int not null, n int, unique (n)) engine = MyISAM")
        .await;
    let spec = key_value(&database.url, upsert());
    let reason = refused(&spec).await;
    for expected in [
        "is kept by MyISAM",
        "column `v` is int(11), which does not hold every BIGINT",
        "column `must` must not be null",
        "has another unique index, on (`n`)",
        "column `k` is part of the key and compares by utf8mb4_general_ci",
    ] {
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
    for statement in reason.split("run: ").skip(1) {
        let (statement, _) = statement.split_once(';').unwrap();
        assert!(statement.starts_with("ALTER TABLE"), "{statement}");
        database.query(statement).await;
    }
    database.query("alter table kv modify must int").await;
    let mut writer = Writer::first(&spec).await;
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_will_not_do_are_refused() {
    let exact = "collate utf8mb4_nopad_bin";
    let cases = [
        ("create view kv as select 'a' as k, 1 as v".to_owned(), "is not a table"),
        (format!("create table kv (k varchar(9) {exact}, v bigint, unique (k(3)))"), "no unique index on exactly"),
        (format!("create table kv (k varchar(9) {exact}, v bigint, unique (k, v))"), "no unique index on exactly"),
        (
            format!("create table kv (k varchar(9) {exact} primary key, v bigint as (1) stored)"),
            "generated by the database",
        ),
        ("create table kv (k int primary key, v bigint)".to_owned(), "column `k` is int(11)"),
        (format!("create table kv (k varchar(9) {exact} primary key, v bigint unique)"), "another unique index"),
        (
            "create table kv (k varchar(9) collate utf8mb4_bin primary key, v bigint)".to_owned(),
            "compares by utf8mb4_bin",
        ),
        (format!("create table kv (k char(9) {exact} primary key, v bigint)"), "column `k` is char(9)"),
        (
            "create table kv (k enum('a', 'b') collate utf8mb4_general_ci primary key, v bigint)".to_owned(),
            "compares by utf8mb4_general_ci",
        ),
    ];
    for (statement, expected) in cases {
        let database = Database::create().await;
        database.query(&statement).await;
        let reason = refused(&key_value(&database.url, upsert())).await;
        assert!(reason.contains(expected), "{statement}: {reason}");
    }
    // A column that counts by itself meets no other row, and what holds the whole key neither.
    for statement in [
        format!("create table kv (id bigint auto_increment primary key, k varchar(9) {exact} unique, v bigint)"),
        format!("create table kv (k varchar(9) {exact} primary key, v bigint, unique (k, v))"),
    ] {
        let database = Database::create().await;
        database.query(&statement).await;
        let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
        for value in 0..3 {
            writer.commit(vec![kv(&[("a", Some(value), Change::Insert)])]).await;
        }
        assert_eq!(database.text("select k, v from kv").await, "a|2");
    }
    let database = Database::create().await;
    database.query("create table kv (k text, v bigint, m decimal(10,1), at datetime, f double(10,2))").await;
    let mut spec = key_value(&database.url, WriteMode::Append);
    spec.fields.push(field("m", FieldType::Decimal { precision: 10, scale: 2 }, false));
    spec.fields.push(field("at", FieldType::Timestamp(TimestampText::Epoch { per_second: 1 }), false));
    spec.fields.push(field("f", FieldType::Float64, false));
    let spec = job(&database.url, spec.fields.clone(), vec![sink("kv", &spec.fields, WriteMode::Append)]);
    let reason = refused(&spec).await;
    assert!(reason.contains("column `m` is decimal(10,1), which does not hold every DECIMAL(10,2)"), "{reason}");
    assert!(reason.contains("column `at` is datetime, which does not hold every DATETIME(6)"), "{reason}");
    assert!(reason.contains("column `f` is double(10,2), which does not hold every DOUBLE"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_has_one_owner() {
    let database = Database::create().await;
    let spec = key_value(&database.url, upsert());
    Writer::first(&spec).await;
    let other = JobId(Uuid::from_u128(2));
    let mut second = MySqlWriter::new(other, TargetId(0), Arc::new(spec)).unwrap();
    let groups = [group(0)].into();
    let Err(TargetError::Fatal { reason }) = second.take_over(pulso_core::ids::Attempt(1), &groups, true).await else {
        panic!("another job took the table");
    };
    assert!(reason.contains("belongs to job vitals"), "{reason}");
    let statement = reason.split_once("free: ").unwrap().1;
    database.query(statement).await;
    second.take_over(pulso_core::ids::Attempt(1), &groups, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poor_user_is_told_what_it_lacks() {
    let database = Database::create().await;
    let (name, poor) = (&database.name, format!("poor_{}", database.name));
    database.query("create table kv (k varchar(9) collate utf8mb4_nopad_bin primary key, v bigint)").await;
    database.query(&format!("create user {poor}@'%' identified by 'p''w'")).await;
    // To connect to the database at all.
    database.query("create table nothing (n int)").await;
    database.query(&format!("grant select on {name}.nothing to {poor}@'%'")).await;
    database.query(&format!("grant select on {name}.kv to {poor}@'%'")).await;
    let url = database.url.replace("root@", &format!("{poor}:p%27w@"));
    let spec = key_value(&url, upsert());
    let mut steps = Vec::new();
    // Each message names one statement for an administrator, until nothing is missing.
    let mut writer = loop {
        let mut writer = Writer::of(&spec, &[0, 1]);
        match writer.take_over(1, true).await {
            Ok(_) => break writer,
            Err(TargetError::Fatal { reason }) => {
                let (_, statement) = reason.split_once("run: ").unwrap_or_else(|| panic!("{reason}"));
                let statement = statement.split_once(';').unwrap().0;
                database.query(statement).await;
                steps.push(statement.to_owned());
            }
            Err(other) => panic!("{other:?}"),
        }
        assert!(steps.len() < 5, "{steps:?}");
    };
    let grant = format!("GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON `{name}`.* TO '{poor}'@'%'");
    assert_eq!(steps, [grant]);
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert), ("b", Some(1), Change::Correction)])]).await;
    // One without the right to make tables, where all are there.
    database.query(&format!("revoke all on {name}.* from {poor}@'%'")).await;
    for table in ["pulso_ledger", "pulso_owners", "pulso_dead_letters"] {
        database.query(&format!("grant select, insert, update on {name}.{table} to {poor}@'%'")).await;
    }
    let reason = refused(&spec).await;
    let statement = reason.split_once("run: ").unwrap().1.split_once(';').unwrap().0.to_owned();
    assert_eq!(statement, format!("GRANT INSERT, UPDATE, DELETE ON `kv` TO '{poor}'@'%'"));
    query(&database.url, &statement).await;
    Writer::of(&spec, &[0, 1]).take_over(3, false).await.unwrap();
}
