//! What a cut says, from what the sources report and what the clock has decided.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::{Position, SplitId};
use crate::cut::{Cut, SplitCut};
use crate::files::FilesState;
use crate::ids::EventTime;
use crate::message::{Opening, SplitReport};

/// A source contradicts the cuts that are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("split {split} ended at {before} and is reported to end at {after}")]
pub(super) struct WentBackwards {
    split: SplitId,
    before: Position,
    after: Position,
}

pub(super) struct Cutting<'a> {
    /// The newest sealed cut.
    pub(super) before: &'a Cut,
    /// Splits that are in no cut yet among others.
    pub(super) joined: &'a BTreeMap<SplitId, Position>,
    pub(super) opening: Opening,
    pub(super) reports: &'a BTreeMap<SplitId, SplitReport>,
    /// Splits without a record for so long that they shall not hold the watermark back.
    pub(super) silent: &'a BTreeSet<SplitId>,
    pub(super) last: bool,
    /// Of a job that reads files: a split that has read all of its files does not hold the watermark back.
    pub(super) files: &'a FilesState,
    /// The watermark of the end of a finite input lies behind all windows.
    pub(super) has_windows: bool,
    /// Microseconds.
    pub(super) delay: i64,
}

impl Cutting<'_> {
    pub(super) fn cut(&self) -> Result<Cut, WentBackwards> {
        let mut splits = BTreeMap::new();
        let mut idle = BTreeSet::new();
        let fresh = self.joined.iter().filter(|(split, _)| !self.before.splits.contains_key(split)).map(|(s, p)| {
            let start = SplitCut { end: *p, count: 0, hash: 0, greatest: None };
            (*s, start)
        });
        for (split, before) in self.before.splits.iter().map(|(s, c)| (*s, *c)).chain(fresh) {
            let report = self.reports.get(&split);
            let cut = match report {
                None => SplitCut { count: 0, hash: 0, ..before },
                Some(report) => SplitCut {
                    end: report.end,
                    count: report.count,
                    hash: report.hash,
                    greatest: before.greatest.max(report.greatest),
                },
            };
            if cut.end < before.end || (cut.count > 0 && cut.end == before.end) {
                return Err(WentBackwards { split, before: before.end, after: cut.end });
            }
            let is_idle = if self.files.is_used() {
                self.files.is_drained(split, cut.end)
            } else {
                cut.count == 0 && (self.before.idle.contains(&split) || self.silent.contains(&split))
            };
            if is_idle {
                idle.insert(split);
            }
            splits.insert(split, cut);
        }
        let ended = self.has_windows && self.files.complete && idle.len() == splits.len();
        let watermark = if ended { EventTime::MAX } else { self.watermark(&splits, &idle) };
        Ok(Cut {
            epoch: self.opening.epoch,
            clock: self.opening.clock,
            splits,
            watermark,
            idle,
            last: self.last,
            lookups: self.opening.lookups,
            previous: self.before.hash(),
        })
    }

    /// Never goes back, whatever split joins or wakes. Where all splits are idle nothing holds it back any more: the
    /// same as if the slowest had become idle first.
    fn watermark(&self, splits: &BTreeMap<SplitId, SplitCut>, idle: &BTreeSet<SplitId>) -> EventTime {
        let time = |cut: &SplitCut| cut.greatest.map_or(EventTime::MIN, |t| EventTime(t.0.saturating_sub(self.delay)));
        let busy = splits.iter().filter(|(split, _)| !idle.contains(split)).map(|(_, cut)| time(cut)).min();
        let reached = busy.or_else(|| splits.values().map(time).max()).unwrap_or(EventTime::MIN);
        reached.max(self.before.watermark)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cut::CutHash;
    use crate::ids::{Epoch, WallTime};

    fn split(end: i64, greatest: Option<i64>) -> SplitCut {
        SplitCut { end: Position(end), count: 0, hash: 0, greatest: greatest.map(EventTime) }
    }

    fn before(splits: &[SplitCut], watermark: i64) -> Cut {
        Cut {
            epoch: Epoch(4),
            clock: WallTime(0),
            splits: (0..).map(SplitId).zip(splits.iter().copied()).collect(),
            watermark: EventTime(watermark),
            idle: BTreeSet::new(),
            last: false,
            lookups: None,
            previous: CutHash(9),
        }
    }

    fn report(end: i64, count: u64, greatest: Option<i64>) -> SplitReport {
        SplitReport { end: Position(end), count, hash: 5, greatest: greatest.map(EventTime) }
    }

    fn cut(before: &Cut, reports: &[(u32, SplitReport)], silent: &[u32]) -> Result<Cut, WentBackwards> {
        Cutting {
            before,
            joined: &BTreeMap::from([(SplitId(7), Position(30))]),
            opening: Opening {
                epoch: before.epoch.next(),
                clock: WallTime(1),
                watermark: before.watermark,
                lookups: None,
            },
            reports: &reports.iter().map(|(s, r)| (SplitId(*s), *r)).collect(),
            silent: &silent.iter().map(|s| SplitId(*s)).collect(),
            last: false,
            files: &FilesState::default(),
            has_windows: false,
            delay: 10,
        }
        .cut()
    }

    #[test]
    fn a_split_without_a_record_holds_the_watermark_until_it_is_idle() {
        let before = before(&[split(0, Some(100)), split(0, None)], i64::MIN);
        let held = cut(&before, &[(0, report(5, 5, Some(200)))], &[7]).unwrap();
        assert_eq!(held.watermark, EventTime::MIN);
        let freed = cut(&before, &[(0, report(5, 5, Some(200)))], &[1, 7]).unwrap();
        assert_eq!(freed.watermark, EventTime(190));
        assert_eq!(freed.idle, BTreeSet::from([SplitId(1), SplitId(7)]));
        assert_eq!(freed.splits[&SplitId(7)].end, Position(30));
    }

    #[test]
    fn all_idle_is_as_if_the_slowest_had_been_first() {
        let before = before(&[split(0, Some(100)), split(0, Some(300))], 90);
        let all = cut(&before, &[], &[0, 1, 7]).unwrap();
        assert_eq!(all.watermark, EventTime(290));
    }

    #[test]
    fn a_record_wakes_an_idle_split_and_the_watermark_stays() {
        let mut before = before(&[split(0, Some(100)), split(0, Some(300))], 290);
        before.idle = BTreeSet::from([SplitId(0)]);
        let woken = cut(&before, &[(0, report(1, 1, Some(101)))], &[0, 7]).unwrap();
        assert_eq!(woken.idle, BTreeSet::from([SplitId(7)]));
        assert_eq!(woken.watermark, EventTime(290));
    }

    #[test]
    fn a_split_that_goes_back_is_refused() {
        let before = before(&[split(10, None)], 0);
        assert!(cut(&before, &[(0, report(9, 0, None))], &[]).is_err());
        assert!(cut(&before, &[(0, report(10, 1, None))], &[]).is_err());
        assert!(cut(&before, &[(0, report(10, 0, None))], &[]).is_ok());
    }

    proptest! {
        #[test]
        fn the_watermark_and_positions_never_go_back(
            rounds in prop::collection::vec((0..3_u32, 0..4_u64, prop::option::of(-50..500_i64), 0..3_u32), 0..40)
        ) {
            let mut newest = before(&[split(0, None), split(0, None), split(0, None)], i64::MIN);
            for (source, count, greatest, silent) in rounds {
                let end = newest.splits[&SplitId(source)].end.0 + count as i64;
                let next = cut(&newest, &[(source, report(end, count, greatest))], &[silent, 7]).unwrap();
                prop_assert!(next.watermark >= newest.watermark);
                prop_assert_eq!(next.epoch, newest.epoch.next());
                prop_assert_eq!(next.previous, newest.hash());
                prop_assert_eq!(next.count(), count);
                for (id, part) in &newest.splits {
                    prop_assert!(next.splits[id].end >= part.end && next.splits[id].greatest >= part.greatest);
                }
                newest = next;
            }
        }
    }
}
