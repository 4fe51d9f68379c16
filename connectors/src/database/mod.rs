//! What the writers of PostgreSQL and MySQL have in common.

pub(crate) mod failure;
pub(crate) mod held;
pub(crate) mod reduce;
pub(crate) mod refused;
pub(crate) mod roots;
mod zone;

use pulso_job::spec::WriteMode;

pub(crate) use failure::{Failure, Kind};
pub(crate) use zone::Zone;

/// How rows of a keyed sink meet rows of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keyed {
    Upsert,
    KeepFirst,
    /// Index of the column that tells which of two rows is newer, among the sink's columns.
    NewestBy(usize),
}

impl Keyed {
    /// `None` where rows are only ever added.
    pub(crate) fn of(write: &WriteMode) -> Option<Self> {
        match write {
            WriteMode::Upsert { newest_by: Some(column), .. } => Some(Self::NewestBy(*column)),
            WriteMode::Upsert { newest_by: None, .. } => Some(Self::Upsert),
            WriteMode::KeepFirst { .. } => Some(Self::KeepFirst),
            WriteMode::Append => None,
        }
    }
}
