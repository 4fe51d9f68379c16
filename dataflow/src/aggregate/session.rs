//! Sessions of one group: rows that follow each other within the gap.

use super::Op;
use super::store::Counted;

/// A session while an epoch is worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) start: i64,
    pub(super) end: i64,
    /// Starts of the sessions of the state that it continues.
    pub(super) from: Vec<i64>,
    pub(super) ops: Vec<(u32, Op)>,
    /// A row is replaced or removed, so it may have to be cut in parts.
    pub(super) rebuild: bool,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Assigned {
    Taken,
    /// Too late for its session.
    Late,
    /// There is nothing to remove.
    Nothing,
}

/// The sessions of a group, by start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sessions {
    pub(super) gap: i64,
    pub(super) lateness: i64,
    pub(super) watermark: i64,
    pub(super) open: Vec<Open>,
    /// Start and end of those that are closed: no other session may reach into them.
    pub(super) closed: Vec<(i64, i64)>,
}

impl Sessions {
    pub(super) fn new(gap: i64, lateness: i64, watermark: i64, known: &[(i64, i64)]) -> Self {
        let mut sessions = Self { gap, lateness, watermark, open: Vec::new(), closed: Vec::new() };
        for (start, end) in known.iter().copied() {
            if sessions.is_closed(end) {
                sessions.closed.push((start, end));
            } else {
                sessions.open.push(Open { start, end, from: vec![start], ops: Vec::new(), rebuild: false });
            }
        }
        sessions
    }

    pub(super) fn is_closed(&self, end: i64) -> bool {
        end.saturating_add(self.lateness) <= self.watermark
    }

    pub(super) fn assign(&mut self, time: i64, row: u32, op: Op) -> Assigned {
        let (start, end) = (time, time.saturating_add(self.gap));
        // A row whose gap ends where a session starts belongs to it.
        let touches = |other: (i64, i64)| other.0 <= end && start <= other.1;
        if self.is_closed(end) || self.closed.iter().any(|closed| touches(*closed)) {
            return Assigned::Late;
        }
        if op == Op::Remove {
            let holds = |open: &&mut Open| open.start <= time && time < open.end;
            let Some(open) = self.open.iter_mut().find(holds) else { return Assigned::Nothing };
            open.ops.push((row, op));
            open.rebuild = true;
            return Assigned::Taken;
        }
        // A row that replaces another may count for the first time: then it joins sessions as a new one does.
        let (touched, others): (Vec<Open>, Vec<Open>) =
            self.open.drain(..).partition(|open| touches((open.start, open.end)));
        self.open = others;
        let mut merged = Open { start, end, from: Vec::new(), ops: Vec::new(), rebuild: op == Op::Replace };
        for open in touched {
            merged.start = merged.start.min(open.start);
            merged.end = merged.end.max(open.end);
            merged.rebuild |= open.rebuild;
            merged.from.extend(open.from);
            merged.ops.extend(open.ops);
        }
        // Rows count in the order in which they came.
        merged.ops.sort_by_key(|(row, _)| *row);
        merged.ops.push((row, op));
        let at = self.open.partition_point(|open| open.start < merged.start);
        self.open.insert(at, merged);
        Assigned::Taken
    }
}

/// The sessions that rows make: start, end, and the rows of each in the order given.
pub(super) fn split(rows: Vec<Counted>, gap: i64) -> Vec<(i64, i64, Vec<Counted>)> {
    let mut times: Vec<i64> = rows.iter().map(|row| row.time).collect();
    times.sort_unstable();
    let mut sessions: Vec<(i64, i64, Vec<Counted>)> = Vec::new();
    for time in times {
        let end = time.saturating_add(gap);
        match sessions.last_mut() {
            Some((_, last, _)) if time <= *last => *last = end,
            _ => sessions.push((time, end, Vec::new())),
        }
    }
    for row in rows {
        let at = sessions.partition_point(|(start, ..)| *start <= row.time).saturating_sub(1);
        if let Some((.., of_session)) = sessions.get_mut(at) {
            of_session.push(row);
        }
    }
    sessions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sessions(watermark: i64) -> Sessions {
        Sessions::new(10, 5, watermark, &[])
    }

    fn spans(sessions: &Sessions) -> Vec<(i64, i64, usize)> {
        sessions.open.iter().map(|open| (open.start, open.end, open.ops.len())).collect()
    }

    #[test]
    fn rows_within_the_gap_share_a_session() {
        let mut of_group = sessions(i64::MIN);
        for (row, time) in [100, 111, 140, 105].into_iter().enumerate() {
            assert_eq!(of_group.assign(time, row as u32, Op::Add), Assigned::Taken);
        }
        // 105 joins 100 and 111.
        assert_eq!(spans(&of_group), [(100, 121, 3), (140, 150, 1)]);
        assert_eq!(of_group.assign(130, 4, Op::Add), Assigned::Taken);
        assert_eq!(spans(&of_group), [(100, 121, 3), (130, 150, 2)]);
    }

    #[test]
    fn late_is_what_no_open_session_takes() {
        let mut of_group = Sessions::new(10, 5, 200, &[(160, 188), (192, 220)]);
        assert_eq!((of_group.open.len(), of_group.closed.as_slice()), (1, [(160, 188)].as_slice()));
        // Its own gap is over, whatever session it would extend.
        assert_eq!(of_group.assign(185, 0, Op::Add), Assigned::Late);
        // It would reach into a closed session.
        assert_eq!(of_group.assign(188, 0, Op::Add), Assigned::Late);
        assert_eq!(of_group.assign(189, 1, Op::Add), Assigned::Taken);
        assert_eq!(spans(&of_group), [(189, 220, 1)]);
        assert_eq!(of_group.assign(150, 2, Op::Remove), Assigned::Late);
        assert_eq!(of_group.assign(230, 3, Op::Remove), Assigned::Nothing);
        assert!(!of_group.open[0].rebuild);
        assert_eq!(of_group.assign(195, 4, Op::Remove), Assigned::Taken);
        assert!(of_group.open[0].rebuild);
    }

    #[test]
    fn a_row_that_replaces_another_joins_what_it_touches() {
        let mut of_group = Sessions::new(10, 5, 0, &[(100, 110), (115, 125)]);
        assert_eq!(of_group.assign(108, 0, Op::Remove), Assigned::Taken);
        assert_eq!(spans(&of_group), [(100, 110, 1), (115, 125, 0)]);
        assert_eq!(of_group.assign(108, 1, Op::Replace), Assigned::Taken);
        assert_eq!(spans(&of_group), [(100, 125, 2)]);
        assert!(of_group.open[0].rebuild);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Row by row or all at once: the same sessions.
        #[test]
        fn assigning_and_splitting_agree(times in prop::collection::vec(0i64..300, 1..40)) {
            let mut of_group = sessions(i64::MIN);
            for (row, time) in times.iter().enumerate() {
                of_group.assign(*time, row as u32, Op::Add);
            }
            let rows = times.iter().map(|time| Counted { id: 0, time: *time, arguments: Vec::new() }).collect();
            let split: Vec<_> = split(rows, 10).into_iter().map(|(start, end, rows)| (start, end, rows.len())).collect();
            prop_assert_eq!(spans(&of_group), split);
        }
    }
}
