//! The writer against a real MariaDB, one server for all tests, a database for each.
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

#[path = "../cases/mod.rs"]
mod cases;
mod inspect;
mod lookup;
#[path = "../support/lookups.rs"]
mod lookups;
mod panel;
#[path = "../support/proxy.rs"]
mod proxy;
mod refused;
#[path = "../support/mod.rs"]
mod shared;
mod support;
mod tables;
mod takeover;
mod tls;
mod types;
mod writes;
