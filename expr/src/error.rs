//! What can be wrong with an expression, told without ever quoting a record's content.
#![expect(clippy::wildcard_enum_match_arm, reason = "enums of other crates, of which few variants matter here")]

use arrow::error::ArrowError;
use datafusion_common::{DataFusionError, SchemaError};

/// Why an expression cannot be compiled or evaluated. The message is for people and holds no value of any record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    kind: ExpressionErrorKind,
    message: String,
    offset: Option<usize>,
    length: usize,
    suggestion: Option<String>,
}

/// What a caller can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpressionErrorKind {
    /// Not a SQL expression.
    Syntax,
    UnknownColumn,
    UnknownFunction,
    /// Valid SQL that Pulso does not take: volatile functions, subqueries, aggregates.
    Refused,
    /// Types that do not fit.
    Type,
    /// One of the batch's rows: division by zero, overflow, a cast.
    Evaluation,
}

impl ExpressionError {
    pub(crate) fn new(kind: ExpressionErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), offset: None, length: 0, suggestion: None }
    }

    pub(crate) fn at(mut self, place: Option<(usize, usize)>) -> Self {
        if let Some((offset, length)) = place {
            self.offset = Some(offset);
            self.length = length;
        }
        self
    }

    pub(crate) fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }

    pub fn kind(&self) -> ExpressionErrorKind {
        self.kind
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// Byte offset in the SQL text, where known.
    pub fn offset(&self) -> Option<usize> {
        self.offset
    }

    /// Length in bytes of what is wrong at [`Self::offset`]; 0 where only the position is known.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The name that was probably meant.
    pub fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }

    /// A mistake of the caller.
    pub(crate) fn internal(message: &str) -> Self {
        Self::new(ExpressionErrorKind::Evaluation, message)
    }

    /// An error of evaluation. Arrow and DataFusion quote the value they stumbled over, so only its class is told.
    pub(crate) fn evaluation(error: &DataFusionError) -> Self {
        Self::new(ExpressionErrorKind::Evaluation, evaluation_message(root(error)))
    }
}

fn evaluation_message(error: &DataFusionError) -> &'static str {
    let DataFusionError::ArrowError(arrow, _) = error else {
        return "a value cannot be computed";
    };
    match arrow.as_ref() {
        ArrowError::DivideByZero => "division by zero",
        ArrowError::ArithmeticOverflow(_) => "a number is out of range",
        ArrowError::CastError(_) => "a value cannot be cast",
        ArrowError::ParseError(_) => "a text cannot be read as the type it is cast to",
        _ => "a value cannot be computed",
    }
}

/// Below all the wrappers that DataFusion puts around an error.
pub(crate) fn root(error: &DataFusionError) -> &DataFusionError {
    let mut error = error;
    loop {
        error = match error {
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => inner,
            DataFusionError::Shared(inner) => inner,
            DataFusionError::Collection(all) => match all.first() {
                Some(first) => first,
                None => return error,
            },
            _ => return error,
        };
    }
}

/// The column that is not in the schema, where the error says that.
pub(crate) fn missing_column(error: &DataFusionError) -> Option<String> {
    let DataFusionError::SchemaError(schema, _) = root(error) else {
        return None;
    };
    match schema.as_ref() {
        SchemaError::FieldNotFound { field, .. } => Some(field.flat_name()),
        _ => None,
    }
}

/// The planner's own words for a type error, first line only: what follows are candidate signatures of many lines.
pub(crate) fn planner_message(error: &DataFusionError) -> String {
    let text = root(error).strip_backtrace();
    let line = text.lines().next().unwrap_or("the expression cannot be planned");
    let line = line.trim_start_matches("Error during planning: ").trim_start_matches("Execution error: ");
    let line = line.trim_start_matches("This feature is not implemented: ").trim_start_matches("Internal error: ");
    line.trim_end_matches(['.', ':']).to_owned()
}
