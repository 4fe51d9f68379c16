//! Epochs of one attempt: when to cut, what is reported, what is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cutting::{Cutting, WentBackwards};
use super::{Epoch, Instant, Now, Settings, SplitId, TaskManagerId, WallTime};
use crate::control_log::JobState;
use crate::cut::Cut;
use crate::ids::KeyGroupId;
use crate::message::{Counters, Opening, SplitReport, source_task_managers};
use crate::placement::Plan;

#[derive(Debug)]
pub(super) struct Epochs {
    /// TaskManagers that report cuts.
    sources: BTreeSet<TaskManagerId>,
    /// TaskManagers with key groups, and what they have committed.
    hosts: BTreeMap<TaskManagerId, Epoch>,
    counters: BTreeMap<TaskManagerId, Counters>,
    step: Step,
    /// Epochs that have input and are not cut, and whether a source says that it is full.
    waiting: BTreeMap<Epoch, bool>,
    /// When a split last brought a record.
    active: BTreeMap<SplitId, Instant>,
    /// Since when the window lets no epoch open; sources may be standing still, so nothing counts as idle meanwhile.
    blocked: Option<Instant>,
    /// When the newest epoch was opened.
    opened_at: Instant,
    /// The newest cut moved the watermark and windows wait for the epoch under it.
    windows_wait: bool,
}

#[derive(Debug)]
enum Step {
    Gathering,
    Open {
        opening: Opening,
        last: bool,
        reports: BTreeMap<TaskManagerId, BTreeMap<SplitId, SplitReport>>,
    },
    /// The cut is on its way into the control log.
    Logging(Epoch),
}

impl Epochs {
    pub(super) fn new(plan: &Plan, resume: &BTreeMap<KeyGroupId, Epoch>, state: &JobState, now: Instant) -> Self {
        // Reports go through the replay in order, so a TaskManager stands where the least key group of all resumes.
        let start = resume.values().min().copied().unwrap_or_default();
        Self {
            sources: source_task_managers(plan),
            hosts: plan.key_groups.values().map(|owner| (*owner, start)).collect(),
            counters: BTreeMap::new(),
            step: Step::Gathering,
            waiting: BTreeMap::new(),
            active: plan.splits.keys().map(|split| (*split, now)).collect(),
            blocked: None,
            opened_at: now,
            windows_wait: windows_wait(state),
        }
    }

    /// *g*: the last epoch that all key groups have committed in every target.
    pub(super) fn committed(&self, state: &JobState) -> Epoch {
        self.hosts.values().min().copied().unwrap_or(state.newest_cut().epoch)
    }

    pub(super) fn committed_by(&self, task_manager: TaskManagerId) -> Option<Epoch> {
        self.hosts.get(&task_manager).copied()
    }

    /// `None` until every TaskManager with key groups has reported in this attempt.
    pub(super) fn counters(&self) -> Option<Counters> {
        if !self.hosts.keys().all(|host| self.counters.contains_key(host)) {
            return None;
        }
        let mut sum = Counters::default();
        for counters in self.counters.values() {
            sum.add(counters);
        }
        Some(sum)
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = TaskManagerId> + '_ {
        self.sources.iter().copied()
    }

    /// The epoch between its opening and its seal.
    pub(super) fn open(&self) -> Option<Epoch> {
        match &self.step {
            Step::Gathering => None,
            Step::Open { opening, .. } => Some(opening.epoch),
            Step::Logging(epoch) => Some(*epoch),
        }
    }

    /// Sealed epochs, and those beyond what any source can have begun, are not of interest.
    pub(super) fn input_waiting(&mut self, epoch: Epoch, full: bool, sealed: Epoch) {
        if epoch > sealed && epoch.0 <= sealed.0 + 2 {
            *self.waiting.entry(epoch).or_default() |= full;
        }
    }

    /// When the next epoch may open because it is old enough.
    pub(super) fn due(&self, state: &JobState, settings: &Settings) -> Option<Instant> {
        let may_open = matches!(self.step, Step::Gathering) && self.blocked.is_none();
        let waits = self.windows_wait || self.waiting.contains_key(&state.newest_cut().epoch.next());
        (may_open && waits).then(|| self.opened_at.plus(settings.epoch_age))
    }

    pub(super) fn cut_reported(
        &mut self,
        from: TaskManagerId,
        epoch: Epoch,
        splits: BTreeMap<SplitId, SplitReport>,
        plan: &Plan,
    ) {
        if let Step::Open { opening, reports, .. } = &mut self.step
            && opening.epoch == epoch
            && self.sources.contains(&from)
        {
            let own = splits.into_iter().filter(|(split, _)| plan.splits.get(split) == Some(&from));
            reports.entry(from).or_insert_with(|| own.collect());
        }
    }

    /// True where *g* moved.
    pub(super) fn note_committed(
        &mut self,
        from: TaskManagerId,
        epoch: Epoch,
        counters: Counters,
        state: &JobState,
    ) -> bool {
        let before = self.committed(state);
        if epoch > state.newest_cut().epoch {
            return false;
        }
        let Some(host) = self.hosts.get_mut(&from) else { return false };
        *host = epoch.max(*host);
        self.counters.insert(from, counters);
        self.committed(state) > before
    }

    /// Opens the next epoch where one is due. `wanted`: something outside waits for an epoch, with input or without.
    pub(super) fn open_due(
        &mut self,
        state: &JobState,
        settings: &Settings,
        wanted: bool,
        now: Now,
    ) -> Option<Opening> {
        if !matches!(self.step, Step::Gathering) {
            return None;
        }
        let newest = state.newest_cut();
        let epoch = newest.epoch.next();
        if epoch.0 > self.committed(state).0 + settings.window || state.behind_checkpoint() >= settings.most_epochs {
            self.blocked.get_or_insert(now.instant);
            return None;
        }
        if let Some(since) = self.blocked.take() {
            let blocked = now.instant.since(since);
            self.active.values_mut().for_each(|at| *at = at.plus(blocked));
        }
        let last = state.is_draining();
        if last && is_final(state) {
            return None;
        }
        let aged = now.instant.since(self.opened_at) >= settings.epoch_age;
        let input = self.waiting.get(&epoch).is_some_and(|full| *full || aged);
        let windows = (self.windows_wait && aged) || state.end_is_not_cut();
        if !(last || input || windows || wanted || state.lookups_wait() || !self.silent(state, now.instant).is_empty())
        {
            return None;
        }
        let clock = WallTime(newest.clock.0.max(now.wall.0));
        let opening = Opening { epoch, clock, watermark: newest.watermark, lookups: state.lookups.newest_id() };
        self.step = Step::Open { opening, last, reports: BTreeMap::new() };
        self.opened_at = now.instant;
        Some(opening)
    }

    /// The cut, once every source has reported.
    pub(super) fn close(&mut self, state: &JobState, now: Instant) -> Option<Result<Cut, WentBackwards>> {
        let Step::Open { opening, last, reports } = &self.step else { return None };
        if !self.sources.iter().all(|source| reports.contains_key(source)) {
            return None;
        }
        let reports: BTreeMap<SplitId, SplitReport> = reports.values().flatten().map(|(s, r)| (*s, *r)).collect();
        for (split, _) in reports.iter().filter(|(_, report)| report.count > 0) {
            self.active.insert(*split, now);
        }
        let cutting = Cutting {
            before: state.newest_cut(),
            joined: &state.joined,
            opening: *opening,
            reports: &reports,
            silent: &self.silent(state, now),
            last: *last,
            delay: state.definition.delay,
            files: &state.files,
            has_windows: state.definition.has_windows,
        };
        let cut = cutting.cut();
        self.step = Step::Logging(opening.epoch);
        Some(cut)
    }

    /// The cut of the open epoch is durable.
    pub(super) fn sealed(&mut self, epoch: Epoch, state: &JobState) {
        self.step = Step::Gathering;
        self.waiting.retain(|waiting, _| *waiting > epoch);
        self.windows_wait = windows_wait(state);
    }

    /// Splits that are to become idle.
    fn silent(&self, state: &JobState, now: Instant) -> BTreeSet<SplitId> {
        let after = u64::try_from(state.definition.idle_after).ok().filter(|after| *after > 0);
        // Files have ends: nothing has to be guessed from silence.
        let Some(after) = after.filter(|_| !state.files.is_used()) else {
            return BTreeSet::new();
        };
        let idle = &state.newest_cut().idle;
        let silent = |(split, at): (&SplitId, &Instant)| {
            (!idle.contains(split) && now.since(*at) >= Duration::from_micros(after)).then_some(*split)
        };
        self.active.iter().filter_map(silent).collect()
    }
}

/// The job was told to stop or to change, and the cut that ends it is sealed.
pub(super) fn is_final(state: &JobState) -> bool {
    let newest = state.newest_cut();
    state.is_draining() && newest.last && newest.epoch > state.stopping_after
}

/// An epoch without input must follow, so that windows close. Where the cut before is pruned one too many follows.
fn windows_wait(state: &JobState) -> bool {
    let newest = state.newest_cut();
    let before = state.cuts.range(..newest.epoch).next_back();
    state.definition.has_windows
        && newest.epoch > Epoch::ZERO
        && (newest.epoch == state.since || before.is_none_or(|(_, before)| before.watermark < newest.watermark))
}
