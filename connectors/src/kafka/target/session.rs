//! A writer that has made itself known, has shut out those before it, and knows what is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pulso_core::ids::{Attempt, ConnectionId, KeyGroupId};
use pulso_core::ledger::{LedgerRow, Mark};
use rdkafka::topic_partition_list::Offset;
use uuid::Uuid;

use super::cluster::{Call, Cluster};
use super::ledger::{self, MARKS, Until, WRITERS, WriterId};
use super::messages::{Message, Messages};
use super::producer::{self, Context, Producer, Trouble};
use super::topics::{self, Limits};
use crate::target::{Rows, TargetError};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// What every session of a target has in common.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) cluster: Cluster,
    pub(super) messages: Messages,
    /// Tells this process from every other one.
    pub(super) process: Uuid,
}

/// Who asks for a session.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) attempt: Attempt,
    pub(super) key_groups: BTreeSet<KeyGroupId>,
    pub(super) create: bool,
    /// Of a session that was in order until now: its topics are there.
    pub(super) limits: Option<Limits>,
}

pub(super) struct Session {
    pub(super) plan: Arc<Plan>,
    pub(super) producer: Producer,
    pub(super) limits: Limits,
    pub(super) ledger: String,
    id: WriterId,
    key_groups: BTreeSet<KeyGroupId>,
    /// As far as this writer knows; of key groups hosted here nobody else can move them.
    pub(super) marks: BTreeMap<KeyGroupId, Mark>,
    /// Where the next reading begins.
    read_up_to: Offset,
}

/// A session where there is one to be had, and the rows.
pub(super) type Opened = (Option<Session>, Rows);

pub(super) fn next_connection() -> ConnectionId {
    ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Session {
    /// Makes itself known, then looks who else is: of two attempts at least the older sees the other, and the newer one
    /// shuts out what it sees before it reads. So nothing of an older attempt is committed after the reading.
    pub(super) fn open(plan: Arc<Plan>, asker: &Asker, call: &Call) -> Result<Opened, TargetError> {
        let cluster = &plan.cluster;
        let limits = match &asker.limits {
            Some(known) => known.clone(),
            None => match topics::prepare(cluster, &plan.messages.topics(), asker.create, call)? {
                Some(limits) => limits,
                None => return Ok((None, asker.key_groups.iter().map(|id| (*id, None)).collect())),
            },
        };
        let id = WriterId::new(cluster.job, &cluster.target, asker.attempt, plan.process);
        let largest = limits.values().copied().min().unwrap_or(topics::DEFAULT_BYTES);
        let producer = Producer::start(cluster, &id.transactional_id, largest, call)?;
        let mut session = Self {
            ledger: cluster.ledger(),
            producer,
            limits,
            id,
            key_groups: asker.key_groups.clone(),
            marks: BTreeMap::new(),
            read_up_to: Offset::Beginning,
            plan,
        };
        let others = session.make_known(call)?;
        if let Some(newer) = others.iter().map(|other| other.attempt).filter(|a| *a > asker.attempt).max() {
            let row = LedgerRow { attempt: newer, mark: Mark::NOTHING };
            let rows = asker.key_groups.iter().map(|id| (*id, Some(row))).collect();
            return Ok((Some(session), rows));
        }
        session.shut_out(&others, call)?;
        session.look(call)?;
        if asker.create {
            session.create_rows(call)?;
        }
        let rows = session.rows();
        Ok((Some(session), rows))
    }

    /// The rows as they are now: proves that this writer still writes, and reads up to that proof.
    pub(super) fn read(&mut self, call: &Call) -> Result<Rows, TargetError> {
        self.look(call)?;
        Ok(self.rows())
    }

    fn rows(&self) -> Rows {
        let row = |id: &KeyGroupId| Some(LedgerRow { attempt: self.id.attempt, mark: *self.marks.get(id)? });
        self.key_groups.iter().map(|id| (*id, row(id))).collect()
    }

    fn make_known(&self, call: &Call) -> Result<Vec<WriterId>, TargetError> {
        let (key, value) = (self.id.key(), self.id.claim(Uuid::new_v4()));
        self.write(&[(WRITERS, &key, Some(&value))], &call.anew())?;
        ledger::writers(&self.plan.cluster, Until { key: &key, value: &value }, &call.anew())
    }

    fn shut_out(&self, others: &[WriterId], call: &Call) -> Result<(), TargetError> {
        let older: Vec<&WriterId> = others.iter().filter(|other| other.attempt < self.id.attempt).collect();
        if older.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = older.iter().map(|id| id.transactional_id.as_str()).collect();
        producer::fence(&self.plan.cluster, &ids, &call.anew())?;
        // The next attempt need not do it again. Where they read up to is of no use to anybody.
        let writers = older.iter().map(|id| (WRITERS, id.key()));
        let keys: Vec<(i32, String)> = writers.chain(older.iter().map(|id| (MARKS, id.look_key()))).collect();
        let gone: Vec<Entry<'_>> = keys.iter().map(|(partition, key)| (*partition, key.as_str(), None)).collect();
        self.write(&gone, &call.anew())
    }

    fn look(&mut self, call: &Call) -> Result<(), TargetError> {
        let (key, value) = (self.id.look_key(), ledger::look(Uuid::new_v4()));
        self.write(&[(MARKS, &key, Some(&value))], &call.anew())?;
        let until = Until { key: &key, value: &value };
        let (marks, next) = ledger::marks(&self.plan.cluster, self.read_up_to, until, &call.anew())?;
        self.marks.extend(marks);
        self.read_up_to = next;
        Ok(())
    }

    /// Rows that are missing where nothing was ever committed.
    fn create_rows(&mut self, call: &Call) -> Result<(), TargetError> {
        let missing: Vec<KeyGroupId> =
            self.key_groups.iter().filter(|id| !self.marks.contains_key(id)).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let (keys, value) = (missing.iter().map(|id| ledger::mark_key(*id)), ledger::mark_value(Mark::NOTHING));
        let keys: Vec<String> = keys.collect();
        let rows: Vec<Entry<'_>> = keys.iter().map(|key| (MARKS, key.as_str(), Some(value.as_str()))).collect();
        self.write(&rows, &call.anew())?;
        self.marks.extend(missing.into_iter().map(|id| (id, Mark::NOTHING)));
        Ok(())
    }

    /// One transaction in the ledger alone.
    fn write(&self, entries: &[Entry<'_>], call: &Call) -> Result<(), TargetError> {
        let written = self.producer.begin().and_then(|()| {
            entries.iter().try_for_each(|entry| self.enter(*entry, call))?;
            self.producer.deliver(call)?;
            self.producer.commit(call)
        });
        written.map_err(|trouble| match trouble {
            Trouble::Lost(reason) => TargetError::ConnectionLost { reason },
            // The transaction stays open until the next producer of this id begins.
            Trouble::Undelivered(found) => match self.plan.cluster.needs(found.code, &found.topic) {
                Some(reason) => TargetError::Fatal { reason },
                None => TargetError::ConnectionLost { reason: format!("topic {}: {}", found.topic, found.code) },
            },
        })
    }

    /// Sends a record to the ledger, in the transaction that is open.
    pub(super) fn enter(&self, (partition, key, value): Entry<'_>, call: &Call) -> Result<(), Trouble> {
        let (key, value) = (Some(key.as_bytes()), value.map(str::as_bytes));
        self.producer.send(&Message { topic: &self.ledger, key, value, headers: &[] }, Some(partition), call)
    }

    pub(super) fn context(&self) -> Arc<Context> {
        self.producer.context()
    }
}

/// Partition, key and value of a record of the ledger.
pub(super) type Entry<'a> = (i32, &'a str, Option<&'a str>);
