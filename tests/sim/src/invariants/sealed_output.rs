//! What a TaskManager takes for sealed is what was sealed: the output that it made of the epoch is the oracle's.

use std::collections::BTreeMap;

use pulso_core::ids::KeyGroupId;

use super::{Facts, Invariant, Seen};
use crate::dedup::Written;

pub(super) struct SealedOutput;

impl Invariant for SealedOutput {
    fn name(&self) -> &'static str {
        "sealed-output"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        let Seen::TakenForSealed { attempt, epoch, outputs } = seen else { return Ok(()) };
        if !facts.oracle.cuts.contains_key(epoch) {
            return Err(format!("attempt {attempt} took epoch {epoch} for sealed before its cut was durable"));
        }
        for (target, rows) in *outputs {
            let mut parts: BTreeMap<KeyGroupId, Vec<&Written>> = BTreeMap::new();
            for row in rows.iter() {
                parts.entry(row.key_group).or_default().push(row);
            }
            for (key_group, found) in parts {
                let due = facts.oracle.rows.get(&(*target, *epoch, key_group)).map_or(&[][..], Vec::as_slice);
                if !found.into_iter().eq(due.iter()) {
                    return Err(format!("attempt {attempt} took epoch {epoch} of key group {key_group} for another"));
                }
            }
        }
        Ok(())
    }
}
