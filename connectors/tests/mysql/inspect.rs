//! What `check --online` sees of a database: all that a takeover would refuse, and nothing is changed by looking.

use pulso_connectors::mysql::inspect_database;
use pulso_connectors::target::Inspection;
use pulso_job::spec::{DeadLettersTo, JobSpec, SinkTo, WriteMode};

use crate::support::{Database, Writer, key_value, sink, upsert};

async fn look(spec: &JobSpec) -> Inspection {
    inspect_database(spec, 0).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_made_is_told_and_not_made() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, upsert());
    spec.dead_letter.to = DeadLettersTo::Table((String::new(), "letters".to_owned()));
    let to_be_made = vec!["`letters`".to_owned(), "`kv`".to_owned()];
    assert_eq!(look(&spec).await, Inspection { findings: Vec::new(), to_be_made });
    let count = "select count(*) from information_schema.tables where table_schema = database()";
    assert_eq!(database.text(count).await, "0");
    let SinkTo::Table(table) = &mut spec.sinks[0].to else { panic!("a table") };
    table.create = false;
    let found = look(&spec).await;
    assert_eq!((found.findings.len(), found.findings[0].sink), (1, Some(0)));
    let statement = found.findings[0].text.split_once("run: ").unwrap().1;
    database.query(statement).await;
    assert_eq!(look(&spec).await.findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_with_all_tables_is_told() {
    let database = Database::create().await;
    database.query("create table kv (k varchar(9) collate utf8mb4_nopad_bin, v int)").await;
    database.query("create view seen as select 1 as k").await;
    let mut spec = key_value(&database.url, upsert());
    let mut seen = sink("seen", &spec.fields, WriteMode::Append);
    let SinkTo::Table(table) = &mut seen.to else { panic!("a table") };
    table.name.0.clear();
    spec.sinks.push(seen);
    let found = look(&spec).await;
    let at: Vec<Option<usize>> = found.findings.iter().map(|finding| finding.sink).collect();
    assert_eq!(at, [Some(0), Some(0), Some(1)]);
    for (finding, words) in
        found.findings.iter().zip(["does not hold every BIGINT", "no unique index on exactly", "is not a table"])
    {
        assert!(finding.text.contains(words), "`{words}` is not in: {}", finding.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_job_is_told_and_rows_stay() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, upsert());
    let mut writer = Writer::first(&spec).await;
    writer.commit(vec![crate::support::kv(&[("a", Some(1), pulso_dataflow::batch::Change::Insert)])]).await;
    assert_eq!(look(&spec).await, Inspection::default());
    assert_eq!(database.text("select count(*) from kv").await, "1");
    spec.name = "other".to_owned();
    assert_eq!(look(&spec).await.findings[0].text, "belongs to job vitals");
    // One who may look and not write.
    let poor = format!("looks_{}", database.name);
    database.query(&format!("create user {poor}@'%'")).await;
    database.query(&format!("grant select on {}.* to {poor}@'%'", database.name)).await;
    let spec = key_value(&database.url.replace("root@", &format!("{poor}@")), upsert());
    let found = look(&spec).await;
    assert_eq!(found.findings.len(), 4, "{found:?}");
    assert!(found.findings[0].text.contains("GRANT INSERT, UPDATE ON `pulso_ledger`"), "{found:?}");
    assert!(found.findings[3].text.contains("GRANT INSERT, UPDATE, DELETE ON `kv`"), "{found:?}");
}
