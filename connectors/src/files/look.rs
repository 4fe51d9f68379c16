//! What is new in a folder: looked for again and again by the JobManager.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pulso_core::files::{FilesState, FoundFile, MAX_FILE_BYTES, MOST_UNREAD, ReadFile, path_hash};
use pulso_job::spec::{FilesSourceSpec, JobSpec, SourceFormat};

use super::error::FilesError;
use super::lines::{Shape, complete_until};
use super::opened::whole_fault;
use super::walk::walk;

/// A document that is no document is taken for one that is being written until it has not changed for this long.
const DOCUMENT_PATIENCE: Duration = Duration::from_secs(10);
/// The same for a last line without its end.
const LINE_PATIENCE: Duration = Duration::from_secs(5);
/// The end of what was added is looked for in so many bytes at a time.
const MOST_ADDED: u64 = 256 << 20;

/// What tells a file from another one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) size: u64,
    pub(super) modified: i64,
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Identity {
    pub(super) fn of(data: &Metadata) -> Self {
        let modified = data.mtime().saturating_mul(1_000_000).saturating_add(data.mtime_nsec() / 1_000);
        Self { size: data.len(), modified, device: data.dev(), inode: data.ino() }
    }

    /// One thing under two names.
    pub(super) fn is_same_as(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    Ok(Identity::of(&std::fs::metadata(path)?))
}

/// What a look has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Looked {
    /// New files and new parts, in the order of reading: by modification time, then by path.
    pub found: Vec<FoundFile>,
    /// Hashes of paths that were remembered and are certainly not there any more.
    pub gone: Vec<u64>,
    /// Nothing is there that is not known or among `found`.
    pub complete: bool,
    /// A file that cannot be looked into, or has a name that is not UTF-8, and why.
    pub trouble: Option<String>,
}

/// The folder of one job, and what was seen of files that are being written.
#[derive(Debug)]
pub struct Folder {
    source: FilesSourceSpec,
    /// What of a document goes along with each of its records.
    root: Vec<Vec<String>>,
    /// What was seen of files that are not complete, and since when it has not changed.
    growing: BTreeMap<String, (Identity, Instant)>,
    /// What the last look has found: there may not have been room for it.
    found: BTreeMap<String, FoundFile>,
}

/// Whether a file, or what is new of it, can be read.
enum Ready {
    Yes {
        to: u64,
        bad: Option<String>,
    },
    /// It is being written.
    NotYet,
}

impl Folder {
    #[must_use]
    pub fn new(job: &JobSpec, source: &FilesSourceSpec) -> Self {
        let root = job.file_paths().into_iter().map(<[String]>::to_vec).collect();
        Self { source: source.clone(), root, growing: BTreeMap::new(), found: BTreeMap::new() }
    }

    /// One look. `known`: what the job knows.
    ///
    /// # Errors
    /// Where the pattern's folder cannot be looked into.
    pub fn look(&mut self, known: &FilesState, now: Instant) -> Result<Looked, FilesError> {
        let mut looked = Looked::default();
        let needed = known.needed();
        let (mut new, mut present) = (Vec::new(), BTreeSet::new());
        let mut walked = walk(&self.source.pattern)?;
        for path in std::mem::take(&mut walked.paths) {
            let hash = path_hash(&path);
            present.insert(hash);
            let before = match (needed.get(path.as_str()), known.read.get(&hash)) {
                (Some((_, file)), _) => Before::Needed { to: file.to, inode: file.inode },
                (None, Some(read)) => Before::Read(*read),
                (None, None) => Before::Nothing,
            };
            match identity(Path::new(&path)) {
                Ok(now) => new.extend(self.new_from(now, before).map(|from| (now.modified, path, now, from))),
                Err(error) => walked.fails_at(Path::new(&path), &error),
            }
        }
        // A file that is taken for gone is read again when it comes back. A file system that is not mounted, or not in
        // order, must not bring that about.
        if !walked.is_partial && !present.is_empty() {
            looked.gone = known.read.keys().filter(|hash| !present.contains(hash)).copied().collect();
        }
        looked.trouble = walked.trouble;
        new.sort_by(|(a, one, ..), (b, other, ..)| (a, one).cmp(&(b, other)));
        looked.complete = !walked.is_partial && new.len() <= MOST_UNREAD;
        new.truncate(MOST_UNREAD);
        let mut growing = BTreeMap::new();
        for (_, path, seen, from) in new {
            let is_same = |file: &&FoundFile| {
                (file.from, file.to, file.modified, file.inode) == (from, seen.size, seen.modified, seen.inode)
            };
            if let Some(file) = self.found.get(&path).filter(is_same) {
                looked.found.push(file.clone());
                continue;
            }
            match self.ready(&path, seen, from, now, &mut growing) {
                Ok(Ready::Yes { to, bad }) => {
                    let (modified, inode) = (seen.modified, seen.inode);
                    looked.found.push(FoundFile { path, from, to, modified, inode, bad });
                }
                Ok(Ready::NotYet) => looked.complete = false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    looked.complete = false;
                    looked.trouble = Some(format!("{path}: {error}"));
                }
            }
        }
        self.growing = growing;
        self.found = looked.found.iter().map(|file| (file.path.clone(), file.clone())).collect();
        Ok(looked)
    }

    fn is_document(&self) -> bool {
        matches!(self.source.format, SourceFormat::Json { .. })
    }

    /// From which byte on a file is new; `None` where nothing of it is.
    fn new_from(&self, now: Identity, before: Before) -> Option<u64> {
        match before {
            Before::Nothing => Some(0),
            // Whatever it has become, a replay may need what it was.
            Before::Needed { .. } if self.is_document() => None,
            // Another file has its name now: it is found as one once nothing needs what was there before.
            Before::Needed { inode, .. } if now.inode != inode => None,
            Before::Needed { to, .. } => (now.size > to).then_some(to),
            Before::Read(read) => {
                let is_changed = now.size != read.size || now.modified != read.modified;
                let is_another = now.inode != read.inode;
                if is_changed && (is_another || self.is_document() || now.size < read.size) {
                    // Also where it was emptied and begun anew.
                    Some(0)
                } else {
                    (now.size > read.size).then_some(read.size)
                }
            }
        }
    }

    fn ready(
        &self,
        path: &str,
        seen: Identity,
        from: u64,
        now: Instant,
        growing: &mut BTreeMap<String, (Identity, Instant)>,
    ) -> io::Result<Ready> {
        if seen.size > MAX_FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a file may have 64 GiB"));
        }
        let since = self.growing.get(path).filter(|(before, _)| *before == seen).map_or(now, |(_, since)| *since);
        let unchanged = now.duration_since(since);
        let patience = if self.is_document() { DOCUMENT_PATIENCE } else { LINE_PATIENCE };
        let settled = !self.source.follow || unchanged >= patience;
        let mut file = File::open(path)?;
        let root: Vec<&[String]> = self.root.iter().map(Vec::as_slice).collect();
        let bad = if from == 0 { whole_fault(&mut file, seen.size, &self.source.format, &root)? } else { None };
        let to = match &self.source.format {
            _ if settled => seen.size,
            SourceFormat::Json { .. } => {
                if bad.is_none() {
                    seen.size
                } else {
                    0
                }
            }
            SourceFormat::Jsonl => added(&mut file, from, seen.size, Shape::Jsonl)?,
            SourceFormat::Csv { delimiter, .. } => {
                added(&mut file, from, seen.size, Shape::Csv { delimiter: *delimiter })?
            }
        };
        // An empty file that is followed will perhaps be written.
        let nothing = to <= from && (!settled || from > 0);
        if nothing || to < seen.size {
            growing.insert(path.to_owned(), (seen, since));
        }
        Ok(if nothing { Ready::NotYet } else { Ready::Yes { to, bad } })
    }
}

enum Before {
    Nothing,
    Needed { to: u64, inode: u64 },
    Read(ReadFile),
}

/// Where the last complete record of what was added ends.
fn added(file: &mut File, from: u64, size: u64, shape: Shape) -> io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take((size - from).min(MOST_ADDED)).read_to_end(&mut bytes)?;
    Ok(from + complete_until(&bytes, shape) as u64)
}
