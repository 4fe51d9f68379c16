//! The rows of lookups, as far as databases agree.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use pulso_connectors::lookup::{LookupError, rows, types};
use pulso_job::spec::{FieldSpec, FieldType, JobSpec, LookupColumn, LookupSpec, Missing, TargetKind, TimestampText};
use pulso_job::type_named;

use crate::support::{Database, field, job};

/// A job with one lookup; columns and their types are those that the job was checked with.
pub(crate) fn looks(url: &str, sql: &str, on: Vec<FieldSpec>, columns: &[(&str, &str)]) -> JobSpec {
    let column = |(name, kind): &(&str, &str)| LookupColumn {
        name: format!("l.{name}"),
        data_type: type_named(kind).unwrap().data_type(),
    };
    let lookup = LookupSpec {
        name: "l".to_owned(),
        target: 0,
        sql: sql.to_owned(),
        on: (0..on.len()).collect(),
        refresh: std::time::Duration::from_secs(60),
        missing: Missing::Null,
        max_rows: 100,
        columns: columns.iter().map(column).collect(),
        known: true,
    };
    let mut spec = job(url, on, Vec::new());
    spec.lookups.push(lookup);
    spec
}

/// Rows of the one lookup as text: values by `|`.
pub(crate) async fn read(spec: &JobSpec) -> Result<Vec<String>, LookupError> {
    let batch = rows(spec, &spec.lookups[0]).await?;
    assert_eq!(batch.schema(), spec.lookup_schema(&spec.lookups[0]));
    Ok((0..batch.num_rows()).map(|row| row_text(&batch, row)).collect())
}

fn row_text(batch: &RecordBatch, row: usize) -> String {
    let options = FormatOptions::new().with_null("null");
    let text = |array| ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string();
    batch.columns().iter().map(|array| text(array.as_ref())).collect::<Vec<_>>().join("|")
}

/// Of the one lookup: `name type`.
pub(crate) async fn told(spec: &JobSpec) -> Result<Vec<String>, LookupError> {
    let types = types(spec, &spec.lookups[0]).await?;
    Ok(types.into_iter().map(|(name, kind)| format!("{name} {kind}")).collect())
}

fn refused<T: std::fmt::Debug>(answer: Result<T, LookupError>, words: &str) -> String {
    let Err(LookupError::Refused { message }) = answer else { panic!("{words}: {answer:?}") };
    assert!(message.contains(words) && message.starts_with("lookup `l` (target `db`): "), "`{words}`: {message}");
    message
}

/// `id` and `v` of the query are a value that no column of this type holds.
pub(crate) async fn fits_no_column(url: &str, sql: &str, kind: &str) {
    let spec = looks(url, sql, vec![field("id", pulso_job::type_named(kind).unwrap(), true)], &[]);
    assert_eq!(read(&spec).await.unwrap(), ["null"], "{sql}");
    let spec = looks(url, sql, spec.fields, &[("v", kind)]);
    let error = read(&spec).await.unwrap_err().to_string();
    assert!(error.contains(&format!("`v` of a row is not a value of type {kind}")), "{error}");
}

fn int32(name: &str) -> Vec<FieldSpec> {
    vec![field(name, FieldType::Int32, true)]
}

fn timestamp() -> FieldType {
    FieldType::Timestamp(TimestampText::Epoch { per_second: 1_000 })
}

async fn units() -> Database {
    let database = Database::create().await;
    database.query("create table units (code bigint, label varchar(20), factor decimal(6,2))").await;
    database
        .query("insert into units values (1, 'mg', 0.5), (3000000000, 'kg', 2), (null, 'g', null), (2, null, -1.25)")
        .await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_by_values_of_the_fields_types() {
    let database = units().await;
    let sql = "select factor, label, code from units order by label;";
    let used = [("label", "string"), ("factor", "decimal(6,2)")];
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    // What no int32 equals is null, and so fits no record.
    let spec = looks(&database.url, sql, int32("code"), &used);
    assert_eq!(told(&spec).await.unwrap(), ["factor decimal(6,2)", "label string", "code int64"]);
    let expected = ["1|mg|0.50", "2|null|-1.25", "null|g|null", "null|kg|2.00"];
    assert_eq!(sorted(read(&spec).await.unwrap()), expected);
    let decimals = |precision, scale| vec![field("code", FieldType::Decimal { precision, scale }, true)];
    let spec = looks(&database.url, sql, decimals(11, 1), &used[..1]);
    assert_eq!(sorted(read(&spec).await.unwrap()), ["1.0|mg", "2.0|null", "3000000000.0|kg", "null|g"]);
    // Several columns, one of them with fewer digits than the field has.
    let on = vec![
        field("label", FieldType::String, true),
        field("factor", FieldType::Decimal { precision: 9, scale: 3 }, true),
    ];
    let spec = looks(&database.url, sql, on, &[]);
    assert_eq!(sorted(read(&spec).await.unwrap()), ["g|null", "kg|2.000", "mg|0.500", "null|-1.250"]);
    let spec = looks(&database.url, "select code from units where code = 7", int32("code"), &[]);
    assert_eq!(read(&spec).await.unwrap(), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_counted() {
    let database = units().await;
    for sql in ["select code from units", "select code from units limit 4"] {
        let mut spec = looks(&database.url, sql, int32("code"), &[]);
        spec.lookups[0].max_rows = 4;
        assert_eq!(read(&spec).await.unwrap().len(), 4);
        spec.lookups[0].max_rows = 3;
        refused(read(&spec).await, "more than 3 rows (max_rows)");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_not_what_the_job_was_checked_with_are_told() {
    let database = units().await;
    let spec =
        looks(&database.url, "select * from units", int32("code"), &[("label", "string"), ("factor", "decimal(6,2)")]);
    read(&spec).await.unwrap();
    let many = "select u.*, 1 as other, 2 as other from units u";
    read(&looks(&database.url, many, int32("code"), &[])).await.unwrap();
    for doubled in ["select a.code, b.code from units a, units b", "select code, label, factor as label from units"] {
        let spec = looks(&database.url, doubled, int32("code"), &[("label", "string")]);
        refused(told(&spec).await, "several columns");
        refused(read(&spec).await, "several columns");
    }
    let mysql = database.url.starts_with("mysql");
    let alter = if mysql { "modify factor decimal(7,2)" } else { "alter factor type numeric(7,2)" };
    database.query(&format!("alter table units {alter}")).await;
    refused(read(&spec).await, "`factor` of the query is of type decimal(7,2)");
    database.query("alter table units drop column factor").await;
    refused(read(&spec).await, "no column `factor`");
    assert_eq!(told(&spec).await.unwrap(), ["code int64", "label string"]);
    let alter = if mysql { "modify code varchar(9)" } else { "alter code type text using code::text" };
    database.query(&format!("delete from units; alter table units {alter}")).await;
    refused(read(&spec).await, "`code` of the query is of type string");
    database.query("drop table units").await;
    refused(told(&spec).await, "units");
    refused(told(&looks(&database.url, "select wher from", int32("code"), &[])).await, "syntax");
    let parameter = if mysql { "select ? as code" } else { "select $1::int as code" };
    refused(told(&looks(&database.url, parameter, int32("code"), &[])).await, "has parameters");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_cannot_write() {
    let database = Database::create().await;
    database.query("create table log (code int)").await;
    let (create, raise) = if database.url.starts_with("mysql") {
        (
            "create function leaves() returns int modifies sql data begin insert into log values (1); return 1; end",
            "create function raises() returns int no sql begin signal sqlstate '45000' set message_text = 's3cret'; return 1; end",
        )
    } else {
        (
            "create function leaves() returns int language sql as 'insert into log values (1) returning code'",
            "create function raises() returns int language plpgsql as $$ begin raise exception 's3cret'; end $$",
        )
    };
    database.query(create).await;
    database.query(raise).await;
    let spec = looks(&database.url, "select leaves() as code", int32("code"), &[]);
    // MariaDB looks into functions before it runs them.
    match told(&spec).await {
        Ok(told) => assert_eq!(told, ["code int32"]),
        refusal => drop(refused(refusal, "the query writes")),
    }
    refused(read(&spec).await, "the query writes");
    assert_eq!(database.text("select count(*) from log").await, "0");
    let told =
        refused(read(&looks(&database.url, "select raises() as code", int32("code"), &[])).await, "raises an error");
    assert!(!told.contains("s3cret"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_without_zone_are_read_in_the_targets() {
    let database = Database::create().await;
    let (local, instant, at) = if database.url.starts_with("mysql") {
        ("datetime(6)", "timestamp(6) null", "set time_zone = '+00:00';")
    } else {
        ("timestamp", "timestamptz", "set timezone = 'UTC';")
    };
    let create = format!("create table times (code int, local_time {local}, instant {instant})");
    database.query(&create).await;
    let insert = "insert into times values (1, '2019-02-15 22:30:00.000001', '2019-02-16 00:30:00.000001'),
        (2, '2024-02-15 21:30:00', '2024-02-16 00:30:00')";
    database.query(&format!("{at} {insert}")).await;
    let columns = [("local_time", "timestamp"), ("instant", "timestamp")];
    let with = |sql: &str, on: Vec<FieldSpec>, columns: &[(&str, &str)]| {
        let mut spec = looks(&database.url, sql, on, columns);
        let (TargetKind::MySql { zone, .. } | TargetKind::Postgres { zone, .. }) = &mut spec.targets[0].kind else {
            panic!("a database")
        };
        *zone = "America/Sao_Paulo".to_owned();
        spec
    };
    let spec = with("select * from times order by code", int32("code"), &columns);
    assert_eq!(
        read(&spec).await.unwrap(),
        ["1|2019-02-16T00:30:00.000001Z|2019-02-16T00:30:00.000001Z", "2|2024-02-16T00:30:00Z|2024-02-16T00:30:00Z"]
    );
    // On that day clocks skipped midnight.
    database.query("insert into times values (3, '2018-11-04 00:00:00', null)").await;
    let told = refused(read(&spec).await, "`local_time` of a row is not a value of type timestamp");
    assert!(!told.contains("2018"), "{told}");
    let on = vec![field("local_time", timestamp(), true)];
    let spec = with("select * from times order by code", on, &[("code", "int32")]);
    assert_eq!(read(&spec).await.unwrap(), ["2019-02-16T00:30:00.000001Z|1", "2024-02-16T00:30:00Z|2", "null|3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_privilege_is_told_with_its_grant() {
    let database = units().await;
    let poor = format!("looks_{}", database.name);
    let (url, create) = if database.url.starts_with("mysql") {
        // Without a privilege on something there nobody may use a database.
        let create = format!(
            "create table open_one (a int); create user {poor}@'%'; grant select on {}.open_one to {poor}@'%'",
            database.name
        );
        (database.url.replace("root@", &format!("{poor}@")), create)
    } else {
        (database.url.replace("postgres@", &format!("{poor}@")), format!("create role {poor} login"))
    };
    database.query(&create).await;
    let spec = looks(&url, "select code from units", int32("code"), &[]);
    let told = refused(read(&spec).await, "; run: GRANT SELECT ON ");
    database.query(told.split_once("; run: ").unwrap().1).await;
    assert_eq!(read(&spec).await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_address_is_another_matter() {
    let database = Database::create().await;
    let spec = looks(&database.url_by(1), "select 1 as code", int32("code"), &[]);
    for answer in [told(&spec).await, read(&spec).await] {
        assert!(matches!(&answer, Err(LookupError::Unavailable { message }) if message.contains("`l`")), "{answer:?}");
    }
}
