//! The ledger's statements: takeover, registration, reading, guard, and the end of backends that must not write any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pulso_core::cut::CutHash;
use pulso_core::ids::{Attempt, Epoch, JobId, KeyGroup, KeyGroupId, Stage};
use pulso_core::ledger::{GuardRow, LedgerRow, Mark};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::connect::Connection;
use super::error::{Failure, UNDEFINED_TABLE};
use super::quote;
use crate::target::Rows;

/// A paused process does not die until it is scheduled; a backend does within milliseconds.
const GONE: Duration = Duration::from_secs(10);

const READ: &str = "SELECT stage, key_group, attempt, epoch, hash FROM pulso.ledger
    WHERE job = $1::text::uuid AND target = $2";

const KEYS: &str = "unnest($4::int2[], $5::int4[]) AS k(stage, key_group)";

/// The newest row wins, and only this statement decides who that is.
const TAKE_OVER: &str = "UPDATE pulso.ledger AS l SET attempt = $3, backend_pid = pg_backend_pid(),
    backend_start = (SELECT a.backend_start FROM pg_stat_activity AS a WHERE a.pid = pg_backend_pid())
    FROM {keys}
    WHERE l.job = $1::text::uuid AND l.target = $2 AND l.stage = k.stage AND l.key_group = k.key_group AND {attempt}
    RETURNING l.stage, l.key_group, l.attempt, l.epoch, l.hash";

/// Backends that the rows name and that are still there, but for this one. Parameters as of [`TAKE_OVER`].
///
/// A session that goes by the new attempt's name has adopted it: a process that stays in the job uses its connection on,
/// and a row of a key group that moves away still names it. A process id alone proves nothing, it comes back; together
/// with the start it is unique.
const NAMED_BACKENDS: &str = "FROM pg_stat_activity AS a WHERE a.pid <> pg_backend_pid() AND EXISTS (
    SELECT FROM pulso.ledger AS l, {keys}
    WHERE l.job = $1::text::uuid AND l.target = $2 AND l.stage = k.stage AND l.key_group = k.key_group AND {attempt}
    AND l.backend_pid = a.pid AND l.backend_start = a.backend_start
    AND (l.attempt = $3 OR NOT CASE WHEN a.application_name ~ ('^pulso/' || $1 || '/[0-9]{1,18}$')
        THEN substring(a.application_name FROM '[0-9]+$')::bigint >= $3 ELSE false END))";

/// Sessions of this job's older attempts that have a transaction or a statement under way.
const OLDER_BACKENDS: &str = "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity AS a
    WHERE a.pid <> pg_backend_pid() AND a.datname = current_database() AND a.state <> 'idle'
    AND CASE WHEN a.application_name ~ ('^pulso/' || $1 || '/[0-9]{1,18}$')
        THEN substring(a.application_name FROM '[0-9]+$')::bigint < $2 ELSE false END";

/// Whose rows: one job in one target.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    pub(crate) job: JobId,
    pub(crate) target: String,
}

/// Which rows a takeover or a registration may touch.
#[derive(Debug, Clone, Copy)]
enum Reach {
    UpTo,
    Exactly,
}

impl Reach {
    fn sql(self, template: &str) -> String {
        let attempt = match self {
            Self::UpTo => "l.attempt <= $3",
            Self::Exactly => "l.attempt = $3",
        };
        template.replace("{keys}", KEYS).replace("{attempt}", attempt)
    }
}

impl Ledger {
    /// Ends the backends that the rows name, makes this connection theirs, and locks out every older attempt.
    pub(crate) async fn take_over(
        &self,
        connection: &Connection,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> Result<Rows, Failure> {
        self.claim(connection, attempt, key_groups, Reach::UpTo).await
    }

    /// Makes this connection the backend of the rows that are of this very attempt, after the end of the one before it.
    pub(crate) async fn register(
        &self,
        connection: &Connection,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> Result<Rows, Failure> {
        self.claim(connection, attempt, key_groups, Reach::Exactly).await
    }

    async fn claim(
        &self,
        connection: &Connection,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
        reach: Reach,
    ) -> Result<Rows, Failure> {
        let parameters = Parameters::new(self, attempt, key_groups);
        self.end_named(connection, &parameters, reach).await?;
        let claimed = connection.query(&reach.sql(TAKE_OVER), &parameters.typed()).await;
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(failure) if is_undefined(&failure) => return Ok(key_groups.iter().map(|id| (*id, None)).collect()),
            Err(failure) => return Err(failure.during("taking the ledger over")),
        };
        let mut rows: Rows = Rows::new();
        for row in &claimed {
            let (id, row) = ledger_row(row)?;
            rows.insert(id, Some(row));
        }
        if rows.len() < key_groups.len() {
            let missed = key_groups.iter().filter(|id| !rows.contains_key(id)).copied().collect();
            rows.extend(self.read(connection, &missed).await?);
        }
        Ok(rows)
    }

    /// Ends the backends that the rows name and waits until they are gone: one may be in the middle of a COPY or a
    /// COMMIT, and no lock or time-out tells when that is over.
    async fn end_named(
        &self,
        connection: &Connection,
        parameters: &Parameters<'_>,
        reach: Reach,
    ) -> Result<(), Failure> {
        let named = reach.sql(NAMED_BACKENDS);
        let end = format!("SELECT count(pg_terminate_backend(a.pid)) {named}");
        let began = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let left = match connection.query(&end, &parameters.typed()).await {
                Ok(rows) => rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(0))?,
                Err(failure) if is_undefined(&failure) => return Ok(()),
                Err(failure) => return Err(failure.during("ending the connections of an older attempt")),
            };
            if left == 0 {
                return Ok(());
            }
            if began.elapsed() > GONE {
                return Err(Failure::retry(format!("{left} connections of an older attempt do not end")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// After a lock time-out: ends whatever of this job and an older attempt is in the middle of something.
    pub(crate) async fn end_older(&self, connection: &Connection, attempt: Attempt) -> Result<(), Failure> {
        let job = self.job.to_string();
        let attempt = number(attempt.0);
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&job, Type::TEXT), (&attempt, Type::INT8)];
        connection.query(OLDER_BACKENDS, &parameters).await?;
        Ok(())
    }

    /// The rows as they are. A ledger that is missing as a whole has no row.
    pub(crate) async fn read(
        &self,
        connection: &Connection,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> Result<Rows, Failure> {
        let job = self.job.to_string();
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&job, Type::TEXT), (&self.target, Type::TEXT)];
        let found = match connection.query(READ, &parameters).await {
            Ok(found) => found,
            Err(failure) if is_undefined(&failure) => Vec::new(),
            Err(failure) => return Err(failure.during("reading the ledger")),
        };
        let mut rows: Rows = key_groups.iter().map(|id| (*id, None)).collect();
        for row in &found {
            let (id, row) = ledger_row(row)?;
            if let Some(slot) = rows.get_mut(&id) {
                *slot = Some(row);
            }
        }
        Ok(rows)
    }

    /// The guard as one statement for the simple protocol, so that it goes in one flight with BEGIN, and does not run
    /// at all, let alone by itself, where BEGIN fails. Numbers of our own and the quoted target are all its literals.
    pub(crate) fn guard(&self, attempt: Attempt, rows: &[GuardRow]) -> String {
        let mut sql = String::with_capacity(300 + rows.len() * 90);
        sql.push_str("UPDATE pulso.ledger AS l SET epoch = g.next, hash = g.hash FROM (VALUES ");
        for (i, row) in rows.iter().enumerate() {
            if i > 0 {
                sql.push(',');
            }
            let (id, from, to) = (row.key_group, row.from.epoch, row.to);
            sql.push_str(&format!(
                "({}::int2,{}::int4,{}::int8,{}::int8,'\\x{:032x}'::bytea)",
                id.stage, id.group, from, to.epoch, to.hash.0
            ));
        }
        sql.push_str(&format!(
            ") AS g(stage, key_group, previous, next, hash) WHERE l.job = '{}'::uuid AND l.target = {} \
             AND l.stage = g.stage AND l.key_group = g.key_group AND l.attempt = {} AND l.epoch = g.previous",
            self.job,
            quote::literal(&self.target),
            attempt
        ));
        sql
    }
}

/// `$1` to `$5` of a claim.
struct Parameters<'a> {
    job: String,
    target: &'a str,
    attempt: i64,
    stages: Vec<i16>,
    groups: Vec<i32>,
}

impl<'a> Parameters<'a> {
    fn new(ledger: &'a Ledger, attempt: Attempt, key_groups: &BTreeSet<KeyGroupId>) -> Self {
        Self {
            job: ledger.job.to_string(),
            target: &ledger.target,
            attempt: number(attempt.0),
            stages: key_groups.iter().map(|id| i16::from(id.stage.0)).collect(),
            groups: key_groups.iter().map(|id| i32::from(id.group.0)).collect(),
        }
    }

    fn typed(&self) -> [(&(dyn ToSql + Sync), Type); 5] {
        [
            (&self.job, Type::TEXT),
            (&self.target, Type::TEXT),
            (&self.attempt, Type::INT8),
            (&self.stages, Type::INT2_ARRAY),
            (&self.groups, Type::INT4_ARRAY),
        ]
    }
}

fn is_undefined(failure: &Failure) -> bool {
    failure.code == UNDEFINED_TABLE
}

/// Attempts and epochs count up from 1 and never get anywhere near the end of a bigint.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn ledger_row(row: &Row) -> Result<(KeyGroupId, LedgerRow), Failure> {
    let (stage, group): (i16, i32) = (row.try_get(0)?, row.try_get(1)?);
    let (attempt, epoch): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
    let hash: &[u8] = row.try_get(4)?;
    let spoilt = |_| Failure::fatal("pulso.ledger holds a row that Pulso did not write");
    let id = KeyGroupId {
        stage: Stage(u8::try_from(stage).map_err(spoilt)?),
        group: KeyGroup(u16::try_from(group).map_err(spoilt)?),
    };
    let hash =
        <[u8; 16]>::try_from(hash).map_err(|_| Failure::fatal("pulso.ledger holds a hash that Pulso did not write"))?;
    let mark = Mark { epoch: Epoch(u64::try_from(epoch).map_err(spoilt)?), hash: CutHash(u128::from_be_bytes(hash)) };
    Ok((id, LedgerRow { attempt: Attempt(u64::try_from(attempt).map_err(spoilt)?), mark }))
}
