//! Columns of a CSV file: what each cell becomes in a JSON record, and which of them are its key.

use pulso_job::{FieldSpec, FieldType, InputSpec, TimestampText};
use serde_json::value::RawValue;

/// What the header line, `--key` and the job say together.
#[derive(Debug)]
pub struct Layout {
    columns: Vec<Column>,
    /// Indexes of the columns.
    key: Vec<usize>,
}

#[derive(Debug)]
struct Column {
    /// Of the JSON member.
    member: String,
    /// Of the job's column, in keys of several.
    name: String,
    kind: Kind,
    /// For messages.
    type_name: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Text around which blanks mean nothing.
    Word,
    Integer,
    Number,
    Bool,
    Json,
}

impl Layout {
    /// Fails, in words for people, where the header cannot be that of records of this job with this key.
    pub fn new<'a>(
        header: impl Iterator<Item = &'a str>,
        key: &[String],
        input: Option<&InputSpec>,
    ) -> Result<Layout, String> {
        let mut columns: Vec<Column> = Vec::new();
        for (at, name) in header.map(str::trim).enumerate() {
            if name.is_empty() {
                return Err(format!("column {} has no name in the header line", at + 1));
            }
            if columns.iter().any(|column| column.member == name) {
                return Err(format!("column {name} is in the header line twice"));
            }
            columns.push(Column::new(name, input));
        }
        let find = |name: &String| {
            let names = || columns.iter().map(|column| column.member.as_str()).collect::<Vec<_>>().join(", ");
            let found = columns.iter().position(|column| column.member == *name);
            found.ok_or_else(|| format!("the header line has no column {name}, only {}", names()))
        };
        let key: Vec<usize> = key.iter().map(find).collect::<Result<_, _>>()?;
        let layout = Layout { columns, key };
        layout.fits(input)?;
        Ok(layout)
    }

    /// Keys that the job reads otherwise would make a dead letter of every tombstone.
    fn fits(&self, input: Option<&InputSpec>) -> Result<(), String> {
        let Some(wanted) = input.and_then(|input| input.tombstone_key.as_ref()) else { return Ok(()) };
        let has = |name: &String| self.key.iter().any(|at| self.columns[*at].name == *name);
        if wanted.len() == self.key.len() && wanted.iter().all(has) {
            return Ok(());
        }
        Err(format!("the job reads other keys: --key {} is what its `tombstone` says", wanted.join(",")))
    }

    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The key's columns, ascending or not.
    pub fn key_columns(&self) -> &[usize] {
        &self.key
    }

    /// Fields that every record must have and none of this file can.
    pub fn missing(&self, input: &InputSpec) -> Vec<String> {
        let required = input.fields.iter().filter(|field| field.required);
        let absent = required.filter(|field| !self.columns.iter().any(|column| column.name == field.name));
        absent.map(|field| field.name.clone()).collect()
    }

    /// The record key: one column as text, several as a JSON object. An error names what is wrong with the cell.
    pub fn key(&self, cells: &[&str]) -> Result<String, String> {
        let mut parts = Vec::with_capacity(self.key.len());
        for at in &self.key {
            let column = &self.columns[*at];
            let cell = cells.get(*at).copied().unwrap_or_default();
            if cell.is_empty() {
                return Err(format!("the key column {} is empty", column.member));
            }
            let Ok(json) = column.json(cell) else {
                return Err(format!("the key column {} is no {}", column.member, column.type_name));
            };
            parts.push((column, cell, json));
        }
        if let [(column, cell, json)] = parts.as_slice() {
            return Ok(match column.kind {
                Kind::Text => (*cell).to_owned(),
                Kind::Word => cell.trim().to_owned(),
                Kind::Integer | Kind::Number | Kind::Bool | Kind::Json => json.clone(),
            });
        }
        let members: Vec<String> =
            parts.iter().map(|(column, _, json)| format!("{}:{json}", quoted(&column.name))).collect();
        Ok(format!("{{{}}}", members.join(",")))
    }

    /// The record. What is not of its type is in it as text, and named.
    pub fn record(&self, cells: &[&str]) -> (String, Vec<String>) {
        let (mut record, mut wrong) = (String::from("{"), Vec::new());
        for (column, cell) in self.columns.iter().zip(cells) {
            let json = column.json(cell).unwrap_or_else(|text| {
                wrong.push(format!("column {} is no {}; it is sent as text", column.member, column.type_name));
                text
            });
            if record.len() > 1 {
                record.push(',');
            }
            record.push_str(&quoted(&column.member));
            record.push(':');
            record.push_str(&json);
        }
        record.push('}');
        (record, wrong)
    }
}

impl Column {
    fn new(member: &str, input: Option<&InputSpec>) -> Column {
        let reads = |field: &&FieldSpec| field.paths.iter().any(|path| path.keys == [member]);
        let field = input.and_then(|input| input.fields.iter().find(reads));
        let (kind, type_name) = field.map_or((Kind::Text, "text"), |field| kind(&field.kind));
        let name = field.map_or(member, |field| &field.name).to_owned();
        Column { member: member.to_owned(), name, kind, type_name }
    }

    /// An empty cell is null. `Err` has the cell as text, where it is not of the column's type.
    fn json(&self, cell: &str) -> Result<String, String> {
        if cell.is_empty() {
            return Ok("null".to_owned());
        }
        // Syntax alone: the digits stay as they are.
        let raw = || serde_json::from_str::<&RawValue>(cell).map(RawValue::get);
        let number = || raw().ok().filter(|raw| raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()));
        let typed = match self.kind {
            Kind::Text => Some(quoted(cell)),
            Kind::Word => Some(quoted(cell.trim())),
            Kind::Integer => number().filter(|raw| !raw.contains(['.', 'e', 'E'])).map(str::to_owned),
            Kind::Number => number().map(str::to_owned),
            // Databases and data frames write them in either case.
            Kind::Bool => Some(cell.trim().to_ascii_lowercase()).filter(|word| word == "true" || word == "false"),
            Kind::Json => raw().ok().map(str::to_owned),
        };
        typed.ok_or_else(|| quoted(cell))
    }
}

fn kind(field: &FieldType) -> (Kind, &'static str) {
    match field {
        FieldType::String => (Kind::Text, "text"),
        FieldType::Bool => (Kind::Bool, "bool"),
        FieldType::Int32 => (Kind::Integer, "int32"),
        FieldType::Int64 => (Kind::Integer, "int64"),
        FieldType::Float64 => (Kind::Number, "float64"),
        FieldType::Decimal { .. } => (Kind::Number, "decimal"),
        FieldType::Timestamp(TimestampText::Epoch { .. }) => (Kind::Integer, "timestamp as a number"),
        FieldType::Timestamp(TimestampText::Rfc3339 { .. }) => (Kind::Word, "timestamp"),
        FieldType::Date => (Kind::Word, "date"),
        FieldType::Uuid => (Kind::Word, "uuid"),
        FieldType::Json => (Kind::Json, "JSON"),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
#[path = "cells_tests.rs"]
mod tests;
