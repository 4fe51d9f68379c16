//! What Flink SQL cannot say, and what it says more weakly.

use std::fmt;

use crate::place::{Places, Step};

/// A part of a job that has no equivalent in Flink SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsaid {
    /// In the job file, from 1.
    pub line: usize,
    /// The section: `[[sink]] products`.
    pub part: String,
    /// What of it, and why: "`newest_by`: ...".
    pub why: String,
}

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, {}: {}", self.line, self.part, self.why)
    }
}

/// Gathers both while a job is translated.
pub(crate) struct Ledger<'t> {
    pub(crate) places: &'t Places<'t>,
    unsaid: Vec<Unsaid>,
    notes: Vec<String>,
}

impl<'t> Ledger<'t> {
    pub(crate) fn new(places: &'t Places<'t>) -> Self {
        Self { places, unsaid: Vec::new(), notes: Vec::new() }
    }

    /// Something that cannot be said.
    pub(crate) fn refuse(&mut self, path: &[Step<'_>], part: impl Into<String>, why: impl Into<String>) {
        self.unsaid.push(Unsaid { line: self.places.line(path), part: part.into(), why: why.into() });
    }

    /// The value, or `None` with why there is none.
    pub(crate) fn said<T>(&mut self, said: Result<T, String>, path: &[Step<'_>], part: &str) -> Option<T> {
        match said {
            Ok(value) => Some(value),
            Err(why) => {
                self.refuse(path, part, why);
                None
            }
        }
    }

    /// Something that Flink does differently, told once.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    pub(crate) fn into_unsaid(mut self) -> Vec<Unsaid> {
        self.unsaid.sort_by_key(|unsaid| unsaid.line);
        self.unsaid.dedup();
        self.unsaid
    }
}
