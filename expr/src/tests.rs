//! What expressions mean, what is refused, and where an error points.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit};

use crate::{Expression, ExpressionErrorKind, function_names};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("patient_id", DataType::Utf8, false),
        Field::new("heart_rate", DataType::Float64, true),
        Field::new("count", DataType::Int32, true),
        Field::new("price", DataType::Decimal128(12, 2), true),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("alert", DataType::Boolean, true),
    ]))
}

fn batch() -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["a", "b", "c"])),
        Arc::new(Float64Array::from(vec![Some(80.0), None, Some(0.0)])),
        Arc::new(Int32Array::from(vec![Some(3), Some(0), None])),
        Arc::new(Decimal128Array::from(vec![Some(1000), Some(-5), None]).with_precision_and_scale(12, 2).unwrap()),
        Arc::new(TimestampMicrosecondArray::from(vec![0, 3_600_000_000, 7_200_000_001]).with_timezone("UTC")),
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn evaluate(sql: &str) -> ArrayRef {
    let expression = Expression::compile(sql, &schema()).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let values = expression.evaluate(&batch()).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(values.data_type(), expression.data_type(), "{sql}: the declared type");
    assert!(expression.nullable() || values.null_count() == 0, "{sql}: declared not null");
    values
}

fn floats(sql: &str) -> Vec<Option<f64>> {
    evaluate(sql).as_primitive::<Float64Type>().iter().collect()
}

fn longs(sql: &str) -> Vec<Option<i64>> {
    evaluate(sql).as_primitive::<Int64Type>().iter().collect()
}

fn texts(sql: &str) -> Vec<Option<String>> {
    evaluate(sql).as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

fn refused(sql: &str) -> (ExpressionErrorKind, String) {
    let error = Expression::compile(sql, &schema()).expect_err(sql);
    if let Some(offset) = error.offset() {
        assert!(offset + error.length() <= sql.len(), "{sql}: {offset} + {}", error.length());
    }
    (error.kind(), error.message().to_owned())
}

#[test]
fn conditions_count_null_as_not_true() {
    let condition = Expression::compile("heart_rate > 0", &schema()).unwrap();
    let rows = condition.evaluate_condition(&batch()).unwrap();
    assert_eq!(rows.null_count(), 0);
    assert_eq!(rows.iter().collect::<Vec<_>>(), [Some(true), Some(false), Some(false)]);
    let rule = Expression::compile("coalesce(heart_rate, 1) > 0 or alert is null", &schema()).unwrap();
    assert_eq!(rule.evaluate_condition(&batch()).unwrap().iter().collect::<Vec<_>>(), [Some(true); 3]);
    let constant = Expression::compile("1 = 1", &schema()).unwrap();
    assert_eq!(constant.evaluate_condition(&batch()).unwrap().len(), 3, "one value per row");
    assert!(Expression::compile("heart_rate", &schema()).unwrap().evaluate_condition(&batch()).is_err());
}

#[test]
fn scores_of_early_warning_are_whole_numbers() {
    let sql = "case when round(heart_rate) <= 40 then 3 when round(heart_rate) <= 90 then 0 else 2 end";
    assert_eq!(longs(sql), [Some(0), Some(2), Some(3)]);
    assert_eq!(longs("case when coalesce(alert, true) then 0 else 3 end"), [Some(0), Some(3), Some(0)]);
}

#[test]
fn decimals_stay_exact() {
    let tax = evaluate("cast(price * cast(0.1 as decimal(2,1)) as decimal(12,2))");
    assert_eq!(tax.data_type(), &DataType::Decimal128(12, 2));
    let values: Vec<Option<i128>> = tax.as_primitive::<arrow::datatypes::Decimal128Type>().iter().collect();
    assert_eq!(values[0], Some(100));
    assert_eq!(values[2], None);
}

#[test]
fn functions_give_column_types() {
    assert_eq!(texts("concat('TXN_', patient_id)")[0].as_deref(), Some("TXN_a"));
    assert_eq!(texts("upper(trim(' ' || patient_id || ' '))")[1].as_deref(), Some("B"));
    assert_eq!(texts("substring('abcdef' from 2 for 3)")[0].as_deref(), Some("bcd"));
    assert_eq!(texts("substr(patient_id, 1, 1)")[2].as_deref(), Some("c"));
    let length = evaluate("length(patient_id)");
    assert_eq!(length.as_primitive::<Int32Type>().value(0), 1);
    assert_eq!(floats("greatest(heart_rate, 70.0)")[0], Some(80.0));
    assert_eq!(floats("nullif(heart_rate, 0)"), [Some(80.0), None, None]);
    assert_eq!(floats("round(heart_rate / 3, 1)")[0], Some(26.7));
    let hours = evaluate("date_trunc('hour', timestamp)");
    assert_eq!(hours.data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    assert_eq!(evaluate("extract(hour from timestamp)").len(), 3);
    assert_eq!(evaluate("cast(timestamp as date)").data_type(), &DataType::Date32);
    let later = evaluate("timestamp > timestamptz '1970-01-01T01:00:00Z'");
    assert_eq!(later.as_boolean().iter().collect::<Vec<_>>(), [Some(false), Some(false), Some(true)]);
}

#[test]
fn operators_of_sql_work() {
    for sql in [
        "heart_rate between 60 and 100",
        "patient_id in ('a', 'x')",
        "patient_id like 'a%'",
        "heart_rate is not null and not alert",
        "Count * 2 + 1 >= 7",
        "count % 2 = 1",
        "-count < 0",
        "patient_id is distinct from 'b'",
    ] {
        let condition = Expression::compile(sql, &schema()).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let rows = condition.evaluate_condition(&batch()).unwrap();
        assert!(rows.value(0) || sql.contains("not alert"), "{sql}");
    }
}

#[test]
fn columns_are_those_read() {
    let expression = Expression::compile("coalesce(count, 0) + length(patient_id)", &schema()).unwrap();
    assert_eq!(expression.columns(), [0, 2]);
    let never_null = Expression::compile("coalesce(upper(patient_id), '')", &schema()).unwrap();
    assert!(!never_null.nullable());
    // A batch may carry more columns behind those of the schema.
    let fields = Arc::new(Schema::new(schema().fields()[..3].to_vec()));
    let on_fields = Expression::compile("count + 1", &fields).unwrap();
    assert_eq!(on_fields.evaluate(&batch()).unwrap().as_primitive::<Int64Type>().value(0), 4);
}

#[test]
fn unknown_names_get_a_suggestion() {
    let error = Expression::compile("count > 0 and hart_rate > 0", &schema()).unwrap_err();
    assert_eq!(error.kind(), ExpressionErrorKind::UnknownColumn);
    assert_eq!((error.offset(), error.length()), (Some(14), 9));
    assert_eq!(error.suggestion(), Some("heart_rate"));
    assert_eq!(error.message(), "there is no column `hart_rate` here");
    let error = Expression::compile("coalesc(heart_rate, 1) > 0", &schema()).unwrap_err();
    assert_eq!(error.kind(), ExpressionErrorKind::UnknownFunction);
    assert_eq!((error.offset(), error.length()), (Some(0), 7));
    assert_eq!(error.suggestion(), Some("coalesce"));
}

#[test]
fn syntax_errors_have_a_place() {
    let error = Expression::compile("heart_rate > > 3", &schema()).unwrap_err();
    assert_eq!(error.kind(), ExpressionErrorKind::Syntax);
    assert_eq!(error.offset(), Some(13), "{error}");
    for sql in
        ["", "  ", "heart_rate >", "(heart_rate", "heart_rate > 1;", "a b c", "'open", "heart_rate as x", "select 1"]
    {
        assert_eq!(refused(sql).0, ExpressionErrorKind::Syntax, "{sql}");
    }
}

#[test]
fn what_a_replay_could_change_is_refused() {
    for sql in [
        "now() > timestamp",
        "current_date = date '2020-01-01'",
        "current_timestamp > timestamp",
        "random() < 0.5",
        "uuid() = patient_id",
        "sum(heart_rate)",
        "count(*) > 1",
        "(select 1) = 1",
        "exists (select 1)",
        "count in (select 1)",
        "sum(heart_rate) over ()",
        "$1 = 1",
    ] {
        let (kind, message) = refused(sql);
        assert_eq!(kind, ExpressionErrorKind::Refused, "{sql}: {message}");
    }
    for name in ["now", "random", "uuid", "current_date", "version", "arrow_typeof"] {
        assert!(function_names().all(|known| known != name), "{name}");
    }
    assert!(function_names().any(|known| known == "coalesce"));
}

#[test]
fn types_that_do_not_fit_are_refused() {
    for sql in [
        "heart_rate > 'x' and patient_id",
        "alert + 1",
        "null",
        "[1, 2]",
        "interval '1 day'",
        "abs(patient_id)",
        "upper()",
    ] {
        let (kind, message) = refused(sql);
        assert!(matches!(kind, ExpressionErrorKind::Type | ExpressionErrorKind::Refused), "{sql}: {kind:?} {message}");
    }
}

#[test]
fn evaluation_errors_tell_no_values() {
    for (sql, message) in [
        ("1 / count", "division by zero"),
        ("cast(patient_id as int)", "a value cannot be cast"),
        ("count * 2147483647 * 4294967296 * 4294967296", "a number is out of range"),
    ] {
        let expression = Expression::compile(sql, &schema()).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let error = expression.evaluate(&batch()).expect_err(sql);
        assert_eq!(error.kind(), ExpressionErrorKind::Evaluation);
        assert_eq!(error.message(), message, "{sql}");
    }
}

#[test]
fn size_is_limited_and_the_largest_fits_the_stack() {
    let deep = format!("{}1{}", "(".repeat(60), ")".repeat(60));
    assert!(matches!(refused(&deep).0, ExpressionErrorKind::Refused | ExpressionErrorKind::Syntax));
    assert_eq!(refused(&vec!["count"; 400].join(" + ")).0, ExpressionErrorKind::Refused);
    assert_eq!(refused(&format!("patient_id = '{}'", "x".repeat(20_000))).0, ExpressionErrorKind::Refused);
    assert_eq!(refused(&format!("{} 1", "-".repeat(3).repeat(200))).0, ExpressionErrorKind::Syntax);
    let largest = vec!["coalesce(cast(count as bigint), 0)"; 300].join(" + ");
    assert_eq!(longs(&largest), [Some(900), Some(0), Some(0)]);
    // Test threads have the 2 MiB of a worker thread.
    let conditions = vec!["heart_rate <> 7"; 150].join(" and ");
    let condition = Expression::compile(&conditions, &schema()).unwrap();
    assert!(condition.evaluate_condition(&batch()).unwrap().value(0));
}

#[test]
fn int64_overflow_is_an_error_not_a_wrap() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![i64::MAX]))]).unwrap();
    let error = Expression::compile("n + 1", &schema).unwrap().evaluate(&batch).unwrap_err();
    assert_eq!(error.message(), "a number is out of range");
}

#[test]
fn a_condition_says_which_columns_hold_a_value() {
    for (sql, columns) in [
        ("count is not null", vec![2]),
        ("heart_rate > 3 and (price is not null and not (count is null))", vec![2, 3]),
        ("count is not null or price is not null", vec![]),
        ("not (count is not null and price is not null)", vec![]),
        ("count + 1 is not null", vec![]),
        ("count is null", vec![]),
    ] {
        assert_eq!(Expression::compile(sql, &schema()).unwrap().present(), columns, "{sql}");
    }
}
