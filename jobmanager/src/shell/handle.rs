//! What the other parts of the process see of the loop: a cheap handle. Its channel is nobody else's business.

use std::collections::BTreeMap;

use pulso_core::coordinator::{Answer, Call};
use pulso_core::files::{FileNumber, FilesState, FoundFile};
use pulso_core::ids::{JobId, Position, SessionId, SplitId, TaskManagerId};
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
    SplitsFound { job: JobId, splits: BTreeMap<SplitId, Position> },
    FilesFound { job: JobId, found: Vec<FoundFile>, gone: Vec<u64>, complete: bool },
    FilesRetired { job: JobId, files: Vec<(SplitId, FileNumber, bool)>, all: bool },
    LookupsRead { job: JobId, version: LookupsVersion },
    LookupsTried { job: JobId, trouble: Option<String> },
    Lookups { job: JobId, reply: oneshot::Sender<Option<LookupsState>> },
    Files { job: JobId, reply: oneshot::Sender<Option<FilesState>> },
    Call { call: Call, reply: oneshot::Sender<Result<Answer, NotLeading>> },
    Overview { reply: oneshot::Sender<Overview> },
    Find { name: String, reply: oneshot::Sender<Result<Option<JobDefinition>, NotLeading>> },
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

    pub(crate) async fn splits_found(&self, job: JobId, splits: BTreeMap<SplitId, Position>) {
        self.tell(Input::SplitsFound { job, splits }).await;
    }

    pub(crate) async fn files_found(&self, job: JobId, found: Vec<FoundFile>, gone: Vec<u64>, complete: bool) {
        self.tell(Input::FilesFound { job, found, gone, complete }).await;
    }

    pub(crate) async fn files_retired(&self, job: JobId, files: Vec<(SplitId, FileNumber, bool)>, all: bool) {
        self.tell(Input::FilesRetired { job, files, all }).await;
    }

    /// What a job knows of its files; `None` where another JobManager leads, or there is no such job.
    pub(crate) async fn files(&self, job: JobId) -> Option<FilesState> {
        self.ask(|reply| Input::Files { job, reply }).await.ok().flatten()
    }

    pub(crate) async fn lookups_read(&self, job: JobId, version: LookupsVersion) {
        self.tell(Input::LookupsRead { job, version }).await;
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
