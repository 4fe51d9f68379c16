//! Rows that the database refuses: how many are too many, and what is kept of each.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::Failure;
use crate::json::text;

/// Rows over which the share is taken; older ones count half, again and again.
const WINDOW: u64 = 20_000;
/// Fewer refused rows than this never stop a job: a few bad ones at its start are no verdict.
const LEAST: u64 = 100;

/// The share of refused rows among the last ones.
#[derive(Debug, Clone)]
pub(crate) struct RefusedShare {
    bound: f64,
    rows: u64,
    refused: u64,
}

impl RefusedShare {
    pub(crate) fn new(bound: f64) -> Self {
        Self { bound, rows: 0, refused: 0 }
    }

    /// True where a transaction of `rows` rows with `refused` refused ones goes past the bound.
    pub(crate) fn is_exceeded_by(&self, rows: u64, refused: u64) -> bool {
        let (rows, refused) = (self.rows + rows, self.refused + refused);
        refused >= LEAST && refused as f64 > self.bound * rows as f64
    }

    pub(crate) fn committed(&mut self, rows: u64, refused: u64) {
        self.rows += rows;
        self.refused += refused;
        while self.rows > WINDOW {
            self.rows /= 2;
            self.refused /= 2;
        }
    }
}

/// One refused row, on its way to `pulso.dead_letters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Quoted, with its schema.
    pub(crate) table: String,
    pub(crate) reason: String,
    pub(crate) column: Option<String>,
    /// The row as a JSON object.
    pub(crate) row: Vec<u8>,
}

impl Refused {
    pub(crate) fn new(table: &str, failure: &Failure, batch: &RecordBatch, row: usize, deleted: bool) -> Self {
        let what = if deleted { "delete refused by the database: " } else { "refused by the database: " };
        Self {
            table: table.to_owned(),
            reason: format!("{what}{}", failure.text),
            column: failure.column.clone(),
            row: json(batch, row),
        }
    }
}

/// A row as a JSON object: numbers and booleans as such, everything else as text.
fn json(batch: &RecordBatch, row: usize) -> Vec<u8> {
    let mut out = b"{".to_vec();
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if out.len() > 1 {
            out.push(b',');
        }
        text(field.name(), &mut out);
        out.push(b':');
        if array.is_null(row) {
            out.extend_from_slice(b"null");
            continue;
        }
        let options = FormatOptions::new();
        let value = ArrayFormatter::try_new(array.as_ref(), &options)
            .and_then(|formatter| formatter.value(row).try_to_string())
            .unwrap_or_default();
        let bare = array.data_type().is_integer() || matches!(array.data_type(), DataType::Boolean);
        if bare { out.extend_from_slice(value.as_bytes()) } else { text(&value, &mut out) }
    }
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn few_are_never_too_many() {
        let share = RefusedShare::new(0.1);
        assert!(!share.is_exceeded_by(99, 99));
        assert!(share.is_exceeded_by(100, 100));
        assert!(!share.is_exceeded_by(1_000, 100));
        assert!(share.is_exceeded_by(999, 100));
    }

    #[test]
    fn what_is_long_ago_fades() {
        let mut share = RefusedShare::new(0.1);
        share.committed(1_000, 99);
        for _ in 0..20 {
            share.committed(10_000, 0);
        }
        assert!(!share.is_exceeded_by(1_000, 100));
        let mut bad = RefusedShare::new(0.1);
        bad.committed(20_000, 2_000);
        assert!(bad.is_exceeded_by(100, 11));
    }

    #[test]
    fn a_row_is_valid_json() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("te\"xt", Arc::new(StringArray::from(vec!["a\0\\\n\""]))),
            ("n", Arc::new(Int64Array::from(vec![-7]))),
            ("d", Arc::new(Decimal128Array::from(vec![1_050]).with_precision_and_scale(10, 2).unwrap())),
            ("none", Arc::new(Int64Array::from(vec![None]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let expected = r#"{"te\"xt":"a\u0000\\\n\"","n":-7,"d":"10.50","none":null}"#;
        assert_eq!(String::from_utf8(json(&batch, 0)).unwrap(), expected);
    }
}
