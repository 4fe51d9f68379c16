//! A server's log file: what was written since its last start, and its end for error messages.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const TAIL_LINES: usize = 20;
/// Enough for the tail's lines even where one holds a Java stack trace's message.
const TAIL_BYTES: u64 = 16 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
    /// Length of the file when the server was started; what is before belongs to an earlier run.
    from: u64,
}

impl Log {
    /// Of the run that is about to start.
    pub(crate) fn of_next_run(path: &Path) -> Log {
        Log { path: path.to_owned(), from: path.metadata().map_or(0, |m| m.len()) }
    }

    /// Whether this run has logged `text`. A file that cannot be read yet has not.
    pub(crate) fn contains(&self, text: &str) -> bool {
        self.read(self.from).is_some_and(|log| log.contains(text))
    }

    /// The last lines, headed by the file's name.
    pub(crate) fn tail(&self) -> String {
        let length = self.path.metadata().map_or(0, |m| m.len());
        let text = self.read(length.saturating_sub(TAIL_BYTES)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("the end of {}:\n  {}", self.path.display(), last.join("\n  "))
    }

    fn read(&self, from: u64) -> Option<String> {
        let mut file = File::open(&self.path).ok()?;
        // A file shorter than at the start was rolled: all of it is new.
        let from = if file.metadata().ok()?.len() < from { 0 } else { from };
        file.seek(SeekFrom::Start(from)).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_current_run_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(!Log::of_next_run(&path).contains("ready"), "a missing file has no lines");
        std::fs::write(&path, "ready\n").unwrap();
        let log = Log::of_next_run(&path);
        assert!(!log.contains("ready"));
        std::fs::write(&path, "ready\nready again\n").unwrap();
        assert!(log.contains("ready again"));
        std::fs::write(&path, "new\n").unwrap();
        assert!(log.contains("new"), "after a roll the file is read from its beginning");
    }

    #[test]
    fn tail_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let lines: Vec<String> = (0..100_000).map(|n| format!("line {n}")).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let tail = Log::of_next_run(&path).tail();
        assert_eq!(tail.lines().count(), TAIL_LINES + 1);
        assert!(tail.ends_with("line 99999"));
    }
}
