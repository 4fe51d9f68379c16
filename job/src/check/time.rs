//! `[time]` and `[dedup]`.

use std::ops::Range;
use std::time::Duration;

use super::name::Columns;
use super::unknown_name;
use crate::code;
use crate::document::{Entry, Section};
use crate::reader::Reader;
use crate::spec::{ColumnIndex, FieldType, OnChanged, TimeSpec};
use crate::unit::show_duration;

const DAY: Duration = Duration::from_secs(86_400);
const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);

pub(super) struct Time {
    pub(super) spec: TimeSpec,
    pub(super) field_span: Range<usize>,
}

pub(super) struct Dedup {
    pub(super) key: Vec<ColumnIndex>,
    pub(super) route_by: Vec<ColumnIndex>,
    pub(super) keep_for: Duration,
    pub(super) changed: OnChanged,
}

pub(super) fn time(reader: &mut Reader<'_>, root: &Section<'_>, columns: &Columns) -> Option<Time> {
    let entry = root.take("time")?;
    let section = reader.section("[time]", &entry)?;
    let field_entry = reader.required(&section, "field");
    let field = field_entry.as_ref().and_then(|entry| time_field(reader, entry, columns));
    let mut duration = |key, default, range| match section.take(key) {
        Some(entry) => reader.duration(&entry, range),
        None => Some(default),
    };
    let delay = duration("delay", Duration::ZERO, Duration::ZERO..=DAY);
    let lateness = duration("lateness", Duration::ZERO, Duration::ZERO..=LONGEST);
    let max_future = duration("max_future", Duration::from_secs(600), Duration::from_millis(1)..=LONGEST);
    let idle_after = duration("idle_after", Duration::from_secs(30), Duration::from_millis(100)..=DAY);
    reader.no_others(&section);
    let spec = TimeSpec {
        field: field?,
        delay: delay?,
        lateness: lateness?,
        max_future: max_future?,
        idle_after: idle_after?,
    };
    Some(Time { spec, field_span: field_entry?.span })
}

fn time_field(reader: &mut Reader<'_>, entry: &Entry<'_>, columns: &Columns) -> Option<ColumnIndex> {
    let name = reader.string(entry)?;
    let Some(index) = columns.index(name) else {
        if !columns.is_broken(name) {
            unknown_name(reader, &entry.span, "field", name, columns.fields().iter().map(|field| field.name.as_str()));
        }
        return None;
    };
    let problem = match columns.field(index) {
        None => "the event time must be a field, not a derived column",
        Some(field) if !matches!(field.kind, FieldType::Timestamp(_)) => "the event time must be of type timestamp",
        Some(field) if !field.required => "the event time must be there in every record: `required = true`",
        Some(_) => return Some(index),
    };
    reader.error(code::BAD_TIME_FIELD, &entry.span, problem);
    None
}

pub(super) fn dedup(
    reader: &mut Reader<'_>,
    root: &Section<'_>,
    columns: &Columns,
    time: Option<&Time>,
) -> Option<Dedup> {
    let entry = root.take("dedup")?;
    let section = reader.section("[dedup]", &entry)?;
    if root.take("time").is_none() {
        reader.error_help(
            code::NEEDS_TIME,
            &entry.key_span,
            "[dedup] needs [time]",
            "keys are forgotten by event time: add [time] with `field`",
        );
    }
    let key = reader.required(&section, "key").and_then(|entry| key(reader, &entry, columns));
    let route_by = match section.take("route_by") {
        Some(entry) => columns.resolve(reader, &entry).and_then(|route| routed(reader, route, key.as_deref())),
        None => key.clone(),
    };
    let keep_entry = reader.required(&section, "keep_for");
    let keep_for = keep_entry.as_ref().and_then(|entry| reader.duration(entry, Duration::from_secs(1)..=LONGEST));
    let changed = section.take("changed").map_or(Some(OnChanged::Update), |entry| {
        reader.choice(&entry, &[("update", OnChanged::Update), ("drop", OnChanged::Drop)])
    });
    reader.no_others(&section);
    if let (Some(time), Some(keep_for), Some(entry)) = (time, keep_for, &keep_entry)
        && time.spec.lateness > keep_for
    {
        let message = format!("`keep_for` is shorter than `lateness` ({})", show_duration(time.spec.lateness));
        reader.error_help(
            code::NEEDS_TIME,
            &entry.span,
            message,
            "a duplicate that a window still takes must still be known",
        );
    }
    Some(Dedup { key: key?, route_by: route_by?, keep_for: keep_for?, changed: changed? })
}

fn key(reader: &mut Reader<'_>, entry: &Entry<'_>, columns: &Columns) -> Option<Vec<ColumnIndex>> {
    let mut key = Vec::new();
    let mut good = true;
    for (index, span) in columns.resolve(reader, entry)? {
        let problem = match (columns.field(index), columns.derive(index)) {
            (_, Some(derive)) if !derive.from_fields => Some("a key column must be derived from fields alone"),
            (_, Some(derive)) if derive.nullable => {
                Some("a key column must never be null, but this expression can be: coalesce(..., '') cannot")
            }
            (Some(field), _) if !field.required => Some("a key field must be there in every record: `required = true`"),
            _ => columns.unfit_for_key(index),
        };
        if let Some(problem) = problem {
            reader.error(code::BAD_KEY, &span, problem);
            good = false;
        }
        key.push(index);
    }
    good.then_some(key)
}

fn routed(
    reader: &mut Reader<'_>,
    route: Vec<(ColumnIndex, Range<usize>)>,
    key: Option<&[ColumnIndex]>,
) -> Option<Vec<ColumnIndex>> {
    let key = key?;
    let mut good = true;
    for (_, span) in route.iter().filter(|(index, _)| !key.contains(index)) {
        reader.error(code::BAD_ROUTE, span, "`route_by` must be a part of the dedup key");
        good = false;
    }
    good.then(|| route.into_iter().map(|(index, _)| index).collect())
}
