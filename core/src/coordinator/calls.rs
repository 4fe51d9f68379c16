//! What people ask for: submit, savepoint, stop, cancel, resume. All may be asked twice.

use super::changes::delete;
use super::checkpoints::Schedule;
use super::job::{Context, Job, Outcome, Phase, Waiting};
use super::journal::{Durable, Then};
use super::{Answer, Call, Command, Coordinator, JobDefinition, JobId, NewJob, Refusal, RequestId};
use crate::control_log::JobStatus;
use crate::lookups::object;
use crate::message::Instruction;
use crate::record::Record;

/// A job whose record is on its way.
#[derive(Debug)]
pub(super) struct Submitting {
    definition: JobDefinition,
    requests: Vec<RequestId>,
}

impl Coordinator {
    pub(super) fn called(&mut self, request: RequestId, call: Call) {
        let job = match call {
            Call::Submit(new) => return self.submit(request, *new),
            Call::Change { from, change } => return self.change(request, from, *change),
            Call::Redefine { from, definitions } => return self.redefine(request, from, *definitions),
            Call::Savepoint { job } | Call::Stop { job } | Call::Cancel { job } | Call::Resume { job } => job,
        };
        if let Call::Resume { .. } = call
            && let Some(other) = self.namesake(job)
        {
            return self.context.reply(request, Answer::Refused(Refusal::NameTaken { job: other }));
        }
        let cx = &mut self.context;
        let Some(state) = self.jobs.get_mut(&job) else {
            return cx.reply(request, Answer::Refused(Refusal::NoSuchJob));
        };
        match call {
            Call::Submit(_) | Call::Change { .. } | Call::Redefine { .. } => {}
            Call::Savepoint { .. } => state.savepoint(cx, request),
            Call::Stop { .. } => state.stop(cx, request),
            Call::Cancel { .. } => state.cancel(cx, request),
            Call::Resume { .. } => state.resume(cx, request),
        }
    }

    fn submit(&mut self, request: RequestId, new: NewJob) {
        let job = new.definition.id;
        let stored = new.lookups.as_ref().filter(|_| !self.context.journal.state().jobs.contains_key(&job));
        let stored = stored.map(|version| object(job, version.id));
        if !self.submit_new(request, new)
            && let Some(stored) = stored
        {
            self.context.commands.push(Command::DeleteObjects(vec![stored]));
        }
    }

    /// False where it is no new job.
    fn submit_new(&mut self, request: RequestId, new: NewJob) -> bool {
        let NewJob { definition, start, lookups } = new;
        if let Some(submitting) = self.submitting.values_mut().find(|s| s.definition.name == definition.name) {
            if submitting.definition.fingerprint == definition.fingerprint {
                submitting.requests.push(request);
            } else {
                let job = submitting.definition.id;
                self.context.reply(request, Answer::Refused(Refusal::NameTaken { job }));
            }
            return false;
        }
        let jobs = &self.context.journal.state().jobs;
        let named = |id: &&JobId| jobs[*id].definition.name == definition.name;
        let repeated = jobs.contains_key(&definition.id).then_some(definition.id);
        let in_the_way = repeated.or_else(|| jobs.keys().filter(named).copied().find(|id| self.is_active(*id)));
        // Its tables hold what it wrote: another job that starts from the beginning would write it again.
        let goes_on = |status: &JobStatus| matches!(status, JobStatus::Failed { .. } | JobStatus::Finished);
        let before = jobs.keys().filter(named).map(|id| &jobs[id].status).find(|status| goes_on(status));
        match (in_the_way, before) {
            (Some(job), _) if jobs[&job].change.is_some() => {
                let reason = format!("job {job} is about to go on with another file; try again when it does");
                self.context.refuse(request, reason);
            }
            (Some(job), _) if jobs[&job].definition.fingerprint == definition.fingerprint => {
                self.context.reply(request, Answer::Submitted { job, known: true });
            }
            (Some(job), _) => self.context.reply(request, Answer::Refused(Refusal::NameTaken { job })),
            (None, Some(status)) => {
                let (name, said) = (&definition.name, said(status));
                let reason = format!(
                    "job {name} {said}: `healthctl resume {name}` goes on where it was; to start another one, \
                     cancel it first"
                );
                self.context.refuse(request, reason);
            }
            (None, None) => {
                let id = definition.id;
                let mut records = vec![Record::Submitted { definition: definition.clone(), start }];
                records.extend(lookups.map(|version| Record::LookupsRead { job: id, version }));
                self.context.journal.append(id, records, Then::Submitted(()));
                self.submitting.insert(id, Submitting { definition, requests: vec![request] });
                return true;
            }
        }
        false
    }

    pub(super) fn submitted(&mut self, id: JobId) {
        let Some(submitting) = self.submitting.remove(&id) else { return };
        for (i, request) in submitting.requests.into_iter().enumerate() {
            self.context.reply(request, Answer::Submitted { job: id, known: i > 0 });
        }
        let now = self.context.now.instant;
        let waiting = Waiting { reason: "submitted".to_owned(), not_before: now, settle: None };
        let job = Job::new(id, self.context.journal.job(id), Phase::Waiting(waiting), now);
        self.jobs.insert(id, job);
    }

    fn is_active(&self, job: JobId) -> bool {
        let resuming = self.jobs.get(&job).is_some_and(|job| matches!(job.phase, Phase::Resuming));
        resuming || self.context.journal.job(job).status.is_active()
    }

    /// Another job with work to do under the same name.
    pub(super) fn namesake(&self, job: JobId) -> Option<JobId> {
        let jobs = &self.context.journal.state().jobs;
        let name = &jobs.get(&job)?.definition.name;
        let coming = self.submitting.values().map(|submitting| &submitting.definition);
        let known = jobs.keys().filter(|id| **id != job && self.is_active(**id)).map(|id| &jobs[id].definition);
        known.chain(coming).find(|definition| definition.name == *name).map(|definition| definition.id)
    }
}

impl Job {
    fn savepoint(&mut self, cx: &mut Context, request: RequestId) {
        if matches!(self.phase, Phase::Ended | Phase::Resuming) {
            let reason = format!("the job {}; resume it first", said(&cx.journal.job(self.id).status));
            cx.refuse(request, reason);
        } else {
            self.calls.savepoints.push(request);
        }
    }

    fn stop(&mut self, cx: &mut Context, request: RequestId) {
        let state = cx.journal.job(self.id);
        match (&self.phase, &state.status) {
            (Phase::Ended, JobStatus::Finished) => {
                let newest = state.checkpoints.last().map(|c| &c.manifest);
                let (checkpoint, epoch) = newest.map(|m| (m.checkpoint, m.epoch)).unwrap_or_default();
                cx.reply(request, Answer::Stopped { checkpoint, epoch });
            }
            (Phase::Ended | Phase::Resuming, status) => {
                let reason = format!("the job {}", said(status));
                cx.refuse(request, reason);
            }
            (_, JobStatus::Running) => {
                self.calls.stops.push(request);
                let record = Record::Stopping { job: self.id };
                cx.journal.append(self.id, vec![record], Then::Stopping(()));
            }
            (_, _) => self.calls.stops.push(request),
        }
    }

    fn cancel(&mut self, cx: &mut Context, request: RequestId) {
        match (&self.phase, &cx.journal.job(self.id).status) {
            (Phase::Ended, JobStatus::Cancelled) => cx.reply(request, Answer::Cancelled),
            // Answered, or acted on, when the record that is on its way has arrived.
            (Phase::Changing | Phase::Ending(_) | Phase::Resuming, _) => self.calls.cancels.push(request),
            (_, _) => {
                self.calls.cancels.push(request);
                let record = Record::Cancelled { job: self.id };
                self.end(cx, vec![record], Outcome::Cancelled);
            }
        }
    }

    fn resume(&mut self, cx: &mut Context, request: RequestId) {
        match &self.phase {
            Phase::Ended => {
                self.calls.resumes.push(request);
                self.phase = Phase::Resuming;
                cx.journal.append(self.id, vec![Record::Resumed { job: self.id }], Then::Resumed(Vec::new()));
            }
            Phase::Resuming => self.calls.resumes.push(request),
            Phase::Ending(_) => cx.refuse(request, "the job is just ending; try again"),
            Phase::Changing
            | Phase::Waiting(_)
            | Phase::Logging { .. }
            | Phase::Preparing(_)
            | Phase::Planning { .. }
            | Phase::Deploying(_)
            | Phase::Running(_) => cx.refuse(request, "the job is running"),
        }
    }

    pub(super) fn resumed(&mut self, cx: &mut Context, logged: Durable<Vec<String>>) {
        delete(cx, logged.into_inner());
        for request in self.calls.resumes.split_off(0) {
            cx.reply(request, Answer::Resumed);
        }
        self.answer_changes(cx);
        self.begin_anew(cx, "resumed");
    }

    /// The next attempt, as after the job's submission.
    pub(super) fn begin_anew(&mut self, cx: &mut Context, reason: &str) {
        self.schedule = Schedule::new(cx.journal.job(self.id), cx.now.instant);
        self.bad.clear();
        self.readings.clear();
        self.failures = 0;
        self.wait(cx, reason, cx.now.instant);
        self.pending_cancel(cx);
    }

    /// Only a person can mend it.
    pub(super) fn fail(&mut self, cx: &mut Context, reason: String) {
        let record = Record::Failed { job: self.id, reason: reason.clone() };
        self.end(cx, vec![record], Outcome::Failed { reason });
    }

    pub(super) fn end(&mut self, cx: &mut Context, records: Vec<Record>, outcome: Outcome) {
        // A cancelled job goes on with no change that it was asked for.
        let change = cx.journal.job(self.id).change.as_ref().filter(|_| matches!(outcome, Outcome::Cancelled));
        let lookups = change.and_then(|change| change.lookups.as_ref());
        let objects = lookups.map(|version| object(self.id, version.id)).into_iter().collect();
        self.leave(cx, Phase::Ending(outcome));
        cx.journal.append(self.id, records, Then::Ended(objects));
    }

    /// The job's end is durable: only now may TaskManagers drop what they hold.
    pub(super) fn ended(&mut self, cx: &mut Context, logged: Durable<Vec<String>>) {
        delete(cx, logged.into_inner());
        let Phase::Ending(outcome) = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
        let attempt = cx.journal.job(self.id).attempt;
        for member in cx.members.ids() {
            cx.send(member, Instruction::Release { job: self.id, attempt });
        }
        self.answer(cx, &outcome);
        self.pending_cancel(cx);
    }

    fn answer(&mut self, cx: &mut Context, outcome: &Outcome) {
        let savepoints = std::mem::take(&mut self.calls.savepoints);
        let stops = std::mem::take(&mut self.calls.stops);
        let refused = match outcome {
            Outcome::Finished { checkpoint, epoch } => {
                let (checkpoint, epoch) = (*checkpoint, *epoch);
                for request in savepoints {
                    cx.reply(request, Answer::SavepointTaken { checkpoint, epoch });
                }
                for request in stops {
                    cx.reply(request, Answer::Stopped { checkpoint, epoch });
                }
                for request in std::mem::take(&mut self.calls.cancels) {
                    cx.refuse(request, "the job is finished");
                }
                return;
            }
            Outcome::Cancelled => {
                for request in std::mem::take(&mut self.calls.cancels) {
                    cx.reply(request, Answer::Cancelled);
                }
                Refusal::WrongState { reason: "the job was cancelled".to_owned() }
            }
            Outcome::Failed { reason } => Refusal::JobFailed { reason: reason.clone() },
        };
        for request in savepoints.into_iter().chain(stops) {
            cx.reply(request, Answer::Refused(refused.clone()));
        }
    }

    /// A cancel that came while another change was on its way.
    fn pending_cancel(&mut self, cx: &mut Context) {
        if !self.calls.cancels.is_empty() {
            self.end(cx, vec![Record::Cancelled { job: self.id }], Outcome::Cancelled);
        }
    }
}

fn said(status: &JobStatus) -> &'static str {
    match status {
        JobStatus::Running => "is running",
        JobStatus::Stopping => "is stopping",
        JobStatus::Finished => "is finished",
        JobStatus::Cancelled => "was cancelled",
        JobStatus::Failed { .. } => "has failed",
    }
}
