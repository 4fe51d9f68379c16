//! What another file does to the state of a job: which of it can still be used, and why not.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::{listed, place};
use crate::spec::{
    AggregateSpec, ColumnIndex, DEDUP_STATE, DedupSpec, FieldSpec, JobSpec, LookupSpec, OnChanged, SourceSpec,
    TargetKind,
};
use crate::submission::{Kept, StateId};

/// What a job knows of how far its input is read.
const POSITIONS: &str = "positions";

/// What becomes of a piece of state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// Used on; with what is different from here on.
    Kept {
        note: Option<String>,
    },
    /// Begins empty.
    New,
    Dropped {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateChange {
    /// `positions`, `dedup`, `aggregate NAME`.
    pub state: String,
    #[serde(flatten)]
    pub fate: Fate,
}

/// The whole difference, as far as state and rows are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub states: Vec<StateChange>,
    /// What happens to sinks, and what cannot change.
    pub notes: Vec<String>,
    /// The event time is another one, so the watermark begins anew.
    #[serde(skip)]
    pub time: bool,
}

impl Comparison {
    /// Some state would be lost.
    #[must_use]
    pub fn drops(&self) -> bool {
        self.states.iter().any(|change| matches!(change.fate, Fate::Dropped { .. }))
    }

    /// The source is read from where it starts, not on from where it was.
    #[must_use]
    pub fn drops_positions(&self) -> bool {
        self.states.iter().any(|change| change.state == POSITIONS && matches!(change.fate, Fate::Dropped { .. }))
    }

    fn keeps(&self, state: &str) -> bool {
        self.states.iter().any(|change| change.state == state && matches!(change.fate, Fate::Kept { .. }))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let states = self.states.iter().map(|StateChange { state, fate }| match fate {
            Fate::Kept { note: None } => format!("{state}: kept"),
            Fate::Kept { note: Some(note) } => format!("{state}: kept; {note}"),
            Fate::New => format!("{state}: new, begins empty"),
            Fate::Dropped { reason } => format!("{state}: dropped; {reason}"),
        });
        let lines: Vec<String> = states.chain(self.notes.iter().cloned()).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// What a job has left of the time before when `new` takes the place of `old`; `before`: what `old` had. `None` where all
/// numbers are used up.
#[must_use]
pub fn kept(old: &JobSpec, before: Option<&Kept>, new: &JobSpec, comparison: &Comparison) -> Option<Kept> {
    let numbers: BTreeMap<String, StateId> = old.states().collect();
    let most = numbers.values().max().copied().unwrap_or_default();
    let mut next = before.map_or(0, |before| before.next).max(most.checked_add(1)?);
    let mut states = BTreeMap::new();
    for (name, _) in new.states() {
        let number = match numbers.get(&name).filter(|_| comparison.keeps(&name)) {
            Some(number) => *number,
            None => {
                let number = next;
                next = number.checked_add(1)?;
                number
            }
        };
        states.insert(name, number);
    }
    Some(Kept { key_groups: old.key_groups, states, next })
}

/// What the file `new` does to the state of a job that runs `old`. Secrets and addresses play no part.
#[must_use]
pub fn compare(old: &JobSpec, new: &JobSpec) -> Comparison {
    let sides = Sides { old, new, before: Definitions::of(old), after: Definitions::of(new) };
    let mut states = vec![StateChange { state: POSITIONS.to_owned(), fate: positions(&old.source, &new.source) }];
    let dedup = sides.dedup();
    let forgets = matches!(dedup, Some(Fate::Dropped { .. }));
    states.extend(dedup.map(|fate| StateChange { state: DEDUP_STATE.to_owned(), fate }));
    let named = |job: &JobSpec, name: &str| job.aggregates.iter().position(|aggregate| aggregate.name == name);
    for before in &old.aggregates {
        let fate = match named(new, &before.name).and_then(|at| new.aggregates.get(at)) {
            None => Fate::Dropped { reason: "it is no longer in the file".to_owned() },
            Some(after) => sides.aggregate(before, after, forgets),
        };
        states.push(StateChange { state: before.state_name(), fate });
    }
    let added = new.aggregates.iter().filter(|aggregate| named(old, &aggregate.name).is_none());
    states.extend(added.map(|added| StateChange { state: added.state_name(), fate: Fate::New }));
    Comparison { states, notes: notes(old, new), time: sides.time_changed() }
}

fn positions(old: &SourceSpec, new: &SourceSpec) -> Fate {
    let (old, new) = match (old, new) {
        (SourceSpec::Kafka(old), SourceSpec::Kafka(new)) => (old, new),
        (SourceSpec::Files(old), SourceSpec::Files(new)) if old.pattern == new.pattern && old.format == new.format => {
            return Fate::Kept { note: None };
        }
        (SourceSpec::Files(_), SourceSpec::Files(_)) => {
            let reason = "other files, or another format: what matches is read from its beginning".to_owned();
            return Fate::Dropped { reason };
        }
        (SourceSpec::Kafka(_), SourceSpec::Files(_)) | (SourceSpec::Files(_), SourceSpec::Kafka(_)) => {
            return Fate::Dropped { reason: "the source is of another type".to_owned() };
        }
    };
    if old.topic != new.topic {
        let reason =
            format!("topic {} is read from its start position, not {} from where it was", new.topic, old.topic);
        return Fate::Dropped { reason };
    }
    Fate::Kept { note: (old.start != new.start).then(|| "`start` counts at the first start only".to_owned()) }
}

/// Both files, and what their columns are.
struct Sides<'a> {
    old: &'a JobSpec,
    new: &'a JobSpec,
    before: Definitions,
    after: Definitions,
}

impl Sides<'_> {
    fn same(&self, before: &[ColumnIndex], after: &[ColumnIndex]) -> bool {
        self.before.of_columns(before) == self.after.of_columns(after)
    }

    fn time_changed(&self) -> bool {
        let field = |job: &JobSpec| job.time.as_ref().map(|time| vec![time.field]).unwrap_or_default();
        !self.same(&field(self.old), &field(self.new))
    }

    fn dedup(&self) -> Option<Fate> {
        let (before, after) = match (&self.old.dedup, &self.new.dedup) {
            (None, None) => return None,
            (None, Some(_)) => return Some(Fate::New),
            (Some(_), None) => return Some(Fate::Dropped { reason: "[dedup] is no longer in the file".to_owned() }),
            (Some(before), Some(after)) => (before, after),
        };
        let dropped = |what: &str, before: &[ColumnIndex], after: &[ColumnIndex]| {
            let (before, after) = (listed(self.old, before), listed(self.new, after));
            let how = match before == after {
                true => "its columns have changed".to_owned(),
                false => format!("it was {before}, and is {after}"),
            };
            Some(Fate::Dropped { reason: format!("{what}: {how}") })
        };
        if !self.same(&before.key, &after.key) {
            return dropped("the key is another one", &before.key, &after.key);
        }
        if !self.same(&self.old.routing_key, &self.new.routing_key) {
            return dropped("the routing key is another one", &self.old.routing_key, &self.new.routing_key);
        }
        if self.time_changed() {
            let reason = "the event time is another one, and entries are forgotten by it".to_owned();
            return Some(Fate::Dropped { reason });
        }
        Some(Fate::Kept { note: dedup_note(self.old, self.new, before, after) })
    }

    /// `forgets`: dedup is dropped, so a record that comes again counts as new.
    fn aggregate(&self, before: &AggregateSpec, after: &AggregateSpec, forgets: bool) -> Fate {
        let sql = |aggregate: &AggregateSpec| -> Vec<String> {
            let condition = aggregate.condition.iter().map(|condition| condition.sql.clone());
            condition.chain(aggregate.columns.iter().map(|column| column.value.sql.clone())).collect()
        };
        let routed = |job: &JobSpec, aggregate: &AggregateSpec| match aggregate.own_stage {
            true => aggregate.group_by.clone(),
            false => job.routing_key.clone(),
        };
        let reads = |job: &JobSpec, aggregate: &AggregateSpec| columns_in(job, &sql(aggregate));
        let changes = |job: &JobSpec| job.corrects() || job.deletes();
        let lateness = |job: &JobSpec| job.time.as_ref().map(|time| time.lateness);
        let (old, new) = (self.old, self.new);
        let reasons = [
            (!self.same(&before.group_by, &after.group_by), "its group_by has changed"),
            (before.window != after.window, "its window has changed"),
            (before.emit != after.emit, "its `emit` has changed: windows that are open would be shown twice, or never"),
            (self.time_changed(), "the event time is another one"),
            (lateness(old) < lateness(new), "`lateness` has grown: windows that would be open again are forgotten"),
            (before.condition != after.condition, "its `where` has changed"),
            (sql(before) != sql(after), "its columns have changed"),
            (!self.same(&reads(old, before), &reads(new, after)), "a column that it reads has changed"),
            (!self.same(&routed(old, before), &routed(new, after)), "the routing key is another one"),
            (before.own_stage != after.own_stage, "it has an exchange of its own now, or no longer"),
            (
                changes(old) != changes(new),
                "corrections or deletes can come now, or no longer: windows keep other things",
            ),
            (forgets && changes(old), "dedup is dropped, by which it tells corrections and deletes from new records"),
        ];
        match reasons.into_iter().find(|(holds, _)| *holds) {
            Some((_, reason)) => Fate::Dropped { reason: reason.to_owned() },
            None if forgets => Fate::Kept {
                note: Some("records of before that come again are counted again: dedup is dropped".to_owned()),
            },
            None => Fate::Kept { note: None },
        }
    }
}

fn dedup_note(old: &JobSpec, new: &JobSpec, before: &DedupSpec, after: &DedupSpec) -> Option<String> {
    let values = |job: &JobSpec, key: &[ColumnIndex]| -> Vec<String> {
        let others = job.fields.iter().enumerate().filter(|(at, _)| !key.contains(at));
        others.map(|(_, field)| field_definition(field)).collect()
    };
    if values(old, &before.key) != values(new, &after.key) {
        let becomes = match after.changed {
            OnChanged::Update => "a correction",
            OnChanged::Drop => "superseded",
        };
        return Some(format!("[fields] have changed, so a record that comes again counts as {becomes} once"));
    }
    (before.keep_for < after.keep_for).then(|| "what was forgotten already stays forgotten".to_owned())
}

/// Of each column what it is, with what it is derived from: equal for equal values of the same record.
struct Definitions(Vec<String>);

impl Definitions {
    fn of(job: &JobSpec) -> Self {
        let mut all: Vec<String> = job.fields.iter().map(field_definition).collect();
        for lookup in &job.lookups {
            let on: Vec<&String> = lookup.on.iter().filter_map(|column| all.get(*column)).collect();
            let from = format!("{} by {on:?} {:?}", lookup_source(job, lookup), lookup.missing);
            all.extend(lookup.columns.iter().map(|column| format!("{} {:?} of {from}", column.name, column.data_type)));
        }
        for derive in &job.derive {
            // A derived column sees those above it only. Their hash, because each may name all above it.
            let above = columns_in(job, std::slice::from_ref(&derive.value.sql));
            let above: Vec<&String> = above.iter().filter_map(|column| all.get(*column)).collect();
            let above = xxh3_128(format!("{above:?}").as_bytes());
            all.push(format!("{} {:?} = {} [{above:032x}]", derive.name, derive.data_type, derive.value.sql));
        }
        Self(all)
    }

    fn of_columns(&self, columns: &[ColumnIndex]) -> Vec<&str> {
        columns.iter().map(|column| self.0.get(*column).map_or("", String::as_str)).collect()
    }
}

fn field_definition(field: &FieldSpec) -> String {
    format!("{} {:?}", field.name, field.kind)
}

/// Where the rows are from.
fn lookup_source(job: &JobSpec, lookup: &LookupSpec) -> String {
    let target = job.targets.get(lookup.target).map_or("", |target| &target.name);
    format!("{target}: {}", lookup.sql)
}

/// Where the rows are from, and which one a record gets.
fn lookup_definition(job: &JobSpec, lookup: &LookupSpec) -> String {
    format!("{} by {:?}", lookup_source(job, lookup), Definitions::of(job).of_columns(&lookup.on))
}

/// Columns whose names stand in the texts; one that only looks like a column costs nothing but caution.
fn columns_in(job: &JobSpec, texts: &[String]) -> Vec<ColumnIndex> {
    // Those of lookups are called `lookup.column`.
    let texts: Vec<String> = texts.iter().map(|text| unquoted(text)).collect();
    let is_named = |name: &str, text: &String| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.' && name.contains('.');
        text.split(|c: char| !is_word(c)).any(|word| word.eq_ignore_ascii_case(name))
    };
    let columns = job.columns().enumerate();
    columns.filter(|(_, name)| texts.iter().any(|text| is_named(name, text))).map(|(column, _)| column).collect()
}

/// `"map" . "most"` is `map.most`.
fn unquoted(sql: &str) -> String {
    let parts: Vec<&str> = sql.split('.').map(str::trim).collect();
    parts.join(".").replace('"', "")
}

fn notes(old: &JobSpec, new: &JobSpec) -> Vec<String> {
    let mut notes = Vec::new();
    if old.key_groups != new.key_groups {
        notes.push(format!("`key_groups` stays {}: it is fixed at the first submit", old.key_groups));
    }
    for before in &old.lookups {
        let after = new.lookups.iter().find(|after| after.name == before.name);
        if after.is_some_and(|after| lookup_definition(old, before) != lookup_definition(new, after)) {
            let name = &before.name;
            notes.push(format!("lookup {name}: has other rows from here on; what is in state and in tables stays"));
        }
    }
    let sinks = |job: &JobSpec| -> Vec<(String, String)> {
        let target = |at: usize| {
            job.targets.get(at).map_or_else(String::new, |target| match &target.kind {
                TargetKind::Files { folder, .. } => format!("{} ({})", target.name, folder.display()),
                TargetKind::Postgres { .. } | TargetKind::MySql { .. } | TargetKind::Kafka { .. } => {
                    target.name.clone()
                }
            })
        };
        job.sinks
            .iter()
            .map(|sink| (format!("{} in {}", place(job, sink), target(sink.target)), shape(job, sink)))
            .collect()
    };
    let (before, after) = (sinks(old), sinks(new));
    for (name, shape) in &before {
        match after.iter().find(|(other, _)| other == name) {
            None => notes.push(format!("{name}: nothing more is written to it; its rows stay")),
            Some((_, other)) if other != shape => {
                notes.push(format!("{name}: is written otherwise from here on; rows that are there stay as they are"));
            }
            Some(_) => {}
        }
    }
    for (name, _) in after.iter().filter(|(name, _)| before.iter().all(|(other, _)| other != name)) {
        notes.push(format!("{name}: gets what comes from here on, nothing of before"));
    }
    notes
}

/// What decides on the rows of a sink.
fn shape(job: &JobSpec, sink: &crate::spec::SinkSpec) -> String {
    let columns: Vec<String> =
        sink.columns.iter().map(|column| format!("{} {:?}", column.name, column.value)).collect();
    let from = match sink.from {
        crate::spec::RowsFrom::Aggregate(at) => job.aggregates.get(at).map_or_else(String::new, |a| a.name.clone()),
        other @ (crate::spec::RowsFrom::Records | crate::spec::RowsFrom::Late) => format!("{other:?}"),
    };
    format!("{from} {:?} {columns:?} {:?}", sink.condition, sink.to)
}
