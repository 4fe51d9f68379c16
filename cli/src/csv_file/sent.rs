//! What a topic was told of a file, in memory and in a small file, so that a producer that starts again neither forgets a
//! removal nor sends everything anew.
//!
//! Before anything is sent, its keys are written down as unknown, and after the broker has acknowledged it, what they are
//! now. So a producer that dies in between sends these keys again, and a line that was removed meanwhile is still known.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::compare::Change;

const VERSION: u32 = 1;

/// Keys and the hashes of their records; `None` where nobody knows which of two values the topic has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent(BTreeMap<String, Option<u128>>);

pub(super) fn hash(record: &str) -> u128 {
    xxh3_128(record.as_bytes())
}

impl Sent {
    pub(super) fn has(&self, key: &str, hash: u128) -> bool {
        self.0.get(key) == Some(&Some(hash))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// To be kept before the changes are sent.
    pub fn announce(&mut self, changes: &[Change]) {
        self.0.extend(changes.iter().map(|change| (change.key().to_owned(), None)));
    }

    /// To be kept once the broker has all of them.
    pub fn confirm(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Record { key, record } => drop(self.0.insert(key.clone(), Some(hash(record)))),
                Change::Tombstone { key } => drop(self.0.remove(key)),
            }
        }
    }
}

/// First line of a state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    version: u32,
    topic: String,
    key: Vec<String>,
}

/// Last line of a state file, over everything before it.
#[derive(Debug, Serialize, Deserialize)]
struct Tail {
    checksum: String,
}

/// Where [`Sent`] is kept, for one producer at a time.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    head: Head,
    /// Held as long as this lives.
    _lock: File,
}

impl StateFile {
    /// The state of a file's producer; empty where there is none yet. Fails where it is another topic's or key's, where it
    /// is damaged, and where another producer works with it.
    pub fn open(path: &Path, topic: &str, key: &[String]) -> Result<(StateFile, Sent)> {
        let name = path.display();
        let lock_path = with_ending(path, ".lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.with_context(|| format!("opening {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another producer works with {name}"),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", lock_path.display()))?
            }
        }
        let head = Head { version: VERSION, topic: topic.to_owned(), key: key.to_vec() };
        let sent = match std::fs::read_to_string(path) {
            Ok(text) => decode(&text, &head).with_context(|| {
                format!("{name} says what was sent before, and is of no use here; --state names another, without it everything is sent again, but lines that were removed meanwhile are not noticed")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Sent::default(),
            Err(error) => return Err(error).with_context(|| format!("reading {name}")),
        };
        Ok((StateFile { path: path.to_owned(), head, _lock: lock }, sent))
    }

    /// Replaces the file; it is whole at every moment, and on disk when this returns.
    pub fn keep(&self, sent: &Sent) -> Result<()> {
        let new = with_ending(&self.path, ".new");
        let write = || -> Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(encode(&self.head, sent)?.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(File::open(folder)?.sync_all()?)
        };
        write().with_context(|| format!("writing {}", self.path.display()))
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn encode(head: &Head, sent: &Sent) -> Result<String> {
    let mut text = serde_json::to_string(head)? + "\n";
    for (key, hash) in &sent.0 {
        let hash = hash.map(|hash| format!("{hash:032x}"));
        text += &(serde_json::to_string(&(key, hash))? + "\n");
    }
    let checksum = format!("{:016x}", xxh3_64(text.as_bytes()));
    text += &(serde_json::to_string(&Tail { checksum })? + "\n");
    Ok(text)
}

fn decode(text: &str, expected: &Head) -> Result<Sent> {
    let end = text.strip_suffix('\n').context("it is damaged")?.rfind('\n').map_or(0, |at| at + 1);
    let (body, tail) = text.split_at(end);
    let tail: Tail = serde_json::from_str(tail).context("it is damaged")?;
    ensure!(tail.checksum == format!("{:016x}", xxh3_64(body.as_bytes())), "it is damaged: the checksum is wrong");
    let mut lines = body.lines();
    let head: Head = serde_json::from_str(lines.next().unwrap_or_default()).context("it is damaged")?;
    ensure!(head.version == expected.version, "it has version {}, this program knows {VERSION}", head.version);
    ensure!(head.topic == expected.topic, "it is about topic {}", head.topic);
    ensure!(head.key == expected.key, "its key is {}", head.key.join(","));
    let mut sent = Sent::default();
    for line in lines {
        let (key, hash): (String, Option<String>) = serde_json::from_str(line).context("it is damaged")?;
        let hash = hash.map(|hash| u128::from_str_radix(&hash, 16)).transpose().context("it is damaged")?;
        sent.0.insert(key, hash);
    }
    Ok(sent)
}

#[cfg(test)]
#[path = "sent_tests.rs"]
mod tests;
