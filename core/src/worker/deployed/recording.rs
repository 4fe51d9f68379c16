//! What is sealed and processed: histories, queues, what counts as committed, what may be flushed or checkpointed.

use std::collections::BTreeMap;

use super::{Deployed, Phase};
use crate::cut::CutHash;
use crate::ids::{CheckpointId, Epoch, KeyGroupId};
use crate::ledger::Mark;
use crate::message::{Counters, Report};
use crate::mistake::Mistake;
use crate::worker::checkpoint::Checkpoint;
use crate::worker::history::{Change, History};
use crate::worker::writer::{Queued, Writer};
use crate::worker::{Command, Context, Processed};

impl<P, O: Clone> Deployed<P, O> {
    /// Every epoch up to here is processed, sealed and committed in every target.
    pub(super) fn committed(&self) -> Epoch {
        let oldest = self.writers.values().filter_map(Writer::oldest).min();
        oldest.map_or(self.recorded, |epoch| self.recorded.min(Epoch(epoch.0 - 1)))
    }

    /// What one key group has committed in every target: never less than where it resumed.
    pub(super) fn committed_of(&self, id: &KeyGroupId) -> Epoch {
        self.resume.get(id).copied().unwrap_or_default().max(self.committed())
    }

    /// Moves epochs that are both sealed and processed, in order, into the histories and the writers' queues.
    pub(super) fn record(&mut self) {
        loop {
            let epoch = self.recorded.next();
            let stages = self.unsealed.get(&epoch).map_or(0, BTreeMap::len);
            if stages < self.gathers.len() {
                return;
            }
            let Some(hash) = self.hashes.remove(&epoch) else { return };
            for processed in self.unsealed.remove(&epoch).unwrap_or_default().into_values() {
                self.record_stage(epoch, hash, processed);
            }
            self.recorded = epoch;
        }
    }

    fn record_stage(&mut self, epoch: Epoch, hash: CutHash, processed: Processed<O>) {
        let mut changes: BTreeMap<KeyGroupId, Change> = BTreeMap::new();
        for (id, counters) in processed.counters {
            changes.entry(id).or_default().counters = counters;
        }
        let written = processed.outputs.iter().map(|(target, output)| (target, &output.key_groups));
        for (target, key_groups) in written.chain(&processed.muted) {
            for id in key_groups {
                changes.entry(*id).or_default().marks.insert(*target, Mark { epoch, hash });
            }
        }
        for (id, change) in changes {
            // What a key group resumed with is in its history already.
            let lacks_it = self.resume.get(&id).is_some_and(|resume| *resume < epoch);
            if let Some(history) = self.histories.get_mut(&id).filter(|_| lacks_it) {
                history.record(epoch, change);
            }
        }
        for (target, output) in processed.outputs {
            if let Some(writer) = self.writers.get_mut(&target).filter(|_| !output.key_groups.is_empty()) {
                writer.push(Queued { epoch, hash, output });
            }
        }
    }

    pub(super) fn tell_committed(&mut self, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        let epoch = self.committed();
        if self.told.is_some_and(|told| told >= epoch) {
            return;
        }
        self.told = Some(epoch);
        let mut counters = Counters::default();
        for (id, history) in &self.histories {
            counters.add(&history.counters_at(self.committed_of(id)));
        }
        let (job, attempt) = (context.job, context.attempt);
        out.push(Command::Report(Report::Committed { job, attempt, epoch, counters }));
    }

    /// Never past *g*: what is not committed everywhere has to stay in memory, so that it can be taken back.
    pub(super) fn settle(&mut self, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        let upto = self.everywhere.min(self.committed());
        if upto <= self.settled || self.histories.is_empty() {
            return;
        }
        self.settled = upto;
        self.histories.values_mut().for_each(|history| history.settle(upto));
        out.push(Command::Settle { job: context.job, attempt: context.attempt, upto });
    }

    /// Takes a checkpoint of exactly `epoch`, or says why that cannot be.
    pub(in crate::worker) fn take_checkpoint(
        &mut self,
        checkpoint: CheckpointId,
        epoch: Epoch,
        context: &Context<'_>,
        out: &mut Vec<Command<P, O>>,
    ) {
        let (job, attempt) = (context.job, context.attempt);
        if self.histories.is_empty() || self.checkpoint.id().is_some_and(|under_way| under_way >= checkpoint) {
            return;
        }
        if let Some(reason) = self.cannot_checkpoint(epoch, context) {
            out.push(Command::Report(Report::CheckpointFailed { job, attempt, checkpoint, reason }));
            return;
        }
        let targets = self.targets();
        let part = |(id, history): (&KeyGroupId, &History)| {
            (*id, (history.marks_at(epoch, &targets), history.counters_at(epoch)))
        };
        let key_groups = self.histories.iter().map(part).collect();
        self.checkpoint = Checkpoint::begin(checkpoint, self.histories.keys().copied().collect());
        out.push(Command::Snapshot { job, attempt, checkpoint, epoch, key_groups });
    }

    /// Only what is committed in every target may be in a checkpoint, and a flush cannot be undone.
    fn cannot_checkpoint(&self, epoch: Epoch, context: &Context<'_>) -> Option<String> {
        let ahead = context.settings.mistake == Mistake::UncommittedCheckpoint;
        if matches!(self.phase, Phase::Starting { .. }) || (epoch > self.committed() && !ahead) {
            return Some(format!("epoch {epoch} is not committed here yet"));
        }
        let beyond = self.histories.iter().find(|(_, history)| history.base() > epoch);
        beyond.map(|(id, h)| format!("key group {id} is settled up to epoch {} already, beyond {epoch}", h.base()))
    }
}
