//! The writer of one target: one connection, at most one transaction at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pulso_core::ids::{Attempt, ConnectionId, Epoch, JobId, KeyGroupId, TargetId};
use pulso_core::ledger::Step;
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::TargetRows;
use pulso_job::spec::{JobSpec, TableSink, TargetKind};

use super::connect::{Address, Connection, application_name};
use super::error::{Failure, LOCK_NOT_AVAILABLE};
use super::ledger::Ledger;
use super::table::Table;
use super::tables;
use super::transaction::no_connection;
use super::{create, quote};
use crate::database::Zone;
use crate::database::refused::RefusedShare;
use crate::target::{Rows, TargetError};

/// How often a takeover ends whoever blocks it before it says so.
const TAKEOVER_TRIES: u32 = 3;
/// A takeover is on the path of a failover: it looks for whom it waits after this.
const TAKEOVER_LOCK_TIMEOUT: Duration = Duration::from_millis(300);

/// Executes the target commands of `pulso_core::worker::Command` on one PostgreSQL database.
///
/// Dropping it, or a future of it that is not done, closes the connection at once; the outcome is then unknown.
pub struct PostgresWriter {
    pub(super) ledger: Ledger,
    pub(super) spec: Arc<JobSpec>,
    address: Address,
    zone: Zone,
    pub(super) connection: Option<Connection>,
    /// Set while a call is under way: a call that was given up leaves a connection that nobody knows the state of.
    busy: bool,
    /// A pooler would have been noticed.
    proved: bool,
    pub(super) attempt: Attempt,
    /// Key groups of the newest takeover or registration: what a reading of the ledger is compared with.
    pub(super) hosted: BTreeSet<KeyGroupId>,
    target: usize,
    /// Of the sinks of this target, in file order.
    pub(super) tables: Vec<Table>,
    pub(super) share: RefusedShare,
    /// Sinks that go by staging, and until when.
    pub(super) staged: BTreeMap<usize, Instant>,
    last: ConnectionId,
    /// The last transaction began in vain with a COPY sent along, which costs the connection: until one is committed,
    /// each beginning is waited for.
    pub(super) cautious: bool,
}

impl PostgresWriter {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// `Fatal` where the job has no such target or its URL is none.
    pub fn new(job: JobId, target: TargetId, spec: Arc<JobSpec>) -> Result<Self, TargetError> {
        let target = usize::from(target.0);
        let Some(found) = spec.targets.get(target) else {
            return Err(Failure::fatal(format!("the job has no target number {target}")).into());
        };
        let TargetKind::Postgres { url, zone, max_refused } = &found.kind else {
            return Err(Failure::fatal(format!("target {} is not a PostgreSQL database", found.name)).into());
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
            staged: BTreeMap::new(),
            last: ConnectionId(0),
            cautious: false,
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

    /// Connects where there is no connection, ends the backends that the rows name, makes the rows this attempt's and
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

    /// Connects anew, ends the backend of this attempt that the rows name, makes this connection theirs, and returns
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
        let kept = self.connection.as_ref().is_some_and(|connection| !connection.is_closed());
        if kept {
            // From here on nobody takes this session for one of an older attempt. Staging tables may be out of date.
            let name = quote::literal(&application_name(self.ledger.job, attempt));
            self.connected()?.run(&format!("DISCARD TEMP; SET application_name = {name}")).await?;
        } else {
            self.connect(attempt).await?;
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
        let rows = self.claim(attempt, key_groups).await;
        // Whatever came of it, transactions wait for locks as long as before.
        self.connected()?.run("SET lock_timeout = '5s'").await?;
        rows
    }

    async fn claim(&self, attempt: Attempt, key_groups: &BTreeSet<KeyGroupId>) -> Result<Rows, Failure> {
        let connection = self.connected()?;
        let timeout = format!("SET lock_timeout = '{}ms'", TAKEOVER_LOCK_TIMEOUT.as_millis());
        connection.run(&timeout).await?;
        let mut tries = 1;
        loop {
            match self.ledger.take_over(connection, attempt, key_groups).await {
                // Somebody holds the rows who was not named by them, or was named only just now.
                Err(failure) if failure.code == LOCK_NOT_AVAILABLE && tries < TAKEOVER_TRIES => {
                    self.ledger.end_older(connection, attempt).await?;
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    async fn register_on_connection(
        &mut self,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> Result<Rows, Failure> {
        self.connect(attempt).await?;
        self.attempt = attempt;
        self.hosted.clone_from(key_groups);
        if self.tables.is_empty() {
            let spec = Arc::clone(&self.spec);
            let sinks = self.sinks(&spec);
            self.tables = self.check(&spec, &sinks).await?;
        }
        let connection = self.connected()?;
        if self.cautious {
            // The connection before it may have gone by a lock that it waited for.
            self.ledger.end_older(connection, attempt).await?;
        }
        self.ledger.register(connection, attempt, key_groups).await
    }

    pub(super) async fn connect(&mut self, attempt: Attempt) -> Result<(), Failure> {
        self.connection = None;
        let name = application_name(self.ledger.job, attempt);
        let connection = Connection::open(&self.address, &name).await?;
        if !self.proved {
            connection.prove_session(&self.address, &name).await?;
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
