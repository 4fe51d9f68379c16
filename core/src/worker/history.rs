//! What a key group's state was after each recent epoch, as far as the worker needs it: marks and counters.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, TargetId};
use crate::ledger::Mark;
use crate::message::{Counters, Snapshot};

/// Marks and counters of one key group at `base` and what sealed epochs after it changed, so that a copy can be taken
/// back to any epoch since, and a checkpoint taken at exactly *g*.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct History {
    /// The store may have flushed up to here: it cannot be taken back further.
    base: Epoch,
    marks: BTreeMap<TargetId, Mark>,
    counters: Counters,
    later: BTreeMap<Epoch, Change>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Change {
    pub(super) counters: Counters,
    /// Targets in which the key group has rows of the epoch, and the mark of that epoch.
    pub(super) marks: BTreeMap<TargetId, Mark>,
}

impl History {
    /// No state, after `epoch`.
    pub(super) fn fresh(epoch: Epoch) -> Self {
        Self { base: epoch, marks: BTreeMap::new(), counters: Counters::default(), later: BTreeMap::new() }
    }

    pub(super) fn restored(snapshot: &Snapshot) -> Self {
        Self { marks: snapshot.marks.clone(), counters: snapshot.counters, ..Self::fresh(snapshot.epoch) }
    }

    pub(super) fn base(&self) -> Epoch {
        self.base
    }

    /// Takes in what a sealed epoch changed.
    pub(super) fn record(&mut self, epoch: Epoch, change: Change) {
        self.later.insert(epoch, change);
    }

    /// *p* of each target after `epoch`, which is not before the base.
    pub(super) fn marks_at(&self, epoch: Epoch, targets: &BTreeSet<TargetId>) -> BTreeMap<TargetId, Mark> {
        let nothing = targets.iter().map(|target| (*target, Mark::NOTHING));
        let mut marks: BTreeMap<_, _> = nothing.chain(self.marks.clone()).collect();
        for change in self.later.range(..=epoch).map(|(_, change)| change) {
            marks.extend(change.marks.clone());
        }
        marks
    }

    /// What became of records up to `epoch`, which is not before the base.
    pub(super) fn counters_at(&self, epoch: Epoch) -> Counters {
        let mut counters = self.counters;
        for (_, change) in self.later.range(..=epoch) {
            counters.add(&change.counters);
        }
        counters
    }

    /// Forgets everything after `epoch`.
    pub(super) fn take_back(&mut self, epoch: Epoch) {
        self.later.split_off(&epoch.next());
    }

    /// The store may flush up to `upto`: nothing goes back behind it any more.
    pub(super) fn settle(&mut self, upto: Epoch) {
        if upto <= self.base {
            return;
        }
        let later = self.later.split_off(&upto.next());
        for change in std::mem::replace(&mut self.later, later).into_values() {
            self.marks.extend(change.marks);
            self.counters.add(&change.counters);
        }
        self.base = upto;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::CutHash;

    fn mark(epoch: u64) -> Mark {
        Mark { epoch: Epoch(epoch), hash: CutHash(u128::from(epoch)) }
    }

    fn written(written: u64) -> Counters {
        Counters { written, ..Counters::default() }
    }

    #[test]
    fn an_epoch_since_the_base_can_be_asked_for_and_gone_back_to() {
        let (a, b) = (TargetId(0), TargetId(1));
        let targets = BTreeSet::from([a, b]);
        let mut history = History::fresh(Epoch(2));
        history.record(Epoch(3), Change { counters: written(5), marks: BTreeMap::from([(a, mark(3))]) });
        history.record(Epoch(5), Change { counters: written(7), marks: BTreeMap::from([(a, mark(5)), (b, mark(5))]) });
        history.record(Epoch(6), Change { counters: written(1), marks: BTreeMap::new() });
        let at =
            |history: &History, epoch| (history.marks_at(Epoch(epoch), &targets), history.counters_at(Epoch(epoch)));
        assert_eq!(at(&history, 2), (BTreeMap::from([(a, Mark::NOTHING), (b, Mark::NOTHING)]), written(0)));
        assert_eq!(at(&history, 4), (BTreeMap::from([(a, mark(3)), (b, Mark::NOTHING)]), written(5)));
        assert_eq!(at(&history, 5), (BTreeMap::from([(a, mark(5)), (b, mark(5))]), written(12)));

        history.settle(Epoch(4));
        assert_eq!(history.base(), Epoch(4));
        assert_eq!(at(&history, 4), (BTreeMap::from([(a, mark(3)), (b, Mark::NOTHING)]), written(5)));
        assert_eq!(at(&history, 6), (BTreeMap::from([(a, mark(5)), (b, mark(5))]), written(13)));
        history.settle(Epoch(3));
        assert_eq!(history.base(), Epoch(4));

        history.take_back(Epoch(5));
        assert_eq!(history.counters_at(Epoch(9)), written(12));
        history.take_back(Epoch(4));
        assert_eq!(at(&history, 9), (BTreeMap::from([(a, mark(3)), (b, Mark::NOTHING)]), written(5)));
    }
}
