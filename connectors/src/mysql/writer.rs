//! The writer of one target: one connection, at most one transaction at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use pulso_core::ids::{Attempt, ConnectionId, Epoch, JobId, KeyGroupId, TargetId};
use pulso_core::ledger::Step;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::TargetRows;
use pulso_job::spec::{JobSpec, TableSink, TargetKind};

use super::address::Address;
use super::connect::Connection;
use super::error::Failure;
use super::ledger::{Ledger, Reach};
use super::table::Table;
use super::transaction::no_connection;
use super::{create, tables};
use crate::database::Zone;
use crate::database::refused::RefusedShare;
use crate::target::{Rows, TargetError};

/// Executes the target commands of `pulso_core::worker::Command` on one database of MySQL or MariaDB.
///
/// Dropping it, or a future of it that is not done, ends the connection; the outcome is then unknown.
pub struct MySqlWriter {
    pub(super) ledger: Ledger,
    pub(super) spec: Arc<JobSpec>,
    address: Address,
    zone: Zone,
    pub(super) connection: Option<Connection>,
    /// Set while a call is under way: a call that was given up leaves a connection that nobody knows the state of.
    busy: bool,
    /// A proxy would have been noticed.
    proved: bool,
    pub(super) attempt: Attempt,
    /// Key groups of the newest takeover or registration: what a reading of the ledger is compared with.
    pub(super) hosted: BTreeSet<KeyGroupId>,
    target: usize,
    /// Of the sinks of this target, in file order.
    pub(super) tables: Vec<Table>,
    pub(super) share: RefusedShare,
    last: ConnectionId,
}

impl MySqlWriter {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// `Fatal` where the job has no such target or its URL is none.
    pub fn new(job: JobId, target: TargetId, spec: Arc<JobSpec>) -> Result<Self, TargetError> {
        let target = usize::from(target.0);
        let Some(found) = spec.targets.get(target) else {
            return Err(Failure::fatal(format!("the job has no target number {target}")).into());
        };
        let TargetKind::MySql { url, zone, max_refused } = &found.kind else {
            return Err(Failure::fatal(format!("target {} is not a MySQL database", found.name)).into());
        };
        let zone = Zone::named(zone).map_err(Failure::fatal)?;
        let address = Address::parse(url)?;
        let (ledger, share) = (Ledger { job, target: found.name.clone() }, RefusedShare::new(*max_refused));
        Ok(Self {
            ledger,
            spec,
            address,
            zone,
            connection: None,
            busy: false,
            proved: false,
            attempt: Attempt(0),
            hosted: BTreeSet::new(),
            target,
            tables: Vec::new(),
            share,
            last: ConnectionId(0),
        })
    }

    /// The connection there is, else the last one there was.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        self.last
    }

    /// Waits until the connection ends by itself, and says why; for ever where there is none.
    pub async fn closed(&mut self) -> String {
        let Some(connection) = self.connection.as_mut() else { return std::future::pending().await };
        let reason = connection.ended().await;
        self.connection = None;
        reason
    }

    /// Connects where there is no connection, ends the sessions that the rows name, makes the rows this attempt's and
    /// this connection's, and returns them; a row of a newer attempt as it is, a missing one as `None`.
    ///
    /// `create`: rows and tables may be made, because nothing was ever committed.
    ///
    /// # Errors
    /// Every [`TargetError`]; after `ConnectionLost` the next call connects anew.
    pub async fn take_over(
        &mut self,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
        create: bool,
    ) -> Result<Rows, TargetError> {
        if !self.begin() {
            self.connection = None;
        }
        let done = self.take_over_on_connection(attempt, key_groups, create).await;
        self.end(done)
    }

    /// Connects anew, ends the session of this attempt that the rows name, makes this connection theirs, and returns
    /// them; rows of another attempt as they are.
    ///
    /// # Errors
    /// Every [`TargetError`].
    pub async fn register(&mut self, attempt: Attempt, key_groups: &BTreeSet<KeyGroupId>) -> Result<Rows, TargetError> {
        self.connection = None;
        self.begin();
        let done = self.register_on_connection(attempt, key_groups).await;
        self.end(done)
    }

    /// The rows as they are, on the connection there is.
    ///
    /// # Errors
    /// `ConnectionLost` also where there is none.
    pub async fn read_ledger(&mut self, key_groups: &BTreeSet<KeyGroupId>) -> Result<Rows, TargetError> {
        let done = if self.begin() {
            match self.connected() {
                Ok(connection) => self.ledger.read(connection, key_groups).await,
                Err(failure) => Err(failure),
            }
        } else {
            Err(no_connection())
        };
        self.end(done)
    }

    /// Executes the steps; `outputs` are the rows of the epochs that [`Step::Rows`] names.
    ///
    /// # Errors
    /// `ConnectionLost`, and then the outcome is unknown: register, read, compare.
    pub async fn transact(&mut self, steps: &[Step], outputs: &[(Epoch, TargetRows)]) -> Result<Outcome, TargetError> {
        let done = if self.begin() { self.run_transaction(steps, outputs).await } else { Err(no_connection()) };
        // Whatever went wrong on the way back from a failure: only a new connection is in a known state.
        self.end(done.map_err(|failure| Failure::lost(failure.text)))
    }

    /// False where the call before was given up in the middle of something.
    fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.busy, true)
    }

    fn end<T>(&mut self, done: Result<T, Failure>) -> Result<T, TargetError> {
        self.busy = false;
        done.map_err(|failure| {
            let error = TargetError::from(failure);
            if matches!(error, TargetError::ConnectionLost { .. }) {
                self.connection = None;
            }
            error
        })
    }

    pub(super) fn connected(&self) -> Result<&Connection, Failure> {
        self.connection.as_ref().ok_or_else(no_connection)
    }

    async fn take_over_on_connection(
        &mut self,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
        create: bool,
    ) -> Result<Rows, Failure> {
        match self.connection.as_mut().filter(|connection| !connection.is_closed()) {
            // A row of a key group that moves away still names this session, by the name that it has no more: nobody
            // ends it for one of an older attempt.
            Some(kept) => kept.rename().await?,
            None => self.connect().await?,
        }
        self.attempt = attempt;
        self.hosted.clone_from(key_groups);
        let spec = Arc::clone(&self.spec);
        let sinks = self.sinks(&spec);
        let connection = self.connected()?;
        if create {
            create::create(connection, &self.ledger, &spec, &sinks, key_groups).await?;
        }
        self.tables = self.check(&spec, &sinks).await?;
        self.ledger.claim(self.connected()?, Reach::UpTo(attempt), key_groups).await
    }

    async fn register_on_connection(
        &mut self,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> Result<Rows, Failure> {
        self.connect().await?;
        self.attempt = attempt;
        self.hosted.clone_from(key_groups);
        if self.tables.is_empty() {
            let spec = Arc::clone(&self.spec);
            self.tables = self.check(&spec, &self.sinks(&spec)).await?;
        }
        self.ledger.claim(self.connected()?, Reach::Exactly(attempt), key_groups).await
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        self.connection = None;
        let connection = Connection::open(&self.address).await?;
        if !self.proved {
            connection.prove_session(&self.address).await?;
            self.proved = true;
        }
        self.last = connection.id;
        self.connection = Some(connection);
        Ok(())
    }

    pub(super) fn sinks<'a>(&self, spec: &'a JobSpec) -> Vec<TableSink<'a>> {
        spec.tables(self.target).collect()
    }

    pub(super) async fn check(&self, spec: &JobSpec, sinks: &[TableSink<'_>]) -> Result<Vec<Table>, Failure> {
        let connection = self.connected()?;
        create::check_owners(connection, &self.ledger, sinks).await?;
        tables::check(connection, spec, &self.zone, sinks).await
    }
}
