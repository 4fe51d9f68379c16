//! The wire: messages and services generated from `proto/`, the settings of their channels, and the conversion between
//! them and what `pulso_core` speaks of. Prost types stop here: the processes' own code uses the core's types.

mod channel;
pub mod convert;
mod secrecy;

pub use channel::{MAX_MESSAGE_BYTES, endpoint, server};

/// Generated from the `.proto` files.
#[allow(clippy::all, clippy::allow_attributes_without_reason, clippy::too_many_lines, reason = "generated code")]
#[allow(clippy::wildcard_enum_match_arm, unreachable_pub, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("pulso.v1");
}
