//! The job language: `job.toml` text to a checked [`JobSpec`], with every mistake of the file told at once.
//!
//! Pure: files and environment variables come in by a [`Submission`], nothing else is read.

mod check;
mod code;
mod columns;
mod diagnostic;
mod document;
mod online;
mod plan;
mod reader;
mod render;
mod schema;
mod secret;
pub mod spec;
mod submission;
mod unit;

pub use check::{InputSpec, check, comparable, input, shown, type_name, type_named};
pub use code::{Code, codes, explain};
pub use columns::postgres_type;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use online::{Finding, FindingKind, Place, located};
pub use plan::{Comparison, Fate, LookupPlan, Plan, StagePlan, StateChange, TargetPlan, compare, kept, plan};
pub use schema::schema;
pub use spec::*;
pub use submission::{
    Kept, LookupTypes, MAX_FILE_BYTES, StateId, Submission, collect_environment, decode, fingerprint, stand_ins,
};

#[cfg(test)]
mod tests;
