//! SQL text with aggregate functions -> the calls, and expressions over what they give.
#![expect(clippy::wildcard_enum_match_arm, reason = "enums of other crates, of which few variants matter here")]

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchemaRef, DataFusionError};
use datafusion_expr::expr::{AggregateFunction, NullTreatment};
use datafusion_expr::{Cast, Expr, ExprSchemable, when};
use datafusion_physical_expr::aggregate::AggregateExprBuilder;

use crate::aggregate::{Call, Exact};
use crate::compile::{
    SqlText, bound_to, coerce, finish, on_large_stack, refuse_unsuitable, to_column_type, type_error,
};
use crate::error::{ExpressionError, ExpressionErrorKind};
use crate::expression::Expression;

/// Tells about the engine, or sees more than its arguments.
const LEFT_OUT: [&str; 1] = ["grouping"];
/// Sums of whole numbers are kept in this type, which no number of rows overflows.
const WIDE: DataType = DataType::Decimal128(38, 0);

/// Of which expression the error is.
struct Misplaced(usize, ExpressionError);

impl From<ExpressionError> for Misplaced {
    fn from(error: ExpressionError) -> Self {
        Self(0, error)
    }
}

pub(crate) fn compile_aggregates(
    columns: &[&str],
    schema: &SchemaRef,
) -> Result<(Vec<Call>, Vec<Expression>), (usize, ExpressionError)> {
    let compiled = on_large_stack(|| {
        let df_schema = bound_to(schema)?;
        let mut calls = Calls { schema, df_schema: &df_schema, logical: Vec::new(), compiled: Vec::new() };
        let mut planned = Vec::new();
        for (at, sql) in columns.iter().enumerate() {
            planned.push(calls.take_out(sql).map_err(|error| Misplaced(at, error))?);
        }
        let results = Arc::new(Schema::new(calls.compiled.iter().map(Call::result).collect::<Vec<_>>()));
        let df_results = bound_to(&results)?;
        let mut expressions = Vec::new();
        for (at, (sql, logical)) in columns.iter().zip(planned).enumerate() {
            let finished = coerce(logical, &df_results)
                .and_then(|logical| to_column_type(logical, &df_results))
                .and_then(|logical| finish(sql, logical, &results, &df_results));
            expressions.push(Expression::new(finished.map_err(|error| Misplaced(at, error))?));
        }
        Ok((calls.compiled, expressions))
    });
    compiled.map_err(|Misplaced(at, error)| (at, error))
}

/// The calls of all expressions; the same call is made once.
struct Calls<'a> {
    schema: &'a SchemaRef,
    df_schema: &'a DFSchemaRef,
    logical: Vec<AggregateFunction>,
    compiled: Vec<Call>,
}

impl Calls<'_> {
    /// The expression with a column in the place of each call.
    fn take_out(&mut self, sql: &str) -> Result<Expr, ExpressionError> {
        let text = SqlText::read(sql)?;
        let logical = coerce(text.plan(text.parse()?, self.df_schema)?, self.df_schema)?;
        let mut wrong = None;
        let before = self.compiled.len();
        let mut found = false;
        let taken = logical.transform_down(|node| match node {
            Expr::AggregateFunction(call) => {
                found = true;
                match self.place_of(call, &text) {
                    Ok(expr) => Ok(Transformed::new(expr, true, TreeNodeRecursion::Jump)),
                    Err(error) => {
                        wrong = Some(error);
                        Ok(Transformed::new(Expr::default(), true, TreeNodeRecursion::Stop))
                    }
                }
            }
            Expr::Column(column) => {
                let message = format!("the column `{}` must stand inside of an aggregate function", column.name);
                wrong = Some(refuse(message).at(text.word(&column.name)));
                Ok(Transformed::new(Expr::default(), true, TreeNodeRecursion::Stop))
            }
            node => Ok(Transformed::no(node)),
        });
        let taken = taken.map_err(|error| type_error(&error))?.data;
        let wrong =
            wrong.or_else(|| (!found).then(|| refuse("there is no aggregate function, such as count(*)".into())));
        match wrong {
            Some(error) => {
                self.compiled.truncate(before);
                self.logical.truncate(before);
                Err(error)
            }
            None => {
                refuse_unsuitable(&taken, &text)?;
                Ok(taken)
            }
        }
    }

    /// The column that holds the result of a call.
    fn place_of(&mut self, mut call: AggregateFunction, text: &SqlText<'_>) -> Result<Expr, ExpressionError> {
        self.refuse(&call, text)?;
        let whole = self.widen(&mut call)?;
        let at = match self.logical.iter().position(|known| *known == call) {
            Some(at) => at,
            None => {
                let compiled = self.compile(&call, text)?;
                self.compiled.push(compiled);
                self.logical.push(call);
                self.compiled.len() - 1
            }
        };
        let column = Expr::Column(Column::new_unqualified(name_of(at)));
        Ok(if whole { Expr::Cast(Cast::new(Box::new(column), DataType::Int64)) } else { column })
    }

    fn refuse(&self, call: &AggregateFunction, text: &SqlText<'_>) -> Result<(), ExpressionError> {
        let (name, params) = (call.func.name(), &call.params);
        let at = text.word(name);
        if LEFT_OUT.contains(&name) {
            return Err(refuse(format!("`{name}` is refused: it has no meaning here")).at(at));
        }
        if !params.order_by.is_empty() {
            return Err(
                refuse(format!("`{name}` is refused with an order: rows count in the order they come in")).at(at)
            );
        }
        for part in params.args.iter().chain(params.filter.as_deref()) {
            refuse_unsuitable(part, text)?;
        }
        if params.distinct && is_sum(name) && self.is_float(call)? {
            let message =
                format!("`{name}(distinct ...)` of floats is refused: equal floats are rarely meant to be one");
            return Err(refuse(message).at(at));
        }
        Ok(())
    }

    fn is_float(&self, call: &AggregateFunction) -> Result<bool, ExpressionError> {
        Ok(self.type_of(call)? == Some(DataType::Float64))
    }

    fn type_of(&self, call: &AggregateFunction) -> Result<Option<DataType>, ExpressionError> {
        let first = call.params.args.first().map(|argument| argument.get_type(self.df_schema));
        first.transpose().map_err(|error| type_error(&error))
    }

    /// The library's sums of whole numbers wrap around. True if the result is to be made one again.
    fn widen(&self, call: &mut AggregateFunction) -> Result<bool, ExpressionError> {
        let whole = matches!(self.type_of(call)?, Some(DataType::Int64 | DataType::UInt64));
        if !whole || call.func.name() != "sum" {
            return Ok(false);
        }
        for argument in &mut call.params.args {
            *argument = Expr::Cast(Cast::new(Box::new(std::mem::take(argument)), WIDE));
        }
        Ok(true)
    }

    fn compile(&self, call: &AggregateFunction, text: &SqlText<'_>) -> Result<Call, ExpressionError> {
        let (name, params) = (call.func.name(), &call.params);
        let finished = |part: &Expr| finish(name, part.clone(), self.schema, self.df_schema).map(Expression::new);
        let arguments = params.args.iter().map(|argument| finished(&filtered(argument, params.filter.as_deref())?));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let filter = params.filter.as_deref().map(finished).transpose()?;
        let physical = arguments.iter().map(|argument| Arc::clone(argument.physical())).collect();
        let wrong = |error: &DataFusionError| type_error(error).at(text.word(name));
        let function = AggregateExprBuilder::new(Arc::clone(&call.func), physical)
            .schema(Arc::clone(self.schema))
            .alias(name_of(self.compiled.len()))
            .with_distinct(params.distinct)
            .with_ignore_nulls(params.null_treatment == Some(NullTreatment::IgnoreNulls))
            .build()
            .map_err(|error| wrong(&error))?;
        let exact = match name {
            "sum" if self.is_float(call)? => Some(Exact::Sum),
            "avg" if self.is_float(call)? => Some(Exact::Average),
            _ => None,
        };
        let call = Call { function: Arc::new(function), arguments, filter, exact };
        // Some functions tell only here that they cannot do it.
        call.check().map_err(|error| wrong(&error))?;
        Ok(call)
    }
}

/// So that an argument cannot fail for a row that the filter leaves out. A constant stays one: some functions ask for it.
fn filtered(argument: &Expr, filter: Option<&Expr>) -> Result<Expr, ExpressionError> {
    match filter {
        Some(filter) if argument.any_column_refs() => {
            when(filter.clone(), argument.clone()).end().map_err(|error| type_error(&error))
        }
        _ => Ok(argument.clone()),
    }
}

fn is_sum(name: &str) -> bool {
    matches!(name, "sum" | "avg")
}

fn name_of(call: usize) -> String {
    format!("call{call}")
}

fn refuse(message: String) -> ExpressionError {
    ExpressionError::new(ExpressionErrorKind::Refused, message)
}
