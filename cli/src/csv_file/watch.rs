//! Looks at a file that others write: appended to, written anew in place, or replaced by another of its name.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

/// Nobody stops for so long in the middle of writing a file.
const SETTLED: Duration = Duration::from_secs(1);
/// A file is read as a whole.
const LARGEST: u64 = 1 << 30;

/// Asks for a file's content when it may be another than before.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    last: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    state: State,
    since: Instant,
    /// Was read after it had settled: nothing more to see.
    done: bool,
}

/// What tells that a file was changed.
#[derive(Debug, PartialEq, Eq)]
struct State {
    file: (u64, u64),
    length: u64,
    /// Of the inode: no copy sets it back, as it does the modification time.
    changed: (i64, i64),
}

/// The file as it was read just now.
#[derive(Debug)]
pub struct Look {
    pub bytes: Vec<u8>,
    /// Nobody has written to it for a moment.
    pub settled: bool,
}

impl Watch {
    pub fn new(path: PathBuf) -> Watch {
        Watch { path, last: None }
    }

    /// `None` where there is nothing new, or where it changed so much while it was read that only the next look counts.
    ///
    /// # Errors
    /// Where the file cannot be read. It may be there the next time: replacing it takes a moment.
    pub fn look(&mut self) -> Result<Option<Look>> {
        let name = self.path.display();
        let mut file = File::open(&self.path).with_context(|| format!("opening {name}"))?;
        let before = file.metadata().with_context(|| format!("looking at {name}"))?;
        let settled = match &mut self.last {
            Some(last) if last.state == State::of(&before) => {
                if last.done {
                    return Ok(None);
                }
                last.done = last.since.elapsed() >= SETTLED;
                last.done
            }
            last => {
                // Of a file that is seen for the first time its own clock tells.
                let done = last.is_none() && age(&before) >= SETTLED;
                *last = Some(Seen { state: State::of(&before), since: Instant::now(), done });
                done
            }
        };
        if before.len() > LARGEST {
            bail!("{name} has more than {} MiB", LARGEST >> 20);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(before.len())?);
        (&mut file).take(LARGEST).read_to_end(&mut bytes).with_context(|| format!("reading {name}"))?;
        let after = State::of(&file.metadata()?);
        // What was appended is a half-written line at worst; anything else may be half of one file and half of another.
        let same = after == State::of(&before);
        if !same && (after.length <= before.len()) {
            return Ok(None);
        }
        Ok(Some(Look { bytes, settled: settled && same }))
    }
}

impl State {
    fn of(file: &Metadata) -> State {
        State { file: (file.dev(), file.ino()), length: file.len(), changed: (file.ctime(), file.ctime_nsec()) }
    }
}

fn age(file: &Metadata) -> Duration {
    file.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text(watch: &mut Watch) -> Option<(String, bool)> {
        let look = watch.look().unwrap()?;
        Some((String::from_utf8(look.bytes).unwrap(), look.settled))
    }

    fn until_settled(watch: &mut Watch) -> String {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if let Some((text, true)) = text(watch) {
                return text;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the file never settled")
    }

    #[test]
    fn appended_rewritten_and_replaced_files_are_seen_and_settle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut watch = Watch::new(path.clone());
        assert!(watch.look().is_err());
        std::fs::write(&path, "one").unwrap();
        assert_eq!(text(&mut watch), Some(("one".to_owned(), false)));
        assert_eq!(until_settled(&mut watch), "one");
        assert_eq!(text(&mut watch), None);
        File::options().append(true).open(&path).unwrap().write_all(b" two").unwrap();
        assert_eq!(text(&mut watch), Some(("one two".to_owned(), false)));
        assert_eq!(until_settled(&mut watch), "one two");
        // In place and of the same length.
        std::fs::write(&path, "ONE TWO").unwrap();
        assert_eq!(until_settled(&mut watch), "ONE TWO");
        let new = folder.path().join("b.csv");
        std::fs::write(&new, "one two").unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(until_settled(&mut watch), "one two");
        std::fs::remove_file(&path).unwrap();
        assert!(watch.look().is_err());
    }

    #[test]
    fn an_old_file_is_settled_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let file = File::create(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        let look = Watch::new(path).look().unwrap().unwrap();
        assert!(look.settled && look.bytes.is_empty());
    }
}
