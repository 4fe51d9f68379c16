//! From the wish for another attempt to its deployment. The only way a job starts, recovers, moves or is taken over.

use std::collections::{BTreeMap, BTreeSet};

use super::epochs::Epochs;
use super::job::{Context, Deployed, Job, Phase, Preparing, Running};
use super::journal::{AttemptLogged, Durable, PlanLogged, Then};
use super::recovery::{Decision, Facts, Origin, Prepared, Readings, Recovery, decide};
use super::view::AttemptView;
use super::{Epoch, SplitId, TaskManagerId};
use crate::control_log::{Era, JobState};
use crate::cut::Cut;
use crate::files::{FileNumber, FileQueue, PlacedFile};
use crate::ids::{Attempt, KeyGroupId, TargetId};
use crate::ledger::Mark;
use crate::message::{Copy, Counters, Deployment, Failure, Instruction, Verdict};
use crate::mistake::Mistake;
use crate::placement::{self, Plan};
use crate::record::Record;

/// Attempts that are shown.
const SHOWN: usize = 50;

/// Attempts that fail soon before a contradiction is taken for lasting.
const HOPELESS: u32 = 5;

impl Job {
    /// Starts the next attempt once its time has come and somebody is there.
    pub(super) fn advance_waiting(&mut self, cx: &mut Context) {
        let Phase::Waiting(waiting) = &self.phase else { return };
        let state = cx.journal.job(self.id);
        let back = |plan: &Plan| plan.members.keys().all(|member| cx.members.session(*member).is_some());
        let all_back = state.plan.as_ref().is_some_and(|(_, plan, _)| back(plan));
        let settled = waiting.settle.is_none_or(|until| all_back || cx.now.instant >= until);
        if !settled || cx.now.instant < waiting.not_before || cx.members.nobody_stays() {
            return;
        }
        let attempt = state.attempt.next();
        let reason = waiting.reason.clone();
        let view = AttemptView { attempt, reason: reason.clone(), started: cx.now.wall, ready: None };
        self.attempts.push_back(view);
        if self.attempts.len() > SHOWN {
            self.attempts.pop_front();
        }
        let record = Record::Attempt { job: self.id, attempt, reason };
        cx.journal.append(self.id, vec![record], Then::Attempt(AttemptLogged { attempt }));
        self.phase = Phase::Logging { attempt };
    }

    pub(super) fn attempt_logged(&mut self, cx: &mut Context, logged: Durable<AttemptLogged>) {
        if !matches!(self.phase, Phase::Logging { attempt } if attempt == logged.attempt) {
            return;
        }
        let asked: BTreeSet<TaskManagerId> = cx.members.ids().into_iter().collect();
        for member in &asked {
            cx.send(*member, self.prepare(&logged));
        }
        let deadline = cx.now.instant.plus(cx.settings.prepare_timeout);
        self.phase = Phase::Preparing(Preparing { logged, deadline, asked, prepared: BTreeMap::new() });
    }

    /// Only what is in the control log may freeze anybody.
    fn prepare(&self, logged: &Durable<AttemptLogged>) -> Instruction {
        Instruction::Prepare { job: self.id, attempt: logged.attempt }
    }

    /// A TaskManager has opened a session.
    pub(super) fn member_joined(&mut self, cx: &mut Context, member: TaskManagerId) {
        let attempt = cx.journal.job(self.id).attempt;
        // What it may still hold of this job is of no use any more.
        let release = Instruction::Release { job: self.id, attempt };
        match &mut self.phase {
            Phase::Waiting(_) | Phase::Logging { .. } | Phase::Changing | Phase::Ending(_) | Phase::Resuming => {}
            Phase::Preparing(preparing) => {
                preparing.asked.insert(member);
                let prepare = Instruction::Prepare { job: self.id, attempt: preparing.logged.attempt };
                cx.send(member, prepare);
            }
            Phase::Planning { .. } | Phase::Deploying(_) | Phase::Ended => cx.send(member, release),
            Phase::Running(running) => {
                running.look_at_plan = true;
                cx.send(member, release);
            }
        }
    }

    /// A session is gone, and with it whatever was said on it.
    pub(super) fn member_lost(&mut self, cx: &Context, member: TaskManagerId) {
        let part = match &mut self.phase {
            Phase::Preparing(preparing) => {
                preparing.asked.remove(&member);
                preparing.prepared.remove(&member);
                false
            }
            Phase::Planning { members, .. } => members.contains(&member),
            Phase::Deploying(deployed) => deployed.plan.members.contains_key(&member),
            Phase::Running(running) => running.deployed.plan.members.contains_key(&member),
            Phase::Waiting(_)
            | Phase::Logging { .. }
            | Phase::Changing
            | Phase::Ending(_)
            | Phase::Ended
            | Phase::Resuming => false,
        };
        if part {
            self.wait(cx, format!("TaskManager {member} was lost"), cx.now.instant);
        }
    }

    pub(super) fn prepared(&mut self, from: TaskManagerId, attempt: Attempt, copies: BTreeMap<KeyGroupId, Copy>) {
        if let Phase::Preparing(preparing) = &mut self.phase
            && preparing.logged.attempt == attempt
            && preparing.asked.contains(&from)
        {
            preparing.prepared.insert(from, copies);
        }
    }

    /// Plans once all have answered, or without those that have not in time: they are given up.
    pub(super) fn advance_preparing(&mut self, cx: &mut Context) {
        let Phase::Preparing(preparing) = &self.phase else { return };
        let missing: Vec<_> = preparing.asked.iter().filter(|m| !preparing.prepared.contains_key(m)).collect();
        if !missing.is_empty() && cx.now.instant < preparing.deadline {
            return;
        }
        for member in missing {
            if let Some(session) = cx.members.session(*member) {
                cx.expelled.push((session, format!("did not prepare attempt {} in time", preparing.logged.attempt)));
            }
        }
        let mut members = cx.members.staying();
        members.retain(|member, _| preparing.prepared.contains_key(member));
        if members.is_empty() {
            self.wait(cx, "no TaskManager was left to prepare", cx.now.instant);
            return;
        }
        let attempt = preparing.logged.attempt;
        match self.recovery(cx, &members, &preparing.prepared) {
            Err(reason) => self.fail(cx, reason),
            Ok((plan, recovery)) => {
                let (job, resume) = (self.id, recovery.resume.clone());
                let record = Record::Plan { job, attempt, plan: plan.clone(), resume };
                let logged = PlanLogged { attempt, plan, recovery };
                cx.journal.append(self.id, vec![record], Then::Plan(Box::new(logged)));
                self.phase = Phase::Planning { attempt, members: members.into_keys().collect() };
            }
        }
    }

    /// Under the definition in force; under an older one only where a target went back behind the change, and only while
    /// the checkpoint is there by which the job comes forward again.
    fn recovery(
        &self,
        cx: &Context,
        members: &BTreeMap<TaskManagerId, String>,
        copies: &Prepared,
    ) -> Result<(Plan, Recovery), String> {
        let state = cx.journal.job(self.id);
        let mut lost = None;
        // Who comes forward leaves no era out: some targets may have rows of that one alone.
        let next = |era: &Era<'_>| state.rewound.is_none_or(|until| era.since <= until.next());
        for era in state.eras().filter(next) {
            if !comes_forward(state, &era, &self.readings) {
                continue;
            }
            let plan = plan(state, &era, members);
            let facts = Facts {
                plan: &plan,
                before: state.plan.as_ref().map(|(_, plan, _)| plan),
                era,
                cuts: &state.cuts,
                checkpoints: &state.checkpoints,
                bad: &self.bad,
                readings: &self.readings,
                copies,
                mistake: cx.settings.mistake,
            };
            match decide(&facts) {
                Decision::Resume(recovery) => return Ok((plan, recovery)),
                Decision::Lost { reason } => lost = lost.or(Some(reason)),
            }
            let first = state.first_checkpoint(&era).filter(|manifest| !self.bad.contains(&manifest.checkpoint));
            if self.readings.is_empty() || first.is_none() {
                break;
            }
        }
        Err(lost.unwrap_or_else(|| "no job file of before can bring the targets forward that went back".to_owned()))
    }

    pub(super) fn plan_logged(&mut self, cx: &mut Context, logged: Durable<Box<PlanLogged>>) {
        if !matches!(self.phase, Phase::Planning { attempt, .. } if attempt == logged.attempt) {
            return;
        }
        self.deploy(cx, &logged);
        let until = self.era(cx).until;
        let PlanLogged { attempt, plan, recovery } = *logged.into_inner();
        let epochs = Epochs::new(&plan, &recovery.resume, cx.journal.job(self.id), cx.now.instant);
        let deployed = Deployed { attempt, plan, recovery, until, epochs, ready: BTreeSet::new() };
        self.phase = Phase::Deploying(Box::new(deployed));
    }

    /// What the plan that was just logged is of.
    fn era<'c>(&self, cx: &'c Context) -> Era<'c> {
        let state = cx.journal.job(self.id);
        if cx.settings.mistake == Mistake::OneDefinition { state.era() } else { state.planned_era() }
    }

    /// To all members of the plan their part; to everybody else: whatever you hold is not needed.
    fn deploy(&self, cx: &mut Context, logged: &Durable<Box<PlanLogged>>) {
        let (state, era) = (cx.journal.job(self.id), self.era(cx));
        let newest = state.newest_cut().epoch;
        let committed = logged.recovery.resume.values().min().copied().unwrap_or(newest);
        let start = state.cuts.get(&committed).unwrap_or_else(|| state.newest_cut()).clone();
        let replay: Vec<_> = state.cuts.range(start.epoch.next()..).map(|(_, cut)| cut.clone()).collect();
        let joined = state.joined.iter().filter(|(split, _)| !start.splits.contains_key(split));
        let common = Deployment {
            job: self.id,
            attempt: logged.attempt,
            definition: era.definition.clone(),
            since: era.since,
            until: era.until,
            rewound: state.rewound.is_some(),
            plan: logged.plan.clone(),
            resume: logged.recovery.resume.clone(),
            restore: BTreeMap::new(),
            joined: joined.map(|(split, position)| (*split, *position)).collect(),
            start,
            replay,
            files: Vec::new(),
            committed,
            window: cx.settings.window,
        };
        for member in cx.members.ids() {
            if !logged.plan.members.contains_key(&member) {
                cx.send(member, Instruction::Release { job: self.id, attempt: logged.attempt });
                continue;
            }
            let origin = |id: KeyGroupId| logged.recovery.origins.get(&id).map(|origin| (id, origin.restore()));
            let restore = logged.plan.key_groups_of(member).filter_map(origin).collect();
            let files = files_of(cx.journal.job(self.id), &logged.plan, member, &common.start);
            cx.send(member, Instruction::Deploy(Box::new(Deployment { restore, files, ..common.clone() })));
        }
    }

    /// With the last one the job runs, and what takeovers had found is settled.
    pub(super) fn ready(&mut self, cx: &Context, from: TaskManagerId) {
        let Phase::Deploying(deployed) = &mut self.phase else { return };
        deployed.ready.insert(from);
        if !deployed.plan.members.keys().all(|member| deployed.ready.contains(member)) {
            return;
        }
        self.readings.clear();
        if let Some(view) = self.attempts.iter_mut().find(|view| view.attempt == deployed.attempt) {
            view.ready = Some(cx.now.wall);
        }
        let ended = std::mem::replace(&mut self.phase, Phase::Ended);
        if let Phase::Deploying(deployed) = ended {
            let since = cx.now.instant;
            let running = Running { deployed: *deployed, since, open: None, moving: None, look_at_plan: true };
            self.phase = Phase::Running(Box::new(running));
        }
    }

    /// What a takeover found. Readings that come while the next attempt is already due are kept for it too.
    pub(super) fn taken_over(&mut self, cx: &mut Context, target: TargetId, verdict: Verdict) {
        let name = name_of(cx.journal.job(self.id), target);
        match verdict {
            Verdict::Consistent => {}
            Verdict::Behind { readings } => {
                let deployed = self.phase.deployed();
                if self.failures >= HOPELESS && deployed.is_some_and(|d| !behind(&d.recovery, target, &readings)) {
                    let reason = format!(
                        "the ledger of target {name} lost rows of this job: \
                         the database is not the one that it wrote to, or was restored from before it"
                    );
                    self.fail(cx, reason);
                    return;
                }
                self.went_back(cx, readings, &name);
            }
            Verdict::Ahead { key_group, found } => {
                let reason = format!(
                    "the sink is ahead of this control log: target {name} says that key group {key_group} has \
                     epoch {}, which this control log does not know",
                    found.epoch
                );
                self.fail(cx, reason);
            }
        }
    }

    fn went_back(&mut self, cx: &Context, readings: BTreeMap<KeyGroupId, Mark>, name: &str) {
        for (key_group, mark) in readings {
            let least = self.readings.entry((name.to_owned(), key_group)).or_insert(mark);
            *least = mark.min(*least);
        }
        if self.phase.deployed().is_some() {
            self.retry(cx, format!("target {name} went back behind what was committed"));
        }
        self.committed_before = Epoch::ZERO;
        self.counters = Counters::default();
    }

    /// A TaskManager cannot go on with the newest attempt.
    pub(super) fn failed(&mut self, cx: &mut Context, from: TaskManagerId, failure: Failure) {
        match failure {
            Failure::Retry { reason } => {
                if self.phase.deployed().is_some() || matches!(self.phase, Phase::Preparing(_) | Phase::Planning { .. })
                {
                    self.retry(cx, format!("TaskManager {from}: {reason}"));
                }
            }
            Failure::WentBack { target, readings } => {
                let name = name_of(cx.journal.job(self.id), target);
                self.went_back(cx, readings, &name);
            }
            Failure::BadSnapshot { key_group, epoch, reason } => {
                let checkpoints = &cx.journal.job(self.id).checkpoints;
                let names = |c: &&crate::control_log::RetainedCheckpoint| {
                    c.manifest.snapshots.get(&key_group).is_some_and(|snapshot| snapshot.epoch == epoch)
                };
                self.bad.extend(checkpoints.iter().filter(names).map(|c| c.manifest.checkpoint));
                if self.phase.deployed().is_some() {
                    self.retry(cx, format!("snapshot of key group {key_group} at epoch {epoch}: {reason}"));
                }
            }
            // What an attempt that has ended meanwhile could not do the next one may.
            Failure::Fatal { reason } => {
                if self.phase.deployed().is_some() {
                    self.fail(cx, reason);
                }
            }
        }
    }
}

/// Some reading is below what the attempt brought along. If none is, rows are missing that nothing was written under,
/// and no older checkpoint helps.
fn behind(recovery: &Recovery, target: TargetId, readings: &BTreeMap<KeyGroupId, Mark>) -> bool {
    let brought = |id: &KeyGroupId| recovery.origins.get(id).map(|origin: &Origin| origin.mark(target).epoch);
    readings.iter().any(|(id, reading)| brought(id).is_none_or(|epoch| reading.epoch < epoch))
}

/// The checkpoint by which the job comes forward from an era is not ahead of targets that the era does not write to.
fn comes_forward(state: &JobState, era: &Era<'_>, readings: &Readings) -> bool {
    let Some(until) = era.until else { return true };
    let ahead = |((target, key_group), reading): (&(String, KeyGroupId), &Mark)| {
        let later = state.eras().filter(|later| later.since > until && later.writes(target, *key_group));
        let first = later.min_by_key(|later| later.since).and_then(|later| {
            let snapshot = state.first_checkpoint(&later)?.snapshots.get(key_group)?;
            snapshot.marks.get(&later.target(target)?)
        });
        !era.writes(target, *key_group) && first.is_some_and(|mark| mark.epoch > reading.epoch)
    };
    !readings.iter().any(ahead)
}

/// Files of a member's splits that do not end before `start`.
fn files_of(state: &JobState, plan: &Plan, member: TaskManagerId, start: &Cut) -> Vec<PlacedFile> {
    let own = state.files.queues.iter().filter(|(split, _)| plan.splits.get(split) == Some(&member));
    let of_queue = |(split, queue): (&SplitId, &FileQueue)| -> Vec<PlacedFile> {
        let first = start.splits.get(split).map_or(FileNumber(0), |part| FileNumber::of(part.end));
        let files = queue.files.range(first..);
        files.map(|(number, file)| PlacedFile { split: *split, number: *number, file: file.clone() }).collect()
    };
    own.flat_map(of_queue).collect()
}

/// The name of a target of the newest attempt.
fn name_of(state: &JobState, target: TargetId) -> String {
    let targets = &state.planned_era().definition.targets;
    targets.get(usize::from(target.0)).cloned().unwrap_or_else(|| target.to_string())
}

/// The plan for these members, as close to the last one as the bound allows.
pub(super) fn plan(state: &JobState, era: &Era<'_>, members: &BTreeMap<TaskManagerId, String>) -> Plan {
    let last = era.until.and_then(|until| state.cuts.get(&until));
    let joined = state.joined.keys().filter(|_| last.is_none());
    let splits: BTreeSet<SplitId> =
        last.unwrap_or_else(|| state.newest_cut()).splits.keys().chain(joined).copied().collect();
    let key_groups = vec![era.definition.key_groups; usize::from(era.definition.stages)];
    placement::plan(members, splits, &key_groups, state.plan.as_ref().map(|(_, plan, _)| plan))
}
