//! What the other parts of the process see of the loop: a cheap handle. Its channel is nobody else's business.

use std::collections::BTreeMap;

use pulso_core::control_log::{JobState, JobStatus};
use pulso_core::coordinator::{Answer, Call, DefinitionId};
use pulso_core::files::{FileNumber, FilesState, FoundFile};
use pulso_core::ids::{Epoch, JobId, Position, SessionId, SplitId, TaskManagerId};
use pulso_core::lookups::{LookupsState, LookupsVersion};
use pulso_core::message::Report;
use pulso_core::record::JobDefinition;
use pulso_proto::v1;
use tokio::sync::{mpsc, oneshot};

use super::SessionEnd;
use crate::overview::Overview;

/// Another JobManager leads, or none does yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this JobManager does not lead the cluster (yet)")]
pub(crate) struct NotLeading;

/// Who opens a session.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) task_manager: TaskManagerId,
    pub(crate) name: String,
    pub(crate) exchange: String,
}

#[derive(Debug)]
pub(crate) enum Input {
    Register { registration: Registration, reply: oneshot::Sender<Result<SessionEnd, NotLeading>> },
    Reported { session: SessionId, report: Report },
    Heartbeat { session: SessionId, figures: Option<v1::Figures> },
    SessionLost { session: SessionId },
    SplitsFound { job: JobId, of: u64, splits: BTreeMap<SplitId, Position> },
    FilesFound { job: JobId, of: u64, found: Vec<FoundFile>, gone: Vec<u64>, complete: bool },
    FilesRetired { job: JobId, files: Vec<(SplitId, FileNumber, bool)>, all: bool },
    LookupsRead { job: JobId, of: u64, version: LookupsVersion },
    LookupsTried { job: JobId, trouble: Option<String> },
    Lookups { job: JobId, reply: oneshot::Sender<Option<LookupsState>> },
    Files { job: JobId, reply: oneshot::Sender<Option<FilesState>> },
    Call { call: Call, reply: oneshot::Sender<Result<Answer, NotLeading>> },
    Overview { reply: oneshot::Sender<Overview> },
    Standing { name: String, reply: oneshot::Sender<Result<Option<Standing>, NotLeading>> },
    Find { name: String, reply: oneshot::Sender<Result<Option<JobDefinition>, NotLeading>> },
}

/// How a job stands that another file may want to change.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) definition: JobDefinition,
    /// Asked for.
    pub(crate) next: Option<JobDefinition>,
    /// Those of before, by the epoch that they began with.
    pub(crate) before: BTreeMap<Epoch, JobDefinition>,
    pub(crate) id: DefinitionId,
    pub(crate) status: JobStatus,
}

impl Standing {
    pub(crate) fn of(state: &JobState) -> Self {
        Self {
            definition: state.definition.clone(),
            next: state.change.as_ref().map(|change| change.definition.clone()),
            before: state.past.iter().map(|era| (era.since, era.definition.clone())).collect(),
            id: DefinitionId::of(state),
            status: state.status.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Handle(mpsc::Sender<Input>);

impl Handle {
    pub(crate) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self(inputs)
    }

    /// Opens a session; it lasts until either end is dropped.
    pub(crate) async fn register(&self, registration: Registration) -> Result<SessionEnd, NotLeading> {
        self.ask(|reply| Input::Register { registration, reply }).await?
    }

    pub(crate) async fn reported(&self, session: SessionId, report: Report) {
        self.tell(Input::Reported { session, report }).await;
    }

    pub(crate) async fn heartbeat(&self, session: SessionId, figures: Option<v1::Figures>) {
        self.tell(Input::Heartbeat { session, figures }).await;
    }

    pub(crate) async fn session_lost(&self, session: SessionId) {
        self.tell(Input::SessionLost { session }).await;
    }

    /// `of`: the fingerprint of the definition that was asked for, here and below.
    pub(crate) async fn splits_found(&self, job: JobId, of: u64, splits: BTreeMap<SplitId, Position>) {
        self.tell(Input::SplitsFound { job, of, splits }).await;
    }

    pub(crate) async fn files_found(&self, job: JobId, of: u64, found: Vec<FoundFile>, gone: Vec<u64>, complete: bool) {
        self.tell(Input::FilesFound { job, of, found, gone, complete }).await;
    }

    pub(crate) async fn files_retired(&self, job: JobId, files: Vec<(SplitId, FileNumber, bool)>, all: bool) {
        self.tell(Input::FilesRetired { job, files, all }).await;
    }

    /// What a job knows of its files; `None` where another JobManager leads, or there is no such job.
    pub(crate) async fn files(&self, job: JobId) -> Option<FilesState> {
        self.ask(|reply| Input::Files { job, reply }).await.ok().flatten()
    }

    pub(crate) async fn lookups_read(&self, job: JobId, of: u64, version: LookupsVersion) {
        self.tell(Input::LookupsRead { job, of, version }).await;
    }

    pub(crate) async fn lookups_tried(&self, job: JobId, trouble: Option<String>) {
        self.tell(Input::LookupsTried { job, trouble }).await;
    }

    /// What a job knows of its lookups; `None` where another JobManager leads, or there is no such job.
    pub(crate) async fn lookups(&self, job: JobId) -> Option<LookupsState> {
        self.ask(|reply| Input::Lookups { job, reply }).await.ok().flatten()
    }

    /// Answers when what was asked for is done, which may take long.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, NotLeading> {
        self.ask(|reply| Input::Call { call, reply }).await?
    }

    /// How things stand now.
    pub(crate) async fn overview(&self) -> Result<Overview, NotLeading> {
        self.ask(|reply| Input::Overview { reply }).await
    }

    /// The newest job of this name, or the one of this UUID, as it stands.
    pub(crate) async fn standing(&self, name: &str) -> Result<Option<Standing>, NotLeading> {
        let name = name.to_owned();
        self.ask(|reply| Input::Standing { name, reply }).await?
    }

    /// The newest job of this name, or the one of this UUID.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<JobDefinition>, NotLeading> {
        let name = name.to_owned();
        self.ask(|reply| Input::Find { name, reply }).await?
    }

    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, NotLeading> {
        let (reply, answer) = oneshot::channel();
        self.tell(input(reply)).await;
        answer.await.map_err(|_| NotLeading)
    }

    /// The loop is gone only when the process ends.
    async fn tell(&self, input: Input) {
        self.0.send(input).await.ok();
    }
}
