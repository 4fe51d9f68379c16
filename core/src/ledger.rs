//! The ledger as the machines see it: rows in the target that say which epoch of a key group is committed.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cut::CutHash;
use crate::ids::{Attempt, Epoch, KeyGroupId};

/// An epoch that had rows, and the hash of its cut. `p` of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Mark {
    pub epoch: Epoch,
    pub hash: CutHash,
}

impl Mark {
    /// Nothing with rows was committed yet; what a new ledger row says.
    pub const NOTHING: Self = Self { epoch: Epoch(0), hash: CutHash(0) };
}

/// What the target says of one key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    pub attempt: Attempt,
    pub mark: Mark,
}

/// One row of the guard: `UPDATE ledger SET mark = to WHERE key group AND attempt = mine AND epoch = from.epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardRow {
    pub key_group: KeyGroupId,
    pub from: Mark,
    pub to: Mark,
}

/// One step of a transaction. Whoever executes it stops at the first step that does not do what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Begin,
    /// All rows in one statement; its count must equal the number of rows.
    Guard(Vec<GuardRow>),
    /// The rows of these epochs, in this order.
    Rows(Vec<Epoch>),
    Commit,
}

/// The steps of a transaction: the guard comes first, so that its row locks keep every other attempt out while rows flow.
#[must_use]
pub fn transaction(guard: Vec<GuardRow>, epochs: Vec<Epoch>) -> Vec<Step> {
    vec![Step::Begin, Step::Guard(guard), Step::Rows(epochs), Step::Commit]
}

/// What one row says about a key group whose state has *p*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    Equal,
    /// Ahead of *p* by epochs that are known: *p* rises to it.
    Raised(Mark),
    /// Behind *p*, of an older attempt, or missing: the database went back.
    Behind,
    /// An epoch or hash that this history does not have.
    Ahead,
    /// Taken over by this newer attempt.
    Fenced(Attempt),
}

/// Compares a row with *p*. `known` gives the cut hash of an epoch after *p* that may be committed already: of the
/// replay at a takeover, of the writer's queue after a lost answer. *p* itself never comes from the ledger.
#[must_use]
pub fn judge(
    row: Option<LedgerRow>,
    attempt: Attempt,
    p: Mark,
    known: impl FnOnce(Epoch) -> Option<CutHash>,
) -> Finding {
    let Some(row) = row else { return Finding::Behind };
    match row.attempt.cmp(&attempt) {
        Ordering::Greater => return Finding::Fenced(row.attempt),
        Ordering::Less => return Finding::Behind,
        Ordering::Equal => {}
    }
    match row.mark.epoch.cmp(&p.epoch) {
        Ordering::Less => Finding::Behind,
        Ordering::Equal if row.mark.hash == p.hash => Finding::Equal,
        Ordering::Equal => Finding::Ahead,
        Ordering::Greater if known(row.mark.epoch) == Some(row.mark.hash) => Finding::Raised(row.mark),
        Ordering::Greater => Finding::Ahead,
    }
}

/// What the rows of all hosted key groups of one target say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Survey {
    Consistent {
        raised: BTreeMap<KeyGroupId, Mark>,
    },
    Fenced {
        by: Attempt,
    },
    Ahead {
        key_group: KeyGroupId,
        found: Mark,
    },
    /// All readings, not only those behind: a missing row reads as [`Mark::NOTHING`].
    Behind {
        readings: BTreeMap<KeyGroupId, Mark>,
    },
}

/// Judges the row of every key group in `marks` (its *p*). The worst finding counts: fenced, ahead, behind.
#[must_use]
pub fn survey(
    rows: &BTreeMap<KeyGroupId, Option<LedgerRow>>,
    attempt: Attempt,
    marks: &BTreeMap<KeyGroupId, Mark>,
    known: impl Fn(KeyGroupId, Epoch) -> Option<CutHash>,
) -> Survey {
    let row = |key_group: &KeyGroupId| rows.get(key_group).copied().flatten();
    let (mut raised, mut behind, mut ahead) = (BTreeMap::new(), false, None);
    for (key_group, p) in marks {
        match judge(row(key_group), attempt, *p, |epoch| known(*key_group, epoch)) {
            Finding::Equal => {}
            Finding::Raised(mark) => {
                raised.insert(*key_group, mark);
            }
            Finding::Behind => behind = true,
            Finding::Ahead => ahead = ahead.or(row(key_group).map(|row| (*key_group, row.mark))),
            Finding::Fenced(by) => return Survey::Fenced { by },
        }
    }
    if let Some((key_group, found)) = ahead {
        return Survey::Ahead { key_group, found };
    }
    if behind {
        let reading = |key_group: &KeyGroupId| (*key_group, row(key_group).map_or(Mark::NOTHING, |row| row.mark));
        return Survey::Behind { readings: marks.keys().map(reading).collect() };
    }
    Survey::Consistent { raised }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{KeyGroup, Stage};

    const MINE: Attempt = Attempt(4);

    fn mark(epoch: u64) -> Mark {
        Mark { epoch: Epoch(epoch), hash: CutHash(u128::from(epoch) * 11) }
    }

    fn row(attempt: u64, mark: Mark) -> Option<LedgerRow> {
        Some(LedgerRow { attempt: Attempt(attempt), mark })
    }

    /// Epochs 6 to 8 may be committed already.
    fn known(epoch: Epoch) -> Option<CutHash> {
        (6..=8).contains(&epoch.0).then(|| mark(epoch.0).hash)
    }

    #[test]
    fn a_row_is_judged_by_attempt_then_epoch_then_hash() {
        let other = |epoch| Mark { hash: CutHash(1), ..mark(epoch) };
        for (row, finding) in [
            (row(4, mark(5)), Finding::Equal),
            (row(4, other(5)), Finding::Ahead),
            (row(4, mark(4)), Finding::Behind),
            (row(4, mark(7)), Finding::Raised(mark(7))),
            (row(4, other(7)), Finding::Ahead),
            (row(4, mark(9)), Finding::Ahead),
            (row(3, mark(5)), Finding::Behind),
            (row(3, mark(7)), Finding::Behind),
            (row(5, mark(5)), Finding::Fenced(Attempt(5))),
            (row(5, mark(2)), Finding::Fenced(Attempt(5))),
            (None, Finding::Behind),
        ] {
            assert_eq!(judge(row, MINE, mark(5), known), finding, "{row:?}");
        }
    }

    #[test]
    fn the_worst_finding_of_a_target_counts() {
        let id = |group| KeyGroupId { stage: Stage(0), group: KeyGroup(group) };
        let marks = BTreeMap::from([(id(0), mark(5)), (id(1), mark(5)), (id(2), mark(5))]);
        let survey = |rows: [Option<LedgerRow>; 3]| {
            let rows = rows.into_iter().enumerate().map(|(i, row)| (id(i as u16), row)).collect();
            super::survey(&rows, MINE, &marks, |_, epoch| known(epoch))
        };
        let (equal, behind, ahead, fenced) = (row(4, mark(5)), row(4, mark(1)), row(4, mark(9)), row(9, mark(5)));
        let raised = BTreeMap::from([(id(1), mark(8))]);
        assert_eq!(survey([equal, row(4, mark(8)), equal]), Survey::Consistent { raised });
        let readings = BTreeMap::from([(id(0), mark(1)), (id(1), mark(5)), (id(2), Mark::NOTHING)]);
        assert_eq!(survey([behind, equal, None]), Survey::Behind { readings });
        assert_eq!(survey([behind, ahead, None]), Survey::Ahead { key_group: id(1), found: mark(9) });
        assert_eq!(survey([behind, ahead, fenced]), Survey::Fenced { by: Attempt(9) });
    }

    #[test]
    fn the_guard_comes_before_the_rows() {
        let steps = transaction(vec![], vec![Epoch(1)]);
        assert_eq!(steps, vec![Step::Begin, Step::Guard(vec![]), Step::Rows(vec![Epoch(1)]), Step::Commit]);
    }
}
