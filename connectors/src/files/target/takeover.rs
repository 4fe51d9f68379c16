//! Taking the ledger over: every older chain is sealed, so that its writer can commit nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use pulso_core::ids::{Attempt, KeyGroupId};
use pulso_core::ledger::{LedgerRow, Mark};

use super::chain::{Chain, Newest, Place};
use super::record::{Kind, Marks, Record};
use crate::target::Rows;

/// A chain that its writer may go on with.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) chain: Chain,
    /// Of the next record.
    pub(super) next: u64,
    pub(super) marks: Marks,
}

/// What was found. Without a chain a newer attempt has the ledger, and the rows say which.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) rows: Rows,
    pub(super) taken: Option<Taken>,
}

/// How the ledger is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Of older attempts; `create`: what no chain knows begins now.
    TakeOver { create: bool },
    /// Of this attempt, whose own earlier chain is sealed too.
    Register,
}

impl Place {
    /// Whoever claims shows himself first and looks then. So of two that claim at once at least one sees the other: the
    /// newer one seals the older one's chain, or the older one sees that it is too late.
    pub(super) fn claim(&self, attempt: Attempt, key_groups: &BTreeSet<KeyGroupId>, claim: Claim) -> io::Result<Found> {
        let creates = claim == Claim::TakeOver { create: true };
        if !creates && !self.ledger().is_dir() {
            return Ok(Found { rows: key_groups.iter().map(|id| (*id, None)).collect(), taken: None });
        }
        let mine = self.announce(attempt)?;
        let mut rows: Rows = key_groups.iter().map(|id| (*id, None)).collect();
        for chain in self.chains()?.into_iter().filter(|chain| *chain != mine) {
            let newest = if chain.attempt < attempt {
                self.seal(&chain, attempt)?
            } else {
                self.look_at(&chain, attempt, key_groups)?
            };
            let Some(Newest { record, .. }) = newest else { continue };
            // A chain that a newer attempt has sealed tells of that attempt.
            let sealed = record.sealed_by().filter(|by| *by > attempt);
            let by = sealed.unwrap_or(chain.attempt);
            for (id, mark) in record.head.marks.iter().filter(|(id, _)| key_groups.contains(id)) {
                let slot = rows.entry(*id).or_insert(None);
                let before = slot.unwrap_or(LedgerRow { attempt: by, mark: *mark });
                // Chains come by attempt: of equal epochs the later chain's is the one that counts.
                let mark = if mark.epoch >= before.mark.epoch { *mark } else { before.mark };
                *slot = Some(LedgerRow { attempt: by.max(before.attempt), mark });
            }
        }
        if rows.values().flatten().any(|row| row.attempt > attempt) || self.is_newer_there(attempt)? {
            mine.remove()?;
            let fenced =
                |row: Option<LedgerRow>| row.map(|row| LedgerRow { attempt: row.attempt.max(attempt.next()), ..row });
            return Ok(Found { rows: rows.into_iter().map(|(id, row)| (id, fenced(row))).collect(), taken: None });
        }
        self.settle(mine, attempt, rows, claim)
    }

    /// Writes down what is taken over.
    fn settle(&self, mine: Chain, attempt: Attempt, mut rows: Rows, claim: Claim) -> io::Result<Found> {
        for row in rows.values_mut() {
            *row = match (claim, *row) {
                (Claim::TakeOver { .. }, Some(row)) => Some(LedgerRow { attempt, mark: row.mark }),
                (Claim::TakeOver { create: true }, None) => Some(LedgerRow { attempt, mark: Mark::NOTHING }),
                (Claim::TakeOver { create: false }, None) => None,
                (Claim::Register, row) => row,
            };
        }
        let own =
            rows.iter().filter_map(|(id, row)| row.filter(|row| row.attempt == attempt).map(|row| (*id, row.mark)));
        let marks: Marks = own.collect();
        mine.put(1, &Record::new(Kind::TookOver, marks.clone(), Vec::new()))?;
        self.tidy()?;
        Ok(Found { rows, taken: Some(Taken { chain: mine, next: 2, marks }) })
    }

    fn is_newer_there(&self, attempt: Attempt) -> io::Result<bool> {
        Ok(self.chains()?.iter().any(|chain| chain.attempt > attempt))
    }

    /// A chain of this attempt or a newer one. This attempt's earlier chain with these key groups is this writer's own.
    fn look_at(
        &self,
        chain: &Chain,
        attempt: Attempt,
        key_groups: &BTreeSet<KeyGroupId>,
    ) -> io::Result<Option<Newest>> {
        let newest = chain.newest()?;
        let own = newest.as_ref().is_some_and(|n| n.record.head.marks.keys().any(|id| key_groups.contains(id)));
        if own && chain.attempt == attempt { self.seal(chain, attempt) } else { Ok(newest) }
    }

    /// Puts the last record of a chain, with files of all rows that readers do not see yet, and publishes them. What was
    /// begun before is finished: a chain that is sealed already too.
    pub(super) fn seal(&self, chain: &Chain, by: Attempt) -> io::Result<Option<Newest>> {
        loop {
            let newest = chain.newest()?;
            if let Some(newest) = &newest
                && newest.record.sealed_by().is_some()
            {
                chain.publish(newest.record.publications(), &self.folder)?;
                return Ok(Some(newest.clone()));
            }
            let (number, marks) = match &newest {
                Some(newest) => {
                    // Renamed already, but for a crash right behind the decision.
                    chain.publish(newest.record.publications(), &self.folder)?;
                    (newest.number + 1, newest.record.head.marks.clone())
                }
                None => (0, Marks::new()),
            };
            let files = match number {
                0 => Vec::new(),
                // Its writer may tidy up under our hands; then there is a newer record, and we look again.
                _ => match chain.gather(number - 1, &self.name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        if chain.newest()?.is_none() {
                            return Ok(None);
                        }
                        continue;
                    }
                    gathered => gathered?,
                },
            };
            let record = Record::new(Kind::Sealed { by, files: files.clone() }, marks, Vec::new());
            match chain.put(number, &record) {
                Ok(()) => {
                    chain.publish(&files, &self.folder)?;
                    return Ok(Some(Newest { number, record }));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => chain.discard(&files),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes chains away that say nothing any more: sealed, and each of their key groups is in a later one.
    fn tidy(&self) -> io::Result<()> {
        let mut newest: Vec<(Chain, Record)> = Vec::new();
        for chain in self.chains()? {
            if let Some(found) = chain.newest()? {
                newest.push((chain, found.record));
            }
        }
        let mut later: BTreeMap<KeyGroupId, Attempt> = BTreeMap::new();
        for (chain, record) in newest.iter().filter(|(_, record)| record.sealed_by().is_none()) {
            for id in record.head.marks.keys() {
                let attempt = later.entry(*id).or_insert(chain.attempt);
                *attempt = chain.attempt.max(*attempt);
            }
        }
        for (chain, record) in newest.iter().filter(|(_, record)| record.sealed_by().is_some()) {
            let told = |id: &KeyGroupId| later.get(id).is_some_and(|attempt| *attempt >= chain.attempt);
            if record.head.marks.keys().all(told) {
                chain.publish(record.publications(), &self.folder)?;
                chain.remove()?;
            }
        }
        Ok(())
    }
}
