//! One mistake of a file, and all of them.

use std::sync::Arc;

use serde::Serialize;

use crate::code::Code;
use crate::render;

/// A mistake (or a warning) at a place of the file. No text in it holds the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    pub message: String,
    /// What is allowed, or what was probably meant.
    pub help: Option<String>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In bytes from the start of the file.
    pub offset: usize,
    /// In bytes; `offset + length` is within the file.
    pub length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// All mistakes of a file, in file order; at least one is an error.
#[derive(Debug, Clone, thiserror::Error, Serialize)]
#[error("{file_name}: {} in the job file", count(.list.len()))]
pub struct Diagnostics {
    #[serde(rename = "file")]
    pub file_name: String,
    #[serde(rename = "diagnostics")]
    pub list: Vec<Diagnostic>,
    /// How many more there are than are listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// The file's text with everything masked that must not be shown.
    #[serde(skip)]
    pub(crate) shown: Arc<str>,
}

impl Diagnostics {
    /// For a terminal: each mistake with the line it is in and a caret.
    pub fn render(&self, color: bool) -> String {
        render::render(self, color)
    }

    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }
}

fn count(mistakes: usize) -> String {
    if mistakes == 1 { "1 mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
