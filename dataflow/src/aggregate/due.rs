//! When windows are due: per key group the times, and for each time the windows, all in the state itself, so that they
//! are taken back and restored with it.

use std::collections::BTreeMap;

use pulso_core::ids::{Epoch, EventTime, KeyGroup};

use super::store::{self, CHUNK, Keys, Place};
use crate::error::Result;
use crate::state::States;

/// Starts and groups.
type Windows = Vec<(i64, Vec<u8>)>;

/// A window of a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct WindowOf {
    pub(super) key_group: KeyGroup,
    pub(super) start: i64,
    pub(super) group: Vec<u8>,
}

/// Remembers windows until a time. A window may be remembered for a time at which it is not due any more, or gone.
pub(super) fn remember(
    states: &mut dyn States,
    keys: Keys,
    epoch: Epoch,
    windows: impl Iterator<Item = (i64, WindowOf)>,
) -> Result<()> {
    let mut by_group: BTreeMap<KeyGroup, BTreeMap<i64, Windows>> = BTreeMap::new();
    for (time, WindowOf { key_group, start, group }) in windows {
        by_group.entry(key_group).or_default().entry(time).or_default().push((start, group));
    }
    let places: Vec<Place> = by_group.keys().map(|key_group| (*key_group, keys.due())).collect();
    let known = store::get(states, &places, EventTime::MIN)?;
    for ((place, known), by_time) in places.iter().zip(known).zip(by_group.into_values()) {
        let known = known.map(|value| store::decode_pairs(&value)).transpose()?.unwrap_or_default();
        let mut times: BTreeMap<i64, i64> = known.into_iter().collect();
        for (time, windows) in by_time {
            let count = times.entry(time).or_default();
            let added = windows.len() as i64;
            append(states, keys, epoch, (place.0, time), *count as usize, windows)?;
            *count += added;
        }
        let pairs: Vec<(i64, i64)> = times.into_iter().collect();
        store::put(states, epoch, place, Some(&store::encode_pairs(&pairs)))?;
    }
    Ok(())
}

/// Behind the `count` windows that are there.
fn append(
    states: &mut dyn States,
    keys: Keys,
    epoch: Epoch,
    (key_group, time): (KeyGroup, i64),
    count: usize,
    windows: Windows,
) -> Result<()> {
    let first = count / CHUNK;
    let mut last = Vec::new();
    if !count.is_multiple_of(CHUNK) {
        let place = (key_group, keys.due_at(time, first as u32));
        if let Some(value) = store::get(states, &[place], EventTime::MIN)?.pop().flatten() {
            store::decode_windows(&value, &mut last)?;
        }
    }
    last.extend(windows);
    for (number, chunk) in (first..).zip(last.chunks(CHUNK)) {
        let place = (key_group, keys.due_at(time, number as u32));
        store::put(states, epoch, &place, Some(&store::encode_windows(chunk)))?;
    }
    Ok(())
}

/// Takes out the windows that were remembered for a time up to `watermark`, by key group, then time.
pub(super) fn take(
    states: &mut dyn States,
    keys: Keys,
    epoch: Epoch,
    watermark: EventTime,
    hosted: &[KeyGroup],
) -> Result<Vec<WindowOf>> {
    let places: Vec<Place> = hosted.iter().map(|key_group| (*key_group, keys.due())).collect();
    let known = store::get(states, &places, EventTime::MIN)?;
    let mut due = Vec::new();
    for (place, known) in places.iter().zip(known) {
        let Some(known) = known else { continue };
        // Most of the time nothing is due, and the times ascend.
        if store::first_of_pairs(&known)?.is_none_or(|(time, _)| time > watermark.0) {
            continue;
        }
        let (now, later): (Vec<_>, Vec<_>) =
            store::decode_pairs(&known)?.into_iter().partition(|(time, _)| *time <= watermark.0);
        let rest = (!later.is_empty()).then(|| store::encode_pairs(&later));
        store::put(states, epoch, place, rest.as_deref())?;
        for (time, count) in now {
            let chunks = (count as usize).div_ceil(CHUNK) as u32;
            let chunks: Vec<Place> = (0..chunks).map(|number| (place.0, keys.due_at(time, number))).collect();
            let mut windows = Vec::new();
            for value in store::get(states, &chunks, EventTime::MIN)?.into_iter().flatten() {
                store::decode_windows(&value, &mut windows)?;
            }
            chunks.iter().try_for_each(|place| store::put(states, epoch, place, None))?;
            due.extend(windows.into_iter().map(|(start, group)| WindowOf { key_group: place.0, start, group }));
        }
    }
    Ok(due)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Host, spec};
    use super::*;

    #[test]
    fn only_the_first_time_is_read_until_it_is_due() {
        let (keys, place) = (Keys(0), (KeyGroup(0), Keys(0).due()));
        let mut host = Host::new(&spec("drop"), 0);
        let window = WindowOf { key_group: KeyGroup(0), start: 5, group: vec![7] };
        let windows = [20, 10, 30].map(|time| (time, window.clone()));
        remember(&mut host, keys, Epoch(1), windows.into_iter()).unwrap();
        // It would not read what is behind it.
        let mut list = store::get(&mut host, std::slice::from_ref(&place), EventTime::MIN).unwrap().remove(0).unwrap();
        list.push(0);
        store::put(&mut host, Epoch(1), &place, Some(&list)).unwrap();
        let mut take = |watermark| take(&mut host, keys, Epoch(1), EventTime(watermark), &[KeyGroup(0)]);
        assert_eq!(take(9).unwrap(), []);
        assert!(take(10).is_err());
    }
}
