//! The ledger's statements: takeover, registration, reading, guard, and the end of sessions that must not write any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pulso_core::cut::CutHash;
use pulso_core::ids::{Attempt, Epoch, JobId, KeyGroup, KeyGroupId, Stage};
use pulso_core::ledger::{GuardRow, LedgerRow, Mark};

use super::connect::{Connection, RowSet};
use super::error::{Failure, LOCK_WAIT_TIMEOUT, NO_SUCH_TABLE, NO_SUCH_THREAD};
use super::quote;
use crate::target::Rows;

/// A session that is killed rolls back first, which takes as long as what it did.
const GONE: Duration = Duration::from_secs(10);
/// How often a takeover that waits for a lock looks again for sessions to end.
const TRIES: u32 = 3;

/// Whose rows: one job in one target.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    pub(crate) job: JobId,
    pub(crate) target: String,
}

/// Which rows a takeover or a registration may touch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reach {
    UpTo(Attempt),
    Exactly(Attempt),
}

impl Reach {
    fn sql(self) -> String {
        match self {
            Self::UpTo(attempt) => format!("attempt <= {attempt}"),
            Self::Exactly(attempt) => format!("attempt = {attempt}"),
        }
    }

    fn attempt(self) -> Attempt {
        let (Self::UpTo(attempt) | Self::Exactly(attempt)) = self;
        attempt
    }
}

impl Ledger {
    fn mine(&self) -> String {
        format!("job = '{}' AND target = {}", self.job, quote::literal(&self.target))
    }

    /// Ends the sessions that the rows name, makes this connection theirs, and returns them as they are then. A ledger
    /// that is missing as a whole has no row.
    pub(crate) async fn claim(
        &self,
        connection: &Connection,
        reach: Reach,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> Result<Rows, Failure> {
        connection.run("SET SESSION innodb_lock_wait_timeout = 1").await?;
        let claimed = self.claim_quickly(connection, reach, key_groups).await;
        // Whatever came of it, transactions wait for locks as long as before.
        connection.run("SET SESSION innodb_lock_wait_timeout = 5").await?;
        match claimed {
            Ok(()) => self.read(connection, key_groups).await,
            Err(failure) if failure.code == NO_SUCH_TABLE => Ok(key_groups.iter().map(|id| (*id, None)).collect()),
            Err(failure) => Err(failure.during("taking the ledger over")),
        }
    }

    async fn claim_quickly(
        &self,
        connection: &Connection,
        reach: Reach,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> Result<(), Failure> {
        // One statement of its own transaction. It waits for the locks of rows that it is to change, and for no others.
        let update = format!(
            "UPDATE pulso_ledger SET attempt = {}, session = {} WHERE {} AND {} AND ({})",
            reach.attempt(),
            quote::literal(&connection.session),
            self.mine(),
            reach.sql(),
            ids(key_groups)
        );
        let mut tries = 1;
        loop {
            self.end_named(connection, reach, key_groups).await?;
            match connection.run(&*update).await {
                // Somebody holds the rows who was not named by them, or was named only just now.
                Err(failure) if failure.code == LOCK_WAIT_TIMEOUT && tries < TRIES => tries += 1,
                done => return done,
            }
        }
    }

    /// Ends the sessions that the rows name and waits until they are gone: one may be in the middle of a statement or a
    /// COMMIT, and no lock or time-out tells when that is over. A session keeps the lock that is its name until its
    /// transaction is rolled back, and only a session that holds it is ended: numbers of connections come back.
    async fn end_named(
        &self,
        connection: &Connection,
        reach: Reach,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> Result<(), Failure> {
        let named = format!(
            "SELECT DISTINCT IS_USED_LOCK(session) FROM pulso_ledger \
             WHERE {} AND {} AND ({}) AND session IS NOT NULL AND session <> {}",
            self.mine(),
            reach.sql(),
            ids(key_groups),
            quote::literal(&connection.session)
        );
        let began = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let answers = connection.ask(&*named).await?;
            let left: Vec<String> = answers.into_iter().flatten().flatten().flatten().collect();
            for number in &left {
                match connection.run(format!("KILL CONNECTION {number}")).await {
                    Err(failure) if failure.code != NO_SUCH_THREAD => {
                        return Err(failure.during("ending the connections of an older attempt"));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            if began.elapsed() > GONE {
                return Err(Failure::retry(format!("{} connections of an older attempt do not end", left.len())));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// The rows as they are. A ledger that is missing as a whole has no row.
    pub(crate) async fn read(
        &self,
        connection: &Connection,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> Result<Rows, Failure> {
        let sql = format!("SELECT stage, key_group, attempt, epoch, HEX(hash) FROM pulso_ledger WHERE {}", self.mine());
        let found = match connection.ask(sql).await {
            Ok(found) => found,
            Err(failure) if failure.code == NO_SUCH_TABLE => Vec::new(),
            Err(failure) => return Err(failure.during("reading the ledger")),
        };
        let mut rows: Rows = key_groups.iter().map(|id| (*id, None)).collect();
        for (id, row) in ledger_rows(&found)? {
            if let Some(slot) = rows.get_mut(&id) {
                *slot = Some(row);
            }
        }
        Ok(rows)
    }

    /// Begins the transaction and locks the rows. False where one is not where the guard expects it: nothing may be
    /// written then.
    pub(crate) async fn guard(
        &self,
        connection: &Connection,
        attempt: Attempt,
        rows: &[GuardRow],
    ) -> Result<bool, Failure> {
        let mut sql = "START TRANSACTION".to_owned();
        for row in rows {
            // A statement for each: only a look-up by the whole key is sure to lock no other writer's row.
            let KeyGroupId { stage, group } = row.key_group;
            sql.push_str(&format!(
                "; SELECT stage, key_group, attempt, epoch, HEX(hash) FROM pulso_ledger \
                 WHERE {} AND stage = {stage} AND key_group = {group} FOR UPDATE",
                self.mine()
            ));
        }
        let found = connection.ask(sql).await.map_err(|failure| failure.during("the ledger's guard"))?;
        let found: BTreeMap<KeyGroupId, LedgerRow> = ledger_rows(&found)?.into_iter().collect();
        let fits = |row: &GuardRow| {
            found.get(&row.key_group).is_some_and(|f| f.attempt == attempt && f.mark.epoch == row.from.epoch)
        };
        Ok(rows.iter().all(fits))
    }

    /// The statement that moves rows which the guard has locked. They are there, so nothing is ever inserted.
    pub(crate) fn advance(&self, attempt: Attempt, rows: &[GuardRow]) -> String {
        let insert = self.insert(attempt, rows.iter().map(|row| (row.key_group, row.to)));
        format!("{insert} ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), hash = VALUES(hash)")
    }

    /// The statement that makes the rows, once.
    pub(crate) fn make(&self, key_groups: &BTreeSet<KeyGroupId>) -> String {
        let insert = self.insert(Attempt(0), key_groups.iter().map(|id| (*id, Mark::NOTHING)));
        format!("{insert} ON DUPLICATE KEY UPDATE stage = stage")
    }

    fn insert(&self, attempt: Attempt, rows: impl Iterator<Item = (KeyGroupId, Mark)>) -> String {
        let target = quote::literal(&self.target);
        let value = |(KeyGroupId { stage, group }, Mark { epoch, hash }): (KeyGroupId, Mark)| {
            format!("('{}',{target},{stage},{group},{attempt},{epoch},X'{:032x}')", self.job, hash.0)
        };
        format!(
            "INSERT INTO pulso_ledger (job, target, stage, key_group, attempt, epoch, hash) VALUES {}",
            rows.map(value).collect::<Vec<_>>().join(",")
        )
    }
}

/// A condition for these key groups, in the order of the primary key.
fn ids(key_groups: &BTreeSet<KeyGroupId>) -> String {
    let mut stages: BTreeMap<Stage, Vec<String>> = BTreeMap::new();
    for id in key_groups {
        stages.entry(id.stage).or_default().push(id.group.to_string());
    }
    let one =
        |(stage, groups): (Stage, Vec<String>)| format!("stage = {stage} AND key_group IN ({})", groups.join(","));
    let all: Vec<String> = stages.into_iter().map(one).collect();
    if all.is_empty() { "FALSE".to_owned() } else { all.join(" OR ") }
}

fn ledger_rows(answers: &[RowSet]) -> Result<Vec<(KeyGroupId, LedgerRow)>, Failure> {
    let spoilt = || Failure::fatal("pulso_ledger holds a row that Pulso did not write");
    answers.iter().flatten().map(|row| ledger_row(row).ok_or_else(spoilt)).collect()
}

fn ledger_row(row: &[Option<String>]) -> Option<(KeyGroupId, LedgerRow)> {
    let [Some(stage), Some(group), Some(attempt), Some(epoch), Some(hash)] = row else { return None };
    let id = KeyGroupId { stage: Stage(stage.parse().ok()?), group: KeyGroup(group.parse().ok()?) };
    let hash = CutHash(u128::from_str_radix(hash, 16).ok()?);
    let mark = Mark { epoch: Epoch(epoch.parse().ok()?), hash };
    Some((id, LedgerRow { attempt: Attempt(attempt.parse().ok()?), mark }))
}
