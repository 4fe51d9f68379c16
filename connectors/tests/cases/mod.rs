//! What every database must do: cases that the tests of each of them run, in the words of its `support`.

pub(crate) mod refused;
pub(crate) mod tables;
pub(crate) mod takeover;
mod unknown;
mod writes;
