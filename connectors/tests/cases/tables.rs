//! Tables that are made, and who they belong to.

use std::sync::Arc;

use pulso_connectors::target::{TargetError, TargetWriter};
use pulso_core::ids::{Attempt, JobId, TargetId};
use pulso_dataflow::batch::Change;
use pulso_job::spec::{JobSpec, SinkTo};
use uuid::Uuid;

use crate::support::{CREATE_KV, Database, LEDGER, Writer, group, key_value, kv, upsert};

pub(crate) async fn refused(spec: &JobSpec) -> String {
    match Writer::of(spec, &[0]).take_over(1, true).await {
        Err(TargetError::Fatal { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_writers_may_make_the_same_things_at_once() {
    let database = Database::create().await;
    let spec = key_value(&database.url, upsert());
    let mut writers: Vec<Writer> = (0..4).map(|group| Writer::of(&spec, &[group])).collect();
    let all = futures::future::join_all(writers.iter_mut().map(|writer| writer.take_over(1, true))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(database.text(&format!("select count(*) from {LEDGER} where attempt = 1")).await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_comes_with_its_statement() {
    let database = Database::create().await;
    let mut spec = key_value(&database.url, upsert());
    let SinkTo::Table(table) = &mut spec.sinks[0].to else { panic!("a table") };
    table.create = false;
    let reason = refused(&spec).await;
    let statement = reason.split_once("must run: ").unwrap().1.to_owned();
    assert!(statement.starts_with(CREATE_KV), "{statement}");
    database.query(&statement).await;
    let mut writer = Writer::first(&spec).await;
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_has_one_owner() {
    let database = Database::create().await;
    let spec = key_value(&database.url, upsert());
    Writer::first(&spec).await;
    let other = JobId(Uuid::from_u128(2));
    let mut second = TargetWriter::new(other, TargetId(0), Arc::new(spec)).unwrap();
    let groups = [group(0)].into();
    let Err(TargetError::Fatal { reason }) = second.take_over(Attempt(1), &groups, true).await else {
        panic!("another job took the table");
    };
    assert!(reason.contains("belongs to job vitals"), "{reason}");
    let statement = reason.split_once("free: ").unwrap().1;
    database.query(statement).await;
    second.take_over(Attempt(1), &groups, true).await.unwrap();
}
