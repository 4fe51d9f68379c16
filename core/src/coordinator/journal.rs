//! The durable state, and the queue of what waits to become part of it.
//!
//! What may only go out after something is durable takes a [`Durable`], and nothing but [`Journal::appended`] makes one.

use super::recovery::Recovery;
use super::{CheckpointId, Command, Epoch, JobId, Record, RequestId};
use crate::control_log::{JobState, LogState};
use crate::cut::Cut;
use crate::files::PlacedFile;
use crate::ids::{Attempt, LookupsId};
use crate::placement::Plan;

/// Proof that the records that go with `T` are in the control log.
#[derive(Debug)]
pub(super) struct Durable<T>(T);

impl<T> std::ops::Deref for Durable<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Durable<T> {
    pub(super) fn into_inner(self) -> T {
        self.0
    }
}

#[derive(Debug)]
pub(super) struct AttemptLogged {
    pub(super) attempt: Attempt,
}

#[derive(Debug)]
pub(super) struct PlanLogged {
    pub(super) attempt: Attempt,
    pub(super) plan: Plan,
    pub(super) recovery: Recovery,
}

#[derive(Debug)]
pub(super) struct CutLogged {
    pub(super) attempt: Attempt,
    pub(super) cut: Cut,
}

#[derive(Debug)]
pub(super) struct CheckpointLogged {
    pub(super) attempt: Attempt,
    pub(super) checkpoint: CheckpointId,
    pub(super) epoch: Epoch,
    /// Calls that it answers.
    pub(super) savepoints: Vec<RequestId>,
}

#[derive(Debug)]
pub(super) struct PinLogged {
    pub(super) checkpoint: CheckpointId,
    pub(super) epoch: Epoch,
    pub(super) savepoints: Vec<RequestId>,
}

#[derive(Debug)]
pub(super) struct CollectLogged {
    pub(super) objects: Vec<String>,
}

macro_rules! continuations {
    ($($name:ident($payload:ty)),* $(,)?) => {
        /// What is to follow once its records are durable.
        #[derive(Debug)]
        pub(super) enum Then { $($name($payload),)* }

        /// What follows now.
        #[derive(Debug)]
        pub(super) enum Done { $($name(Durable<$payload>),)* }

        impl Then {
            fn done(self) -> Done {
                match self { $(Self::$name(payload) => Done::$name(Durable(payload)),)* }
            }
        }
    };
}

// Texts are objects to delete.
continuations! {
    Submitted(()),
    Attempt(AttemptLogged),
    Plan(Box<PlanLogged>),
    Cut(Box<CutLogged>),
    SplitsJoined(()),
    FilesFound(Vec<PlacedFile>),
    FilesRetired(()),
    LookupsRead(()),
    LookupsGone(Vec<LookupsId>),
    Checkpoint(CheckpointLogged),
    Pin(PinLogged),
    Collect(CollectLogged),
    Changing(Vec<String>),
    Changed(Vec<String>),
    Redefined(()),
    Stopping(()),
    Ended(Vec<String>),
    Resumed(Vec<String>),
}

#[derive(Debug)]
struct Entry {
    job: JobId,
    records: Vec<Record>,
    then: Then,
}

#[derive(Debug)]
pub(super) struct Journal {
    state: LogState,
    /// Sent to be appended, in order; never a second batch beside it.
    outstanding: Vec<Entry>,
    waiting: Vec<Entry>,
}

impl Journal {
    pub(super) fn new(state: LogState) -> Self {
        Self { state, outstanding: Vec::new(), waiting: Vec::new() }
    }

    /// What is durable.
    pub(super) fn state(&self) -> &LogState {
        &self.state
    }

    pub(super) fn job(&self, job: JobId) -> &JobState {
        self.state.jobs.get(&job).expect("a job is made once its record is durable, and records of jobs stay")
    }

    pub(super) fn append(&mut self, job: JobId, records: Vec<Record>, then: Then) {
        self.waiting.push(Entry { job, records, then });
    }

    /// All that waits goes into one append.
    pub(super) fn flush(&mut self, commands: &mut Vec<Command>) {
        if self.outstanding.is_empty() && !self.waiting.is_empty() {
            self.outstanding = std::mem::take(&mut self.waiting);
            let records = self.outstanding.iter().flat_map(|entry| entry.records.iter().cloned()).collect();
            commands.push(Command::Append(records));
        }
    }

    /// The outstanding append is durable.
    pub(super) fn appended(&mut self) -> Vec<(JobId, Done)> {
        let entries = std::mem::take(&mut self.outstanding);
        let mut done = Vec::with_capacity(entries.len());
        for entry in entries {
            for record in &entry.records {
                // The appender folds what it writes by the same function first, and refuses what does not fit.
                self.state.apply(record).expect("a record that was written fits the records before it");
            }
            done.push((entry.job, entry.then.done()));
        }
        done
    }
}
