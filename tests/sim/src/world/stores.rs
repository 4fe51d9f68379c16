//! The store's thread: executes the worker's orders one after another and answers.

use std::collections::{BTreeMap, BTreeSet};

use pulso_core::ids::{Attempt, KeyGroupId};
use pulso_core::message::{Barrier, Restore};
use pulso_core::worker::{Command, Event};

use super::{JOB, World};
use crate::action::{Payload, WorkerCommand};
use crate::coverage::Sight;
use crate::dedup::{At, Row, SECOND};
use crate::mistakes::Mistake;
use crate::store::Work;

impl World {
    pub(crate) fn store(&mut self, tm: usize, command: WorkerCommand) {
        match command {
            Command::TakeBack { attempt, key_groups, .. } => {
                if !self.mistakes.has(Mistake::NoPrepare) {
                    self.tms[tm].store.take_back(&key_groups);
                }
                self.tell(tm, Event::TookBack { job: JOB, attempt });
            }
            Command::Restore { attempt, key_group, restore, .. } => self.restore(tm, attempt, key_group, &restore),
            Command::Drop { key_groups, .. } => self.tms[tm].store.drop_groups(&key_groups),
            Command::Process { .. } => self.process(tm, command),
            Command::Settle { upto, .. } => {
                // Memory pressure comes when it comes.
                if self.chance.per_mille(150) {
                    let ahead = self.mistakes.has(Mistake::FlushAhead);
                    let upto = if ahead { self.tms[tm].store.newest().max(upto) } else { upto };
                    let compact = self.chance.per_mille(300);
                    self.tms[tm].store.flush(upto, compact);
                }
            }
            Command::Snapshot { .. } => self.snapshot(tm, command),
            Command::CheckpointDone { checkpoint, .. } => self.tms[tm].store.checkpoint_done(checkpoint),
            Command::Report(_)
            | Command::StartSource { .. }
            | Command::StopSource { .. }
            | Command::CloseEpoch { .. }
            | Command::AddFiles { .. }
            | Command::Committed { .. }
            | Command::OpenLinks { .. }
            | Command::CloseLinks { .. }
            | Command::TakeOver { .. }
            | Command::Register { .. }
            | Command::ReadLedger { .. }
            | Command::Transact { .. }
            | Command::Disconnect { .. } => {}
        }
    }

    fn restore(&mut self, tm: usize, attempt: Attempt, key_group: KeyGroupId, restore: &Restore) {
        match restore {
            Restore::Fresh => {}
            Restore::Copy => self.sight(Sight::Copied),
            Restore::Snapshot(_) => self.sight(Sight::Restore),
        }
        match self.tms[tm].store.restore(key_group, restore, &self.objects) {
            Ok(()) => self.tell(tm, Event::Restored { job: JOB, attempt, key_group }),
            Err((reason, retry)) => {
                if !retry {
                    self.sight(Sight::BadSnapshot);
                }
                self.tell(tm, Event::RestoreFailed { job: JOB, attempt, key_group, reason, retry });
            }
        }
    }

    fn process(&mut self, tm: usize, command: WorkerCommand) {
        let Command::Process { attempt, stage, epoch, watermark, payloads, skip, mut muted, .. } = command else {
            return;
        };
        if self.mistakes.has(Mistake::OneMuteLevel) {
            let all: BTreeSet<KeyGroupId> = muted.values().flatten().copied().collect();
            muted = self.databases.keys().map(|t| (*t, all.clone())).collect();
        }
        let rows: Vec<_> = payloads.iter().flat_map(|p| p.iter().cloned()).collect();
        let mutes = |k: &KeyGroupId| !skip.contains(k) && muted.values().any(|m| m.contains(k));
        if rows.iter().any(|r| mutes(&r.key_group)) {
            self.sight(Sight::MutedReplay);
        }
        let targets = self.tms[tm].targets;
        let onward = (stage != SECOND && self.scenario.stages > 1).then_some(self.scenario.key_groups);
        let since = self.tms[tm].definition.map(|(since, _)| since).unwrap_or_default();
        let at = At { epoch, since, watermark };
        let work = Work { at, rows, skip: &skip, muted: &muted, targets, onward };
        match self.tms[tm].store.process(work) {
            Ok((processed, rows)) => {
                if onward.is_some() {
                    self.send_onward(tm, attempt, Barrier { epoch, watermark }, rows);
                }
                if processed.counters.values().any(|c| c.corrections > 0) {
                    self.sight(Sight::Correction);
                }
                self.tell(tm, Event::Processed { job: JOB, attempt, stage, epoch, processed });
            }
            Err(reason) => self.tell(tm, Event::ProcessingFailed { job: JOB, attempt, reason }),
        }
    }

    /// Rows and barrier of the first stage to the hosts of the second.
    fn send_onward(&mut self, tm: usize, attempt: Attempt, barrier: Barrier, rows: Vec<Row>) {
        let (from, epoch) = (self.tms[tm].id, barrier.epoch);
        let mut parts: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
        for row in rows {
            if let Some(to) = self.tms[tm].hosts.get(&row.key_group) {
                parts.entry(*to).or_default().push(row);
            }
        }
        for (to, rows) in parts {
            let payload = Payload::new(rows);
            self.over_link(tm, to, Event::Arrived { job: JOB, attempt, stage: SECOND, from, epoch, payload });
        }
        let links: Vec<usize> = self.tms[tm].links.keys().copied().collect();
        for to in links {
            self.over_link(tm, to, Event::BarrierArrived { job: JOB, attempt, stage: SECOND, from, barrier });
        }
    }

    fn snapshot(&mut self, tm: usize, command: WorkerCommand) {
        let Command::Snapshot { attempt, checkpoint, epoch, key_groups, .. } = command else { return };
        for (key_group, part) in key_groups {
            let number = self.number();
            let unique = format!("{attempt}-{}-{number}", self.tms[tm].id);
            let failed = !self.storage_up || self.rough && self.chance.per_mille(15);
            let stored = if failed {
                Err("checkpoint storage: connection refused".to_owned())
            } else {
                let (store, objects) = (&mut self.tms[tm].store, &mut self.objects);
                store.snapshot(key_group, (checkpoint, epoch), part, &unique, objects)
            };
            match stored {
                Ok(snapshot) => {
                    self.tell(tm, Event::SnapshotStored { job: JOB, attempt, checkpoint, key_group, snapshot });
                }
                Err(reason) => {
                    self.tell(tm, Event::SnapshotFailed { job: JOB, attempt, checkpoint, reason });
                    return;
                }
            }
        }
    }
}
