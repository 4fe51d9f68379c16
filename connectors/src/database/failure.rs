//! What a failure of a statement means for the writer.

use std::fmt;

use crate::target::TargetError;

/// The four things that a failed statement can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ConnectionLost,
    Retry,
    Fatal,
    /// A row is not what the table or one of its triggers accepts.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What the server calls it: an SQLSTATE or an error number. Empty where the server did not speak.
    pub(crate) code: String,
    pub(crate) column: Option<String>,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn fatal(text: impl Into<String>) -> Self {
        Self { kind: Kind::Fatal, code: String::new(), column: None, text: text.into() }
    }

    pub(crate) fn retry(text: impl Into<String>) -> Self {
        Self { kind: Kind::Retry, ..Self::fatal(text) }
    }

    pub(crate) fn lost(text: impl Into<String>) -> Self {
        Self { kind: Kind::ConnectionLost, ..Self::fatal(text) }
    }

    /// The same failure, with what was being done.
    pub(crate) fn during(mut self, what: &str) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }

    /// The same failure, with the statement that an administrator must run where it has this code.
    pub(crate) fn hinted(mut self, code: &str, statement: &str) -> Self {
        if self.code == code {
            self.text = format!("{}; an administrator must run: {statement};", self.text);
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl From<Failure> for TargetError {
    fn from(failure: Failure) -> Self {
        let reason = failure.text;
        match failure.kind {
            Kind::ConnectionLost => Self::ConnectionLost { reason },
            Kind::Retry => Self::Retry { reason },
            // A refused row where no rows are written: one of our own tables is not as it should be.
            Kind::Fatal | Kind::Refused => Self::Fatal { reason },
        }
    }
}
