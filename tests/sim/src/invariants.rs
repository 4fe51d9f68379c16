//! What must hold whatever goes wrong: one invariant per file, each shown everything that happens.
#![allow(clippy::wildcard_enum_match_arm, reason = "an invariant looks at what concerns it, also among later variants")]

mod checkpoints;
mod conservation;
mod cuts_agree;
mod durable_first;
mod fenced;
mod intended;
mod ledger_grows;
mod liveness;
mod no_failure;
mod one_attempt;
mod sealed_output;
mod tables;

use std::collections::BTreeMap;

use pulso_core::ids::{Attempt, Epoch, Instant, TargetId};
use pulso_core::message::{Counters, Instruction};
use pulso_core::record::Record;

use crate::database::{Commit, Database};
use crate::kafka::Kafka;
use crate::oracle::Oracle;
use crate::storage::Objects;
use crate::store::Rows;

pub(crate) trait Invariant {
    fn name(&self) -> &'static str;

    /// What is wrong, if anything.
    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String>;
}

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Seen<'a> {
    /// Durable in the control log, just now.
    Logged(&'a Record),
    /// The JobManager sends it.
    Sent(&'a Instruction),
    /// Durable in a target, just now.
    Committed(&'a Commit),
    /// The target was restored to an older state, on purpose.
    WentBack(TargetId),
    /// A worker hands these rows to its writer.
    Transacting { target: TargetId, attempt: Attempt, rows: &'a [Rows] },
    /// A worker knows that the epoch is sealed, and this is what it made of it.
    TakenForSealed { attempt: Attempt, epoch: Epoch, outputs: &'a BTreeMap<TargetId, Rows> },
    /// A worker drops the job, because a newer attempt has its ledger.
    GaveUp { attempt: Attempt },
    /// An object of a checkpoint is about to be deleted.
    Deleted(&'a str),
    /// The faults are over and work is waited for.
    Waiting(&'a Progress),
    /// Everything is committed.
    End,
}

/// The world as it is.
pub(crate) struct Facts<'a> {
    pub(crate) oracle: &'a Oracle,
    pub(crate) kafka: &'a Kafka,
    pub(crate) databases: &'a BTreeMap<TargetId, Database>,
    pub(crate) objects: &'a Objects,
    /// What the JobManager in charge counts.
    pub(crate) counted: Option<Counters>,
    pub(crate) now: Instant,
}

/// How far everything is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) records: u64,
    pub(crate) sealed: u64,
    pub(crate) due: usize,
    pub(crate) committed: usize,
    pub(crate) counted: Option<u64>,
    pub(crate) deadline: Instant,
}

impl Progress {
    pub(crate) fn is_complete(&self) -> bool {
        self.sealed == self.records && self.committed == self.due && self.counted == Some(self.records)
    }
}

pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(durable_first::DurableFirst::default()),
        Box::new(cuts_agree::CutsAgree::default()),
        Box::new(ledger_grows::LedgerGrows::default()),
        Box::new(one_attempt::OneAttempt),
        Box::new(intended::Intended),
        Box::new(sealed_output::SealedOutput),
        Box::new(fenced::Fenced::default()),
        Box::new(tables::Tables),
        Box::new(checkpoints::Checkpoints::default()),
        Box::new(conservation::Conservation),
        Box::new(no_failure::NoFailure),
        Box::new(liveness::Liveness),
    ]
}
