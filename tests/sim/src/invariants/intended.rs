//! What a worker wants to commit is what the oracle says, also where the ledger would refuse it: the fence is the last
//! line of defence, and nothing may lean on it.

use std::collections::BTreeMap;

use pulso_core::ids::{Epoch, KeyGroupId};

use super::{Facts, Invariant, Seen};
use crate::dedup::Written;

pub(super) struct Intended;

impl Invariant for Intended {
    fn name(&self) -> &'static str {
        "intended"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        let Seen::Transacting { target, attempt, rows } = seen else { return Ok(()) };
        let mut parts: BTreeMap<(Epoch, KeyGroupId), Vec<&Written>> = BTreeMap::new();
        for row in rows.iter().flat_map(|rows| rows.iter()) {
            parts.entry((row.epoch, row.key_group)).or_default().push(row);
        }
        for ((epoch, key_group), found) in parts {
            if !facts.oracle.cuts.contains_key(&epoch) {
                return Err(format!("attempt {attempt} would commit epoch {epoch} before its cut is durable"));
            }
            let due = facts.oracle.rows.get(&(*target, epoch, key_group)).map_or(&[][..], Vec::as_slice);
            if !found.iter().copied().eq(due.iter()) {
                let (found, due) = (found.len(), due.len());
                return Err(format!(
                    "target {target}: attempt {attempt} would commit {found} rows of epoch {epoch} of key group \
                     {key_group} that are not the {due} of the oracle"
                ));
            }
        }
        Ok(())
    }
}
