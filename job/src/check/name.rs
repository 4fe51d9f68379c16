//! The columns of a job while it is checked. A column whose definition is wrong is known but broken: what refers to it
//! is not a second mistake.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use toml::Spanned;
use toml::de::DeValue;

use super::unknown_name;
use crate::document::{Entry, Section};
use crate::reader::Reader;
use crate::spec::{ColumnIndex, DeriveSpec, FieldSpec, FieldType, LookupSpec, SqlExpression};

#[derive(Default)]
pub(super) struct Columns {
    fields: Vec<FieldSpec>,
    derives: Vec<Derive>,
    broken: BTreeSet<String>,
    lookups: Vec<Lookup>,
    /// All names of `[derive]`, those too that are not read yet.
    derive_names: Vec<String>,
    /// The same of `[[lookup]]`.
    lookup_names: Vec<String>,
}

/// A `[[lookup]]` of the file.
struct Lookup {
    name: String,
    broken: bool,
    /// Types are assumed: what does not fit is no mistake yet.
    assumed: bool,
    columns: Vec<Field>,
}

pub(super) struct Derive {
    pub(super) name: String,
    pub(super) sql: String,
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
    /// Reads no other derived column.
    pub(super) from_fields: bool,
}

impl Derive {
    pub(super) fn spec(&self) -> DeriveSpec {
        let value = SqlExpression { sql: self.sql.clone() };
        DeriveSpec { name: self.name.clone(), value, data_type: self.data_type.clone() }
    }
}

/// Which columns an expression sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Fields,
    All,
}

impl Columns {
    pub(super) fn new(root: &Section<'_>) -> Self {
        let derive = root.take("derive").and_then(|entry| entry.value.as_table());
        let derive_names =
            derive.iter().flat_map(|table| table.keys()).map(|name| name.get_ref().to_string()).collect();
        let lookups = root.take("lookup").and_then(|entry| entry.value.as_array());
        let name = |lookup: &Spanned<DeValue<'_>>| {
            Some(lookup.get_ref().as_table()?.get("name")?.get_ref().as_str()?.to_owned())
        };
        let lookup_names = lookups.iter().flat_map(|all| all.iter()).filter_map(name).collect();
        Self { derive_names, lookup_names, ..Self::default() }
    }

    pub(super) fn add_field(&mut self, field: FieldSpec) {
        self.fields.push(field);
    }

    pub(super) fn add_derive(&mut self, derive: Derive) {
        self.derives.push(derive);
    }

    /// Without `spec` it is broken.
    pub(super) fn add_lookup(&mut self, name: &str, spec: Option<&LookupSpec>) {
        self.lookups.push(Lookup {
            name: name.to_owned(),
            broken: spec.is_none(),
            assumed: spec.is_some_and(|spec| !spec.known),
            columns: spec.map_or_else(Vec::new, |spec| spec.arrow().collect()),
        });
    }

    pub(super) fn is_lookup(&self, name: &str) -> bool {
        self.lookups.iter().any(|lookup| lookup.name == name)
    }

    /// It is of a lookup, one that is not read yet too.
    pub(super) fn is_looked_up(&self, column: &str) -> bool {
        column.split_once('.').is_some_and(|(lookup, _)| self.lookup_names.iter().any(|name| name == lookup))
    }

    /// The text names a column whose type nobody knows yet.
    pub(super) fn assumes(&self, sql: &str) -> bool {
        let sql = sql.to_ascii_lowercase();
        let mut assumed = self.lookups.iter().filter(|lookup| lookup.assumed);
        assumed.any(|lookup| lookup.columns.iter().any(|column| sql.contains(column.name().as_str())))
    }

    fn looked_up(&self) -> impl Iterator<Item = &Field> + Clone {
        self.lookups.iter().flat_map(|lookup| &lookup.columns)
    }

    fn first_derived(&self) -> ColumnIndex {
        self.fields.len() + self.looked_up().count()
    }

    pub(super) fn add_broken(&mut self, name: &str) {
        self.broken.insert(name.to_owned());
    }

    pub(super) fn is_broken(&self, name: &str) -> bool {
        let lookup = name.split_once('.').and_then(|(name, _)| self.lookups.iter().find(|known| known.name == name));
        lookup.is_some_and(|lookup| lookup.broken) || self.broken.contains(name)
    }

    pub(super) fn is_derived(&self, name: &str) -> bool {
        self.derive_names.iter().any(|known| known == name)
    }

    /// Something is missing, so that what depends on all columns cannot be judged.
    pub(super) fn any_broken(&self) -> bool {
        !self.broken.is_empty() || self.lookups.iter().any(|lookup| lookup.broken)
    }

    pub(super) fn field(&self, index: ColumnIndex) -> Option<&FieldSpec> {
        self.fields.get(index)
    }

    pub(super) fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    pub(super) fn derive(&self, index: ColumnIndex) -> Option<&Derive> {
        self.derives.get(index.checked_sub(self.first_derived())?)
    }

    pub(super) fn derives(&self) -> impl Iterator<Item = &Derive> {
        self.derives.iter()
    }

    pub(super) fn into_fields(self) -> Vec<FieldSpec> {
        self.fields
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        let fields = self.fields.iter().map(|field| field.name.as_str());
        fields
            .chain(self.looked_up().map(|field| field.name().as_str()))
            .chain(self.derives.iter().map(|derive| derive.name.as_str()))
    }

    pub(super) fn index(&self, name: &str) -> Option<ColumnIndex> {
        self.names().position(|known| known == name)
    }

    pub(super) fn is_defined(&self, name: &str) -> bool {
        self.index(name).is_some() || self.broken.contains(name)
    }

    pub(super) fn data_type(&self, index: ColumnIndex) -> DataType {
        match (self.field(index), self.derive(index)) {
            (Some(field), _) => field.kind.data_type(),
            (None, Some(derive)) => derive.data_type.clone(),
            (None, None) => self.found(index).map_or(DataType::Null, |field| field.data_type().clone()),
        }
    }

    /// The column of a lookup.
    pub(super) fn found(&self, index: ColumnIndex) -> Option<&Field> {
        self.looked_up().nth(index.checked_sub(self.fields.len())?)
    }

    pub(super) fn nullable(&self, index: ColumnIndex) -> bool {
        match (self.field(index), self.derive(index)) {
            (Some(field), _) => !field.required,
            (None, Some(derive)) => derive.nullable,
            (None, None) => true,
        }
    }

    pub(super) fn schema(&self, scope: Scope) -> SchemaRef {
        let fields = self.fields.iter().map(FieldSpec::arrow);
        let derives = self.derives.iter().map(|derive| Field::new(&derive.name, derive.data_type.clone(), true));
        let all: Vec<Field> = match scope {
            Scope::Fields => fields.collect(),
            Scope::All => fields.chain(self.looked_up().cloned()).chain(derives).collect(),
        };
        Arc::new(Schema::new(all))
    }

    /// The columns that a list names, with their places; None if one is wrong (reported) or broken.
    pub(super) fn resolve(
        &self,
        reader: &mut Reader<'_>,
        entry: &Entry<'_>,
    ) -> Option<Vec<(ColumnIndex, Range<usize>)>> {
        let names = reader.strings(entry)?;
        let mut found = Vec::new();
        let mut good = true;
        for (name, span) in names {
            match self.index(name) {
                Some(index) => found.push((index, span)),
                None => {
                    good = false;
                    if !self.is_broken(name) {
                        unknown_name(reader, &span, "column", name, self.names());
                    }
                }
            }
        }
        good.then_some(found)
    }

    /// Why values of this column cannot be compared as a key, if so.
    pub(super) fn unfit_for_key(&self, index: ColumnIndex) -> Option<&'static str> {
        if self.found(index).is_some() {
            return Some("what a lookup finds changes with its table, and a key must stay the same");
        }
        if self.data_type(index) == DataType::Float64 {
            return Some("a float64 does not compare exactly");
        }
        if self.field(index).is_some_and(|field| field.kind == FieldType::Json) {
            return Some("the same json can be written in many ways");
        }
        None
    }
}
