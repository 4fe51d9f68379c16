//! How rows get into the tables.

use pulso_dataflow::batch::Change;
use pulso_job::spec::{FieldType, WriteMode};

use crate::proxy::Proxy;
use crate::support::{Database, Writer, field, job, key_value, kv, sink, upsert};

const ALL: &str = "select k, v from kv order by k";

/// A wait is what a commit costs where the database is elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_commit_waits_three_times() {
    let database = Database::create().await;
    let proxy = Proxy::start(database.port).await;
    let mut writer = Writer::first(&key_value(&database.url_by(proxy.port), upsert())).await;
    // Statements are prepared once per connection.
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert), ("b", Some(1), Change::Correction)])]).await;
    let mut waits = Vec::new();
    for of in [
        &[("c", Some(1), Change::Insert), ("d", Some(1), Change::Insert)][..],
        &[("a", Some(2), Change::Correction)],
        &[("b", Some(2), Change::Correction), ("e", Some(1), Change::Insert)],
    ] {
        proxy.waits();
        writer.commit(vec![kv(of)]).await;
        waits.push(proxy.waits());
    }
    assert_eq!(waits, [3, 3, 6]);
    assert_eq!(database.text(ALL).await, "a|2 b|2 c|1 d|1 e|1");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_written_in_file_order_in_one_transaction() {
    let database = Database::create().await;
    let fields = vec![field("k", FieldType::String, true), field("v", FieldType::Int64, false)];
    let sinks = vec![
        sink("kv", &fields, upsert()),
        sink("log \"all\"", &fields, WriteMode::Append),
        sink("Other", &fields, WriteMode::KeepFirst { key: vec![0] }),
    ];
    let mut writer = Writer::first(&job(&database.url, fields, sinks)).await;
    let mut output = kv(&[("a", Some(1), Change::Insert)]);
    for sink in 1..3 {
        let mut more = kv(&[("a", Some(1), Change::Insert), ("b", Some(2), Change::Insert)]);
        more.sinks[0].sink = sink;
        output.sinks.extend(more.sinks);
    }
    writer.commit(vec![output]).await;
    let counts = "select (select count(*) from kv), (select count(*) from \"log \"\"all\"\"\"), (select count(*) from \"Other\")";
    assert_eq!(database.text(counts).await, "1|2|2");
    let transactions = "select count(distinct x) from (select xmin::text as x from kv union all
        select xmin::text from \"log \"\"all\"\"\" union all select xmin::text from \"Other\"
        union all select xmin::text from pulso.ledger) as t";
    assert_eq!(database.text(transactions).await, "1");
}
