//! Operators on Arrow batches: decode, rules, derive, routing, dedup, sink rows. Pure: bytes and clocks are arguments.

mod aggregate;
pub mod batch;
pub mod csv;
pub mod decode;
pub mod document;
mod entry;
pub mod error;
mod evaluate;
mod json;
pub mod key;
pub mod keyed;
pub mod lookup;
mod sink;
pub mod state;
#[cfg(test)]
mod testing;
mod wire;

pub use batch::{Change, Payload, SinkRows, TargetRows};
pub use error::{DataflowError, Result};
