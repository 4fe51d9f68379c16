//! The columns of a job while it is checked. A column whose definition is wrong is known but broken: what refers to it
//! is not a second mistake.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::unknown_name;
use crate::document::{Entry, Section};
use crate::reader::Reader;
use crate::spec::{ColumnIndex, FieldSpec, FieldType};

#[derive(Default)]
pub(super) struct Columns {
    fields: Vec<FieldSpec>,
    derives: Vec<Derive>,
    broken: BTreeSet<String>,
    lookups: Vec<String>,
    /// All names of `[derive]`, those too that are not read yet.
    derive_names: Vec<String>,
}

pub(super) struct Derive {
    pub(super) name: String,
    pub(super) sql: String,
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
    /// Reads no other derived column.
    pub(super) from_fields: bool,
}

/// Which columns an expression sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Fields,
    All,
}

impl Columns {
    pub(super) fn new(root: &Section<'_>, lookups: Vec<String>) -> Self {
        let derive = root.take("derive").and_then(|entry| entry.value.as_table());
        let derive_names =
            derive.iter().flat_map(|table| table.keys()).map(|name| name.get_ref().to_string()).collect();
        Self { lookups, derive_names, ..Self::default() }
    }

    pub(super) fn add_field(&mut self, field: FieldSpec) {
        self.fields.push(field);
    }

    pub(super) fn add_derive(&mut self, derive: Derive) {
        self.derives.push(derive);
    }

    pub(super) fn add_broken(&mut self, name: &str) {
        self.broken.insert(name.to_owned());
    }

    pub(super) fn is_broken(&self, name: &str) -> bool {
        let lookup = name.split_once('.').is_some_and(|(lookup, _)| self.lookups.iter().any(|known| known == lookup));
        lookup || self.broken.contains(name)
    }

    pub(super) fn is_derived(&self, name: &str) -> bool {
        self.derive_names.iter().any(|known| known == name)
    }

    /// Something is missing, so that what depends on all columns cannot be judged.
    pub(super) fn any_broken(&self) -> bool {
        !self.broken.is_empty() || !self.lookups.is_empty()
    }

    pub(super) fn field(&self, index: ColumnIndex) -> Option<&FieldSpec> {
        self.fields.get(index)
    }

    pub(super) fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    pub(super) fn derive(&self, index: ColumnIndex) -> Option<&Derive> {
        self.derives.get(index.checked_sub(self.fields.len())?)
    }

    pub(super) fn derives(&self) -> impl Iterator<Item = &Derive> {
        self.derives.iter()
    }

    pub(super) fn into_fields(self) -> Vec<FieldSpec> {
        self.fields
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        let fields = self.fields.iter().map(|field| field.name.as_str());
        fields.chain(self.derives.iter().map(|derive| derive.name.as_str()))
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
            (None, None) => DataType::Null,
        }
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
            Scope::All => fields.chain(derives).collect(),
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
        if self.data_type(index) == DataType::Float64 {
            return Some("a float64 does not compare exactly");
        }
        if self.field(index).is_some_and(|field| field.kind == FieldType::Json) {
            return Some("the same json can be written in many ways");
        }
        None
    }
}
