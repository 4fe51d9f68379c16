use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Decimal128Type, Field, Float64Type, Int64Type, Schema, SchemaRef};

use super::*;
use crate::ExpressionErrorKind;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("v", DataType::Float64, true),
        Field::new("n", DataType::Int64, true),
    ]))
}

fn batch(rows: &[(&str, Option<f64>, Option<i64>)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(rows.iter().map(|row| row.1).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// States after a batch; every row is of the group that its name says, by a digit.
fn add(
    aggregation: &Aggregation,
    groups: usize,
    states: &[(usize, Vec<ArrayRef>)],
    rows: &RecordBatch,
) -> Vec<ArrayRef> {
    let width = aggregation.state_types().unwrap().len();
    let before: Vec<ArrayRef> = (0..width)
        .map(|at| match states {
            [] => arrow::array::new_empty_array(&aggregation.state_types().unwrap()[at]),
            [(_, only)] => Arc::clone(&only[at]),
            _ => panic!("one at a time"),
        })
        .collect();
    let state_of: Vec<usize> = states.iter().flat_map(|(groups, _)| 0..*groups).collect();
    let arguments: Vec<ArrayRef> = aggregation.arguments().map(|a| a.evaluate(rows).unwrap()).collect();
    let names = rows.column(0).as_string::<i32>();
    let row_of: Vec<usize> = names.iter().map(|name| name.unwrap().parse().unwrap()).collect();
    aggregation.accumulate(groups, (&before, &state_of), (&arguments, &row_of)).unwrap()
}

fn refused(sql: &str) -> (ExpressionErrorKind, String) {
    let (at, error) = Aggregation::compile(&["count(*)", sql], &schema()).expect_err(sql);
    assert_eq!(at, 1, "{sql}");
    (error.kind(), error.message().to_owned())
}

#[test]
fn groups_go_on_from_their_states() {
    let columns =
        ["count(*)", "sum(v)", "max(v) - min(v)", "avg(n)", "sum(n) filter (where n > 1)", "count(distinct n)"];
    let aggregation = Aggregation::compile(&columns, &schema()).unwrap();
    assert_eq!(aggregation.nullable().collect::<Vec<_>>(), [false, true, true, true, true, false]);
    // The group without a value stays without one, whichever groups come with it.
    let first = batch(&[("0", Some(0.1), Some(1)), ("1", None, None), ("0", Some(0.2), Some(5))]);
    let states = add(&aggregation, 2, &[], &first);
    let second = batch(&[("2", Some(7.0), Some(3)), ("0", Some(0.3), Some(5))]);
    let states = add(&aggregation, 3, &[(2, states)], &second);
    let results = aggregation.results(3, &states).unwrap();
    let floats = |at: usize| results[at].as_primitive::<Float64Type>().iter().collect::<Vec<_>>();
    let ints = |at: usize| results[at].as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    assert_eq!(ints(0), [Some(3), Some(1), Some(1)]);
    // 0.1 + 0.2 + 0.3, rounded once.
    assert_eq!(floats(1), [Some(0.6), None, Some(7.0)]);
    assert_eq!(floats(2), [Some(0.3 - 0.1), None, Some(0.0)]);
    assert_eq!(floats(3), [Some(11.0 / 3.0), None, Some(3.0)]);
    assert_eq!(ints(4), [Some(10), None, Some(3)]);
    assert_eq!(ints(5), [Some(2), Some(0), Some(1)]);
}

#[test]
fn no_groups_have_no_states_and_no_results() {
    let columns = ["count(distinct name)", "first_value(name)", "median(v)", "sum(v)", "avg(n)", "bool_or(v > 1)"];
    let aggregation = Aggregation::compile(&columns, &schema()).unwrap();
    let states = add(&aggregation, 0, &[], &batch(&[]));
    let types: Vec<DataType> = states.iter().map(|state| state.data_type().clone()).collect();
    assert_eq!(types, aggregation.state_types().unwrap());
    let results = aggregation.results(0, &states).unwrap();
    assert!(results.iter().map(|values| values.data_type()).eq(aggregation.data_types()));
    assert!(states.iter().chain(&results).all(|values| values.is_empty()));
}

#[test]
fn a_sum_of_whole_numbers_overflows_only_at_its_end() {
    let aggregation = Aggregation::compile(&["sum(n)"], &schema()).unwrap();
    let rows = batch(&[("0", None, Some(i64::MAX)), ("0", None, Some(10)), ("0", None, Some(-20))]);
    let states = add(&aggregation, 1, &[], &rows);
    let sum = aggregation.results(1, &states).unwrap();
    assert_eq!(sum[0].as_primitive::<Int64Type>().value(0), i64::MAX - 10);
    let states = add(&aggregation, 2, &[(1, states)], &batch(&[("0", None, Some(11)), ("1", None, Some(3))]));
    let sums = aggregation.results(2, &states).unwrap();
    assert_eq!(sums[0].as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [None, Some(3)]);
    // What keeps them apart is as good as it was.
    let wide = Aggregation::compile(&["sum(cast(n as decimal(38, 0)))"], &schema()).unwrap();
    assert_eq!(wide.data_types().next(), Some(&DataType::Decimal128(38, 0)));
}

#[test]
fn a_result_that_cannot_be_computed_is_null_and_no_other() {
    let columns = ["sum(n) / count(v)", "avg(cast(v as decimal(38, 0)))", "count(*)", "100 / count(v)"];
    let aggregation = Aggregation::compile(&columns, &schema()).unwrap();
    assert_eq!(aggregation.nullable().collect::<Vec<_>>(), [true, true, false, true]);
    let rows = [("0", Some(2.0), Some(6)), ("1", None, Some(7)), ("2", Some(1e37), Some(8)), ("3", Some(4.0), Some(9))];
    let results = aggregation.results(4, &add(&aggregation, 4, &[], &batch(&rows))).unwrap();
    let ints = |at: usize| results[at].as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    assert_eq!(ints(0), [Some(6), None, Some(8), Some(9)]);
    let averages = results[1].as_primitive::<Decimal128Type>().iter().collect::<Vec<_>>();
    assert_eq!(averages, [Some(20_000), None, None, Some(40_000)]);
    assert_eq!(ints(2), [Some(1); 4]);
    assert_eq!(ints(3), [Some(100), None, Some(100), Some(100)]);
}

#[test]
fn an_argument_does_not_fail_for_a_row_that_the_filter_leaves_out() {
    let columns = ["max(12 / n) filter (where n <> 0)", "approx_percentile_cont(v, 0.5) filter (where n > 0)"];
    let aggregation = Aggregation::compile(&columns, &schema()).unwrap();
    let rows = [("0", Some(1.0), Some(3)), ("0", Some(9.0), Some(0)), ("0", Some(9.0), None)];
    let results = aggregation.results(1, &add(&aggregation, 1, &[], &batch(&rows))).unwrap();
    assert_eq!(results[0].as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(4)]);
    assert_eq!(results[1].as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(1.0)]);
}

#[test]
fn what_is_no_aggregate_is_refused() {
    use ExpressionErrorKind::{Refused, Type, UnknownColumn, UnknownFunction};
    for (sql, kind, part) in [
        ("v + 1", Refused, "`v` must stand inside"),
        ("max(v) + n", Refused, "`n` must stand inside"),
        ("1 + 1", Refused, "no aggregate function"),
        ("sum(max(v))", Refused, "is an aggregate"),
        ("string_agg(name, ',' order by v)", Refused, "with an order"),
        ("sum(distinct v)", Refused, "distinct"),
        ("max(random())", Refused, "`random` is refused"),
        ("sum(w)", UnknownColumn, "no column `w`"),
        ("medain(v)", UnknownFunction, "no function `medain`"),
        ("array_agg(v)", Type, "no column can hold"),
        ("sum(name)", Type, ""),
    ] {
        let (found, message) = refused(sql);
        assert!(found == kind && message.contains(part), "{sql}: {found:?} {message}");
    }
    Aggregation::compile(&["median(v)", "stddev(v)", "approx_distinct(name)", "bool_or(v > 1)"], &schema()).unwrap();
}
