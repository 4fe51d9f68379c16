//! What is computed of many rows of which single ones may fail: those that do are found by halves.

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::DataType;

use crate::error::ExpressionError;

/// Values of all rows; those that failed are null.
#[derive(Debug)]
pub struct Evaluated {
    pub values: ArrayRef,
    /// Ascending.
    pub failed: Vec<usize>,
}

/// `compute` gets the first of some rows and how many they are.
pub(crate) fn each(
    rows: usize,
    data_type: &DataType,
    compute: &dyn Fn(usize, usize) -> Result<ArrayRef, ExpressionError>,
) -> Result<Evaluated, ExpressionError> {
    let (mut parts, mut failed) = (Vec::new(), Vec::new());
    // What is left to do, the first rows on top.
    let mut left = vec![(0, rows)];
    while let Some((first, rows)) = left.pop().filter(|(_, rows)| *rows > 0) {
        match compute(first, rows) {
            Ok(values) => parts.push(values),
            Err(_) if rows == 1 => {
                parts.push(new_null_array(data_type, 1));
                failed.push(first);
            }
            Err(_) => left.extend([(first + rows / 2, rows - rows / 2), (first, rows / 2)]),
        }
    }
    let values = match parts.as_slice() {
        [] => new_null_array(data_type, 0),
        [all] => all.clone(),
        parts => concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())
            .map_err(|error| ExpressionError::evaluation(&error.into()))?,
    };
    Ok(Evaluated { values, failed })
}
