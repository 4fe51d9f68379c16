//! The coordinator among models of TaskManagers: what it must never do, and what it must bring about.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod changes;
mod checker;
mod faults;
mod files;
mod jobs;
mod lookups;
mod recovery;
mod world;
