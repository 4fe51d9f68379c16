//! The definitions of all jobs and which are active, gathered from the records that pass by.

use std::collections::BTreeMap;

use pulso_core::control_log::LogState;
use pulso_core::ids::JobId;
use pulso_core::record::{JobDefinition, Record};

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    jobs: BTreeMap<JobId, Entry>,
    /// How many jobs came before.
    submitted: u64,
}

#[derive(Debug)]
struct Entry {
    definition: JobDefinition,
    /// Asked for.
    next: Option<JobDefinition>,
    active: bool,
    /// Grows from job to job; jobs of the log's start have no order among them but by their attempts.
    order: u64,
}

impl Catalog {
    pub(crate) fn new(state: &LogState) -> Self {
        let mut catalog = Self::default();
        for job in state.jobs.values() {
            catalog.add(&job.definition, job.status.is_active());
            if let Some(change) = &job.change {
                catalog.change(job.definition.id, |entry| entry.next = Some(change.definition.clone()));
            }
        }
        catalog
    }

    pub(super) fn note(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Submitted { definition, .. } => self.add(definition, true),
                Record::Resumed { job } => self.activate(*job, true),
                Record::Changing { job, change } => {
                    self.change(*job, |entry| entry.next = Some(change.definition.clone()));
                }
                Record::Changed { job } => self.change(*job, |entry| {
                    if let Some(next) = entry.next.take() {
                        entry.definition = next;
                    }
                }),
                Record::Redefined { job, definitions } => self.change(*job, |entry| {
                    entry.definition = definitions.definition.clone();
                    entry.next = entry.next.take().map(|next| definitions.next.clone().unwrap_or(next));
                }),
                Record::Finished { job } | Record::Cancelled { job } | Record::Failed { job, .. } => {
                    self.activate(*job, false);
                }
                Record::Leader { .. }
                | Record::Alive
                | Record::Base(_)
                | Record::Attempt { .. }
                | Record::Plan { .. }
                | Record::Cut { .. }
                | Record::SplitsJoined { .. }
                | Record::FilesFound { .. }
                | Record::FilesRetired { .. }
                | Record::LookupsRead { .. }
                | Record::LookupsGone { .. }
                | Record::CheckpointDone { .. }
                | Record::Pinned { .. }
                | Record::Collect { .. }
                | Record::Stopping { .. } => {}
            }
        }
    }

    fn add(&mut self, definition: &JobDefinition, active: bool) {
        self.submitted += 1;
        let entry = Entry { definition: definition.clone(), next: None, active, order: self.submitted };
        self.jobs.insert(definition.id, entry);
    }

    fn activate(&mut self, job: JobId, active: bool) {
        self.change(job, |entry| entry.active = active);
    }

    fn change(&mut self, job: JobId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            change(entry);
        }
    }

    pub(crate) fn active(&self) -> impl Iterator<Item = &JobDefinition> {
        self.jobs.values().filter(|entry| entry.active).map(|entry| &entry.definition)
    }

    pub(crate) fn definition(&self, job: JobId) -> Option<&JobDefinition> {
        self.jobs.get(&job).map(|entry| &entry.definition)
    }

    /// By UUID, or by name: the active job of that name, else the one submitted last.
    pub(crate) fn find(&self, name: &str) -> Option<JobDefinition> {
        if let Ok(id) = name.parse::<uuid::Uuid>() {
            return self.definition(JobId(id)).cloned();
        }
        let named = self.jobs.values().filter(|entry| entry.definition.name == name);
        named.max_by_key(|entry| (entry.active, entry.order)).map(|entry| entry.definition.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(id: u128, name: &str) -> JobDefinition {
        JobDefinition {
            id: JobId(uuid::Uuid::from_u128(id)),
            name: name.to_owned(),
            submission: String::new(),
            fingerprint: 0,
            key_groups: 4,
            stages: 1,
            targets: Vec::new(),
            delay: 0,
            idle_after: 0,
            has_windows: false,
        }
    }

    #[test]
    fn a_name_means_the_active_job_or_the_last() {
        let mut catalog = Catalog::default();
        catalog.add(&definition(9, "vitals"), true);
        catalog.add(&definition(2, "vitals"), true);
        catalog.add(&definition(3, "other"), true);
        let id = |name: &str, catalog: &Catalog| catalog.find(name).map(|d| d.id.0.as_u128());
        assert_eq!(id("vitals", &catalog), Some(2));
        catalog.note(&[Record::Cancelled { job: JobId(uuid::Uuid::from_u128(2)) }]);
        assert_eq!(id("vitals", &catalog), Some(9));
        assert_eq!(id("00000000-0000-0000-0000-000000000002", &catalog), Some(2));
        assert_eq!(id("nothing", &catalog), None);
        assert_eq!(catalog.active().count(), 2);
        catalog.note(&[Record::Resumed { job: JobId(uuid::Uuid::from_u128(2)) }]);
        assert_eq!(catalog.active().count(), 3);
    }
}
