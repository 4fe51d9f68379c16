//! `[[panel]]`: a chart of what a database target holds.

use std::time::Duration;

use toml::de::DeValue;

use super::MAX_TABLES;
use super::target::{Database, Found, Targets};
use crate::code;
use crate::document::{Entry, Section};
use crate::reader::Reader;
use crate::spec::{PanelSpec, TargetIndex};

pub(crate) const CHARTS: [&str; 7] = ["line", "bar", "pie", "histogram", "scatter", "table", "number"];
/// Words of statements that write, lock or hand out files; none is needed to read.
const WRITING: [&str; 17] = [
    "insert", "update", "delete", "merge", "into", "truncate", "drop", "create", "alter", "grant", "revoke", "copy",
    "call", "do", "lock", "vacuum", "set",
];
const LONGEST_TITLE: usize = 200;
/// What can be asked: the help of every panel that cannot.
const ASKED: &str = "let the panel ask a [target.NAME] of type postgres, named by `in`";

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
    let sql = reader.required(section, "sql").and_then(|entry| sql(reader, &entry));
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
    if let Some((_, Database::MySql)) = found {
        reader.warn(
            code::NOT_YET,
            span,
            "panels of MySQL targets are not asked yet: the JobManager answers this one with an error",
            ASKED,
        );
    }
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

fn text(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<String> {
    let text = reader.string(entry)?;
    if text.trim().is_empty() {
        reader.error(code::NOT_ALLOWED, &entry.span, format!("`{}` is empty", entry.key));
        return None;
    }
    Some(text.to_owned())
}

fn sql(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<String> {
    let sql = text(reader, entry)?;
    match not_read_only(&sql) {
        None => Some(sql),
        Some(problem) => {
            reader.error(code::BAD_PANEL, &entry.span, problem);
            None
        }
    }
}

/// Why the text is not one SELECT. A guard against mistakes; the database runs it in a read-only transaction besides.
fn not_read_only(sql: &str) -> Option<String> {
    let words = match outside_quotes(sql) {
        Some(words) => words.to_lowercase(),
        None => return Some("a quote or comment is not closed".to_owned()),
    };
    let words = words.trim().trim_end_matches(';').to_owned();
    if words.contains(';') {
        return Some("a panel has one statement".to_owned());
    }
    let mut words = words.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    if !matches!(words.next(), Some("select" | "with")) {
        return Some("a panel's SQL begins with SELECT or WITH".to_owned());
    }
    let writing = words.find(|word| WRITING.contains(word));
    writing.map(|word| format!("a panel only reads, but its SQL has `{}`", word.to_uppercase()))
}

/// The text without what stands in quotes and comments; None if one is not closed.
fn outside_quotes(sql: &str) -> Option<String> {
    let mut outside = String::new();
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let closing = match c {
            '\'' => Some((1, "'")),
            '"' => Some((1, "\"")),
            '-' if rest.starts_with("--") => Some((2, "\n")),
            '/' if rest.starts_with("/*") => Some((2, "*/")),
            '$' => dollar_quote(rest).map(|quote| (quote.len(), quote)),
            _ => None,
        };
        let Some((opening, closing)) = closing else {
            outside.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        let inside = &rest[opening..];
        rest = match inside.find(closing) {
            Some(end) => &inside[end + closing.len()..],
            // A comment may end with the text.
            None if closing == "\n" => "",
            None => return None,
        };
        outside.push(' ');
    }
    Some(outside)
}

/// `$$` or `$tag$` at the start of a text.
fn dollar_quote(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 2;
    let tag = &text[1..end - 1];
    let good = tag.chars().all(|c| c.is_alphanumeric() || c == '_') && !tag.starts_with(|c: char| c.is_ascii_digit());
    good.then(|| &text[..end])
}
