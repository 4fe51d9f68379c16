//! Data on standard output: a table for people or JSON for programs. Everything else goes to standard error.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Cell, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// Text as it is, with a line end.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// One JSON document on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string(value)?)
}

/// A plain table: columns aligned by spaces, easy to cut and grep.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> Result<(), Failure> {
    grid(header, rows)
}

/// The same where the number of columns is not known before; rows have as many cells as the header.
pub(crate) fn grid(
    header: impl IntoIterator<Item = impl Into<Cell>>,
    rows: impl IntoIterator<Item = impl IntoIterator<Item = String>>,
) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    line(&lines.join("\n"))
}

/// For names and their values: JSON's object, or two columns without a header.
pub(crate) fn values(format: Format, value: &impl Serialize) -> Result<(), Failure> {
    if format == Format::Json {
        return json(value);
    }
    let serde_json::Value::Object(object) = serde_json::to_value(value)? else { return json(value) };
    let width = object.keys().map(String::len).max().unwrap_or(0);
    let lines: Vec<String> = object
        .iter()
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{:width$}  {text}", name.replace('_', " "))
        })
        .collect();
    line(&lines.join("\n"))
}

/// Whether to colour what goes to standard error.
pub(crate) fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
