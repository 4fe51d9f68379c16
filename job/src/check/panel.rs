//! `[[panel]]`: a chart of what a database target holds.

use std::time::Duration;

use super::MAX_TABLES;
use super::select::{select, text};
use super::target::{Found, Targets};
use crate::code;
use crate::document::{Entry, Section};
use crate::reader::Reader;
use crate::spec::PanelSpec;

pub(crate) const CHARTS: [&str; 7] = ["line", "bar", "pie", "histogram", "scatter", "table", "number"];
const LONGEST_TITLE: usize = 200;

pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>, targets: &Targets) -> Option<Vec<PanelSpec>> {
    let Some(entry) = root.take("panel") else {
        return Some(Vec::new());
    };
    let panels: Vec<Option<PanelSpec>> =
        reader.sections(&entry, MAX_TABLES).iter().map(|section| panel(reader, section, targets)).collect();
    panels.into_iter().collect()
}

fn panel(reader: &mut Reader<'_>, section: &Section<'_>, targets: &Targets) -> Option<PanelSpec> {
    let title = reader.required(section, "title").and_then(|entry| title(reader, &entry));
    let chart =
        reader.required(section, "chart").and_then(|entry| reader.choice(&entry, &CHARTS.map(|chart| (chart, chart))));
    let x = section.take("x").map(|entry| text(reader, &entry));
    let series = section.take("series").map(|entry| text(reader, &entry));
    let y = section.take("y").map(|entry| {
        reader.strings(&entry).map(|names| names.into_iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
    });
    let sql = reader.required(section, "sql").and_then(|entry| select(reader, &entry, "panel", code::BAD_PANEL));
    let target = match section.take("in") {
        Some(entry) => match targets.find(reader, &entry) {
            Found::Database(target, _) => Some(target),
            Found::Kafka(_) | Found::Files(_) => {
                reader.error(code::BAD_PANEL, &entry.span, "a panel asks a database, and this target is none");
                None
            }
            Found::Nothing => None,
        },
        None => targets.first_database().map(|(target, _)| target),
    };
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
