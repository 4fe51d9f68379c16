//! Rows on their way from a query to Arrow: which of its columns are taken, and how many rows are.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use pulso_dataflow::lookup::MAX_LOOKUP_BYTES;
use pulso_job::spec::{FieldType, JobSpec, LookupSpec};
use pulso_job::{comparable, type_named};

use super::value::Values;
use crate::database::{Failure, Zone};

/// What a value takes besides its text, at most.
const VALUE_BYTES: usize = 16;

/// A column of the query, as the database tells it before it runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueryColumn {
    pub(crate) name: String,
    /// As `[fields]` calls it, else the database's name.
    pub(crate) kind: String,
    pub(crate) written: Written,
}

/// What the text of a value does not say itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Plain,
    /// Blanks at the end are no part of the text.
    Padded,
    /// A float of 32 bits: the text is only as long as tells it from others of these.
    Single,
    /// A time of day in the target's zone; other times are in UTC, with `+00` behind.
    Local,
}

/// Names that the query must have: those of `on`, then those of the job's columns.
fn used<'a>(spec: &'a JobSpec, lookup: &'a LookupSpec) -> impl Iterator<Item = &'a str> {
    let on = lookup.on.iter().filter_map(|column| spec.fields.get(*column)).map(|field| field.name.as_str());
    on.chain(lookup.columns.iter().map(|column| column.in_query()))
}

/// The places of a column's name: none or one.
fn place(columns: &[QueryColumn], name: &str) -> Result<Option<usize>, Failure> {
    let mut places = columns.iter().enumerate().filter(|(_, column)| column.name == name).map(|(at, _)| at);
    match (places.next(), places.next()) {
        (at, None) => Ok(at),
        (_, Some(_)) => {
            Err(Failure::fatal(format!("the query has several columns `{name}`: name the one that is meant with AS")))
        }
    }
}

pub(super) fn not_doubled(spec: &JobSpec, lookup: &LookupSpec, columns: &[QueryColumn]) -> Result<(), Failure> {
    used(spec, lookup).try_for_each(|name| place(columns, name).map(drop))
}

pub(crate) struct Reading {
    schema: SchemaRef,
    taken: Vec<Taken>,
    max_rows: usize,
    rows: usize,
    bytes: usize,
}

struct Taken {
    /// Among the query's columns.
    at: usize,
    name: String,
    kind: String,
    /// Of `on`: what does not fit is null.
    on: bool,
    values: Values,
}

impl Reading {
    /// Checks that the columns are those that the job was checked with.
    pub(super) fn new(
        spec: &JobSpec,
        lookup: &LookupSpec,
        zone: Zone,
        columns: &[QueryColumn],
    ) -> Result<Self, Failure> {
        let schema = spec.lookup_schema(lookup);
        let mut taken = Vec::new();
        for (index, (name, field)) in used(spec, lookup).zip(schema.fields()).enumerate() {
            let place = place(columns, name)?.and_then(|at| Some((at, columns.get(at)?)));
            let (at, column) = place.ok_or_else(|| Failure::fatal(format!("the query has no column `{name}`")))?;
            let on = lookup.on.get(index).and_then(|column| spec.fields.get(*column));
            let fits = match on {
                Some(field) => comparable(&column.kind, &field.kind),
                None => type_named(&column.kind).as_ref().map(FieldType::data_type).as_ref() == Some(field.data_type()),
            };
            if !fits {
                return Err(Failure::fatal(format!(
                    "`{name}` of the query is of type {}, and was of another one when the job was checked; cast it to \
                     that, or submit the job again",
                    column.kind
                )));
            }
            let values = Values::of(field.data_type(), column.written, &zone)?;
            taken.push(Taken { at, name: name.to_owned(), kind: column.kind.clone(), on: on.is_some(), values });
        }
        Ok(Self { schema, taken, max_rows: lookup.max_rows, rows: 0, bytes: 0 })
    }

    /// How many rows are enough to know that they are too many.
    pub(crate) fn limit(&self) -> usize {
        self.max_rows.saturating_add(1)
    }

    /// Takes a row; `text` gives the value of a column of the query.
    pub(crate) fn push<'r>(
        &mut self,
        text: impl Fn(usize) -> Result<Option<Cow<'r, str>>, Failure>,
    ) -> Result<(), Failure> {
        self.rows += 1;
        if self.rows > self.max_rows {
            return Err(Failure::fatal(format!("more than {} rows (max_rows)", self.max_rows)));
        }
        for taken in &mut self.taken {
            let text = text(taken.at)?;
            self.bytes += VALUE_BYTES + text.as_ref().map_or(0, |text| text.len());
            if self.bytes > MAX_LOOKUP_BYTES {
                return Err(Failure::fatal(format!("the rows have more than {} MiB", MAX_LOOKUP_BYTES >> 20)));
            }
            if !taken.values.push(text.as_deref()) && !taken.on {
                let (name, kind) = (&taken.name, &taken.kind);
                return Err(Failure::fatal(format!("`{name}` of a row is not a value of type {kind}")));
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<RecordBatch, Failure> {
        let columns = self.taken.into_iter().map(|taken| taken.values.finish()).collect();
        RecordBatch::try_new(self.schema, columns).map_err(|error| Failure::fatal(error.to_string()))
    }
}
