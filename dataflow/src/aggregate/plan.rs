//! Which windows change in an epoch, and which rows do it.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use pulso_core::ids::KeyGroup;

use super::due::WindowOf;
use super::session::{Assigned, Open, Sessions};
use super::store::{self, Head, Place};
use super::{Aggregate, Now, Op, Prepared};
use crate::error::Result;
use crate::state::States;

/// A window that changes.
pub(super) struct Pane {
    pub(super) at: WindowOf,
    pub(super) end: i64,
    /// The windows of the state that it continues, by start.
    pub(super) bases: Vec<(i64, Head)>,
    pub(super) ops: Vec<(u32, Op)>,
    /// A row is replaced or removed: everything is computed anew.
    pub(super) rebuild: bool,
}

/// A group of a key group.
pub(super) type Group = (KeyGroup, Vec<u8>);

/// What changes in an epoch.
#[derive(Default)]
pub(super) struct Changing {
    pub(super) panes: Vec<Pane>,
    /// Sessions of the groups that have rows, as they were.
    pub(super) sessions: BTreeMap<Group, Vec<(i64, i64)>>,
}

impl Aggregate {
    /// Windows of `size` begin every `slide`.
    pub(super) fn sliding(
        &self,
        states: &mut dyn States,
        now: Now,
        rows: &Prepared<'_>,
        (size, slide): (i64, i64),
        late: &mut Vec<u32>,
    ) -> Result<Changing> {
        let mut panes: Vec<Pane> = Vec::new();
        let mut known: HashMap<Place, usize> = HashMap::new();
        for (row, op) in rows.ops() {
            let time = rows.times.value(row as usize);
            let (key_group, group) = rows.group(row);
            let mut is_late = true;
            let last = time.div_euclid(slide).saturating_mul(slide);
            let windows = size.div_euclid(slide) + i64::from(size % slide > 0);
            let starts = (0..windows).rev().map(|back| last.saturating_sub(back.saturating_mul(slide)));
            for start in starts.filter(|start| start.saturating_add(size) > time) {
                let end = start.saturating_add(size);
                if end.saturating_add(self.lateness) <= now.watermark.0 {
                    continue;
                }
                is_late = false;
                let place = (key_group, self.keys.head(start, &group));
                let at = *known.entry(place).or_insert_with(|| {
                    let at = WindowOf { key_group, start, group: group.clone() };
                    panes.push(Pane { at, end, bases: Vec::new(), ops: Vec::new(), rebuild: false });
                    panes.len() - 1
                });
                panes[at].ops.push((row, op));
                panes[at].rebuild |= op != Op::Add;
            }
            if is_late {
                late.push(row);
            }
        }
        let places: Vec<Place> = panes.iter().map(|pane| self.head_of(&pane.at)).collect();
        for (pane, value) in panes.iter_mut().zip(store::get(states, &places, now.watermark)?) {
            pane.bases.extend(value.map(|value| Head::decode(&value)).transpose()?.map(|head| (pane.at.start, head)));
        }
        Ok(Changing { panes, sessions: BTreeMap::new() })
    }

    /// A window ends where no row of its group follows for `gap`.
    pub(super) fn sessions(
        &self,
        states: &mut dyn States,
        now: Now,
        rows: &Prepared<'_>,
        gap: i64,
        late: &mut Vec<u32>,
    ) -> Result<Changing> {
        let mut known: HashMap<Group, usize> = HashMap::new();
        let mut groups: Vec<(Group, Vec<(u32, Op)>)> = Vec::new();
        for (row, op) in rows.ops() {
            let group = rows.group(row);
            let at = *known.entry(group.clone()).or_insert_with(|| {
                groups.push((group, Vec::new()));
                groups.len() - 1
            });
            groups[at].1.push((row, op));
        }
        let places: Vec<Place> =
            groups.iter().map(|((key_group, group), _)| (*key_group, self.keys.sessions(group))).collect();
        let known = store::get(states, &places, now.watermark)?;
        let mut changing = Changing::default();
        let mut bases: Vec<(usize, i64)> = Vec::new();
        for ((group, ops), known) in groups.into_iter().zip(known) {
            let known = known.map(|value| store::decode_pairs(&value)).transpose()?.unwrap_or_default();
            let mut sessions = Sessions::new(gap, self.lateness, now.watermark.0, &known);
            for (row, op) in ops {
                if sessions.assign(rows.times.value(row as usize), row, op) == Assigned::Late {
                    late.push(row);
                }
            }
            for Open { start, end, from, ops, rebuild } in sessions.open.into_iter().filter(|open| !open.ops.is_empty())
            {
                bases.extend(from.iter().map(|start| (changing.panes.len(), *start)));
                let at = WindowOf { key_group: group.0, start, group: group.1.clone() };
                changing.panes.push(Pane { at, end, bases: Vec::new(), ops, rebuild });
            }
            changing.sessions.insert(group, known);
        }
        late.sort_unstable();
        let base_of = |(pane, start): &(usize, i64)| {
            let at = &changing.panes[*pane].at;
            (at.key_group, self.keys.head(*start, &at.group))
        };
        let places: Vec<Place> = bases.iter().map(base_of).collect();
        for ((pane, start), value) in bases.into_iter().zip(store::get(states, &places, now.watermark)?) {
            let head = value.map(|value| Head::decode(&value)).transpose()?;
            changing.panes[pane].bases.extend(head.map(|head| (start, head)));
        }
        changing.panes.iter_mut().for_each(|pane| pane.bases.sort_by_key(|(start, _)| *start));
        Ok(changing)
    }

    pub(super) fn head_of(&self, at: &WindowOf) -> Place {
        (at.key_group, self.keys.head(at.start, &at.group))
    }
}

impl Prepared<'_> {
    /// The rows that do something, in canonical order.
    fn ops(&self) -> impl Iterator<Item = (u32, Op)> + '_ {
        (0u32..).zip(&self.ops).filter_map(|(row, op)| op.map(|op| (row, op)))
    }

    fn group(&self, row: u32) -> Group {
        let mut group = Vec::new();
        self.groups.encode(row as usize, &mut group);
        (self.key_groups[row as usize], group)
    }
}
