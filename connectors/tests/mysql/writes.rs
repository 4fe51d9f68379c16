//! How rows get into the tables.

use pulso_dataflow::batch::Change;
use pulso_job::spec::{FieldType, WriteMode};

use crate::proxy::Proxy;
use crate::support::{Database, Writer, field, job, key_value, kv, sink, upsert};

const ALL: &str = "select k, v from kv order by k";

/// A wait is what a commit costs where the database is elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_commit_waits_four_times() {
    let database = Database::create().await;
    let proxy = Proxy::start(database.port).await;
    let mut writer = Writer::first(&key_value(&database.url_by(proxy.port), upsert())).await;
    let mut waits = Vec::new();
    for of in [
        &[("a", Some(1), Change::Insert), ("b", Some(1), Change::Insert)][..],
        &[("a", Some(2), Change::Correction), ("c", Some(1), Change::Insert)],
        &[("a", Some(3), Change::Correction), ("b", None, Change::Delete)],
    ] {
        proxy.waits();
        writer.commit(vec![kv(of)]).await;
        waits.push(proxy.waits());
    }
    assert_eq!(waits, [4, 4, 5]);
    assert_eq!(database.text(ALL).await, "a|3 c|1");
}

/// Texts that a collation of letters takes for one, and texts that differ in blanks at their ends.
#[tokio::test(flavor = "multi_thread")]
async fn keys_compare_by_their_bytes() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    let keys = ["a", "A", "ä", "a ", "", " ", "it's", "back\\slash", "x' or 1=1 -- ", "日本", "nul\0"];
    let all = |value| {
        let of: Vec<_> = keys.iter().map(|key| (*key, Some(value), Change::Insert)).collect();
        kv(&of)
    };
    writer.commit(vec![all(1)]).await;
    writer.commit(vec![all(2), kv(&[("a ", None, Change::Delete), ("A", Some(7), Change::Correction)])]).await;
    let hex: Vec<String> = keys.iter().map(|key| key.bytes().map(|b| format!("{b:02X}")).collect()).collect();
    let mut expected: Vec<String> = hex
        .iter()
        .filter(|hex| *hex != "6120")
        .map(|hex| format!("{hex}|{}", if hex == "41" { 7 } else { 2 }))
        .collect();
    expected.sort();
    let rows = database.query("select hex(k), v from kv").await;
    let mut found: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
    found.sort();
    assert_eq!(found, expected);
}

/// More than fits into one statement, in one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn long_transactions_go_in_pieces() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    let keys: Vec<String> = (0..40_000).map(|i| format!("{i:0>40}")).collect();
    let of = |value, change| {
        let of: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(value), change)).collect();
        kv(&of)
    };
    writer.commit(vec![of(1, Change::Insert)]).await;
    writer.commit(vec![of(2, Change::Correction)]).await;
    assert_eq!(database.text("select count(*), min(v), max(v) from kv").await, "40000|2|2");
    writer.commit(vec![of(3, Change::Delete)]).await;
    assert_eq!(database.text("select count(*) from kv").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_written_in_file_order_in_one_transaction() {
    let database = Database::create().await;
    let fields = vec![field("k", FieldType::String, true), field("v", FieldType::Int64, false)];
    let sinks = vec![
        sink("kv", &fields, upsert()),
        sink("log `all`", &fields, WriteMode::Append),
        sink("Other", &fields, WriteMode::KeepFirst { key: vec![0] }),
    ];
    let mut writer = Writer::first(&job(&database.url, fields, sinks)).await;
    let output = || {
        let mut output = kv(&[("a", Some(1), Change::Insert)]);
        for sink in 1..3 {
            let mut more = kv(&[("a", Some(1), Change::Insert), ("b", Some(2), Change::Insert)]);
            more.sinks[0].sink = sink;
            output.sinks.extend(more.sinks);
        }
        output
    };
    writer.commit(vec![output()]).await;
    let counts =
        "select (select count(*) from kv), (select count(*) from `log ``all```), (select count(*) from `Other`)";
    assert_eq!(database.text(counts).await, "1|2|2");
    // The last table is gone: nothing of the transaction stays in those before it.
    database.query("drop table `Other`").await;
    let outcome = writer.transact(vec![output()]).await.unwrap();
    assert!(
        matches!(&outcome, pulso_core::worker::Outcome::Failed { reason } if reason.contains("CREATE TABLE `Other`")),
        "{outcome:?}"
    );
    assert_eq!(database.text("select (select count(*) from kv), (select count(*) from `log ``all```)").await, "1|2");
    assert_eq!(database.text("select distinct epoch from pulso_ledger").await, "1");
}
