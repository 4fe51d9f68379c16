//! Another definition for a job that there is: asked for, drained for, put in force; and the way back behind it.

use std::collections::BTreeSet;

use super::job::{Context, Job, Phase};
use super::journal::{Durable, Then};
use super::{Answer, Command, Coordinator, DefinitionId, JobId, Refusal, RequestId};
use crate::control_log::{JobState, JobStatus};
use crate::ids::{KeyGroup, KeyGroupId, Stage};
use crate::ledger::Mark;
use crate::lookups::object;
use crate::message::Snapshot;
use crate::record::{Change, Record, Redefinition};

impl Coordinator {
    pub(super) fn change(&mut self, request: RequestId, from: DefinitionId, change: Change) {
        let id = change.definition.id;
        let stored = change.lookups.as_ref().map(|version| object(id, version.id));
        match self.changeable(id, from, Some(change.definition.fingerprint)) {
            Ok(()) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.change(&mut self.context, request, change);
                }
            }
            Err(answer) => {
                self.context.commands.extend(stored.map(|object| Command::DeleteObjects(vec![object])));
                self.context.reply(request, answer);
            }
        }
    }

    pub(super) fn redefine(&mut self, request: RequestId, from: DefinitionId, definitions: Redefinition) {
        let id = definitions.definition.id;
        match self.changeable(id, from, None) {
            Ok(()) if self.has(&definitions) => self.context.reply(request, Answer::Changing { job: id }),
            Ok(()) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.redefine(&mut self.context, request, definitions);
                }
            }
            Err(answer) => self.context.reply(request, answer),
        }
    }

    /// The job is at work with these very definitions.
    fn has(&self, definitions: &Redefinition) -> bool {
        let state = self.context.journal.job(definitions.definition.id);
        let next = state.change.as_ref().map(|change| change.definition.fingerprint);
        state.status.is_active()
            && state.definition.fingerprint == definitions.definition.fingerprint
            && next == definitions.next.as_ref().map(|next| next.fingerprint)
    }

    /// The answer where a job takes no other definition. `wanted`: the fingerprint of a change.
    fn changeable(&self, id: JobId, from: DefinitionId, wanted: Option<u64>) -> Result<(), Answer> {
        let job = self.jobs.get(&id).ok_or(Answer::Refused(Refusal::NoSuchJob))?;
        if let Some(job) = self.namesake(id) {
            return Err(Answer::Refused(Refusal::NameTaken { job }));
        }
        let state = self.context.journal.job(id);
        let pending = state.change.as_ref().map(|pending| pending.definition.fingerprint);
        let refused = |reason: &str| Err(Answer::Refused(Refusal::WrongState { reason: reason.to_owned() }));
        match (&job.phase, &state.status) {
            (Phase::Changing | Phase::Ending(_) | Phase::Resuming, _) => {
                refused("the job is just changing or ending; try again")
            }
            (_, JobStatus::Cancelled) => refused("the job was cancelled"),
            _ if job.asking => refused("another change of the job was just asked for; try again"),
            _ if from != DefinitionId::of(state) => refused("the job was changed meanwhile; try again"),
            (Phase::Ended, _) => Ok(()),
            _ if pending.is_some() && pending == wanted => Err(Answer::Changing { job: id }),
            _ if pending.is_some() && wanted.is_some() => {
                refused("the job is about to go on with another file; try again when it does, or cancel it")
            }
            _ => Ok(()),
        }
    }
}

impl Job {
    fn change(&mut self, cx: &mut Context, request: RequestId, change: Change) {
        let state = cx.journal.job(self.id);
        let replaced = state.change.as_ref().and_then(|before| before.lookups.as_ref());
        let mut objects: Vec<String> = replaced.map(|version| object(self.id, version.id)).into_iter().collect();
        let change = Box::new(change);
        let mut records = vec![Record::Changing { job: self.id, change: change.clone() }];
        self.calls.changes.push(request);
        if !matches!(self.phase, Phase::Ended) {
            self.asking = true;
            cx.journal.append(self.id, records, Then::Changing(objects));
            return;
        }
        if state.is_checkpointed() && !self.files.are_under_way() {
            objects.extend(outdated(state, &change));
            records.push(Record::Changed { job: self.id });
        }
        records.push(Record::Resumed { job: self.id });
        self.phase = Phase::Resuming;
        cx.journal.append(self.id, records, Then::Resumed(objects));
    }

    fn redefine(&mut self, cx: &mut Context, request: RequestId, definitions: Redefinition) {
        self.calls.changes.push(request);
        let mut records = vec![Record::Redefined { job: self.id, definitions: Box::new(definitions) }];
        if matches!(self.phase, Phase::Ended) {
            records.push(Record::Resumed { job: self.id });
            self.phase = Phase::Resuming;
            cx.journal.append(self.id, records, Then::Resumed(Vec::new()));
        } else {
            self.asking = true;
            cx.journal.append(self.id, records, Then::Redefined(()));
        }
    }

    pub(super) fn redefined(&mut self, cx: &mut Context) {
        self.asking = false;
        self.answer_changes(cx);
        // Who is not deployed yet will be with it.
        if self.phase.deployed().is_some() {
            self.wait(cx, "addresses or secrets changed", cx.now.instant);
        }
    }

    pub(super) fn changing(&mut self, cx: &mut Context, logged: Durable<Vec<String>>) {
        self.asking = false;
        delete(cx, logged.into_inner());
        self.answer_changes(cx);
    }

    pub(super) fn answer_changes(&mut self, cx: &mut Context) {
        for request in std::mem::take(&mut self.calls.changes) {
            cx.reply(request, Answer::Changing { job: self.id });
        }
    }

    /// Everything before the change is committed and in a checkpoint.
    pub(super) fn change_over(&mut self, cx: &mut Context) {
        let state = cx.journal.job(self.id);
        if let Some(change) = &state.change
            && self.has_drained(state)
            && !self.files.are_under_way()
        {
            let objects = outdated(state, change);
            self.leave(cx, Phase::Changing);
            cx.journal.append(self.id, vec![Record::Changed { job: self.id }], Then::Changed(objects));
        }
    }

    pub(super) fn changed(&mut self, cx: &mut Context, logged: Durable<Vec<String>>) {
        delete(cx, logged.into_inner());
        if matches!(self.phase, Phase::Changing) {
            self.begin_anew(cx, "the job file changed");
        }
    }

    /// A target went back behind a change: all of the definition before is there again, and the next one goes on.
    pub(super) fn leave_past(&mut self, cx: &mut Context) {
        let Phase::Running(running) = &self.phase else { return };
        let state = cx.journal.job(self.id);
        let deployed = &running.deployed;
        let Some(until) = deployed.until.filter(|until| deployed.epochs.committed(state) >= *until) else { return };
        let Some(next) = state.eras().find(|era| era.since == until.next()) else { return };
        let left = (until, state.newest_cut().epoch);
        if self.left.replace(left) == Some(left) {
            let reason = "a target lacks what was just written to it under the job file of before: does its address lead \
                          to another one now?";
            return self.fail(cx, reason.to_owned());
        }
        // No target that went back has more, so no checkpoint that holds more fits.
        let mark = Mark { epoch: until, ..Mark::NOTHING };
        for target in &next.definition.targets {
            for stage in (0..next.definition.stages).map(Stage) {
                let ids = (0..next.definition.key_groups).map(|group| KeyGroupId { stage, group: KeyGroup(group) });
                self.readings.extend(ids.map(|id| ((target.clone(), id), mark)));
            }
        }
        self.wait(cx, "goes on with the job file that followed", cx.now.instant);
    }
}

/// Objects that nobody can go back to once the change is in force: another source leaves no way.
fn outdated(state: &JobState, change: &Change) -> Vec<String> {
    let Some((newest, before)) = state.checkpoints.split_last().filter(|_| change.source.is_some()) else {
        return Vec::new();
    };
    let (stays, goes): (Vec<_>, Vec<_>) =
        newest.manifest.snapshots.iter().partition(|(id, _)| id.stage.0 < change.definition.stages);
    let goes = goes.into_iter().map(|(_, snapshot)| snapshot);
    let goes = goes.chain(before.iter().flat_map(|c| c.manifest.snapshots.values()));
    let objects = |snapshot: &Snapshot| snapshot.files.iter().map(|file| file.object.clone()).collect::<Vec<_>>();
    let stays: BTreeSet<String> = stays.into_iter().flat_map(|(_, snapshot)| objects(snapshot)).collect();
    goes.flat_map(objects).collect::<BTreeSet<String>>().difference(&stays).cloned().collect()
}

pub(super) fn delete(cx: &mut Context, objects: Vec<String>) {
    if !objects.is_empty() {
        cx.commands.push(Command::DeleteObjects(objects));
    }
}
