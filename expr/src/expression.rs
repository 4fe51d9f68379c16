//! A compiled expression.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, IsNotNullExpr};

use crate::compile::compile;
use crate::error::{ExpressionError, ExpressionErrorKind};
use crate::rows::{Evaluated, each};

/// A SQL expression bound to the columns of a schema. Cheap to clone.
///
/// The result is always one of Boolean, Int32, Int64, Float64, Decimal128, Utf8, Timestamp(Microsecond, "UTC"), Date32,
/// FixedSizeBinary(16): what a column of a job can be. Narrower or wider types that SQL functions return are cast.
#[derive(Clone)]
pub struct Expression {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) sql: String,
    pub(crate) physical: Arc<dyn PhysicalExpr>,
    pub(crate) data_type: DataType,
    pub(crate) nullable: bool,
    pub(crate) columns: Vec<usize>,
}

impl Expression {
    /// Parses `sql`, binds it to `schema` and checks its types.
    ///
    /// Refused: volatile and stable functions (`random`, `now`), subqueries, aggregates, window functions, parameters,
    /// unknown columns and functions, results that no column can hold, and texts too long or deep to be meant.
    pub fn compile(sql: &str, schema: &SchemaRef) -> Result<Self, ExpressionError> {
        compile(sql, schema).map(Self::new)
    }

    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn physical(&self) -> &Arc<dyn PhysicalExpr> {
        &self.inner.physical
    }

    pub(crate) fn is_column(&self) -> bool {
        self.inner.physical.downcast_ref::<Column>().is_some()
    }

    pub fn sql(&self) -> &str {
        &self.inner.sql
    }

    pub fn data_type(&self) -> &DataType {
        &self.inner.data_type
    }

    pub fn nullable(&self) -> bool {
        self.inner.nullable
    }

    /// Columns (indexes into the schema) that it reads, ascending.
    pub fn columns(&self) -> &[usize] {
        &self.inner.columns
    }

    /// Columns (indexes into the schema) of which a condition says in so many words that they hold a value, ascending:
    /// `x is not null`, alone or with `and` before or behind it. There may be more.
    pub fn present(&self) -> Vec<usize> {
        let mut columns = Vec::new();
        let mut parts = vec![&self.inner.physical];
        while let Some(part) = parts.pop() {
            if let Some(both) = part.downcast_ref::<BinaryExpr>().filter(|both| *both.op() == Operator::And) {
                parts.extend([both.left(), both.right()]);
            } else if let Some(tested) = part.downcast_ref::<IsNotNullExpr>() {
                columns.extend(tested.arg().downcast_ref::<Column>().map(Column::index));
            }
        }
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// One value per row. The batch's leading columns must be those of the schema; it may have more behind them.
    ///
    /// Fails as a whole when a single row does: division by zero of integers or decimals, overflow, a cast.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        let value = self.inner.physical.evaluate(batch).map_err(|error| ExpressionError::evaluation(&error))?;
        value.into_array(batch.num_rows()).map_err(|error| ExpressionError::evaluation(&error))
    }

    /// One value per row, null for the rows that fail.
    ///
    /// # Errors
    /// Where the values of all rows do not fit into one array.
    pub fn evaluate_each(&self, batch: &RecordBatch) -> Result<Evaluated, ExpressionError> {
        each(batch.num_rows(), self.data_type(), &|first, rows| self.evaluate(&batch.slice(first, rows)))
    }

    /// The rows for which a boolean expression is true: null counts as not true, the result has no nulls.
    pub fn evaluate_condition(&self, batch: &RecordBatch) -> Result<BooleanArray, ExpressionError> {
        let values = self.evaluate(batch)?;
        let Some(values) = values.as_boolean_opt() else {
            return Err(ExpressionError::new(ExpressionErrorKind::Type, "a condition must be true or false"));
        };
        Ok(match values.nulls() {
            Some(nulls) => BooleanArray::new(values.values() & nulls.inner(), None),
            None => values.clone(),
        })
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expression").field("sql", &self.inner.sql).field("data_type", &self.inner.data_type).finish()
    }
}
