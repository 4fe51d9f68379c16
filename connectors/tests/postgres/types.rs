//! Every column type of the job language, there and back: what PostgreSQL reads from our COPY is what Arrow holds.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int32Array,
    Int64Array, StringArray, StringViewArray, TimestampMicrosecondArray,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::Change;
use pulso_job::spec::{FieldSpec, FieldType, TimestampText, WriteMode};

use crate::support::{Database, Writer, field, job, key_value, kv, rows, sink, upsert};

fn timestamp() -> FieldType {
    FieldType::Timestamp(TimestampText::Epoch { per_second: 1_000 })
}

fn fields() -> Vec<FieldSpec> {
    let kinds = [
        ("t", FieldType::String),
        ("b", FieldType::Bool),
        ("i", FieldType::Int32),
        ("l", FieldType::Int64),
        ("f", FieldType::Float64),
        ("n", FieldType::Decimal { precision: 38, scale: 6 }),
        ("m", FieldType::Decimal { precision: 12, scale: 2 }),
        ("ts", timestamp()),
        ("d", FieldType::Date),
        ("u", FieldType::Uuid),
        ("j", FieldType::Json),
    ];
    kinds.into_iter().map(|(name, kind)| field(name, kind, false)).collect()
}

const READ: &str = "select t, b, i, l, f, n, m, ts at time zone 'UTC', d, u, j from everything order by n_th";

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_it_is() {
    let database = Database::create().await;
    let fields = fields();
    let create = "create table everything (n_th serial, t text, b bool, i integer, l bigint, f double precision,
        n numeric(38,6), m numeric(12,2), ts timestamptz, d date, u uuid, j jsonb)";
    database.query(create).await;
    let mut writer =
        Writer::first(&job(&database.url, fields.clone(), vec![sink("everything", &fields, WriteMode::Append)])).await;
    let greatest = 10i128.pow(38) - 1;
    let decimal = |values: Vec<Option<i128>>, precision, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
    };
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![Some("João \"x\" \\n\t"), None, Some("")])),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
        Arc::new(Float64Array::from(vec![Some(0.1), None, Some(f64::NAN)])),
        decimal(vec![Some(greatest), None, Some(-1)], 38, 6),
        decimal(vec![Some(-10_000_000), None, Some(1_205)], 12, 2),
        Arc::new(
            TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None, Some(-1)]).with_timezone("UTC"),
        ),
        Arc::new(Date32Array::from(vec![Some(0), None, Some(-719_162)])),
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                [Some([0xab; 16]), None, Some([0; 16])].into_iter(),
                16,
            )
            .unwrap(),
        ),
        Arc::new(StringArray::from(vec![Some("{\"a\": [1, null]}"), None, Some("3")])),
    ];
    let columns = fields.iter().map(|field| field.name.as_str()).zip(arrays).collect();
    writer.commit(vec![rows(0, columns, vec![Change::Insert; 3])]).await;
    let expected = [
        "João \"x\" \\n\t|t|-2147483648|-9223372036854775808|0.1|99999999999999999999999999999999.999999|-100000.00|\
         2023-11-14 22:13:20.123456|1970-01-01|abababab-abab-abab-abab-abababababab|{\"a\": [1, null]}",
        "null|null|null|null|null|null|null|null|null|null|null",
        "|f|2147483647|9223372036854775807|NaN|-0.000001|12.05|1969-12-31 23:59:59.999999|0001-01-01|\
         00000000-0000-0000-0000-000000000000|3",
    ];
    assert_eq!(database.text(READ).await, expected.join(" "));
}

#[tokio::test(flavor = "multi_thread")]
async fn wider_columns_take_narrower_values() {
    let database = Database::create().await;
    let create = "create type level as enum ('low', 'high'); create domain pulse as bigint check (value > 0);
        create table wide (t level, i pulse, l numeric, m numeric, ts timestamp, j json, f double precision)";
    database.query(create).await;
    let fields = vec![
        field("t", FieldType::String, false),
        field("i", FieldType::Int32, false),
        field("l", FieldType::Int64, false),
        field("m", FieldType::Decimal { precision: 5, scale: 1 }, false),
        field("ts", timestamp(), false),
        field("j", FieldType::Json, false),
        field("f", FieldType::Int32, false),
    ];
    let mut writer =
        Writer::first(&job(&database.url, fields.clone(), vec![sink("wide", &fields, WriteMode::Append)])).await;
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from(vec!["high", "high", "unknown"])),
        Arc::new(Int32Array::from(vec![60, -1, 60])),
        Arc::new(Int64Array::from(vec![-70_000, 0, 0])),
        Arc::new(Decimal128Array::from(vec![-15, 0, 0]).with_precision_and_scale(5, 1).unwrap()),
        Arc::new(TimestampMicrosecondArray::from(vec![0, 0, 0]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec!["[1]", "1", "1"])),
        Arc::new(Int32Array::from(vec![3, 0, 0])),
    ];
    let columns = fields.iter().map(|field| field.name.as_str()).zip(arrays).collect();
    writer.commit(vec![rows(0, columns, vec![Change::Insert; 3])]).await;
    assert_eq!(database.text("select * from wide").await, "high|60|-70000|-1.5|1970-01-01 00:00:00|[1]|3");
    // A domain's check and an unknown label refuse the row, not the job.
    assert_eq!(database.text("select count(*) from pulso.dead_letters").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_without_zone_has_the_time_of_day_in_the_targets_zone() {
    let database = Database::create().await;
    database.query("create table local (k text primary key, at timestamp, instant timestamptz)").await;
    let fields = vec![
        field("k", FieldType::String, true),
        field("at", timestamp(), false),
        field("instant", timestamp(), false),
    ];
    let mut spec = job(&database.url, fields.clone(), vec![sink("local", &fields, upsert())]);
    let pulso_job::spec::TargetKind::Postgres { zone, .. } = &mut spec.targets[0].kind else { panic!("PostgreSQL") };
    *zone = "America/Sao_Paulo".to_owned();
    let mut writer = Writer::first(&spec).await;
    // Half past midnight UTC, in summer time and without.
    let times = || -> ArrayRef {
        let values = vec![Some(1_550_277_000_000_001), Some(1_708_043_400_000_000)];
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
    };
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let columns = vec![("k", keys), ("at", times()), ("instant", times())];
    writer.commit(vec![rows(0, columns, vec![Change::Insert, Change::Correction])]).await;
    assert_eq!(
        database.text("select k, at, instant at time zone 'UTC' from local order by k").await,
        "a|2019-02-15 22:30:00.000001|2019-02-16 00:30:00.000001 b|2024-02-15 21:30:00|2024-02-16 00:30:00"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn random_numbers_and_times_arrive_as_they_are() {
    let database = Database::create().await;
    let fields = vec![
        field("n", FieldType::Decimal { precision: 38, scale: 17 }, false),
        field("f", FieldType::Float64, false),
        field("ts", timestamp(), false),
        field("d", FieldType::Date, false),
        field("i", FieldType::Int64, false),
    ];
    let mut writer =
        Writer::first(&job(&database.url, fields.clone(), vec![sink("any_values", &fields, WriteMode::Append)])).await;
    let mut runner = TestRunner::default();
    // 38 digits, of every length.
    let decimal = (any::<i128>(), 0..38u32).prop_map(|(n, digits)| n % 10i128.pow(digits + 1));
    let one =
        (decimal, any::<f64>(), -210_000_000_000_000_000..9_000_000_000_000_000_000i64, -2_400_000..2_000_000_000i32);
    let values: Vec<_> = (0..2_000).map(|_| one.new_tree(&mut runner).unwrap().current()).collect();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(
            Decimal128Array::from_iter_values(values.iter().map(|v| v.0)).with_precision_and_scale(38, 17).unwrap(),
        ),
        Arc::new(Float64Array::from_iter_values(values.iter().map(|v| v.1))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(values.iter().map(|v| v.2)).with_timezone("UTC")),
        Arc::new(Date32Array::from_iter_values(values.iter().map(|v| v.3))),
        Arc::new(Int64Array::from_iter_values(0..values.len() as i64)),
    ];
    assert!(arrays.iter().all(|array| array.len() == values.len()));
    let columns = fields.iter().map(|field| field.name.as_str()).zip(arrays).collect();
    writer.commit(vec![rows(0, columns, vec![Change::Insert; values.len()])]).await;
    let sql = "select (n * 1e17)::numeric(38,0), f, (extract(epoch from ts) * 1000000)::bigint, d - date '1970-01-01'
        from any_values order by i";
    let read = database.query(sql).await;
    assert_eq!(read.len(), values.len());
    for (row, (n, f, ts, d)) in read.iter().zip(&values) {
        let float: f64 = row[1].parse().unwrap();
        assert!(float == *f || float.is_nan() && f.is_nan(), "{float} {f}");
        assert_eq!((&row[0], &row[2], &row[3]), (&n.to_string(), &ts.to_string(), &d.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_cannot_hold_is_refused_row_by_row() {
    let database = Database::create().await;
    let fields = vec![field("ts", timestamp(), false), field("d", FieldType::Date, false)];
    let mut writer =
        Writer::first(&job(&database.url, fields.clone(), vec![sink("far", &fields, WriteMode::Append)])).await;
    let times = TimestampMicrosecondArray::from(vec![i64::MIN, i64::MIN + 1, 0, 0, 0]).with_timezone("UTC");
    let dates = Date32Array::from(vec![0, 0, i32::MAX, i32::MIN, 0]);
    let columns: Vec<(&str, ArrayRef)> = vec![("ts", Arc::new(times)), ("d", Arc::new(dates))];
    writer.commit(vec![rows(0, columns, vec![Change::Insert; 5])]).await;
    assert_eq!(database.text("select ts at time zone 'UTC', d from far").await, "1970-01-01 00:00:00|1970-01-01");
    assert_eq!(database.text("select count(*), count(distinct reason) from pulso.dead_letters").await, "4|1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_changes_under_us_fails_the_job() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
    database.query("alter table kv rename column v to w").await;
    let outcome = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await.unwrap();
    assert!(matches!(&outcome, Outcome::Failed { reason } if reason.contains("\"v\"")), "{outcome:?}");
    // The next takeover says what to do; then it goes on from there.
    let error = writer.take_over(2, false).await.unwrap_err().to_string();
    assert!(error.contains("ALTER TABLE \"public\".\"kv\" ADD COLUMN \"v\" bigint"), "{error}");
    database.query("alter table kv rename column w to v").await;
    writer.take_over(3, false).await.unwrap();
    writer.commit(vec![kv(&[("b", Some(1), Change::Insert)])]).await;
    assert_eq!(database.text("select k from kv order by k").await, "a b");
}

/// Eight bytes of an integer are eight bytes of another number too.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_becomes_another_type_takes_no_wrong_value() {
    for (alter, mended) in [("double precision", false), ("integer", false), ("numeric", true)] {
        for change in [Change::Insert, Change::Correction] {
            let database = Database::create().await;
            let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
            writer.commit(vec![kv(&[("a", Some(1), Change::Insert), ("x", Some(1), Change::Correction)])]).await;
            database.query(&format!("alter table kv alter column v type {alter}")).await;
            let outcome = writer.transact(vec![kv(&[("b", Some(7), change)])]).await.unwrap();
            if mended {
                assert!(
                    matches!(&outcome, Outcome::RolledBack { reason } if reason.contains("altered")),
                    "{outcome:?}"
                );
            } else {
                let Outcome::Failed { reason } = outcome else { panic!("{alter}: {outcome:?}") };
                assert!(reason.contains("ALTER COLUMN \"v\" TYPE bigint"), "{alter}: {reason}");
                assert_eq!(database.text("select k from kv order by k").await, "a x");
                database.query("alter table kv alter column v type bigint").await;
                writer.take_over(2, false).await.unwrap();
            }
            writer.commit(vec![kv(&[("b", Some(7), change)])]).await;
            assert_eq!(database.text("select k, v from kv order by k").await, "a|1 b|7 x|1");
            assert_eq!(database.text("select count(*) from pulso.dead_letters").await, "0");
        }
    }
}
