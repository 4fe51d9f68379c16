//! One attempt of a job on this TaskManager, from Deploy on.

mod recording;

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::Checkpoint;
use super::gather::Gather;
use super::history::History;
use super::job::{Frozen, Histories};
use super::writer::Writer;
use super::{Command, Context, Event, Processed, Stop};
use crate::cut::CutHash;
use crate::ids::{Attempt, Epoch, KeyGroupId, Stage, TargetId};
use crate::ledger::Mark;
use crate::message::{Copy, Deployment, Failure, Report, Restore, Seal};
use crate::mistake::Mistake;

#[derive(Debug, Clone)]
pub(super) struct Deployed<P, O> {
    phase: Phase,
    /// Nothing was ever committed, so ledger rows may be made.
    is_first: bool,
    pub(super) has_source: bool,
    /// Hosted key groups: the epoch up to which their state and output exist.
    resume: BTreeMap<KeyGroupId, Epoch>,
    histories: BTreeMap<KeyGroupId, History>,
    /// Hosted stages.
    gathers: BTreeMap<Stage, Gather<P>>,
    /// What was processed and is not sealed, or waits for another stage of its epoch.
    unsealed: BTreeMap<Epoch, BTreeMap<Stage, Processed<O>>>,
    /// Cut hashes of sealed epochs after `recorded`.
    hashes: BTreeMap<Epoch, CutHash>,
    /// Those of another definition, which no epoch of this attempt is: targets may have them.
    beyond: BTreeMap<Epoch, CutHash>,
    /// Every epoch up to here is sealed and processed: its rows are committed or queued.
    recorded: Epoch,
    writers: BTreeMap<TargetId, Writer<O>>,
    /// *g*
    everywhere: Epoch,
    settled: Epoch,
    /// What the JobManager was told to be committed here.
    told: Option<Epoch>,
    checkpoint: Checkpoint,
    /// The JobManager was told that another attempt is needed; what is sealed is worked off all the same.
    complained: bool,
}

#[derive(Debug, Clone)]
enum Phase {
    /// Nothing is processed before all of `restoring` are restored and all targets taken over. `copies` are here
    /// whether confirmed or not.
    Starting {
        restoring: BTreeSet<KeyGroupId>,
        copies: BTreeSet<KeyGroupId>,
    },
    Running,
}

impl<P, O: Clone> Deployed<P, O> {
    /// Takes the plan on. Copies are those of `frozen`; `restore` names no other.
    pub(super) fn start(
        deployment: Box<Deployment>,
        mut frozen: Histories,
        context: &Context<'_>,
        out: &mut Vec<Command<P, O>>,
    ) -> Self {
        let (job, attempt) = (context.job, context.attempt);
        let count = u16::try_from(deployment.definition.targets.len()).unwrap_or(u16::MAX);
        let targets: BTreeSet<TargetId> = (0..count).map(TargetId).collect();
        let mut histories = BTreeMap::new();
        let mut resume = BTreeMap::new();
        let copies = frozen.keys().copied().collect();
        for (id, restore) in &deployment.restore {
            let epoch = deployment.resume.get(id).copied().unwrap_or(deployment.start.epoch);
            let history = match restore {
                Restore::Fresh => History::fresh(epoch),
                Restore::Snapshot(snapshot) => History::restored(snapshot),
                Restore::Copy => frozen.remove(id).map_or_else(|| History::fresh(epoch), |copy| copy.history),
            };
            resume.insert(*id, epoch);
            histories.insert(*id, history);
            out.push(Command::Restore { job, attempt, key_group: *id, restore: restore.clone() });
        }
        let stages: BTreeSet<Stage> = resume.keys().map(|id| id.stage).collect();
        let (start, newest) = (deployment.start.epoch, deployment.sealed());
        let beyond = |(epoch, _): &(Epoch, CutHash)| *epoch > newest;
        let mut deployed = Self {
            phase: Phase::Starting { restoring: resume.keys().copied().collect(), copies },
            is_first: deployment.is_first(),
            has_source: deployment.plan.splits.values().any(|owner| *owner == context.me),
            gathers: stages.into_iter().map(|stage| (stage, Gather::new(stage, &deployment.plan, start))).collect(),
            unsealed: BTreeMap::new(),
            hashes: deployment.replayed().map(|cut| (cut.epoch, cut.hash())).collect(),
            beyond: deployment.replay.iter().map(|cut| (cut.epoch, cut.hash())).filter(beyond).collect(),
            recorded: start,
            writers: BTreeMap::new(),
            everywhere: deployment.committed,
            settled: start,
            told: None,
            checkpoint: Checkpoint::None,
            complained: false,
            resume,
            histories,
        };
        if !deployed.resume.is_empty() {
            for target in targets {
                let mut writer = Writer::new(target, deployed.marks_at_resume(target));
                writer.set_last(deployment.newest().last);
                writer.take_over(deployed.is_first, context, out);
                deployed.writers.insert(target, writer);
            }
        }
        out.push(Command::OpenLinks { job, attempt, deployment: deployment.clone() });
        if deployed.has_source {
            out.push(Command::StartSource { deployment });
        }
        deployed
    }

    /// *p* of each hosted key group in one target: from its state, never from the ledger.
    fn marks_at_resume(&self, target: TargetId) -> BTreeMap<KeyGroupId, Mark> {
        let one = BTreeSet::from([target]);
        let p = |id: &KeyGroupId, history: &History| {
            let epoch = self.resume.get(id).copied().unwrap_or(history.base());
            history.marks_at(epoch, &one).get(&target).copied().unwrap_or(Mark::NOTHING)
        };
        self.histories.iter().map(|(id, history)| (*id, p(id, history))).collect()
    }

    pub(super) fn targets(&self) -> BTreeSet<TargetId> {
        self.writers.keys().copied().collect()
    }

    /// Targets on whose connection something is under way.
    pub(super) fn busy_targets(&self) -> impl Iterator<Item = TargetId> + '_ {
        self.writers.iter().filter(|(_, writer)| writer.is_busy()).map(|(target, _)| *target)
    }

    /// Handles an event of this attempt.
    pub(super) fn handle(
        &mut self,
        event: Event<P, O>,
        context: &Context<'_>,
        out: &mut Vec<Command<P, O>>,
    ) -> Result<(), Stop> {
        let (job, attempt) = (context.job, context.attempt);
        match event {
            Event::SourceWaiting { epoch, full, .. } => {
                out.push(Command::Report(Report::InputWaiting { job, attempt, epoch, full }));
            }
            Event::SourceClosed { epoch, splits, .. } => {
                out.push(Command::Report(Report::CutReported { job, attempt, epoch, splits }));
            }
            Event::SourceFailed { fatal: true, reason, .. } => return Err(Stop::Failed(Failure::Fatal { reason })),
            Event::SourceFailed { fatal: false, reason, .. } => self.complain(reason, context, out),
            Event::LinkLost { peer, reason, .. } => {
                self.complain(format!("link with TaskManager {peer}: {reason}"), context, out);
            }
            Event::Arrived { stage, from, epoch, payload, .. } => {
                if let Some(gather) = self.gathers.get_mut(&stage) {
                    gather.arrived(from, epoch, payload).map_err(retry)?;
                }
            }
            Event::BarrierArrived { stage, from, barrier, .. } => {
                if let Some(gather) = self.gathers.get_mut(&stage) {
                    gather.barrier(from, barrier);
                }
            }
            Event::Restored { key_group, .. } => {
                if let Phase::Starting { restoring, .. } = &mut self.phase {
                    restoring.remove(&key_group);
                }
            }
            Event::RestoreFailed { key_group, reason, retry, .. } => {
                return Err(self.restore_failed(key_group, reason, retry));
            }
            Event::Processed { stage, epoch, processed, .. } => {
                if self.gathers.get_mut(&stage).is_some_and(|gather| gather.processed(epoch)) {
                    self.unsealed.entry(epoch).or_default().insert(stage, processed);
                }
            }
            Event::ProcessingFailed { reason, .. } => {
                // State that cannot be read or written here is no copy: the next attempt restores it.
                self.histories.clear();
                return Err(retry(reason));
            }
            Event::SnapshotStored { checkpoint, key_group, snapshot, .. } => {
                let targets = self.targets();
                if self.checkpoint.stored(checkpoint, key_group, snapshot, targets) {
                    self.writers.values_mut().for_each(|writer| writer.confirm(checkpoint));
                }
            }
            Event::SnapshotFailed { checkpoint, reason, .. } => {
                if self.checkpoint.give_up(checkpoint) {
                    out.push(Command::Report(Report::CheckpointFailed { job, attempt, checkpoint, reason }));
                }
            }
            Event::TakenOver { .. }
            | Event::LedgerRead { .. }
            | Event::Transacted { .. }
            | Event::ConnectionLost { .. }
            | Event::TargetRefused { .. }
            | Event::TargetFailed { .. } => self.of_target(event, context, out)?,
            Event::Tick | Event::Instructed(_) | Event::TookBack { .. } => {}
        }
        Ok(())
    }

    fn of_target(
        &mut self,
        event: Event<P, O>,
        context: &Context<'_>,
        out: &mut Vec<Command<P, O>>,
    ) -> Result<(), Stop> {
        let (job, attempt) = (context.job, context.attempt);
        let Some((target, writer)) = event.target().and_then(|t| Some((t, self.writers.get_mut(&t)?))) else {
            return Ok(());
        };
        if let Event::TakenOver { connection, rows, .. } = event {
            let (resume, hashes, beyond) = (&self.resume, &self.hashes, &self.beyond);
            let replayed = |id: KeyGroupId, epoch: Epoch| {
                hashes
                    .get(&epoch)
                    .or_else(|| beyond.get(&epoch))
                    .copied()
                    .filter(|_| resume.get(&id).is_some_and(|resume| epoch > *resume))
            };
            if let Some(verdict) = writer.taken_over(connection, &rows, replayed, context)? {
                out.push(Command::Report(Report::TakenOver { job, attempt, target, verdict }));
            }
        } else if let Event::LedgerRead { connection, rows, .. } = event {
            if let Some(checkpoint) = writer.ledger_read(connection, &rows, context)? {
                self.checkpoint.confirmed(checkpoint, target);
            }
        } else if let Event::Transacted { outcome, .. } = event {
            writer.transacted(outcome, context)?;
        } else if let Event::ConnectionLost { reason, .. } = event {
            writer.connection_lost(reason, context);
        } else if let Event::TargetRefused { reason, .. } = event {
            writer.refused(reason, context);
        } else if let Event::TargetFailed { reason, .. } = event {
            return Err(Stop::Failed(Failure::Fatal { reason }));
        }
        Ok(())
    }

    /// The cut of `seal.epoch` is durable.
    pub(super) fn sealed(&mut self, seal: &Seal, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        self.writers.values_mut().for_each(|writer| writer.set_last(seal.last));
        if seal.epoch > self.recorded {
            self.hashes.insert(seal.epoch, seal.hash);
        }
        self.progressed(seal.committed, context, out);
    }

    /// *g* moved.
    pub(super) fn progressed(&mut self, committed: Epoch, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        if committed > self.everywhere {
            self.everywhere = committed;
            if self.has_source {
                out.push(Command::Committed { job: context.job, attempt: context.attempt, committed });
            }
        }
    }

    /// Goes on with whatever became possible.
    pub(super) fn advance(
        &mut self,
        processing: &mut Option<Attempt>,
        context: &Context<'_>,
        out: &mut Vec<Command<P, O>>,
    ) -> Result<(), Stop> {
        self.become_ready(context, out);
        if matches!(self.phase, Phase::Running) {
            self.process(processing, context, out)?;
            self.record();
        }
        for writer in self.writers.values_mut() {
            writer.advance(self.is_first, context, out);
        }
        if matches!(self.phase, Phase::Running) {
            self.tell_committed(context, out);
            self.settle(context, out);
        }
        if let Some((checkpoint, snapshots)) = self.checkpoint.finish() {
            let (job, attempt) = (context.job, context.attempt);
            out.extend(snapshots.into_iter().map(|(key_group, snapshot)| {
                Command::Report(Report::SnapshotTaken { job, attempt, checkpoint, key_group, snapshot })
            }));
        }
        Ok(())
    }

    fn become_ready(&mut self, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        let Phase::Starting { restoring, .. } = &self.phase else { return };
        let early = context.settings.mistake == Mistake::EarlyProcessing;
        if restoring.is_empty() && (early || self.writers.values().all(Writer::is_taken_over)) {
            self.phase = Phase::Running;
            out.push(Command::Report(Report::Ready { job: context.job, attempt: context.attempt }));
        }
    }

    /// One epoch at a time; the store is one.
    fn process(
        &mut self,
        processing: &mut Option<Attempt>,
        context: &Context<'_>,
        out: &mut Vec<Command<P, O>>,
    ) -> Result<(), Stop> {
        let (job, attempt) = (context.job, context.attempt);
        for (stage, gather) in &mut self.gathers {
            if processing.is_some() {
                break;
            }
            let Some(complete) = gather.complete().map_err(retry)? else { continue };
            let (stage, epoch) = (*stage, complete.epoch);
            let has_it = |(id, resume): &(&KeyGroupId, &Epoch)| id.stage == stage && **resume >= epoch;
            let skip = self.resume.iter().filter(has_it).map(|(id, _)| *id).collect();
            let muted = self.writers.iter().map(|(target, writer)| (*target, writer.muted(stage, epoch)));
            let muted = muted.filter(|(_, key_groups)| !key_groups.is_empty()).collect();
            *processing = Some(attempt);
            let (watermark, payloads) = (complete.watermark, complete.payloads);
            out.push(Command::Process { job, attempt, stage, epoch, watermark, payloads, skip, muted });
        }
        Ok(())
    }

    /// Another attempt is needed; said once. What is sealed here can still be committed meanwhile.
    fn complain(&mut self, reason: String, context: &Context<'_>, out: &mut Vec<Command<P, O>>) {
        if !self.complained {
            self.complained = true;
            let (job, attempt) = (context.job, context.attempt);
            out.push(Command::Report(Report::Failed { job, attempt, failure: Failure::Retry { reason } }));
        }
    }

    /// What cannot be restored is no copy either.
    fn restore_failed(&mut self, key_group: KeyGroupId, reason: String, may_retry: bool) -> Stop {
        self.histories.remove(&key_group);
        if may_retry {
            return retry(format!("key group {key_group}: {reason}"));
        }
        let epoch = self.resume.get(&key_group).copied().unwrap_or_default();
        Stop::Failed(Failure::BadSnapshot { key_group, epoch, reason })
    }

    /// Ends the attempt: every key group as of the last epoch known to be committed in every target. What is not
    /// restored yet is no copy.
    pub(super) fn freeze(mut self) -> Histories {
        if let Phase::Starting { restoring, copies } = &self.phase {
            self.histories.retain(|id, _| copies.contains(id) || !restoring.contains(id));
        }
        let targets = self.targets();
        let histories = std::mem::take(&mut self.histories);
        let freeze = |(id, mut history): (KeyGroupId, History)| {
            let epoch = self.committed_of(&id);
            history.take_back(epoch);
            let marks = history.marks_at(epoch, &targets);
            (id, Frozen { copy: Copy { epoch, marks }, history })
        };
        histories.into_iter().map(freeze).collect()
    }

    pub(super) fn key_groups(&self) -> BTreeSet<KeyGroupId> {
        self.resume.keys().copied().collect()
    }

    pub(super) fn view(&self) -> super::DeployedView {
        super::DeployedView {
            ready: matches!(self.phase, Phase::Running),
            key_groups: self.resume.keys().map(|id| (*id, self.committed_of(id))).collect(),
            gathering: self.gathers.values().map(Gather::epochs).sum(),
            unsealed: self.unsealed.len(),
            recorded: self.recorded,
            committed: self.committed(),
            everywhere: self.everywhere,
            checkpoint: self.checkpoint.id(),
            writers: self.writers.values().map(Writer::view).collect(),
        }
    }
}

fn retry(reason: String) -> Stop {
    Stop::Failed(Failure::Retry { reason })
}
