//! Expressions of a job: compiled for its columns, and evaluated over batches in which single rows may fail.

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use pulso_expr::{Evaluated, Expression};

use crate::error::{DataflowError, Result};

pub(crate) fn compile(place: &str, sql: &str, schema: &SchemaRef) -> Result<Expression> {
    Expression::compile(sql, schema)
        .map_err(|e| DataflowError::Expression { place: place.to_owned(), message: e.to_string() })
}

/// The expression must have this very type.
pub(crate) fn compile_as(place: &str, sql: &str, schema: &SchemaRef, data_type: &DataType) -> Result<Expression> {
    let expression = compile(place, sql, schema)?;
    if expression.data_type() == data_type {
        return Ok(expression);
    }
    let message = format!("is {} where {data_type} is expected", expression.data_type());
    Err(DataflowError::Expression { place: place.to_owned(), message })
}

pub(crate) fn evaluate(expression: &Expression, batch: &RecordBatch) -> Result<Evaluated> {
    let evaluated = expression.evaluate_each(batch);
    evaluated
        .map_err(|e| DataflowError::Expression { place: format!("`{}`", expression.sql()), message: e.to_string() })
}

/// The rows for which a condition is true; null is not, nor is a row that fails.
pub(crate) fn condition(expression: &Expression, batch: &RecordBatch) -> Result<(BooleanArray, Vec<usize>)> {
    if let Ok(values) = expression.evaluate_condition(batch) {
        return Ok((values, Vec::new()));
    }
    let Evaluated { values, failed } = evaluate(expression, batch)?;
    let Some(values) = values.as_any().downcast_ref::<BooleanArray>() else {
        return Err(DataflowError::Invalid(format!("a condition is {} and not boolean", values.data_type())));
    };
    Ok(((0..values.len()).map(|row| Some(values.is_valid(row) && values.value(row))).collect(), failed))
}
