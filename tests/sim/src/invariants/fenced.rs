//! Who gives a job up because a newer attempt has its ledger is right about it.

use super::{Facts, Invariant, Seen};

#[derive(Default)]
pub(super) struct Fenced {
    /// A reading from before a target went back says nothing about the ledger now.
    went_back: bool,
}

impl Invariant for Fenced {
    fn name(&self) -> &'static str {
        "fenced"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        match seen {
            Seen::WentBack(_) => self.went_back = true,
            Seen::GaveUp { attempt } if !self.went_back => {
                let mut rows = facts.databases.values().flat_map(|d| d.contents.ledger.values());
                if !rows.any(|entry| entry.row.attempt > *attempt) {
                    return Err(format!(
                        "attempt {attempt} was given up as fenced, and no ledger row is a newer one's"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
