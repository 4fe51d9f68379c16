//! read = written + filtered + duplicate + superseded + dead letters + in flight, or an alarm.

use pulso_core::message::Counters;
use serde::Serialize;

/// The line that must add up, live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Conservation {
    /// Records in sealed epochs since the job was submitted.
    pub(crate) read: u64,
    pub(crate) written: u64,
    /// Of `written`.
    pub(crate) corrections: u64,
    pub(crate) filtered: u64,
    pub(crate) duplicates: u64,
    pub(crate) superseded: u64,
    pub(crate) dead_letters: u64,
    /// Too late for a window, once for each aggregate; each is among the others too.
    pub(crate) late: u64,
    /// Read and not accounted for yet: in epochs that are not committed everywhere. 0 where it cannot be told.
    pub(crate) in_flight: u64,
    /// Absent while it cannot be told: not all TaskManagers of the attempt have counted yet.
    pub(crate) adds_up: Option<bool>,
}

/// What the line is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    /// Records up to the newest sealed epoch.
    pub(crate) read: u64,
    /// Records up to *g*, the epoch that is committed everywhere; absent where it is not known.
    pub(crate) committed: Option<u64>,
    /// Of all TaskManagers of the attempt, each up to an epoch between *g* and the newest sealed one; absent while one
    /// of them has said nothing.
    pub(crate) counters: Option<Counters>,
}

impl Conservation {
    /// Each TaskManager counts up to its own committed epoch, so the sum must lie between what was read up to *g* and
    /// what was read in all; where nothing is in flight these are one number.
    pub(crate) fn of(counted: Counted) -> Self {
        let counters = counted.counters.unwrap_or_default();
        let total = counters.total();
        let fits = total <= counted.read && counted.committed.is_none_or(|committed| committed <= total);
        let adds_up = counted.counters.map(|_| fits);
        Self {
            read: counted.read,
            written: counters.written,
            corrections: counters.corrections,
            filtered: counters.filtered,
            duplicates: counters.duplicates,
            superseded: counters.superseded,
            dead_letters: counters.dead_letters,
            late: counters.late,
            in_flight: if adds_up.is_some() { counted.read.saturating_sub(total) } else { 0 },
            adds_up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(written: u64, duplicates: u64) -> Counters {
        Counters { written, duplicates, ..Counters::default() }
    }

    #[test]
    fn it_adds_up_while_records_are_in_flight() {
        let line = Conservation::of(Counted { read: 100, committed: Some(60), counters: Some(counters(50, 20)) });
        assert_eq!((line.in_flight, line.adds_up), (30, Some(true)));
    }

    #[test]
    fn lost_and_invented_records_are_seen() {
        let quiet = |total| Counted { read: 100, committed: Some(100), counters: Some(counters(total, 0)) };
        assert_eq!(Conservation::of(quiet(100)).adds_up, Some(true));
        assert_eq!(Conservation::of(quiet(99)).adds_up, Some(false));
        assert_eq!(Conservation::of(quiet(101)).adds_up, Some(false));
    }

    #[test]
    fn nothing_is_claimed_before_all_have_counted() {
        let line = Conservation::of(Counted { read: 10, committed: Some(10), counters: None });
        assert_eq!(line.adds_up, None);
    }
}
