//! The simulation: the machines of `pulso-core`, unchanged, on a seeded scheduler with a virtual clock, between models of
//! Kafka, of the targets with their ledger and row locks, of the storage and of the network.

mod action;
mod chance;
mod coverage;
mod database;
mod dedup;
mod invariants;
mod job_manager;
mod kafka;
mod lookups;
mod mistakes;
mod network;
mod oracle;
mod retained;
mod scenario;
mod schedule;
mod storage;
mod store;
mod task_manager;
mod trace;
mod world;
mod writer;

pub use coverage::{Coverage, Sight};
pub use mistakes::Mistake;
pub use world::Run;

/// Runs one seed to its end. `print` writes the trace to stderr.
#[must_use]
pub fn run(seed: u64, mistake: Option<Mistake>, print: bool) -> Run {
    world::World::new(seed, mistake, print).run()
}

/// What repeats a failure.
#[must_use]
pub fn repeat(seed: u64, mistake: Option<Mistake>) -> String {
    let mistake = mistake.map_or_else(String::new, |m| format!(" MISTAKE={}", m.name()));
    format!("make sim SEED={seed}{mistake}")
}
