//! Versions of a job's lookups: taken in as they are read, given up when no cut names them.

use super::job::{Context, Job, Phase};
use super::journal::{Durable, Then};
use super::{Command, Coordinator, JobId};
use crate::ids::LookupsId;
use crate::lookups::{LookupsState, LookupsVersion, object};
use crate::record::Record;

impl Coordinator {
    /// The next epoch that is opened names it, whether there is input or not.
    pub(super) fn lookups_read(&mut self, id: JobId, of: u64, version: LookupsVersion) {
        let over =
            |job: &&Job| matches!(job.phase, Phase::Changing | Phase::Ending(_) | Phase::Ended | Phase::Resuming);
        let known = self.jobs.get(&id).filter(|job| !over(job));
        let known = known.filter(|_| self.context.journal.job(id).definition.fingerprint == of);
        let newest = known.and_then(|_| self.context.journal.job(id).lookups.newest.as_ref());
        if newest.is_none_or(|newest| newest.hash == version.hash) {
            let objects = vec![object(id, version.id)];
            return self.context.commands.push(Command::DeleteObjects(objects));
        }
        let record = Record::LookupsRead { job: id, version };
        self.context.journal.append(id, vec![record], Then::LookupsRead(()));
    }

    /// What is known of a job's lookups, for who reads them again.
    #[must_use]
    pub fn lookups(&self, job: JobId) -> Option<&LookupsState> {
        self.context.journal.state().jobs.get(&job).map(|state| &state.lookups)
    }
}

impl Job {
    /// Called when cuts have gone.
    pub(super) fn give_up_lookups(&self, cx: &mut Context) {
        let state = cx.journal.job(self.id);
        let versions = state.lookups.unneeded(state.cuts.values());
        if !versions.is_empty() {
            let record = Record::LookupsGone { job: self.id, versions: versions.clone() };
            cx.journal.append(self.id, vec![record], Then::LookupsGone(versions));
        }
    }

    pub(super) fn lookups_gone(&self, cx: &mut Context, logged: Durable<Vec<LookupsId>>) {
        let objects = logged.into_inner().into_iter().map(|version| object(self.id, version)).collect();
        cx.commands.push(Command::DeleteObjects(objects));
    }
}
