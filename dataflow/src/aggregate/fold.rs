//! Windows that change: their rows into the functions' states, the states back into the state, and what the sinks see.

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::{concat, take};
use arrow::row::{RowConverter, Rows};
use hashbrown::{HashMap, HashSet};
use pulso_core::ids::{EventTime, KeyGroup};
use pulso_job::Emit;
use xxhash_rust::xxh3::Xxh3Default;

use super::due::{self, WindowOf};
use super::plan::{Changing, Pane};
use super::store::{self, CHUNK, Counted, Head, NEVER, Place};
use super::{Aggregate, Now, Op, Prepared, Shown, Windows, failure, session};
use crate::error::Result;
use crate::sink::Step;
use crate::state::States;

/// Sessions are due at times in so many parts of the gap: few times to remember, and closed soon enough.
const SESSION_PARTS: i64 = 16;

/// What the sinks get.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) shown: Vec<Shown>,
    /// Columns of the aggregate's own, one row per window that has one.
    pub(super) results: Vec<ArrayRef>,
}

/// A window and what goes into its functions.
struct Fold {
    at: WindowOf,
    end: i64,
    /// Of the windows that it continues.
    states: Vec<Vec<u8>>,
    /// Rows of the input; `None`: all that are kept, because it is computed anew.
    added: Option<Vec<u32>>,
    /// Rows to keep: those from this chunk on.
    kept: Option<(usize, Vec<Counted>)>,
    /// Rows in all chunks.
    rows: usize,
    /// Of the window of the same start, if there was one.
    before: Option<Before>,
}

#[derive(Debug, Clone, Copy)]
struct Before {
    end: i64,
    shown: Option<u128>,
    rows: usize,
}

/// In the order in which it holds.
enum Next {
    Gone(WindowOf, Head),
    Fold(Fold),
}

impl Aggregate {
    /// Applies the epoch's rows to their windows.
    pub(super) fn change(
        &self,
        states: &mut dyn States,
        now: Now,
        rows: &Prepared<'_>,
        changing: Changing,
        made: &mut Made,
    ) -> Result<()> {
        let Changing { panes, mut sessions } = changing;
        if panes.is_empty() {
            return Ok(());
        }
        let loaded = self.load_rows(states, now, &panes)?;
        let mut next = Vec::new();
        for (pane, loaded) in panes.into_iter().zip(loaded) {
            let group = (pane.at.key_group, pane.at.group.clone());
            let starts: Vec<i64> = pane.bases.iter().map(|(start, _)| *start).collect();
            let from = next.len();
            self.plan(pane, loaded, rows, &mut next);
            if let Some(open) = sessions.get_mut(&group) {
                open.retain(|(start, _)| !starts.contains(start));
                open.extend(next[from..].iter().filter_map(|next| match next {
                    Next::Fold(fold) => Some((fold.at.start, fold.end)),
                    Next::Gone(..) => None,
                }));
                open.sort_unstable();
            }
        }
        for ((key_group, group), open) in sessions {
            let value = (!open.is_empty()).then(|| store::encode_pairs(&open));
            store::put(states, now.epoch, &(key_group, self.keys.sessions(&group)), value.as_deref())?;
        }
        self.fold(states, now, rows, next, made)
    }

    /// The rows of each window that are needed: all, or those that share a chunk with new ones.
    fn load_rows(&self, states: &mut dyn States, now: Now, panes: &[Pane]) -> Result<Vec<Vec<Counted>>> {
        let mut loaded = vec![Vec::new(); panes.len()];
        if self.identity.is_none() {
            return Ok(loaded);
        }
        let mut places: Vec<(usize, Place)> = Vec::new();
        for (at, pane) in panes.iter().enumerate() {
            for (start, head) in &pane.bases {
                let chunks = (head.rows as usize).div_ceil(CHUNK);
                let first = if pane.needs_all() { 0 } else { head.rows as usize / CHUNK };
                places.extend((first..chunks).map(|number| (at, self.chunk_of(&pane.at, *start, number))));
            }
        }
        let (owners, places): (Vec<usize>, Vec<Place>) = places.into_iter().unzip();
        for (at, value) in owners.into_iter().zip(store::get(states, &places, now.watermark)?) {
            if let Some(value) = value {
                store::decode_chunk(&value, &mut loaded[at])?;
            }
        }
        Ok(loaded)
    }

    fn chunk_of(&self, at: &WindowOf, start: i64, number: usize) -> Place {
        // A window has fewer than 2^32 rows: more do not fit into a checkpoint.
        (at.key_group, self.keys.chunk(start, number as u32, &at.group))
    }

    /// What becomes of one window: itself changed, nothing, or several where a session falls apart.
    fn plan(&self, pane: Pane, loaded: Vec<Counted>, rows: &Prepared<'_>, next: &mut Vec<Next>) {
        let needs_all = pane.needs_all();
        let Pane { at, end, mut bases, ops, rebuild } = pane;
        let mut folds: Vec<Fold> = Vec::new();
        if rebuild && self.identity.is_some() {
            let left = apply(loaded, &ops, |row| rows.counted(row));
            let parts = match self.windows {
                Windows::Sessions { gap } => session::split(left, gap),
                Windows::Sliding { .. } if left.is_empty() => Vec::new(),
                Windows::Sliding { .. } => vec![(at.start, end, left)],
            };
            folds.extend(parts.into_iter().map(|(start, end, rows)| Fold {
                at: WindowOf { start, ..at.clone() },
                end,
                states: Vec::new(),
                added: None,
                rows: rows.len(),
                kept: Some((0, rows)),
                before: None,
            }));
        } else {
            let kept_before: usize = bases.iter().map(|(_, head)| head.rows as usize).sum();
            let kept = self.identity.as_ref().map(|_| {
                let first = if needs_all { 0 } else { kept_before / CHUNK };
                (first, loaded.into_iter().chain(ops.iter().map(|(row, _)| rows.counted(*row))).collect())
            });
            folds.push(Fold {
                at: at.clone(),
                end,
                states: bases.iter_mut().map(|(_, head)| std::mem::take(&mut head.state)).collect(),
                rows: kept.as_ref().map_or(0, |_| kept_before + ops.len()),
                added: Some(ops.into_iter().map(|(row, _)| row).collect()),
                kept,
                before: None,
            });
        }
        for (start, head) in bases {
            match folds.iter_mut().find(|fold| fold.at.start == start) {
                Some(fold) => fold.before = Some(Before { end: head.end, shown: head.shown, rows: head.rows as usize }),
                None => next.push(Next::Gone(WindowOf { start, ..at.clone() }, head)),
            }
        }
        next.extend(folds.into_iter().map(Next::Fold));
    }

    fn fold(
        &self,
        states: &mut dyn States,
        now: Now,
        rows: &Prepared<'_>,
        next: Vec<Next>,
        made: &mut Made,
    ) -> Result<()> {
        let folds: Vec<&Fold> = next.iter().filter_map(Next::as_fold).collect();
        let accumulated = self.accumulate(&folds, rows)?;
        let results = self.aggregation.results(folds.len(), &accumulated).map_err(|e| failure(&self.name, &e))?;
        let encoded = self.states.convert_columns(&accumulated)?;
        let hashed = self.results.convert_columns(&results)?;
        // A session that lost its last row is due earlier than it was; one that grew is looked at and remembered again.
        let is_due = |fold: &&&Fold| self.has_timers && fold.before.is_none_or(|before| fold.end < before.end);
        let new = folds.iter().filter(is_due);
        let new: Vec<(i64, WindowOf)> = new.map(|fold| (self.due_at(fold.end), fold.at.clone())).collect();
        due::remember(states, self.keys, now.epoch, new.into_iter())?;
        let mut at = 0;
        for next in next {
            match next {
                Next::Gone(window, head) => {
                    self.forget(states, now, &window, head.rows as usize)?;
                    if head.shown.is_some() {
                        made.shown.push(Shown { at: window, end: head.end, step: Step::Deleted, result: None });
                    }
                }
                Next::Fold(fold) => {
                    let hash = hash_of(&hashed, at, fold.end);
                    let shows = self.emit == Emit::Change;
                    self.keep(states, now, &fold, (shows.then_some(hash), encoded.row(at).data()))?;
                    let step = match fold.before.and_then(|before| before.shown) {
                        None => Some(Step::New),
                        Some(shown) if shown != hash => Some(Step::Corrected),
                        Some(_) => None,
                    };
                    if let Some(step) = step.filter(|_| shows) {
                        let result = Some(at as u32);
                        made.shown.push(Shown { at: fold.at, end: fold.end, step, result });
                    }
                    at += 1;
                }
            }
        }
        if self.emit == Emit::Change {
            made.results = results;
        }
        Ok(())
    }

    fn accumulate(&self, folds: &[&Fold], rows: &Prepared<'_>) -> Result<Vec<ArrayRef>> {
        let (mut state_of, mut added, mut row_of) = (Vec::new(), Vec::new(), Vec::new());
        for (at, fold) in folds.iter().enumerate() {
            state_of.resize(state_of.len() + fold.states.len(), at);
            added.extend(fold.added.iter().flatten().copied());
            row_of.resize(added.len(), at);
        }
        let mut anew: Vec<&Vec<u8>> = Vec::new();
        for (at, fold) in folds.iter().enumerate().filter(|(_, fold)| fold.added.is_none()) {
            anew.extend(fold.kept.iter().flat_map(|(_, rows)| rows).map(|row| &row.arguments));
            row_of.resize(added.len() + anew.len(), at);
        }
        let before = columns(&self.states, folds.iter().flat_map(|fold| &fold.states))?;
        let (added, anew) = (UInt32Array::from(added), columns(&self.arguments, anew.into_iter())?);
        let arguments = rows.values.iter().zip(&anew).map(|(values, anew)| -> Result<ArrayRef> {
            let added = take(values, &added, None)?;
            Ok(if anew.is_empty() { added } else { concat(&[&added, anew])? })
        });
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        self.aggregation
            .accumulate(folds.len(), (&before, &state_of), (&arguments, &row_of))
            .map_err(|e| failure(&self.name, &e))
    }

    /// Writes a window into the state.
    fn keep(
        &self,
        states: &mut dyn States,
        now: Now,
        fold: &Fold,
        (shown, state): (Option<u128>, &[u8]),
    ) -> Result<()> {
        // What has a timer goes by it.
        let absent_from = if self.has_timers { NEVER } else { self.closes_at(fold.end) };
        let head = Head { end: fold.end, shown, rows: fold.rows as u32, state: state.to_vec() };
        store::put(states, now.epoch, &self.head_of(&fold.at), Some(&head.encode(absent_from)))?;
        if let Some((first, rows)) = &fold.kept {
            for (number, chunk) in (*first..).zip(rows.chunks(CHUNK)) {
                let place = self.chunk_of(&fold.at, fold.at.start, number);
                store::put(states, now.epoch, &place, Some(&store::encode_chunk(absent_from, chunk)))?;
            }
            let before = fold.before.map_or(0, |before| before.rows);
            for number in fold.rows.div_ceil(CHUNK)..before.div_ceil(CHUNK) {
                store::put(states, now.epoch, &self.chunk_of(&fold.at, fold.at.start, number), None)?;
            }
        }
        Ok(())
    }

    fn forget(&self, states: &mut dyn States, now: Now, window: &WindowOf, rows: usize) -> Result<()> {
        store::put(states, now.epoch, &self.head_of(window), None)?;
        let chunks = (0..rows.div_ceil(CHUNK)).map(|number| self.chunk_of(window, window.start, number));
        chunks.into_iter().try_for_each(|place| store::put(states, now.epoch, &place, None))
    }

    fn closes_at(&self, end: i64) -> i64 {
        end.saturating_add(self.lateness)
    }

    /// When somebody looks whether the window is closed.
    fn due_at(&self, end: i64) -> i64 {
        let closes_at = self.closes_at(end);
        match self.windows {
            Windows::Sliding { .. } => closes_at,
            Windows::Sessions { gap } => {
                let part = (gap / SESSION_PARTS).max(1);
                closes_at.div_euclid(part).saturating_add(1).saturating_mul(part)
            }
        }
    }

    /// Takes the windows that the watermark closed out of the state; with `emit = "close"` they are shown now.
    pub(super) fn close_due(
        &self,
        states: &mut dyn States,
        now: Now,
        hosted: &[KeyGroup],
        made: &mut Made,
    ) -> Result<()> {
        let mut due = due::take(states, self.keys, now.epoch, now.watermark, hosted)?;
        // A window that went away and came again is remembered twice.
        let mut known = HashSet::new();
        due.retain(|window| known.insert(window.clone()));
        if due.is_empty() {
            return Ok(());
        }
        let places: Vec<Place> = due.iter().map(|window| self.head_of(window)).collect();
        let heads = store::get(states, &places, EventTime::MIN)?;
        let (mut closed, mut later) = (Vec::new(), Vec::new());
        for (window, value) in due.into_iter().zip(heads) {
            if let Windows::Sessions { gap } = self.windows {
                self.forget_sessions(states, now, gap, &window)?;
            }
            let Some(head) = value.map(|value| Head::decode(&value)).transpose()? else { continue };
            if self.closes_at(head.end) > now.watermark.0 {
                later.push((self.due_at(head.end), window));
                continue;
            }
            if let Windows::Sessions { gap } = self.windows
                && self.closes_at(head.end.saturating_add(gap)) > now.watermark.0
            {
                later.push((self.due_at(head.end.saturating_add(gap)), window.clone()));
            }
            closed.push((window, head));
        }
        due::remember(states, self.keys, now.epoch, later.into_iter())?;
        for (window, head) in &closed {
            self.forget(states, now, window, head.rows as usize)?;
        }
        if self.emit == Emit::Close {
            let kept = columns(&self.states, closed.iter().map(|(_, head)| &head.state))?;
            made.results = self.aggregation.results(closed.len(), &kept).map_err(|e| failure(&self.name, &e))?;
            let shown = |(at, (window, head)): (u32, (WindowOf, Head))| Shown {
                at: window,
                end: head.end,
                step: Step::New,
                result: Some(at),
            };
            made.shown.extend((0..).zip(closed).map(shown));
        }
        Ok(())
    }

    /// Sessions into which no row can reach any more, because its own gap is over.
    fn forget_sessions(&self, states: &mut dyn States, now: Now, gap: i64, window: &WindowOf) -> Result<()> {
        let place = (window.key_group, self.keys.sessions(&window.group));
        let known = store::get(states, std::slice::from_ref(&place), EventTime::MIN)?.pop().flatten();
        let known = known.map(|value| store::decode_pairs(&value)).transpose()?.unwrap_or_default();
        let is_over = |end: i64| self.closes_at(end.saturating_add(gap)) <= now.watermark.0;
        let left: Vec<(i64, i64)> = known.iter().copied().filter(|(_, end)| !is_over(*end)).collect();
        if left.len() == known.len() {
            return Ok(());
        }
        let value = (!left.is_empty()).then(|| store::encode_pairs(&left));
        store::put(states, now.epoch, &place, value.as_deref())
    }
}

impl Pane {
    /// All rows have to be read, because they are counted anew or move to another key.
    fn needs_all(&self) -> bool {
        self.rebuild || self.bases.len() > 1 || self.bases.iter().any(|(start, _)| *start != self.at.start)
    }
}

impl Next {
    fn as_fold(&self) -> Option<&Fold> {
        match self {
            Self::Fold(fold) => Some(fold),
            Self::Gone(..) => None,
        }
    }
}

impl Prepared<'_> {
    /// What is kept of a row.
    fn counted(&self, row: u32) -> Counted {
        let arguments = self.arguments.as_ref().map(|rows| rows.row(row as usize).data().to_vec());
        let row = row as usize;
        Counted { id: self.ids[row], time: self.times.value(row), arguments: arguments.unwrap_or_default() }
    }
}

/// The rows of a window after an epoch.
fn apply(loaded: Vec<Counted>, ops: &[(u32, Op)], counted: impl Fn(u32) -> Counted) -> Vec<Counted> {
    let mut place_of: HashMap<u128, usize> = loaded.iter().enumerate().map(|(at, row)| (row.id, at)).collect();
    let mut rows: Vec<Option<Counted>> = loaded.into_iter().map(Some).collect();
    for (row, op) in ops {
        let row = counted(*row);
        match (op, place_of.get(&row.id)) {
            (Op::Remove, None) => {}
            (Op::Remove, Some(at)) => {
                rows[*at] = None;
                place_of.remove(&row.id);
            }
            (Op::Add | Op::Replace, Some(at)) => rows[*at] = Some(row),
            (Op::Add | Op::Replace, None) => {
                place_of.insert(row.id, rows.len());
                rows.push(Some(row));
            }
        }
    }
    rows.into_iter().flatten().collect()
}

fn columns<'a>(converter: &RowConverter, rows: impl Iterator<Item = &'a Vec<u8>>) -> Result<Vec<ArrayRef>> {
    let parser = converter.parser();
    Ok(converter.convert_rows(rows.map(|row| parser.parse(row)))?)
}

fn hash_of(results: &Rows, at: usize, end: i64) -> u128 {
    let mut hash = Xxh3Default::new();
    hash.update(&end.to_le_bytes());
    hash.update(results.row(at).data());
    hash.digest128()
}
