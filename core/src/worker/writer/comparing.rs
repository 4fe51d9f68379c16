//! What the ledger's rows say about the writer's own commits.

use std::collections::BTreeMap;

use super::{Queued, Rows, Writer};
use crate::ids::{Attempt, Epoch, KeyGroupId};
use crate::ledger::{self, Mark, Survey};
use crate::message::Failure;
use crate::mistake::Mistake;
use crate::worker::{Context, Stop};

impl<O: Clone> Writer<O> {
    /// Looks at the rows and takes what came through out of the queue.
    pub(super) fn compare(&mut self, rows: &Rows, context: &Context<'_>) -> Result<(), Stop> {
        let raised = self.look(rows, context)?;
        self.trim(raised, context)
    }

    /// Compares the rows of all hosted key groups with *p*. Returns those that an own transaction has moved on, whose
    /// answer was lost: epochs of the queue, of this attempt.
    pub(super) fn look(&self, rows: &Rows, context: &Context<'_>) -> Result<BTreeMap<KeyGroupId, Mark>, Stop> {
        let queued = |key_group: KeyGroupId, epoch: Epoch| {
            let of = |q: &&Queued<O>| q.epoch == epoch && q.output.key_groups.contains(&key_group);
            self.queue.iter().find(of).map(|q| q.hash)
        };
        let target = self.target;
        match ledger::survey(rows, context.attempt, &self.marks, queued) {
            Survey::Consistent { raised }
                if !raised.is_empty() && context.settings.mistake == Mistake::OwnCommitFences =>
            {
                Err(self.fenced(context.attempt))
            }
            Survey::Consistent { raised } => Ok(raised),
            Survey::Fenced { by } => Err(self.fenced(by)),
            Survey::Behind { readings } => Err(Stop::Failed(Failure::WentBack { target, readings })),
            Survey::Ahead { key_group, found } => {
                let reason = format!(
                    "the sink is ahead of this control log: in target {target} the ledger of key group {key_group} \
                     is at epoch {}, which this job has not written",
                    found.epoch
                );
                Err(Stop::Failed(Failure::Fatal { reason }))
            }
        }
    }

    /// An own COMMIT came through: its epochs leave the queue, all of them or none.
    pub(super) fn trim(&mut self, raised: BTreeMap<KeyGroupId, Mark>, context: &Context<'_>) -> Result<(), Stop> {
        let Some(upto) = raised.values().map(|mark| mark.epoch).max() else { return Ok(()) };
        self.marks.extend(raised);
        if context.settings.mistake == Mistake::NoTrim {
            return Ok(());
        }
        let through = self.queue.iter().take_while(|queued| queued.epoch <= upto);
        for queued in through.clone() {
            let is_in = |id| self.marks.get(id).is_some_and(|mark| mark.epoch >= queued.epoch);
            if let Some(missing) = queued.output.key_groups.iter().find(|id| !is_in(id)) {
                let (target, epoch) = (self.target, queued.epoch);
                let reason = format!("target {target} committed epoch {epoch} without key group {missing}");
                return Err(Stop::Failed(Failure::Fatal { reason }));
            }
        }
        let items = through.count();
        self.queue.drain(..items);
        self.recovered();
        Ok(())
    }

    pub(super) fn fenced(&self, by: Attempt) -> Stop {
        Stop::Fenced { reason: format!("attempt {by} has taken over the ledger of target {}", self.target) }
    }
}
