//! The five aggregates of the test job, as plainly as can be.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, GAP, Key, LATENESS, MINUTE, Row};

type Records = BTreeMap<(u8, u8, i64), Option<f64>>;
/// A row, and the ids of which one is the first.
pub(super) type Expected = (Row, BTreeSet<String>);

#[derive(Default)]
pub(super) struct Oracle {
    /// What dedup knows: a value, or deleted.
    known: BTreeMap<(u8, u8, i64), Option<Option<f64>>>,
    windows: [BTreeMap<(String, i64, i64), Records>; 3],
    sessions: [BTreeMap<String, Sessions>; 2],
    pub(super) late: usize,
}

/// Of a group.
#[derive(Default)]
struct Sessions {
    closed: Vec<Records>,
    /// Records of all others.
    open: Records,
}

fn group(aggregate: usize, (g, id, _): (u8, u8, i64)) -> String {
    match aggregate {
        0 | 4 => id.to_string(),
        2 => format!("{g}/{id}"),
        _ => g.to_string(),
    }
}

fn starts(aggregate: usize, time: i64) -> Vec<(i64, i64)> {
    let (size, slide) = [(10, 10), (10, 4), (5, 5)][aggregate];
    let all = (-20..20).map(|number| number * slide * MINUTE).map(|start| (start, start + size * MINUTE));
    all.filter(|(start, end)| *start <= time && time < *end).collect()
}

fn span(records: &Records) -> (i64, i64) {
    let times = || records.keys().map(|(.., time)| *time);
    (times().min().unwrap(), times().max().unwrap() + GAP)
}

/// The sessions that records make.
fn parts(records: &Records) -> Vec<Records> {
    let mut by_time: Vec<((u8, u8, i64), Option<f64>)> = records.iter().map(|(key, value)| (*key, *value)).collect();
    by_time.sort_by_key(|((.., time), _)| *time);
    let mut parts: Vec<Records> = Vec::new();
    for (key, value) in by_time {
        match parts.last_mut() {
            Some(part) if key.2 <= span(part).1 => drop(part.insert(key, value)),
            _ => parts.push(BTreeMap::from([(key, value)])),
        }
    }
    parts
}

impl Oracle {
    /// Before an epoch: sessions that take nothing any more.
    pub(super) fn close(&mut self, watermark: i64) {
        for sessions in self.sessions.iter_mut().flat_map(BTreeMap::values_mut) {
            let is_over = |records: &Records| span(records).1 + LATENESS <= watermark;
            let (over, open): (Vec<_>, Vec<_>) = parts(&sessions.open).into_iter().partition(is_over);
            sessions.closed.extend(over);
            sessions.open = open.into_iter().flatten().collect();
        }
    }

    pub(super) fn apply(&mut self, event: &Event, changes: bool, watermark: i64) {
        let key = event.key();
        let new = (!event.delete).then(|| event.value());
        match self.known.get(&key) {
            Some(known) if *known == new || (known.is_some() && new.is_some() && !changes) => return,
            _ => {}
        }
        let is_correction = self.known.get(&key).is_some_and(Option::is_some);
        self.known.insert(key, new);
        for aggregate in 0..5 {
            let counts = aggregate % 2 == 0 || new.flatten().is_none_or(|v| v > 0.0);
            let value = new.filter(|_| counts);
            if value.is_none() && !is_correction && !event.delete {
                continue;
            }
            let is_late = if aggregate < 3 {
                self.window(aggregate, key, value, watermark)
            } else {
                self.session(aggregate, key, value, watermark)
            };
            self.late += usize::from(is_late);
        }
    }

    fn window(&mut self, aggregate: usize, key: (u8, u8, i64), value: Option<Option<f64>>, watermark: i64) -> bool {
        let open: Vec<(i64, i64)> =
            starts(aggregate, key.2).into_iter().filter(|(_, end)| end + LATENESS > watermark).collect();
        for (start, end) in &open {
            put(self.windows[aggregate].entry((group(aggregate, key), *start, *end)).or_default(), key, value);
        }
        open.is_empty()
    }

    fn session(&mut self, aggregate: usize, key: (u8, u8, i64), value: Option<Option<f64>>, watermark: i64) -> bool {
        let sessions = self.sessions[aggregate - 3].entry(group(aggregate, key)).or_default();
        let own_end = key.2 + GAP;
        let touches = |records: &Records| span(records).0 <= own_end && key.2 <= span(records).1;
        if own_end + LATENESS <= watermark || sessions.closed.iter().any(touches) {
            return true;
        }
        put(&mut sessions.open, key, value);
        false
    }

    /// What the sinks hold; of what closes, that which did so `slack` ago.
    pub(super) fn tables(&self, watermark: i64, slack: i64) -> [BTreeMap<Key, Expected>; 5] {
        std::array::from_fn(|aggregate| {
            let is_shown = |end: i64| !matches!(aggregate, 2 | 4) || end + LATENESS + slack <= watermark;
            if aggregate < 3 {
                let windows = self.windows[aggregate].iter();
                let windows = windows.filter(|((.., end), records)| is_shown(*end) && !records.is_empty());
                return windows
                    .map(|((group, start, end), records)| ((group.clone(), *start), row(*end, records)))
                    .collect();
            }
            let all = self.sessions[aggregate - 3].iter().flat_map(|(group, sessions)| {
                let all = sessions.closed.iter().cloned().chain(parts(&sessions.open));
                all.map(move |records| (group, span(&records), records))
            });
            all.filter(|(_, (_, end), _)| is_shown(*end))
                .map(|(group, (start, end), records)| ((group.clone(), start), row(end, &records)))
                .collect()
        })
    }
}

fn put(records: &mut Records, key: (u8, u8, i64), value: Option<Option<f64>>) {
    match value {
        Some(value) => drop(records.insert(key, value)),
        None => drop(records.remove(&key)),
    }
}

fn row(end: i64, records: &Records) -> Expected {
    let values: Vec<f64> = records.values().flatten().copied().collect();
    let most = values.iter().copied().reduce(f64::max);
    let least = values.iter().copied().reduce(f64::min);
    let total = (!values.is_empty()).then(|| sum(&values));
    let mean = total.map(|total| total / values.len() as f64);
    let spread = most.zip(least).map(|(most, least)| most - least);
    let ids: BTreeSet<String> = records.keys().map(|(_, id, _)| id.to_string()).collect();
    ((end, records.len() as i64, total, most, spread, mean, ids.len() as i64), ids)
}

/// The exact sum of the binary values, rounded once: tenths below 10 are whole numbers of 2^-60.
fn sum(values: &[f64]) -> f64 {
    let scale = 2f64.powi(60);
    values.iter().map(|value| (value * scale) as i128).sum::<i128>() as f64 / scale
}
