//! Operators on Arrow batches: decode, rules, derive, routing, dedup, sink rows. Pure: bytes and clocks are arguments.

pub mod batch;
pub mod error;

pub use batch::{Change, Payload, SinkRows, TargetRows};
pub use error::{DataflowError, Result};
