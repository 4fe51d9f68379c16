//! The trace of a run: one line per event, hashed as it comes, printed where somebody looks.

use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hash, Hasher};

use pulso_core::ids::Instant;

/// Characters of one event in the trace: enough to tell what it is.
const WIDTH: usize = 200;

pub(crate) struct Trace {
    hasher: DefaultHasher,
    print: bool,
    line: String,
}

struct Short<'a>(&'a mut String, usize);

impl Write for Short<'_> {
    /// An error ends the formatting: the rest of a long event costs nothing.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.1.saturating_sub(self.0.len());
        match text.char_indices().nth(room) {
            None => {
                self.0.push_str(text);
                Ok(())
            }
            Some((end, _)) => {
                self.0.push_str(&text[..end]);
                Err(fmt::Error)
            }
        }
    }
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self { hasher: DefaultHasher::new(), print, line: String::new() }
    }

    #[expect(clippy::print_stderr, reason = "the trace is for a person who asked for it")]
    pub(crate) fn note(&mut self, now: Instant, who: impl Debug, what: &dyn Debug) {
        self.line.clear();
        let width = if self.print { 4 * WIDTH } else { WIDTH };
        // Cut off on purpose, by the error.
        let _ = write!(Short(&mut self.line, width), "{} {who:?} {what:?}", now.0);
        let end = self.line.char_indices().nth(WIDTH).map_or(self.line.len(), |(end, _)| end);
        self.line[..end].hash(&mut self.hasher);
        if self.print {
            eprintln!("{}", self.line);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
