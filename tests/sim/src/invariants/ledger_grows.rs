//! Attempt and epoch of a ledger row only grow, but where the database was restored on purpose.

use std::collections::BTreeMap;

use pulso_core::ids::{KeyGroupId, TargetId};
use pulso_core::ledger::LedgerRow;

use super::{Facts, Invariant, Seen};

#[derive(Default)]
pub(super) struct LedgerGrows {
    last: BTreeMap<(TargetId, KeyGroupId), LedgerRow>,
}

impl Invariant for LedgerGrows {
    fn name(&self) -> &'static str {
        "ledger-grows"
    }

    fn observe(&mut self, seen: &Seen<'_>, facts: &Facts<'_>) -> Result<(), String> {
        match seen {
            Seen::Committed(commit) => {
                let ledger = facts.databases.get(&commit.target).map(|d| &d.contents.ledger);
                for (key_group, entry) in ledger.into_iter().flatten() {
                    let last = self.last.insert((commit.target, *key_group), entry.row);
                    if let Some(last) = last.filter(|l| entry.row.attempt < l.attempt || entry.row.mark < l.mark) {
                        return Err(format!(
                            "target {}: {key_group} went from {last:?} to {:?}",
                            commit.target, entry.row
                        ));
                    }
                }
                Ok(())
            }
            Seen::WentBack(target) => {
                self.last.retain(|(t, _), _| t != target);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
