//! `[[panel]]`: a chart of what a database target holds.

use std::time::Duration;

use toml::de::DeValue;

use super::MAX_TABLES;
use super::select::{select, text};
use super::target::{Found, Targets};
use crate::code;
use crate::document::{Entry, Section};
use crate::reader::Reader;
use crate::spec::{PanelSpec, TargetIndex};

pub(crate) const CHARTS: [&str; 7] = ["line", "bar", "pie", "histogram", "scatter", "table", "number"];
const LONGEST_TITLE: usize = 200;
/// What can be asked: the help of every panel that cannot.
const ASKED: &str = "let the panel ask a [target.NAME] of type postgres or mysql, named by `in`";

pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>, targets: &Targets) -> Option<Vec<PanelSpec>> {
    let Some(entry) = root.take("panel") else {
        return Some(Vec::new());
    };
    let sections = reader.sections(&entry, MAX_TABLES);
    let panels: Vec<Option<PanelSpec>> = sections.iter().map(|section| panel(reader, root, section, targets)).collect();
    panels.into_iter().collect()
}

fn panel(reader: &mut Reader<'_>, root: &Section<'_>, section: &Section<'_>, targets: &Targets) -> Option<PanelSpec> {
    let title = reader.required(section, "title").and_then(|entry| title(reader, &entry));
    let chart =
        reader.required(section, "chart").and_then(|entry| reader.choice(&entry, &CHARTS.map(|chart| (chart, chart))));
    let x = section.take("x").map(|entry| text(reader, &entry));
    let series = section.take("series").map(|entry| text(reader, &entry));
    let y = section.take("y").map(|entry| {
        reader.strings(&entry).map(|names| names.into_iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
    });
    let sql = reader.required(section, "sql").and_then(|entry| select(reader, &entry, "panel", code::BAD_PANEL));
    let target = target(reader, root, section, targets);
    let every = section.take("every").map_or(Some(Duration::from_secs(5)), |entry| {
        reader.duration(&entry, Duration::from_secs(1)..=Duration::from_secs(86_400))
    });
    reader.no_others(section);
    if let Some(chart) = chart {
        let needs_x = !matches!(chart, "table" | "number");
        let needs_y = needs_x && chart != "histogram";
        for (key, missing) in [("x", needs_x && x.is_none()), ("y", needs_y && y.is_none())] {
            if missing {
                reader.error(code::BAD_PANEL, &section.span, format!("a {chart} chart needs `{key}`"));
            }
        }
    }
    Some(PanelSpec {
        title: title?,
        chart: chart?.to_owned(),
        x: x.map_or(Some(None), |x| x.map(Some))?,
        y: y.map_or(Some(Vec::new()), |y| y)?,
        series: series.map_or(Some(None), |series| series.map(Some))?,
        sql: sql?,
        target: target?,
        every: every?,
    })
}

fn target(
    reader: &mut Reader<'_>,
    root: &Section<'_>,
    section: &Section<'_>,
    targets: &Targets,
) -> Option<TargetIndex> {
    let named = section.take("in");
    let span = named.as_ref().map_or(&section.span, |entry| &entry.span);
    let found = match &named {
        Some(entry) => match targets.find(reader, entry) {
            Found::Database(target, database) => Some((target, database)),
            Found::Kafka(_) | Found::Files(_) => {
                reader.error_help(code::BAD_PANEL, span, "a panel asks a database, and this target is none", ASKED);
                None
            }
            Found::Nothing => None,
        },
        None => {
            let first = targets.first_database();
            if first.is_none() && names_no_database(root) {
                reader.error_help(code::BAD_PANEL, span, "the job has no database that this panel could ask", ASKED);
            }
            first
        }
    };
    found.map(|(target, _)| target)
}

/// There are targets, and none is or could be meant as a database: mistakes of such a one are told there.
fn names_no_database(root: &Section<'_>) -> bool {
    let Some(targets) = root.take("target") else { return false };
    let other = |target: &DeValue<'_>| {
        let kind = target.get("type").and_then(|kind| kind.get_ref().as_str());
        matches!(kind, Some("kafka" | "files"))
    };
    targets.value.as_table().is_some_and(|table| !table.is_empty() && table.values().all(|t| other(t.get_ref())))
}

fn title(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<String> {
    let title = text(reader, entry)?;
    if title.chars().count() > LONGEST_TITLE || title.contains(char::is_control) {
        reader.error(
            code::BAD_PANEL,
            &entry.span,
            format!("a title is one line of at most {LONGEST_TITLE} characters"),
        );
        return None;
    }
    Some(title)
}
