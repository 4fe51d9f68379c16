//! Expressions over batches in which single rows may fail: the rows that do are found by halves.

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, SchemaRef};
use pulso_expr::Expression;

use crate::error::{DataflowError, Result};

/// Values of all rows; those that failed are null.
pub(crate) struct Evaluated {
    pub(crate) values: ArrayRef,
    /// Ascending.
    pub(crate) failed: Vec<usize>,
}

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
    let mut parts = Vec::new();
    let mut failed = Vec::new();
    by_halves(expression, batch, 0, &mut parts, &mut failed);
    let values = match parts.as_slice() {
        [] => new_null_array(expression.data_type(), 0),
        [all] => all.clone(),
        parts => concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?,
    };
    Ok(Evaluated { values, failed })
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

fn by_halves(
    expression: &Expression,
    batch: &RecordBatch,
    offset: usize,
    parts: &mut Vec<ArrayRef>,
    failed: &mut Vec<usize>,
) {
    let rows = batch.num_rows();
    if rows == 0 {
        return;
    }
    match expression.evaluate(batch) {
        Ok(values) => parts.push(values),
        Err(_) if rows == 1 => {
            parts.push(new_null_array(expression.data_type(), 1));
            failed.push(offset);
        }
        Err(_) => {
            let half = rows / 2;
            by_halves(expression, &batch.slice(0, half), offset, parts, failed);
            by_halves(expression, &batch.slice(half, rows - half), offset + half, parts, failed);
        }
    }
}
