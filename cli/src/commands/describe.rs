//! `healthctl describe`

use serde_json::Value;

use crate::Global;
use crate::client::{Client, plain};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Show everything that is known of a job
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name or UUID
    job: String,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Failure> {
    let document = Client::connect(&global.jobmanager).await?.describe(&arguments.job).await?.json;
    if global.output == Format::Json {
        return output::line(&document);
    }
    output::line(plain(&text(&serde_json::from_str(&document)?)).trim_end())
}

/// Plain values first, then each list as a table under its name.
fn text(document: &Value) -> String {
    let Value::Object(object) = document else { return document.to_string() };
    let (lists, values): (Vec<_>, Vec<_>) = object.iter().partition(|(_, value)| is_table(value));
    let width = values.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in values {
        text.push_str(&format!("{:width$}  {}\n", spaced(name), cell(value)));
    }
    for (name, rows) in lists {
        text.push_str(&format!("\n{}\n", spaced(name)));
        for line in table(rows.as_array().map_or(&[][..], Vec::as_slice)) {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

fn is_table(value: &Value) -> bool {
    value.as_array().is_some_and(|rows| rows.iter().any(Value::is_object))
}

fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

fn table(rows: &[Value]) -> Vec<String> {
    let Some(Value::Object(first)) = rows.first() else { return Vec::new() };
    let names: Vec<&String> = first.keys().collect();
    let mut lines = vec![names.iter().map(|name| spaced(name)).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| names.iter().map(|name| cell(&row[name.as_str()])).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let pad = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    lines.iter().map(pad).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(object) => {
            let parts: Vec<String> =
                object.iter().map(|(name, value)| format!("{} {}", spaced(name), cell(value))).collect();
            parts.join(", ")
        }
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join("; "),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_become_tables() {
        let document = json!({
            "name": "vitals", "lag": null, "troubles": [], "epochs": { "open": null, "sealed": 7 },
            "splits": [{ "split": 0, "high_watermark": 120 }, { "split": 11, "high_watermark": null }],
        });
        let shown = text(&document);
        assert!(shown.contains("name      vitals\n"), "{shown}");
        assert!(shown.contains("epochs    open -, sealed 7\n"), "{shown}");
        assert!(shown.contains("troubles  none\n"), "{shown}");
        let expected = ["high watermark  split", "120             0", "-               11"];
        assert!(expected.iter().all(|line| shown.contains(&format!("  {line}\n"))), "{shown}");
    }
}
