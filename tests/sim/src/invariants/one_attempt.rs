//! Rows get in only under the guard of their key group's ledger row, held by the attempt that owns it, and in one
//! transaction with it: so no two attempts' effects are ever both there.

use super::{Facts, Invariant, Seen};

pub(super) struct OneAttempt;

impl Invariant for OneAttempt {
    fn name(&self) -> &'static str {
        "one-attempt"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        let Seen::Committed(commit) = seen else { return Ok(()) };
        for row in &commit.rows {
            let Some((before, after)) = commit.guarded.get(&row.key_group) else {
                return Err(format!("target {}: rows of {} without its guard", commit.target, row.key_group));
            };
            if Some(before.attempt) != commit.attempt {
                return Err(format!("attempt {:?} wrote for attempt {}", commit.attempt, before.attempt));
            }
            if row.epoch <= before.mark.epoch || row.epoch > after.mark.epoch {
                let (from, to) = (before.mark.epoch, after.mark.epoch);
                return Err(format!("rows of epoch {} where the ledger goes from {from} to {to}", row.epoch));
            }
        }
        for (key_group, (_, after)) in &commit.guarded {
            if facts.oracle.cuts.get(&after.mark.epoch) != Some(&after.mark.hash) {
                return Err(format!("the ledger of {key_group} names a cut that is not in the control log: {after:?}"));
            }
        }
        Ok(())
    }
}
