//! The writer of one Kafka cluster: one session, at most one transaction at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use pulso_core::ids::{Attempt, ConnectionId, Epoch, JobId, KeyGroupId, TargetId};
use pulso_core::ledger::Step;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::TargetRows;
use pulso_job::spec::JobSpec;
use uuid::Uuid;

use super::cluster::{Call, Cluster};
use super::messages::Messages;
use super::session::{Asker, Plan, Session, next_connection};
use crate::target::{Rows, TargetError};

static PROCESS: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);

/// Executes the target commands of `pulso_core::worker::Command` on one Kafka cluster.
///
/// The client's calls block, so they run on a thread of their own. Dropping the writer, or a future of it that is not
/// done, makes that thread give up before its next step; the outcome is then unknown.
pub struct KafkaWriter {
    plan: Arc<Plan>,
    /// `None` also while a call has it: one that was given up never gives it back.
    session: Option<Session>,
    last: ConnectionId,
}

impl KafkaWriter {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// `Fatal` where the job has no such target.
    pub fn new(job: JobId, target: TargetId, spec: Arc<JobSpec>) -> Result<Self, TargetError> {
        Self::of_process(*PROCESS, job, target, spec)
    }

    /// As the writer of another process, which no two that run may be.
    ///
    /// # Errors
    /// As [`KafkaWriter::new`].
    pub fn of_process(process: Uuid, job: JobId, target: TargetId, spec: Arc<JobSpec>) -> Result<Self, TargetError> {
        let target = usize::from(target.0);
        let plan = Plan { cluster: Cluster::new(job, &spec, target)?, messages: Messages::new(&spec, target), process };
        Ok(Self { plan: Arc::new(plan), session: None, last: ConnectionId(0) })
    }

    /// The session there is, else the last one there was.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        self.last
    }

    /// Waits until somebody shuts this writer out, and says so; for ever where there is no session.
    pub async fn closed(&mut self) -> String {
        let Some(session) = &self.session else { return std::future::pending().await };
        let context = session.context();
        context.ended.notified().await;
        self.drop_session();
        "the brokers let this producer write no more".to_owned()
    }

    /// See [`crate::target::TargetWriter::take_over`].
    ///
    /// # Errors
    /// Every [`TargetError`].
    pub async fn take_over(
        &mut self,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
        create: bool,
    ) -> Result<Rows, TargetError> {
        let limits = self.session.as_ref().filter(|_| !create).map(|session| session.limits.clone());
        self.open(Asker { attempt, key_groups: key_groups.clone(), create, limits }).await
    }

    /// See [`crate::target::TargetWriter::register`].
    ///
    /// # Errors
    /// Every [`TargetError`].
    pub async fn register(&mut self, attempt: Attempt, key_groups: &BTreeSet<KeyGroupId>) -> Result<Rows, TargetError> {
        self.open(Asker { attempt, key_groups: key_groups.clone(), create: false, limits: None }).await
    }

    /// See [`crate::target::TargetWriter::read_ledger`]. The session knows the key groups.
    ///
    /// # Errors
    /// `ConnectionLost` also where there is no session.
    pub async fn read_ledger(&mut self, key_groups: &BTreeSet<KeyGroupId>) -> Result<Rows, TargetError> {
        let mut rows = self.with_session(|session, call| session.read(call)).await?;
        rows.retain(|id, _| key_groups.contains(id));
        Ok(rows)
    }

    /// See [`crate::target::TargetWriter::transact`].
    ///
    /// # Errors
    /// `ConnectionLost`, and then the outcome is unknown: register, read, compare.
    pub async fn transact(&mut self, steps: &[Step], outputs: &[(Epoch, TargetRows)]) -> Result<Outcome, TargetError> {
        let (steps, outputs) = (steps.to_vec(), outputs.to_vec());
        self.with_session(move |session, call| session.transact(&steps, &outputs, call)).await
    }

    async fn open(&mut self, asker: Asker) -> Result<Rows, TargetError> {
        self.drop_session();
        let plan = Arc::clone(&self.plan);
        let (session, rows) = blocking(move |call| Session::open(plan, &asker, call)).await?;
        self.session = session;
        self.last = next_connection();
        Ok(rows)
    }

    async fn with_session<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Session, &Call) -> Result<T, TargetError> + Send + 'static,
    ) -> Result<T, TargetError> {
        let Some(mut session) = self.session.take() else {
            return Err(TargetError::ConnectionLost { reason: "there is no connection".to_owned() });
        };
        let (session, done) = blocking(move |call| {
            let done = work(&mut session, call);
            Ok((session, done))
        })
        .await?;
        self.session = Some(session);
        if matches!(done, Err(TargetError::ConnectionLost { .. })) {
            self.drop_session();
        }
        done
    }

    /// The end of a client waits for its threads.
    fn drop_session(&mut self) {
        if let Some(session) = self.session.take() {
            tokio::task::spawn_blocking(move || drop(session));
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Call) -> Result<T, TargetError> + Send + 'static,
) -> Result<T, TargetError> {
    let (call, _wanted) = Call::new();
    let done = tokio::task::spawn_blocking(move || work(&call)).await;
    done.unwrap_or_else(|e| Err(TargetError::ConnectionLost { reason: e.to_string() }))
}
