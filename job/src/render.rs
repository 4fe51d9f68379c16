//! Mistakes as text for people, by miette.

use std::fmt::{self, Write as _};

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use crate::diagnostic::{Diagnostic, Diagnostics, Severity};

/// A line longer than this is not shown: it would bury the message.
const LONGEST_LINE: usize = 400;

pub(crate) fn render(diagnostics: &Diagnostics, color: bool) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(120).with_links(false).with_context_lines(1);
    let source = NamedSource::new(&diagnostics.file_name, diagnostics.shown.to_string());
    let mut text = String::new();
    for diagnostic in &diagnostics.list {
        let report = Report { diagnostic, source: shown(diagnostic, &diagnostics.shown).then_some(&source) };
        if handler.render_report(&mut text, &report).is_err() {
            // Writing to a String does not fail; should miette, the message itself is still told.
            let _ = writeln!(text, "{}: {}", diagnostic.code, diagnostic.message);
        }
        if report.source.is_none() {
            let _ = writeln!(text, "   at {}:{}:{}", diagnostics.file_name, diagnostic.line, diagnostic.column);
        }
        text.push('\n');
    }
    if diagnostics.left_out > 0 {
        let _ = writeln!(text, "and {} more", diagnostics.left_out);
    }
    text
}

fn shown(diagnostic: &Diagnostic, text: &str) -> bool {
    let line = |number: usize| text.split('\n').nth(number.saturating_sub(1)).unwrap_or_default();
    let around = [diagnostic.line.saturating_sub(1).max(1), diagnostic.line, diagnostic.line + 1];
    !line(diagnostic.line).trim().is_empty() && around.iter().all(|number| line(*number).len() <= LONGEST_LINE)
}

struct Report<'a> {
    diagnostic: &'a Diagnostic,
    source: Option<&'a NamedSource<String>>,
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.diagnostic, f)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn code(&self) -> Option<Box<dyn fmt::Display + '_>> {
        Some(Box::new(self.diagnostic.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.diagnostic.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source?;
        let span = (self.diagnostic.offset, self.diagnostic.length);
        Some(Box::new(std::iter::once(LabeledSpan::new_primary_with_span(None, span))))
    }
}
