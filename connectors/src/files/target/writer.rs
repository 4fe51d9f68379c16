//! The writer of one folder: one chain, one thing at a time.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pulso_core::ids::{Attempt, ConnectionId, Epoch, JobId, KeyGroupId, TargetId};
use pulso_core::ledger::{GuardRow, LedgerRow, Step};
use pulso_core::worker::Outcome;
use pulso_dataflow::batch::TargetRows;
use pulso_job::spec::{JobSpec, TargetKind};
use tokio::task::JoinHandle;

use super::chain::Place;
use super::record::{Kind, Marks, Record, Stream};
use super::rows::Encoder;
use super::takeover::{Claim, Found, Taken};
use crate::target::{Rows, TargetError};

/// So many bytes of rows become files before their time.
const MOST_BYTES: u64 = 64 << 20;
/// After rows could not be published.
const PAUSE: Duration = Duration::from_secs(1);

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Executes the target commands of `pulso_core::worker::Command` on one folder.
///
/// Dropping it, or a future of it that is not done, ends its connection: the outcome is then unknown.
pub struct FilesWriter {
    place: Place,
    roll: Duration,
    encoder: Encoder,
    state: State,
    attempt: Attempt,
    last: ConnectionId,
    /// When rows that could not be published are tried again.
    not_before: Option<Instant>,
}

/// The connection is the chain: whoever loses it claims anew.
enum State {
    None,
    Idle(Box<Open>),
    /// Rows are being published; goes on where nobody waits for it.
    Publishing(JoinHandle<(Box<Open>, io::Result<Ended>)>),
}

/// Whether the chain can be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    /// By this attempt.
    Sealed(Attempt),
    /// It was taken away, as chains are that were sealed.
    Gone,
}

/// A chain and what is not published of it.
#[derive(Debug)]
struct Open {
    taken: Taken,
    /// Of the oldest row that readers do not see.
    since: Option<Instant>,
    bytes: u64,
}

impl FilesWriter {
    /// # Errors
    /// `Fatal` where the job has no such target.
    pub fn new(job: JobId, target: TargetId, spec: &Arc<JobSpec>) -> Result<Self, TargetError> {
        let target = usize::from(target.0);
        let found = spec.targets.get(target).map(|target| &target.kind);
        let Some(TargetKind::Files { folder, roll }) = found else {
            return Err(TargetError::Fatal { reason: format!("target number {target} of the job is no folder") });
        };
        Ok(Self {
            place: Place { folder: folder.clone(), job, name: spec.name.clone() },
            roll: *roll,
            encoder: Encoder::new(spec, target),
            state: State::None,
            attempt: Attempt(0),
            last: ConnectionId(0),
            not_before: None,
        })
    }

    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        self.last
    }

    /// Publishes rows when they are old enough; returns when the chain cannot be gone on with.
    pub async fn closed(&mut self) -> String {
        loop {
            if let State::Idle(open) = &self.state {
                let Some(since) = open.since else { return std::future::pending().await };
                let full = open.bytes >= MOST_BYTES;
                let due = if full { Instant::now() } else { since + self.roll };
                let due = self.not_before.map_or(due, |not_before| due.max(not_before));
                tokio::time::sleep_until(due.into()).await;
                self.publish();
            }
            if matches!(self.state, State::None) {
                return std::future::pending().await;
            }
            match self.settled().await {
                Ok(()) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    /// # Errors
    /// Every [`TargetError`].
    pub async fn take_over(
        &mut self,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
        create: bool,
    ) -> Result<Rows, TargetError> {
        self.claim(attempt, key_groups, Claim::TakeOver { create }).await
    }

    /// # Errors
    /// Every [`TargetError`].
    pub async fn register(&mut self, attempt: Attempt, key_groups: &BTreeSet<KeyGroupId>) -> Result<Rows, TargetError> {
        self.claim(attempt, key_groups, Claim::Register).await
    }

    async fn claim(
        &mut self,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
        claim: Claim,
    ) -> Result<Rows, TargetError> {
        // What was under way on the chain before is sealed off by this.
        self.state = State::None;
        self.attempt = attempt;
        let (place, key_groups) = (self.place.clone(), key_groups.clone());
        let found = blocking(move || place.claim(attempt, &key_groups, claim)).await;
        let Found { rows, taken } = found.map_err(|error| self.refused(&error))?;
        self.last = ConnectionId(NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed));
        if let Some(taken) = taken {
            self.state = State::Idle(Box::new(Open { taken, since: None, bytes: 0 }));
        }
        Ok(rows)
    }

    /// # Errors
    /// `ConnectionLost` where there is no chain, or not the one there was.
    pub async fn read_ledger(&mut self, key_groups: &BTreeSet<KeyGroupId>) -> Result<Rows, TargetError> {
        self.settled().await?;
        let open = self.take()?;
        let (open, read) = blocking(move || {
            let read = open.taken.chain.newest();
            Ok((open, read))
        })
        .await
        .map_err(lost)?;
        let Some(newest) = read.map_err(lost)? else { return Err(gone()) };
        let row = |mark| LedgerRow { attempt: newest.record.sealed_by().unwrap_or(open.taken.chain.attempt), mark };
        let rows = key_groups.iter().map(|id| (*id, newest.record.head.marks.get(id).map(|mark| row(*mark)))).collect();
        self.state = State::Idle(open);
        Ok(rows)
    }

    /// # Errors
    /// `ConnectionLost`, and then the outcome is unknown: register, read, compare.
    pub async fn transact(&mut self, steps: &[Step], outputs: &[(Epoch, TargetRows)]) -> Result<Outcome, TargetError> {
        self.settled().await?;
        let open = self.take()?;
        let (mut guard, mut epochs) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Guard(rows) => guard.extend(rows.iter().copied()),
                Step::Rows(named) => epochs.extend(named.iter().copied()),
                Step::Begin | Step::Commit => {}
            }
        }
        let marks = &open.taken.marks;
        let holds = |row: &GuardRow| marks.get(&row.key_group).is_some_and(|mark| mark.epoch == row.from.epoch);
        if !guard.iter().all(holds) {
            let row = |mark| LedgerRow { attempt: open.taken.chain.attempt, mark };
            let rows = marks.iter().map(|(id, mark)| (*id, Some(row(*mark)))).collect();
            self.state = State::Idle(open);
            return Ok(Outcome::GuardMissed { rows });
        }
        let named: Vec<&TargetRows> =
            outputs.iter().filter(|(epoch, _)| epochs.contains(epoch)).map(|(_, rows)| rows).collect();
        let rows = match self.encoder.encode(&named) {
            Ok(rows) => rows,
            Err(reason) => {
                self.state = State::Idle(open);
                return Ok(Outcome::Failed { reason });
            }
        };
        let (open, outcome) = blocking(move || Ok(commit(open, &guard, rows))).await.map_err(lost)?;
        self.state = State::Idle(open);
        outcome.map_err(|error| {
            self.state = State::None;
            lost(error)
        })
    }

    /// Nothing more will come: readers shall see every row.
    ///
    /// # Errors
    /// Every [`TargetError`].
    pub async fn finish(&mut self) -> Result<(), TargetError> {
        self.settled().await?;
        self.publish();
        self.settled().await?;
        match &self.state {
            State::Idle(open) if open.since.is_some() => {
                let folder = self.place.folder.display();
                Err(TargetError::Retry { reason: format!("rows could not be published in folder {folder}") })
            }
            State::Idle(_) | State::None | State::Publishing(_) => Ok(()),
        }
    }

    fn take(&mut self) -> Result<Box<Open>, TargetError> {
        match std::mem::replace(&mut self.state, State::None) {
            State::Idle(open) => Ok(open),
            State::None | State::Publishing(_) => Err(gone()),
        }
    }

    /// Begins to publish what readers do not see.
    fn publish(&mut self) {
        if let State::Idle(open) = std::mem::replace(&mut self.state, State::None) {
            let place = self.place.clone();
            self.state = State::Publishing(tokio::task::spawn_blocking(move || open.publish(&place)));
        }
    }

    /// Waits until nothing is being published. May be given up and called again.
    async fn settled(&mut self) -> Result<(), TargetError> {
        let State::Publishing(handle) = &mut self.state else { return Ok(()) };
        let done = handle.await;
        self.state = State::None;
        let (open, published) = done.map_err(|error| lost(io::Error::other(error)))?;
        self.not_before = None;
        match published {
            Ok(Ended::No) => self.state = State::Idle(open),
            Ok(Ended::Sealed(by)) => return Err(lost(io::Error::other(format!("attempt {by} has taken over")))),
            Ok(Ended::Gone) => return Err(gone()),
            // They are decided already, and whoever claims the chain anew publishes them. Its writer must not go on: the
            // next record of its own would be in front of them.
            Err(error) if open.since.is_none() => return Err(lost(error)),
            Err(error) => {
                tracing::warn!(folder = %self.place.folder.display(), %error, "rows could not be published; trying again");
                self.not_before = Some(Instant::now() + PAUSE);
                self.state = State::Idle(open);
            }
        }
        Ok(())
    }

    fn refused(&self, error: &io::Error) -> TargetError {
        let folder = self.place.folder.display();
        #[expect(clippy::wildcard_enum_match_arm, reason = "everything else may pass")]
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => TargetError::Fatal {
                reason: format!("folder {folder}: {error}; the user of the TaskManagers needs to write there"),
            },
            io::ErrorKind::InvalidData => {
                TargetError::Fatal { reason: format!("folder {folder}: a record of the ledger is damaged: {error}") }
            }
            _ => TargetError::Retry { reason: format!("folder {folder}: {error}") },
        }
    }
}

/// Rows that nobody waited for are published as the writer goes: the job has ended, or moves.
impl Drop for FilesWriter {
    fn drop(&mut self) {
        let State::Idle(open) = std::mem::replace(&mut self.state, State::None) else { return };
        if open.since.is_some() {
            let place = self.place.clone();
            let work = move || drop(open.publish(&place));
            if std::thread::Builder::new().name("publish".to_owned()).spawn(work).is_err() {
                tracing::warn!(folder = %self.place.folder.display(), "rows wait for the next attempt to be published");
            }
        }
    }
}

impl Open {
    fn publish(mut self: Box<Self>, place: &Place) -> (Box<Self>, io::Result<Ended>) {
        let done = self.try_publish(place);
        (self, done)
    }

    fn try_publish(&mut self, place: &Place) -> io::Result<Ended> {
        if self.since.is_none() {
            return Ok(Ended::No);
        }
        let (chain, number) = (&self.taken.chain, self.taken.next);
        let files = chain.gather(number - 1, &place.name)?;
        let record = Record::new(Kind::Published { files: files.clone() }, self.taken.marks.clone(), Vec::new());
        match chain.put(number, &record) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                chain.discard(&files);
                return Ok(Ended::Sealed(chain.read(number)?.sealed_by().unwrap_or(chain.attempt)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ended::Gone),
            Err(error) => return self.decided(number, &record, &files, place, error),
        }
        self.decide(number, &files, place)
    }

    /// The record is there: from now on its files are what readers are to see.
    fn decide(&mut self, number: u64, files: &[super::record::Publication], place: &Place) -> io::Result<Ended> {
        (self.taken.next, self.since, self.bytes) = (number + 1, None, 0);
        self.taken.chain.publish(files, &place.folder)?;
        self.taken.chain.forget_before(number)?;
        Ok(Ended::No)
    }

    /// Whether the record came to be after an error is for a look to tell.
    fn decided(
        &mut self,
        number: u64,
        record: &Record,
        files: &[super::record::Publication],
        place: &Place,
        error: io::Error,
    ) -> io::Result<Ended> {
        match self.taken.chain.read(number) {
            Ok(found) if found == *record => {
                super::chain::sync(&self.taken.chain.path)?;
                self.decide(number, files, place)
            }
            Ok(found) => {
                self.taken.chain.discard(files);
                Ok(Ended::Sealed(found.sealed_by().unwrap_or(self.taken.chain.attempt)))
            }
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => {
                self.taken.chain.discard(files);
                Err(error)
            }
            // Perhaps it is there, and then its files are wanted.
            Err(_) => Err(error),
        }
    }
}

/// One record: marks and rows. `Err`: it is unknown whether it is there.
fn commit(mut open: Box<Open>, guard: &[GuardRow], rows: Vec<(Stream, Vec<u8>)>) -> (Box<Open>, io::Result<Outcome>) {
    let mut marks: Marks = open.taken.marks.clone();
    marks.extend(guard.iter().map(|row| (row.key_group, row.to)));
    let bytes: u64 = rows.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let (chain, number) = (&open.taken.chain, open.taken.next);
    let record = Record::new(Kind::Committed, marks.clone(), rows);
    let mut put = chain.put(number, &record);
    if let Err(error) = &put
        && error.kind() == io::ErrorKind::AlreadyExists
    {
        match chain.read(number) {
            // The link was made, and the answer to it was lost.
            Ok(found) if found == record => put = super::chain::sync(&chain.path),
            Ok(found) => {
                let attempt = found.sealed_by().unwrap_or(chain.attempt);
                let row = |mark| Some(LedgerRow { attempt, mark });
                let rows = found.head.marks.iter().map(|(id, mark)| (*id, row(*mark))).collect();
                return (open, Ok(Outcome::GuardMissed { rows }));
            }
            Err(error) => put = Err(error),
        }
    }
    let outcome = match put {
        Ok(()) => {
            (open.taken.next, open.taken.marks) = (number + 1, marks);
            open.bytes += bytes;
            if bytes > 0 {
                open.since.get_or_insert_with(Instant::now);
            }
            Ok(Outcome::Committed)
        }
        Err(error) if is_absent(&chain.path, number) => {
            Ok(Outcome::RolledBack { reason: format!("{}: {error}", chain.path.display()) })
        }
        Err(error) => Err(error),
    };
    (open, outcome)
}

/// True where the record is certainly not there, and the chain is.
fn is_absent(chain: &Path, number: u64) -> bool {
    chain.is_dir() && matches!(chain.join(format!("{number:012}")).try_exists(), Ok(false))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn lost(error: io::Error) -> TargetError {
    TargetError::ConnectionLost { reason: error.to_string() }
}

fn gone() -> TargetError {
    TargetError::ConnectionLost { reason: "this writer's part of the ledger is not there any more".to_owned() }
}
