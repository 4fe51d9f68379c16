//! What the servers say about a job, as mistakes at the places of the file that name them.

use std::ops::Range;

use toml::de::DeTable;

use crate::check::job;
use crate::code::{self, Code};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{Entry, Section};
use crate::reader::Reader;
use crate::submission::Submission;

/// A part of a job file; the key is where a mistake is shown, if it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Source {
        key: &'static str,
    },
    /// In file order.
    Target {
        index: usize,
        key: &'static str,
    },
    /// In file order.
    Sink {
        index: usize,
        key: &'static str,
    },
    DeadLetter {
        key: &'static str,
    },
    /// In file order.
    Lookup {
        index: usize,
        key: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// A server does not answer, or refuses who asks.
    Unreachable,
    Topic,
    /// Records of the topic may be gone when they are read again.
    Compacted,
    Table,
    Lookup,
}

/// What is wrong outside of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub place: Place,
    pub kind: FindingKind,
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl FindingKind {
    fn code(self) -> Code {
        match self {
            Self::Unreachable => code::UNREACHABLE,
            Self::Topic => code::TOPIC,
            Self::Compacted => code::COMPACTED,
            Self::Table => code::TABLE,
            Self::Lookup => code::BAD_LOOKUP,
        }
    }
}

/// The findings as mistakes of the file, beside what the file itself has; an error where there are any.
///
/// # Errors
/// All of them, to be shown like those of [`crate::check`].
pub fn located(submission: &Submission, file_name: &str, findings: &[Finding]) -> Result<Vec<Diagnostic>, Diagnostics> {
    let (document, _) = DeTable::parse_recoverable(&submission.toml);
    let root = Section::new("", 0..0, document.get_ref());
    let mut reader = Reader::new(&submission.toml, &submission.environment);
    // For what must not be shown, the warnings, and what does not go with the columns of lookups.
    job(&mut reader, &root, submission);
    for Finding { place, kind, message, help } in findings {
        let span = span(&root, *place).unwrap_or(0..0);
        if help.is_empty() {
            reader.error(kind.code(), &span, message.as_str());
        } else {
            reader.error_help(kind.code(), &span, message.as_str(), help.as_str());
        }
    }
    reader.finish(file_name)
}

fn span(root: &Section<'_>, place: Place) -> Option<Range<usize>> {
    let (section, key) = match place {
        Place::Source { key } => (of_table(&root.take("source")?)?, key),
        Place::DeadLetter { key } => (of_table(&root.take("dead_letter")?)?, key),
        Place::Target { index, key } => (of_table(of_table(&root.take("target")?)?.entries.get(index)?)?, key),
        Place::Sink { index, key } => (element(root, "sink", index)?, key),
        Place::Lookup { index, key } => (element(root, "lookup", index)?, key),
    };
    Some(section.take(key).map_or(section.span.clone(), |entry| entry.span))
}

fn element<'d>(root: &Section<'d>, list: &'static str, index: usize) -> Option<Section<'d>> {
    let entry = root.take(list)?;
    let element = entry.value.as_array()?.get(index)?;
    Some(Section::new("", element.span(), element.get_ref().as_table()?))
}

fn of_table<'d>(entry: &Entry<'d>) -> Option<Section<'d>> {
    Some(Section::new("", entry.key_span.clone(), entry.value.as_table()?))
}
