//! Expressions with aggregate functions over groups of rows, whose state can be kept between batches.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, new_empty_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use crate::aggregates::compile_aggregates;
use crate::error::ExpressionError;
use crate::exact::{self, ExactSums};
use crate::expression::Expression;
use crate::rows::each;

/// Several expressions with aggregate functions, computed together. Cheap to clone.
///
/// Between batches a group is its states: arrays of [`Aggregation::state_types`] with one row a group.
#[derive(Clone)]
pub struct Aggregation {
    inner: Arc<Inner>,
}

struct Inner {
    calls: Vec<Call>,
    /// Over the results of the calls.
    columns: Vec<Expression>,
    results: SchemaRef,
}

/// A call of an aggregate function.
pub(crate) struct Call {
    pub(crate) function: Arc<AggregateFunctionExpr>,
    pub(crate) arguments: Vec<Expression>,
    /// `filter (where ...)`
    pub(crate) filter: Option<Expression>,
    /// `sum` or `avg` of floats.
    pub(crate) exact: Option<Exact>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exact {
    Sum,
    Average,
}

impl Call {
    pub(crate) fn result(&self) -> Field {
        let field = self.function.field();
        Field::new(self.function.name(), field.data_type().clone(), self.function.fun().name() != "count")
    }

    /// Some functions tell only when they are made that they cannot do it.
    pub(crate) fn check(&self) -> Result<(), DataFusionError> {
        self.state_types()?;
        self.accumulator().map(drop)?;
        if self.exact.is_none() && !self.function.groups_accumulator_supported() {
            self.function.create_accumulator()?;
        }
        Ok(())
    }

    fn state_types(&self) -> Result<Vec<DataType>, DataFusionError> {
        if self.exact.is_some() {
            return Ok(exact::STATE.to_vec());
        }
        let fields = self.function.state_fields()?;
        Ok(fields.iter().map(|field| field.data_type().clone()).collect())
    }

    fn accumulator(&self) -> Result<Box<dyn GroupsAccumulator>, DataFusionError> {
        if let Some(exact) = self.exact {
            return Ok(Box::new(ExactSums::new(exact == Exact::Average)));
        }
        if self.function.groups_accumulator_supported() {
            return self.function.create_groups_accumulator();
        }
        let function = Arc::clone(&self.function);
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }

    fn evaluate(&self, groups: usize, states: &[ArrayRef]) -> Result<ArrayRef, DataFusionError> {
        let mut accumulator = self.accumulator()?;
        accumulator.merge_batch(states, &(0..groups).collect::<Vec<_>>(), groups)?;
        accumulator.evaluate(EmitTo::All)
    }

    fn width(&self) -> usize {
        self.arguments.len() + usize::from(self.filter.is_some())
    }
}

impl Aggregation {
    /// Parses the expressions, binds them to `schema` and checks their types. A column may stand only inside of an
    /// aggregate function.
    ///
    /// # Errors
    /// The place of the first expression that is wrong, and what is wrong with it.
    pub fn compile(columns: &[&str], schema: &SchemaRef) -> Result<Self, (usize, ExpressionError)> {
        let (calls, columns) = compile_aggregates(columns, schema)?;
        let results = Arc::new(Schema::new(calls.iter().map(Call::result).collect::<Vec<_>>()));
        let aggregation = Self { inner: Arc::new(Inner { calls, columns, results }) };
        aggregation.state_types().map_err(|error| (0, error))?;
        Ok(aggregation)
    }

    /// Type of each expression's result.
    pub fn data_types(&self) -> impl Iterator<Item = &DataType> {
        self.inner.columns.iter().map(Expression::data_type)
    }

    /// Whether each expression can be null: a count alone is not, and what is made of it may fail.
    pub fn nullable(&self) -> impl Iterator<Item = bool> + '_ {
        self.inner.columns.iter().map(|column| column.nullable() || !column.is_column())
    }

    /// What has to be computed of every row: arguments and filters of all calls. [`Aggregation::accumulate`] takes their
    /// values in this order.
    pub fn arguments(&self) -> impl Iterator<Item = &Expression> {
        self.inner.calls.iter().flat_map(|call| call.arguments.iter().chain(&call.filter))
    }

    pub fn argument_types(&self) -> Vec<DataType> {
        self.arguments().map(|argument| argument.data_type().clone()).collect()
    }

    /// # Errors
    /// Where a function has no state that can be kept.
    pub fn state_types(&self) -> Result<Vec<DataType>, ExpressionError> {
        let types = self.inner.calls.iter().map(Call::state_types).collect::<Result<Vec<_>, _>>();
        types.map(|types| types.concat()).map_err(|error| ExpressionError::evaluation(&error))
    }

    /// States of `groups` groups: what `states` hold (row by row, of the group that `state_of` names), then the rows
    /// (values of [`Aggregation::arguments`], of the group that `row_of` names). Every group has a state or a row.
    ///
    /// # Errors
    /// The library's.
    pub fn accumulate(
        &self,
        groups: usize,
        (states, state_of): (&[ArrayRef], &[usize]),
        (arguments, row_of): (&[ArrayRef], &[usize]),
    ) -> Result<Vec<ArrayRef>, ExpressionError> {
        if groups == 0 {
            return Ok(self.state_types()?.iter().map(new_empty_array).collect());
        }
        let failed = |error: DataFusionError| ExpressionError::evaluation(&error);
        let order = Order::new(groups, state_of, row_of);
        let (state_of, row_of) = (order.of(state_of), order.of(row_of));
        let (mut states, mut arguments) = (states, arguments);
        let mut result = Vec::new();
        for call in &self.inner.calls {
            let mut accumulator = call.accumulator().map_err(failed)?;
            let width = call.state_types().map_err(failed)?.len();
            let (Some((state, others)), Some((mine, rest))) =
                (states.split_at_checked(width), arguments.split_at_checked(call.width()))
            else {
                return Err(ExpressionError::internal("a state or an argument of an aggregate is missing"));
            };
            (states, arguments) = (others, rest);
            if !state_of.is_empty() {
                accumulator.merge_batch(state, &state_of, order.with_state).map_err(failed)?;
            }
            if !row_of.is_empty() {
                let (values, filter) = mine.split_at(call.arguments.len());
                let filter = filter.first().and_then(|filter| filter.as_boolean_opt());
                accumulator.update_batch(values, &row_of, filter, groups).map_err(failed)?;
            }
            for state in accumulator.state(EmitTo::All).map_err(failed)? {
                result.push(take(&state, &order.places, None).map_err(|error| failed(error.into()))?);
            }
        }
        Ok(result)
    }

    /// The expressions' values for every group; one that cannot be computed is null.
    ///
    /// # Errors
    /// Where the states are not those of this aggregation.
    pub fn results(&self, groups: usize, mut states: &[ArrayRef]) -> Result<Vec<ArrayRef>, ExpressionError> {
        if groups == 0 {
            return Ok(self.data_types().map(new_empty_array).collect());
        }
        let failed = |error: DataFusionError| ExpressionError::evaluation(&error);
        let mut values = Vec::new();
        for call in &self.inner.calls {
            let width = call.state_types().map_err(failed)?.len();
            let Some((mine, rest)) = states.split_at_checked(width) else {
                return Err(ExpressionError::internal("a state of an aggregate is missing"));
            };
            states = rest;
            let compute = |first, groups| {
                let mine: Vec<ArrayRef> = mine.iter().map(|state| state.slice(first, groups)).collect();
                call.evaluate(groups, &mine).map_err(failed)
            };
            values.push(each(groups, call.function.field().data_type(), &compute)?.values);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(groups));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.inner.results), values, &options)
            .map_err(|error| failed(error.into()))?;
        self.inner.columns.iter().map(|column| Ok(column.evaluate_each(&batch)?.values)).collect()
    }
}

/// Accumulators take it that a group which they are told of for the first time has a row in that very batch: those with a
/// state are numbered first.
struct Order {
    /// New number of each group.
    numbers: Vec<usize>,
    /// How many groups have a state.
    with_state: usize,
    /// Where each group is.
    places: UInt32Array,
}

impl Order {
    fn new(groups: usize, state_of: &[usize], row_of: &[usize]) -> Self {
        let mut numbers = vec![usize::MAX; groups];
        let mut next = 0;
        let mut with_state = 0;
        for (at, group) in state_of.iter().chain(row_of).enumerate() {
            if numbers[*group] == usize::MAX {
                numbers[*group] = next;
                next += 1;
            }
            if at < state_of.len() {
                with_state = next;
            }
        }
        let places = numbers.iter().map(|number| *number as u32).collect();
        Self { numbers, with_state, places }
    }

    fn of(&self, groups: &[usize]) -> Vec<usize> {
        groups.iter().map(|group| self.numbers[*group]).collect()
    }
}

impl fmt::Debug for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.inner.columns).finish()
    }
}

#[cfg(test)]
#[path = "aggregate_tests.rs"]
mod tests;
