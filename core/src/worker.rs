//! The TaskManager's decisions: which attempt counts, what is processed when, what may be committed.
//!
//! Rows are opaque: `P` is a payload as it came over the exchange, `O` what processing an epoch made for one target.

mod checkpoint;
mod command;
mod deployed;
mod event;
mod gather;
mod history;
mod job;
mod view;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

pub use command::Command;
pub use event::{Event, Outcome, Output, Processed};
pub use view::{DeployedView, JobView, WriterView};

use crate::ids::{Attempt, Instant, JobId, TaskManagerId};
use crate::message::{Failure, Instruction};
use crate::mistake::Mistake;
use job::Job;

/// The bounds of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Output of one transaction, in bytes: several waiting epochs go together up to this.
    pub transaction_bytes: u64,
    /// First pause before a target is tried again; doubles up to 64 times this.
    pub retry_backoff: Duration,
    #[doc(hidden)]
    pub mistake: Mistake,
}

impl Default for Settings {
    fn default() -> Self {
        Self { transaction_bytes: 16 << 20, retry_backoff: Duration::from_millis(20), mistake: Mistake::None }
    }
}

/// The TaskManager's state machine. It keeps working while the session to the JobManager is lost: what is sealed is
/// committed, and nothing else needs it.
#[derive(Debug, Clone)]
pub struct Worker<P, O> {
    me: TaskManagerId,
    settings: Settings,
    /// Also those that ended here: their last attempt is the fence against what is still under way.
    jobs: BTreeMap<JobId, Job<P, O>>,
}

/// Whose event is handled, and when.
#[derive(Debug, Clone, Copy)]
struct Context<'a> {
    me: TaskManagerId,
    settings: &'a Settings,
    now: Instant,
    job: JobId,
    /// The one that the job is at.
    attempt: Attempt,
}

/// Why an attempt cannot go on here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// A newer attempt has the ledger: everything of the job here is stale.
    Fenced {
        reason: String,
    },
    Failed(Failure),
}

impl<P, O: Clone> Worker<P, O> {
    #[must_use]
    pub fn new(me: TaskManagerId, settings: Settings) -> Self {
        Self { me, settings, jobs: BTreeMap::new() }
    }

    /// Decides what an event leads to. Commands are to be carried out in this order.
    pub fn handle(&mut self, event: Event<P, O>, now: Instant) -> Vec<Command<P, O>> {
        let (me, settings) = (self.me, &self.settings);
        let context = |id: JobId, job: &Job<P, O>| Context { me, settings, now, job: id, attempt: job.attempt() };
        let mut out = Vec::new();
        if let Event::Instructed(instruction) = event {
            let id = job_of(&instruction);
            if matches!(instruction, Instruction::Prepare { .. }) {
                self.jobs.entry(id).or_insert_with(Job::new);
            }
            if let Some(job) = self.jobs.get_mut(&id) {
                let context = context(id, job);
                job.instructed(instruction, &context, &mut out);
            }
        } else if let Some((id, attempt)) = event.address() {
            if let Some(job) = self.jobs.get_mut(&id) {
                let context = context(id, job);
                job.handle(event, attempt, &context, &mut out);
            }
        } else {
            for (id, job) in &mut self.jobs {
                let context = context(*id, job);
                job.tick(&context, &mut out);
            }
        }
        out
    }

    /// What is here of each job.
    #[must_use]
    pub fn view(&self) -> Vec<JobView> {
        self.jobs.iter().filter_map(|(id, job)| job.view(*id)).collect()
    }
}

fn job_of(instruction: &Instruction) -> JobId {
    match instruction {
        Instruction::Deploy(deployment) => deployment.job,
        Instruction::Prepare { job, .. }
        | Instruction::OpenCut { job, .. }
        | Instruction::Seal { job, .. }
        | Instruction::Progress { job, .. }
        | Instruction::TakeCheckpoint { job, .. }
        | Instruction::CheckpointDone { job, .. }
        | Instruction::Files { job, .. }
        | Instruction::Release { job, .. } => *job,
    }
}

#[cfg(test)]
mod tests;
