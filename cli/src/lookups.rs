//! Rows of `[[lookup]]`, given as JSON lines, for who runs a job without its databases.
//!
//! Types follow from the rows: columns of `on` have those of the fields, others that of their values.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::RecordBatch;
use pulso_dataflow::key::{KeyValue, array};
use pulso_dataflow::lookup::{Lookup, encode};
use pulso_job::{Diagnostic, JobSpec, LookupSpec, LookupTypes, Submission, type_name};
use serde_json::{Map, Value};

use crate::job_file::JobFile;
use crate::local::{Column, from_json};

/// Rows of lookups, by name.
#[derive(Debug, Clone, Default)]
pub struct LookupRows(BTreeMap<String, Vec<Row>>);

#[derive(Debug, Clone)]
struct Row {
    /// Of the text that it stood in, from 1.
    line: usize,
    values: Map<String, Value>,
}

impl LookupRows {
    /// Adds the rows of a lookup: a JSON object a line, where what is absent is null.
    ///
    /// # Errors
    /// Where a line is something else.
    pub fn add(&mut self, lookup: &str, text: &str) -> Result<()> {
        let rows = self.0.entry(lookup.to_owned()).or_default();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let values = serde_json::from_str(text)
                .with_context(|| format!("rows of lookup `{lookup}`, line {line}: not a JSON object"))?;
            rows.push(Row { line, values });
        }
        Ok(())
    }

    /// Those of `others` for the lookups that have none here.
    pub fn or(&mut self, others: &Self) {
        for (lookup, rows) in &others.0 {
            self.0.entry(lookup.clone()).or_insert_with(|| rows.clone());
        }
    }

    /// Those of `others` behind these.
    pub fn extend(&mut self, others: &Self) {
        for (lookup, rows) in &others.0 {
            self.0.entry(lookup.clone()).or_default().extend(rows.iter().cloned());
        }
    }

    /// Checks a job file whose lookups have rows of these types. `how` tells how a lookup without rows gets some, its name
    /// and a line for it given.
    ///
    /// # Errors
    /// Mistakes of the file as the cause; or a lookup without rows, rows of no lookup, and values whose type nobody knows.
    pub fn check(&self, file: &JobFile, how: impl Fn(&str, &str) -> String) -> Result<(Arc<JobSpec>, Vec<Diagnostic>)> {
        let (assumed, warnings) = pulso_job::check(&file.submission, &file.name)?;
        self.all_are_lookups(&assumed)?;
        if assumed.lookups.is_empty() {
            return Ok((Arc::new(assumed), warnings));
        }
        let mut lookups = LookupTypes::new();
        for lookup in &assumed.lookups {
            lookups.insert(lookup.name.clone(), types(&assumed, lookup, self.of(&assumed, lookup, &how)?)?);
        }
        let submission = Submission { lookups, ..file.submission.clone() };
        let (spec, warnings) = pulso_job::check(&submission, &file.name)?;
        Ok((Arc::new(spec), warnings))
    }

    /// The rows as a job that [`LookupRows::check`] gave joins with them, in file order.
    ///
    /// # Errors
    /// A lookup without rows, a value that is not of its column's type, or several rows for one record.
    pub fn lookups(&self, spec: &JobSpec, how: impl Fn(&str, &str) -> String) -> Result<Vec<Arc<Lookup>>> {
        self.all_are_lookups(spec)?;
        let one = |lookup: &LookupSpec| {
            let rows = batch(spec, lookup, self.of(spec, lookup, &how)?)?;
            Ok(Arc::new(Lookup::decode(spec, lookup, &encode(lookup, &rows)?)?))
        };
        spec.lookups.iter().map(one).collect()
    }

    fn of(&self, spec: &JobSpec, lookup: &LookupSpec, how: impl Fn(&str, &str) -> String) -> Result<&[Row]> {
        let name = &lookup.name;
        match self.0.get(name) {
            Some(rows) if rows.len() > lookup.max_rows => {
                bail!("lookup `{name}`: more than {} rows (max_rows)", lookup.max_rows)
            }
            Some(rows) => Ok(rows),
            None => {
                bail!("lookup `{name}` has no rows, and its database is not asked: {}", how(name, &line(spec, lookup)))
            }
        }
    }

    fn all_are_lookups(&self, spec: &JobSpec) -> Result<()> {
        let known: Vec<&str> = spec.lookups.iter().map(|lookup| lookup.name.as_str()).collect();
        let there_is = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => bail!("the job has no lookup `{name}`; there is {there_is}"),
            None => Ok(()),
        }
    }
}

/// What a row looks like.
fn line(spec: &JobSpec, lookup: &LookupSpec) -> String {
    let on = lookup.on.iter().filter_map(|column| spec.fields.get(*column)).map(|field| field.name.as_str());
    let mut names: Vec<&str> = Vec::new();
    for name in on.chain(lookup.columns.iter().map(|column| column.in_query())) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    format!("{{{}}}", names.iter().map(|name| format!("\"{name}\": ...")).collect::<Vec<_>>().join(", "))
}

/// What a database would say of the columns that the job uses.
fn types(spec: &JobSpec, lookup: &LookupSpec, rows: &[Row]) -> Result<Vec<(String, String)>> {
    let on = lookup.on.iter().filter_map(|column| spec.fields.get(*column));
    let mut types: Vec<(String, String)> =
        on.map(|field| (field.name.clone(), type_name(&field.kind.data_type()))).collect();
    for column in lookup.columns.iter().map(|column| column.in_query()) {
        if types.iter().all(|(name, _)| name != column) {
            types.push((column.to_owned(), type_of(lookup, column, rows)?.to_owned()));
        }
    }
    Ok(types)
}

fn type_of(lookup: &LookupSpec, column: &str, rows: &[Row]) -> Result<&'static str> {
    let name = &lookup.name;
    let mut known: Option<(&'static str, usize)> = None;
    for Row { line, values } in rows {
        let Some(value) = values.get(column).filter(|value| !value.is_null()) else { continue };
        let Some(kind) = type_of_value(value) else {
            bail!(
                "rows of lookup `{name}`, line {line}: `{column}` takes text, a number of 64 bits, true or false, not {value}"
            );
        };
        match known {
            None => known = Some((kind, *line)),
            Some((before, _)) if before == kind => {}
            Some((before, first)) => bail!(
                "rows of lookup `{name}`, line {line}: `{column}` is of type {kind}, but of type {before} in line {first}; \
                 in a column of float64 a whole number is written 7.0"
            ),
        }
    }
    match known {
        Some((kind, _)) => Ok(kind),
        None => bail!(
            "no row of lookup `{name}` has a value for `{column}`, so nobody knows its type: give one a value, if need be a \
             row that fits no record"
        ),
    }
}

fn type_of_value(value: &Value) -> Option<&'static str> {
    match value {
        Value::String(_) => Some("string"),
        Value::Bool(_) => Some("bool"),
        Value::Number(number) if number.is_i64() => Some("int64"),
        Value::Number(number) => number.is_f64().then_some("float64"),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn batch(spec: &JobSpec, lookup: &LookupSpec, rows: &[Row]) -> Result<RecordBatch> {
    let schema = spec.lookup_schema(lookup);
    let mut arrays = Vec::new();
    for (at, field) in schema.fields().iter().enumerate() {
        let own = at.checked_sub(lookup.on.len()).and_then(|at| lookup.columns.get(at));
        let name = own.map_or(field.name().as_str(), |column| column.in_query());
        let column = Column { name: name.to_owned(), data_type: field.data_type().clone(), json: false };
        let value = |Row { line, values }: &Row| {
            let value = from_json(values.get(name).unwrap_or(&Value::Null), &column).map_err(anyhow::Error::msg);
            value.with_context(|| format!("rows of lookup `{}`, line {line}", lookup.name))
        };
        let values = rows.iter().map(value).collect::<Result<Vec<KeyValue>>>()?;
        arrays.push(array(values.iter(), field.data_type())?);
    }
    Ok(RecordBatch::try_new(schema, arrays)?)
}

#[cfg(test)]
#[path = "lookups_tests.rs"]
mod tests;
