//! What must hold of every command, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};

use pulso_core::control_log::{JobStatus, LogState};
use pulso_core::coordinator::{Answer, Command};
use pulso_core::files::PlacedFile;
use pulso_core::ids::{Attempt, Epoch, JobId, SessionId, TaskManagerId};
use pulso_core::lookups;
use pulso_core::message::{Deployment, Instruction, Restore};
use pulso_core::record::Record;

/// Follows one coordinator. `durable` is the fold over what was appended.
#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) durable: LogState,
    /// Attempts and plans that are durable.
    attempts: BTreeMap<JobId, Attempt>,
    /// Per job and attempt: the newest epoch whose end the TaskManagers of the attempt know.
    known: BTreeMap<(JobId, Attempt), Epoch>,
    opened: BTreeMap<(JobId, Attempt), Epoch>,
    /// What each TaskManager has reported to be committed.
    pub(crate) committed: BTreeMap<(JobId, Attempt, TaskManagerId), Epoch>,
    collected: BTreeSet<String>,
    pub(crate) outstanding: Option<Vec<Record>>,
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

impl Checker {
    /// The outstanding append is durable.
    pub(crate) fn appended(&mut self) {
        for record in self.outstanding.take().expect("an append is outstanding") {
            let objects = |state: &LogState, job: &JobId| -> BTreeSet<String> {
                let manifests = state.jobs[job].checkpoints.iter().map(|c| &c.manifest);
                let files = manifests.flat_map(|m| m.snapshots.values()).flat_map(|s| &s.files);
                files.map(|f| f.object.clone()).collect()
            };
            if let Record::Collect { job, .. } | Record::Changed { job } = &record {
                let before = objects(&self.durable, job);
                self.durable.apply(&record).unwrap();
                self.collected.extend(before.difference(&objects(&self.durable, job)).cloned());
                self.saw("collect");
                continue;
            }
            self.durable.apply(&record).unwrap();
            if let Record::Attempt { job, attempt, .. } = record {
                self.attempts.insert(job, attempt);
            }
        }
    }

    /// Another coordinator starts: whatever was outstanding is decided.
    pub(crate) fn restarted(&mut self, landed: bool) {
        if landed && self.outstanding.is_some() {
            self.appended();
        }
        self.outstanding = None;
    }

    pub(crate) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(crate) fn check(&mut self, command: &Command, sessions: &BTreeMap<SessionId, TaskManagerId>, window: u64) {
        match command {
            Command::Append(records) => {
                assert!(self.outstanding.is_none(), "a second append beside one outstanding");
                assert!(!records.is_empty());
                self.outstanding = Some(records.clone());
            }
            Command::Send { session, instruction } => {
                let to = sessions.get(session).expect("a live session");
                self.sent(*to, instruction, window);
            }
            Command::Reply { answer, .. } => self.replied(answer),
            Command::RetireFiles { .. } => {}
            Command::DeleteObjects(objects) => {
                for object in objects {
                    if object.starts_with("lookups/") {
                        self.is_no_version(object);
                        continue;
                    }
                    assert!(self.collected.contains(object), "{object} was not collected");
                    for job in self.durable.jobs.values() {
                        let named = job.checkpoints.iter().flat_map(|c| c.manifest.snapshots.values());
                        assert!(!named.flat_map(|s| &s.files).any(|f| f.object == *object), "{object} is still named");
                    }
                }
                self.saw("delete");
            }
            Command::CloseSession { .. } => self.saw("close session"),
        }
    }

    fn is_no_version(&self, object: &str) {
        for (job, state) in &self.durable.jobs {
            let mut stored = state.lookups.stored.iter().map(|version| lookups::object(*job, *version));
            assert!(!stored.any(|stored| stored == object), "{object} is still kept");
        }
    }

    fn files_are_durable(&self, job: JobId, files: &[PlacedFile]) {
        for PlacedFile { split, number, file } in files {
            assert_eq!(self.durable.jobs[&job].files.queues[split].files.get(number), Some(file), "told too early");
        }
    }

    fn sent(&mut self, to: TaskManagerId, instruction: &Instruction, window: u64) {
        match instruction {
            Instruction::Files { job, files, .. } => self.files_are_durable(*job, files),
            Instruction::Prepare { job, attempt } => {
                assert_eq!(self.attempts.get(job), Some(attempt), "Prepare before its Attempt is durable");
            }
            Instruction::Deploy(deployment) => self.deployed(to, deployment),
            Instruction::OpenCut { job, attempt, opening } => {
                let sealed = self.known[&(*job, *attempt)];
                assert_eq!(self.durable.jobs[job].planned_era().until, None, "an epoch of a definition that is past");
                assert_eq!(opening.epoch, sealed.next(), "OpenCut before the seal of the epoch before");
                let newest = self.durable.jobs[job].newest_cut();
                assert_eq!((newest.epoch, newest.watermark), (sealed, opening.watermark));
                let committed = self.everywhere(*job, *attempt);
                assert!(opening.epoch.0 <= committed.0 + window, "opened beyond the window");
                let before = self.opened.insert((*job, *attempt), opening.epoch);
                assert!(before.is_none_or(|before| before <= opening.epoch));
            }
            Instruction::Seal { job, attempt, seal } => {
                let cut = self.durable.jobs[job].cuts.get(&seal.epoch).expect("Seal before its cut is durable");
                assert_eq!((cut.hash(), cut.last), (seal.hash, seal.last));
                assert_eq!(self.opened.get(&(*job, *attempt)), Some(&seal.epoch));
                assert!(seal.committed <= self.everywhere(*job, *attempt), "a Seal carries more than is committed");
                self.known.insert((*job, *attempt), seal.epoch);
            }
            Instruction::Progress { job, attempt, committed } => {
                assert!(*committed <= self.everywhere(*job, *attempt));
            }
            Instruction::TakeCheckpoint { job, attempt, epoch, .. } => {
                assert!(*epoch <= self.everywhere(*job, *attempt), "a checkpoint of what is not committed");
                let resume = &self.durable.jobs[job].plan.as_ref().unwrap().2;
                assert!(resume.values().all(|resume| resume <= epoch), "a copy may be flushed beyond the checkpoint");
            }
            Instruction::CheckpointDone { job, checkpoint, .. } => {
                let known = &self.durable.jobs[job].checkpoints;
                assert!(known.iter().any(|c| c.manifest.checkpoint == *checkpoint));
                self.saw("checkpoint");
            }
            Instruction::Release { job, attempt } => {
                let state = &self.durable.jobs[job];
                let part = state.plan.as_ref().filter(|(of, plan, _)| of == attempt && plan.members.contains_key(&to));
                assert!(!state.status.is_active() || part.is_none(), "Release of what is needed");
            }
        }
    }

    fn deployed(&mut self, to: TaskManagerId, deployment: &Deployment) {
        let (job, attempt) = (deployment.job, deployment.attempt);
        let state = &self.durable.jobs[&job];
        let logged = Some((attempt, deployment.plan.clone(), deployment.resume.clone()));
        assert_eq!(state.plan, logged, "Deploy before its Plan is durable");
        let era = state.planned_era();
        assert_eq!((&deployment.definition, deployment.since), (era.definition, era.since));
        let last = deployment.replay.last().unwrap_or(&deployment.start).epoch;
        assert_eq!(last, state.newest_cut().epoch, "replay does not reach the newest cut");
        assert_eq!(deployment.sealed(), era.until.unwrap_or(last));
        assert!(deployment.resume.values().all(|epoch| era.has(*epoch)), "state of another definition");
        let least = deployment.resume.values().min().copied().unwrap();
        assert_eq!(deployment.start.epoch, least);
        let mut previous = deployment.start.clone();
        for cut in &deployment.replay {
            assert_eq!((cut.epoch, cut.previous), (previous.epoch.next(), previous.hash()));
            previous = cut.clone();
        }
        let own: BTreeSet<_> = deployment.plan.key_groups_of(to).collect();
        assert_eq!(deployment.restore.keys().copied().collect::<BTreeSet<_>>(), own);
        for (key_group, restore) in &deployment.restore {
            let epoch = deployment.resume[key_group];
            match restore {
                Restore::Fresh => assert_eq!(epoch, Epoch::ZERO),
                Restore::Snapshot(snapshot) => assert_eq!(epoch, snapshot.epoch),
                Restore::Copy => self.saw("copy kept"),
            }
        }
        for split in deployment.plan.splits.keys() {
            let begins = deployment.start.splits.contains_key(split) || deployment.joined.contains_key(split);
            assert!(begins, "nobody says where split {split} begins");
        }
        self.known.insert((job, attempt), deployment.sealed());
    }

    /// *g* by the reports alone.
    fn everywhere(&self, job: JobId, attempt: Attempt) -> Epoch {
        let (of, plan, resume) = self.durable.jobs[&job].plan.as_ref().unwrap();
        assert_eq!(*of, attempt, "an instruction of an attempt that is not the last one planned");
        let start = resume.values().min().copied().unwrap();
        let hosts = plan.key_groups.values();
        hosts.map(|host| self.committed.get(&(job, attempt, *host)).copied().unwrap_or(start).max(start)).min().unwrap()
    }

    fn replied(&mut self, answer: &Answer) {
        let jobs = &self.durable.jobs;
        match answer {
            Answer::Submitted { job, .. } => assert!(jobs.contains_key(job)),
            Answer::SavepointTaken { checkpoint, .. } => {
                let all = jobs.values().flat_map(|job| &job.checkpoints);
                assert!(all.into_iter().any(|c| c.pinned && c.manifest.checkpoint == *checkpoint));
                self.saw("savepoint");
            }
            Answer::Stopped { epoch, .. } => {
                let stopped = |job: &pulso_core::control_log::JobState| {
                    job.status == JobStatus::Finished && job.newest_cut().epoch == *epoch && job.newest_cut().last
                };
                assert!(jobs.values().any(stopped));
                self.saw("stopped");
            }
            Answer::Changing { job } => {
                assert!(jobs.contains_key(job));
                self.saw("changing");
            }
            Answer::Cancelled => assert!(jobs.values().any(|job| job.status == JobStatus::Cancelled)),
            Answer::Resumed => self.saw("resumed"),
            Answer::Refused(_) => self.saw("refused"),
        }
    }
}
