//! SQL expressions over Arrow batches, parsed, type-checked and evaluated by DataFusion's expression crates.
//!
//! A crate of its own because the SQL planner is generic code that is compiled where it is used: here, at opt-level 0.
//! Compiling and evaluating are pure: no clock, no randomness, no session settings.

mod aggregate;
mod aggregates;
mod compile;
mod error;
mod exact;
mod expression;
mod functions;
mod rows;

pub use aggregate::Aggregation;
pub use error::{ExpressionError, ExpressionErrorKind};
pub use expression::Expression;
pub use functions::function_names;
pub use rows::Evaluated;

#[cfg(test)]
mod tests;
