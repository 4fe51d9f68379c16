//! Lookups of the simulated job: which version each epoch was read with, and whether it is the one that cuts name.

use std::collections::BTreeMap;

use pulso_core::cut::Cut;
use pulso_core::ids::{Attempt, Epoch, LookupsId, WallTime};
use pulso_core::lookups::{LookupsVersion, object};
use uuid::Uuid;

use crate::storage::Objects;
use crate::world::JOB;

#[derive(Default)]
pub(crate) struct Lookups {
    /// What the cut before each epoch names.
    named: BTreeMap<Epoch, LookupsId>,
    /// What sources took before that cut was durable. Of attempts that ended meanwhile it comes to nothing.
    ahead: BTreeMap<(Attempt, Epoch), LookupsId>,
    newest: Attempt,
}

impl Lookups {
    pub(crate) fn attempt(&mut self, attempt: Attempt) {
        self.newest = attempt;
    }

    /// A cut is durable.
    pub(crate) fn sealed(&mut self, cut: &Cut) -> Result<(), String> {
        let Some(named) = cut.lookups else { return Err(format!("cut {} names no lookups", cut.epoch)) };
        self.named.insert(cut.epoch.next(), named);
        match self.ahead.remove(&(self.newest, cut.epoch.next())) {
            Some(taken) if taken != named => {
                Err(format!("epoch {} was read with other lookups than the cut before it names", cut.epoch.next()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A source takes a record. What an older attempt still reads is nobody's.
    pub(crate) fn taken(
        &mut self,
        attempt: Attempt,
        epoch: Epoch,
        lookups: Option<LookupsId>,
        objects: &Objects,
    ) -> Result<(), String> {
        if attempt != self.newest {
            return Ok(());
        }
        let Some(taken) = lookups else { return Err(format!("epoch {epoch} is read without lookups")) };
        let named = self.named.get(&epoch).copied();
        let before = named.or_else(|| self.ahead.insert((attempt, epoch), taken));
        if before.is_some_and(|before| before != taken) {
            return Err(format!("epoch {epoch} is read with lookups that are not those of its cut or its other rows"));
        }
        let stored = objects.read(&object(JOB, taken)).is_some();
        if stored { Ok(()) } else { Err(format!("the lookups that epoch {epoch} is read with are gone")) }
    }
}

/// As somebody reads it from a database; `rows` stand for what is in the table.
pub(crate) fn version(id: u128, rows: u64, read: WallTime) -> LookupsVersion {
    LookupsVersion { id: LookupsId(Uuid::from_u128(id)), hash: rows, rows: vec![rows], bytes: 1, read }
}
