//! Every column type of the job language, there and back: what MariaDB reads from our literals is what Arrow holds.

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
use pulso_job::spec::{FieldSpec, FieldType, TargetKind, TimestampText, WriteMode};

use crate::support::{Database, Writer, field, job, key_value, kv, rows, sink, texts, upsert};

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

/// In the table that Pulso makes, and in one whose columns have MariaDB's other types for the same.
#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_it_is() {
    let other = "create table everything (t text, b bit, i int, l bigint, f double, n decimal(38,6), m decimal(14,3),
        ts timestamp(6) null, d date, u uuid, j longtext)";
    for (create, scale) in [(None, ""), (Some(other), "0")] {
        let database = Database::create().await;
        if let Some(create) = create {
            database.query(create).await;
        }
        let fields = fields();
        let spec = job(&database.url, fields.clone(), vec![sink("everything", &fields, WriteMode::Append)]);
        let mut writer = Writer::first(&spec).await;
        let greatest = 10i128.pow(38) - 1;
        let decimal = |values: Vec<Option<i128>>, precision, scale| -> ArrayRef {
            Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
        };
        let uuids = [Some([0xab; 16]), None, Some([0; 16])].into_iter();
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("João \"x\" \\n\t'"), None, Some("")])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)])),
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
            Arc::new(Float64Array::from(vec![Some(0.1), None, Some(-1.5e-300)])),
            decimal(vec![Some(greatest), None, Some(-1)], 38, 6),
            decimal(vec![Some(-10_000_000), None, Some(1_205)], 12, 2),
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None, Some(1_000_001)])
                    .with_timezone("UTC"),
            ),
            Arc::new(Date32Array::from(vec![Some(0), None, Some(-719_162)])),
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuids, 16).unwrap()),
            Arc::new(StringArray::from(vec![Some("{\"a\": [1, null]}"), None, Some("3")])),
        ];
        let columns = fields.iter().map(|field| field.name.as_str()).zip(arrays).collect();
        writer.commit(vec![rows(0, columns, vec![Change::Insert; 3])]).await;
        let expected = [
            format!(
                "João \"x\" \\n\t'|1|-2147483648|-9223372036854775808|0.1|99999999999999999999999999999999.999999|\
                 -100000.00{scale}|2023-11-14 22:13:20.123456|1970-01-01|abababab-abab-abab-abab-abababababab|\
                 {{\"a\": [1, null]}}"
            ),
            "null|null|null|null|null|null|null|null|null|null|null".to_owned(),
            format!(
                "|0|2147483647|9223372036854775807|-1.5e-300|-0.000001|12.05{scale}|1970-01-01 00:00:01.000001|\
                 0001-01-01|00000000-0000-0000-0000-000000000000|3"
            ),
        ];
        let read = "select t, b + 0, i, l, f, n, m, ts, d, u, j from everything";
        assert_eq!(in_utc(&database, read).await, expected.join(" "));
    }
}

/// TIMESTAMP columns are shown in the session's zone.
async fn in_utc(database: &Database, sql: &str) -> String {
    use mysql_async::prelude::Queryable;
    let mut client = crate::support::client(&database.url).await;
    client.query_drop("set time_zone = '+00:00'").await.unwrap();
    let rows: Vec<mysql_async::Row> = client.query(sql).await.unwrap();
    texts(&rows).iter().map(|row| row.join("|")).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datetime_has_the_time_of_day_in_the_targets_zone_and_a_timestamp_the_instant() {
    let database = Database::create().await;
    let create = "create table local (k varchar(9) collate utf8mb4_nopad_bin primary key, at datetime(6),
        instant timestamp(6) null)";
    database.query(create).await;
    let fields = vec![
        field("k", FieldType::String, true),
        field("at", timestamp(), false),
        field("instant", timestamp(), false),
    ];
    let mut spec = job(&database.url, fields.clone(), vec![sink("local", &fields, upsert())]);
    let TargetKind::MySql { zone, .. } = &mut spec.targets[0].kind else { panic!("MySQL") };
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
        in_utc(&database, "select k, at, instant from local order by k").await,
        "a|2019-02-15 22:30:00.000001|2019-02-16 00:30:00.000001 b|2024-02-15 21:30:00.000000|2024-02-16 00:30:00.000000"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wider_columns_take_narrower_values() {
    let database = Database::create().await;
    let create = "create table wide (t enum('low', 'high'), i bigint check (i > 0), l decimal(30), m decimal(30,5),
        j text, f double, u binary(16), n int unsigned)";
    database.query(create).await;
    let fields = vec![
        field("t", FieldType::String, false),
        field("i", FieldType::Int32, false),
        field("l", FieldType::Int64, false),
        field("m", FieldType::Decimal { precision: 5, scale: 1 }, false),
        field("j", FieldType::Json, false),
        field("f", FieldType::Int32, false),
        field("u", FieldType::Uuid, false),
        field("n", FieldType::Int32, false),
    ];
    let mut writer =
        Writer::first(&job(&database.url, fields.clone(), vec![sink("wide", &fields, WriteMode::Append)])).await;
    let uuids = [Some([0x0a; 16]), None, None, None].into_iter();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from(vec!["high", "high", "unknown", "low"])),
        Arc::new(Int32Array::from(vec![60, -1, 60, 60])),
        Arc::new(Int64Array::from(vec![-70_000, 0, 0, 0])),
        Arc::new(Decimal128Array::from(vec![-15, 0, 0, 0]).with_precision_and_scale(5, 1).unwrap()),
        Arc::new(StringArray::from(vec!["[1]", "1", "1", "1"])),
        Arc::new(Int32Array::from(vec![3, 0, 0, 0])),
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuids, 16).unwrap()),
        Arc::new(Int32Array::from(vec![3, 0, 0, -1])),
    ];
    let columns = fields.iter().map(|field| field.name.as_str()).zip(arrays).collect();
    writer.commit(vec![rows(0, columns, vec![Change::Insert; 4])]).await;
    assert_eq!(
        database.text("select t, i, l, m, j, f, hex(u), n from wide").await,
        "high|60|-70000|-1.50000|[1]|3|0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A|3"
    );
    // A check, an unknown label and a sign refuse the row, not the job.
    assert_eq!(database.text("select count(*) from pulso_dead_letters").await, "3");
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
        field("t", FieldType::String, false),
    ];
    let mut writer =
        Writer::first(&job(&database.url, fields.clone(), vec![sink("any_values", &fields, WriteMode::Append)])).await;
    let mut runner = TestRunner::default();
    // 38 digits, of every length.
    let decimal = (any::<i128>(), 0..38u32).prop_map(|(n, digits)| n % 10i128.pow(digits + 1));
    let float = any::<f64>().prop_filter("finite", |f| f.is_finite());
    let times = -62_135_596_800_000_000..253_402_300_799_999_999i64;
    let one = (decimal, float, times, -719_162..2_932_896i32, any::<String>());
    let values: Vec<_> = (0..2_000).map(|_| one.new_tree(&mut runner).unwrap().current()).collect();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(
            Decimal128Array::from_iter_values(values.iter().map(|v| v.0)).with_precision_and_scale(38, 17).unwrap(),
        ),
        Arc::new(Float64Array::from_iter_values(values.iter().map(|v| v.1))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(values.iter().map(|v| v.2)).with_timezone("UTC")),
        Arc::new(Date32Array::from_iter_values(values.iter().map(|v| v.3))),
        Arc::new(Int64Array::from_iter_values(0..values.len() as i64)),
        Arc::new(StringArray::from_iter_values(values.iter().map(|v| v.4.as_str()))),
    ];
    assert!(arrays.iter().all(|array| array.len() == values.len()));
    let columns = fields.iter().map(|field| field.name.as_str()).zip(arrays).collect();
    writer.commit(vec![rows(0, columns, vec![Change::Insert; values.len()])]).await;
    // MariaDB counts days from the year 0; 719528 is 1970-01-01.
    let sql = "select replace(n, '.', ''), f, (to_days(ts) - 719528) * 86400000000
        + (hour(ts) * 3600 + minute(ts) * 60 + second(ts)) * 1000000 + microsecond(ts), to_days(d) - 719528, hex(t) from any_values order by i";
    let read = database.query(sql).await;
    assert_eq!(read.len(), values.len());
    for (row, (n, f, ts, d, t)) in read.iter().zip(&values) {
        assert_eq!(row[0].parse::<i128>().unwrap(), *n);
        // How the server prints a float is not what it holds: 17 digits tell every float from its neighbours.
        let float: f64 = row[1].parse().unwrap();
        assert!(((float - f) / f).abs() < 1e-14 || float == *f, "{float} {f}");
        assert_eq!((&row[2], &row[3]), (&ts.to_string(), &d.to_string()));
        assert_eq!(row[4], t.bytes().map(|b| format!("{b:02X}")).collect::<String>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mysql_cannot_hold_is_refused_row_by_row() {
    let database = Database::create().await;
    let fields = vec![
        field("ts", timestamp(), false),
        field("d", FieldType::Date, false),
        field("f", FieldType::Float64, false),
        field("m", FieldType::Decimal { precision: 12, scale: 2 }, false),
        field("j", FieldType::Json, false),
    ];
    let spec = job(&database.url, fields.clone(), vec![sink("far", &fields, WriteMode::Append)]);
    database.query("create table far (ts datetime(6), d date, f double, m decimal(6,2), j json)").await;
    let mut writer = Writer::first(&spec).await;
    let times = TimestampMicrosecondArray::from(vec![i64::MIN, 253_402_300_800_000_000, 0, 0, 0, 0, 0, 0]);
    let dates = Date32Array::from(vec![0, 0, i32::MAX, i32::MIN, 0, 0, 0, 0]);
    let floats = Float64Array::from(vec![0.5, 0.5, 0.5, 0.5, f64::NAN, f64::INFINITY, 0.5, 0.5]);
    let decimals = Decimal128Array::from(vec![1, 1, 1, 1, 1, 1, 1_000_000, 1]).with_precision_and_scale(12, 2).unwrap();
    let json = StringArray::from(vec!["1"; 8]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("ts", Arc::new(times.with_timezone("UTC"))),
        ("d", Arc::new(dates)),
        ("f", Arc::new(floats)),
        ("m", Arc::new(decimals)),
        ("j", Arc::new(json)),
    ];
    writer.commit(vec![rows(0, columns, vec![Change::Insert; 8])]).await;
    assert_eq!(database.text("select * from far").await, "1970-01-01 00:00:00.000000|1970-01-01|0.5|0.01|1");
    assert_eq!(database.text("select count(*) from pulso_dead_letters").await, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_changes_under_us_fails_the_job() {
    let database = Database::create().await;
    let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
    writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
    database.query("alter table kv rename column v to w").await;
    let outcome = writer.transact(vec![kv(&[("b", Some(1), Change::Insert)])]).await.unwrap();
    assert!(matches!(&outcome, Outcome::Failed { reason } if reason.contains("`v`")), "{outcome:?}");
    // The next takeover says what to do; then it goes on from there.
    let error = writer.take_over(2, false).await.unwrap_err().to_string();
    assert!(error.contains("ALTER TABLE `kv` ADD COLUMN `v` BIGINT"), "{error}");
    database.query("alter table kv rename column w to v").await;
    writer.take_over(3, false).await.unwrap();
    writer.commit(vec![kv(&[("b", Some(1), Change::Insert)])]).await;
    assert_eq!(database.text("select k from kv order by k").await, "a b");
}

/// What the database would round or move without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_becomes_another_type_takes_no_wrong_value() {
    for (alter, mended) in [("float", false), ("int", false), ("decimal(40,3)", true)] {
        let database = Database::create().await;
        let mut writer = Writer::first(&key_value(&database.url, upsert())).await;
        writer.commit(vec![kv(&[("a", Some(1), Change::Insert)])]).await;
        database.query(&format!("alter table kv modify v {alter}")).await;
        let outcome = writer.transact(vec![kv(&[("b", Some(7), Change::Insert)])]).await.unwrap();
        if mended {
            assert!(matches!(&outcome, Outcome::RolledBack { reason } if reason.contains("altered")), "{outcome:?}");
        } else {
            let Outcome::Failed { reason } = outcome else { panic!("{alter}: {outcome:?}") };
            assert!(reason.contains("MODIFY COLUMN `v` BIGINT"), "{alter}: {reason}");
            assert_eq!(database.text("select k from kv order by k").await, "a");
            database.query("alter table kv modify v bigint").await;
            writer.take_over(2, false).await.unwrap();
        }
        writer.commit(vec![kv(&[("b", Some(7), Change::Insert)])]).await;
        assert_eq!(database.text("select k, v + 0e0 from kv order by k").await, "a|1 b|7");
        assert_eq!(database.text("select count(*) from pulso_dead_letters").await, "0");
    }
}
