//! Where each key group goes on from in the next attempt: a total function of what is known.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckpointId, Epoch, TaskManagerId};
use crate::control_log::{Era, RetainedCheckpoint};
use crate::cut::Cut;
use crate::ids::{KeyGroupId, TargetId};
use crate::ledger::Mark;
use crate::message::{Copy, Restore, Snapshot};
use crate::mistake::Mistake;
use crate::placement::Plan;

/// What takeovers found below the state's own *p*, by target, until an attempt has taken over everything.
pub(super) type Readings = BTreeMap<(String, KeyGroupId), Mark>;

/// Copies that TaskManagers reported in `Prepared`.
pub(super) type Prepared = BTreeMap<TaskManagerId, BTreeMap<KeyGroupId, Copy>>;

pub(super) struct Facts<'a> {
    /// The plan to be deployed.
    pub(super) plan: &'a Plan,
    /// The plan that was logged before it.
    pub(super) before: Option<&'a Plan>,
    /// The one definition of the attempt.
    pub(super) era: Era<'a>,
    pub(super) cuts: &'a BTreeMap<Epoch, Cut>,
    /// Oldest first.
    pub(super) checkpoints: &'a [RetainedCheckpoint],
    /// Checkpoints with a file that could not be restored.
    pub(super) bad: &'a BTreeSet<CheckpointId>,
    pub(super) readings: &'a Readings,
    pub(super) copies: &'a Prepared,
    pub(super) mistake: Mistake,
}

#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    Resume(Recovery),
    /// Nothing that is left goes back far enough. Says what a person has to know.
    Lost {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Recovery {
    pub(super) resume: BTreeMap<KeyGroupId, Epoch>,
    pub(super) origins: BTreeMap<KeyGroupId, Origin>,
}

/// Where the state of one key group comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Origin {
    /// Its TaskManager holds it.
    Kept(Copy),
    Restored(CheckpointId, Snapshot),
    /// It begins with Cut(0).
    Fresh,
}

impl Origin {
    pub(super) fn epoch(&self) -> Epoch {
        match self {
            Self::Kept(copy) => copy.epoch,
            Self::Restored(_, snapshot) => snapshot.epoch,
            Self::Fresh => Epoch::ZERO,
        }
    }

    /// *p* of a target in this state.
    pub(super) fn mark(&self, target: TargetId) -> Mark {
        let marks = match self {
            Self::Kept(copy) => &copy.marks,
            Self::Restored(_, snapshot) => &snapshot.marks,
            Self::Fresh => return Mark::NOTHING,
        };
        marks.get(&target).copied().unwrap_or(Mark::NOTHING)
    }

    pub(super) fn restore(&self) -> Restore {
        match self {
            Self::Kept(_) => Restore::Copy,
            Self::Restored(_, snapshot) => Restore::Snapshot(snapshot.clone()),
            Self::Fresh => Restore::Fresh,
        }
    }
}

pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let mut origins = BTreeMap::new();
    for (key_group, owner) in &facts.plan.key_groups {
        match facts.origin(*key_group, *owner) {
            Some(origin) => origins.insert(*key_group, origin),
            None => return facts.lost(*key_group),
        };
    }
    let alone = |origins: BTreeMap<KeyGroupId, Origin>| {
        let resume = origins.iter().map(|(key_group, origin)| (*key_group, facts.resume(*key_group, origin))).collect();
        Decision::Resume(Recovery { resume, origins })
    };
    if facts.era.definition.stages <= 1 {
        return alone(origins);
    }
    // A stage feeds the next one, so all must begin with the same epoch.
    let common = origins.values().map(Origin::epoch).min().unwrap_or_default();
    if origins.values().all(|origin| matches!(origin, Origin::Kept(_))) && facts.cuts.contains_key(&common) {
        let resume = origins.keys().map(|key_group| (*key_group, common)).collect();
        return Decision::Resume(Recovery { resume, origins });
    }
    match facts.together() {
        Some(origins) => alone(origins),
        None => facts.lost(origins.keys().next().copied().unwrap_or_default()),
    }
}

impl Facts<'_> {
    /// A copy where the plan before had the key group on this host and the copy is not older than what the newest
    /// usable checkpoint holds; else that checkpoint; else the beginning, while its cuts are there.
    fn origin(&self, key_group: KeyGroupId, owner: TaskManagerId) -> Option<Origin> {
        let restored = self.checkpoints.iter().rev().find_map(|checkpoint| self.restored(checkpoint, key_group));
        let floor = restored.as_ref().map(Origin::epoch).unwrap_or_default();
        let stayed = self.before.is_some_and(|plan| plan.key_groups.get(&key_group) == Some(&owner));
        let trusted = self.mistake == Mistake::StaleCopy && !stayed;
        let copy = self.copies.get(&owner).and_then(|copies| copies.get(&key_group)).filter(|_| stayed || trusted);
        let current = |copy: &Copy| if trusted { self.newest_copy().max(copy.epoch) } else { copy.epoch };
        let kept = copy.map(|copy| Origin::Kept(Copy { epoch: current(copy), ..copy.clone() }));
        kept.filter(|kept| kept.epoch() >= floor && self.fits(kept, key_group)).or(restored).or_else(|| {
            let fresh = Origin::Fresh;
            self.fits(&fresh, key_group).then_some(fresh)
        })
    }

    /// State and output up to this epoch exist: exactly what the origin holds.
    fn resume(&self, key_group: KeyGroupId, origin: &Origin) -> Epoch {
        match (origin, self.mistake) {
            (Origin::Restored(..), Mistake::KeptResume) => {
                let copies = self.copies.values().filter_map(|copies| copies.get(&key_group));
                copies.map(|copy| copy.epoch).max().unwrap_or_default().max(origin.epoch())
            }
            _ => origin.epoch(),
        }
    }

    fn newest_copy(&self) -> Epoch {
        self.copies.values().flat_map(BTreeMap::values).map(|copy| copy.epoch).max().unwrap_or_default()
    }

    /// The newest checkpoint that all key groups can be restored from, else the beginning.
    fn together(&self) -> Option<BTreeMap<KeyGroupId, Origin>> {
        let all = |checkpoint: &RetainedCheckpoint| -> Option<BTreeMap<KeyGroupId, Origin>> {
            let keys = self.plan.key_groups.keys();
            keys.map(|key_group| Some((*key_group, self.restored(checkpoint, *key_group)?))).collect()
        };
        self.checkpoints.iter().rev().find_map(all).or_else(|| {
            let fresh: BTreeMap<_, _> = self.plan.key_groups.keys().map(|id| (*id, Origin::Fresh)).collect();
            fresh.iter().all(|(id, origin)| self.fits(origin, *id)).then_some(fresh)
        })
    }

    fn restored(&self, checkpoint: &RetainedCheckpoint, key_group: KeyGroupId) -> Option<Origin> {
        let manifest = &checkpoint.manifest;
        if self.bad.contains(&manifest.checkpoint) {
            return None;
        }
        let snapshot = manifest.snapshots.get(&key_group)?;
        Some(Origin::Restored(manifest.checkpoint, snapshot.clone())).filter(|origin| self.fits(origin, key_group))
    }

    /// It is state of this definition, the replay can start there, and the targets are not behind it.
    fn fits(&self, origin: &Origin, key_group: KeyGroupId) -> bool {
        let mark = |target: &str| self.era.target(target).map_or(Mark::NOTHING, |target| origin.mark(target));
        let behind = |((target, of), reading): (&(String, KeyGroupId), &Mark)| {
            *of == key_group && mark(target).epoch > reading.epoch
        };
        self.era.has(origin.epoch()) && self.cuts.contains_key(&origin.epoch()) && !self.readings.iter().any(behind)
    }

    fn lost(&self, key_group: KeyGroupId) -> Decision {
        let mut before = String::new();
        if let Some((_, oldest)) = self.cuts.first_key_value() {
            for (split, cut) in &oldest.splits {
                before.push_str(&format!(" split {split} before {},", cut.end));
            }
        }
        let why = match self.readings.iter().find(|((_, of), _)| *of == key_group) {
            Some(((target, _), mark)) => {
                format!("target {target} went back to epoch {}, before every checkpoint that is left", mark.epoch)
            }
            None => "no checkpoint that is left can be restored".to_owned(),
        };
        let reason = format!(
            "key group {key_group}: {why}; rows of records that can no longer be replayed may be missing:{}",
            before.trim_end_matches(',')
        );
        Decision::Lost { reason }
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
