//! The control log in a local folder: a record is there as a whole and durable, or not there.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use pulso_core::control_log::PutAnswer;

use super::{number_of, object_name};
use crate::storage::{create_folder, sync_folder};

/// Records hold what jobs were submitted with: credentials too.
const PRIVATE: u32 = 0o600;
const UNFINISHED: &str = "unfinished-";
/// No put takes this long.
const ABANDONED: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    /// Names of unfinished files: one put never meets that of another, of another process neither.
    process: uuid::Uuid,
    puts: Arc<AtomicU64>,
}

impl Folder {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        create_folder(&path).with_context(|| format!("making the folder {} of the control log", path.display()))?;
        let folder = Self { path, process: uuid::Uuid::new_v4(), puts: Arc::default() };
        folder.remove_unfinished().context("removing what an earlier process left in the control log's folder")?;
        Ok(folder)
    }

    /// Not the young ones, which may be another JobManager's; should one of those go all the same, its put fails and is
    /// tried again.
    fn remove_unfinished(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let unfinished = entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED));
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
            if unfinished && age.is_some_and(|age| age > ABANDONED) {
                std::fs::remove_file(entry.path()).ok();
            }
        }
        Ok(())
    }

    /// Written under another name, synced, then linked to its own: linking fails where the name is taken, and a crash
    /// leaves at most an unfinished file.
    pub(super) fn put(&self, number: u64, bytes: &[u8]) -> io::Result<PutAnswer> {
        let put = self.puts.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.path.join(format!("{UNFINISHED}{}-{put}", self.process));
        let answer = self.put_as(&unfinished, number, bytes);
        // Needs no sync: what a crash leaves of it is removed by the next start.
        std::fs::remove_file(&unfinished).ok();
        answer
    }

    fn put_as(&self, unfinished: &PathBuf, number: u64, bytes: &[u8]) -> io::Result<PutAnswer> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match std::fs::hard_link(unfinished, self.path.join(object_name(number))) {
            Ok(()) => {
                sync_folder(&self.path)?;
                Ok(PutAnswer::Created)
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(PutAnswer::Exists),
            Err(e) => Err(e),
        }
    }

    /// Syncs before it reads: what was read is acted upon, so it must not be lost by a power cut afterwards. Whoever
    /// wrote it may have died between linking and syncing.
    pub(super) fn read(&self, number: u64) -> io::Result<Option<Vec<u8>>> {
        let path = self.path.join(object_name(number));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        file.sync_all()?;
        sync_folder(&self.path)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut &file, &mut bytes)?;
        Ok(Some(bytes))
    }

    pub(super) fn list(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(number_of));
        }
        Ok(numbers)
    }

    pub(super) fn delete(&self, number: u64) -> io::Result<()> {
        match std::fs::remove_file(self.path.join(object_name(number))) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path().join("storage/log")).unwrap();
        (dir, folder)
    }

    #[test]
    fn a_number_is_given_once() {
        let (_dir, folder) = folder();
        assert_eq!(folder.put(7, b"first").unwrap(), PutAnswer::Created);
        assert_eq!(folder.put(7, b"second").unwrap(), PutAnswer::Exists);
        assert_eq!(folder.read(7).unwrap(), Some(b"first".to_vec()));
        assert_eq!(folder.read(8).unwrap(), None);
        assert_eq!(folder.list().unwrap(), [7]);
    }

    #[test]
    fn one_of_many_wins() {
        let (dir, folder) = folder();
        let other = Folder::open(dir.path().join("storage/log")).unwrap();
        let created: usize = std::thread::scope(|scope| {
            let puts: Vec<_> = (0_u8..8)
                .map(|i| {
                    let folder = if i % 2 == 0 { &folder } else { &other };
                    scope.spawn(move || folder.put(1, &[i; 1000]).unwrap())
                })
                .collect();
            puts.into_iter().map(|put| usize::from(put.join().unwrap() == PutAnswer::Created)).sum()
        });
        assert_eq!(created, 1);
        let bytes = folder.read(1).unwrap().unwrap();
        assert!(bytes.len() == 1000 && bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(std::fs::read_dir(dir.path().join("storage/log")).unwrap().count(), 1, "no unfinished file stays");
    }

    #[test]
    fn what_a_crash_left_is_no_record() {
        let (dir, folder) = folder();
        std::fs::write(dir.path().join("storage/log").join(format!("{UNFINISHED}x-1")), b"half").unwrap();
        std::fs::write(dir.path().join("storage/log/README"), b"not ours").unwrap();
        let old = dir.path().join("storage/log").join(format!("{UNFINISHED}x-2"));
        let long_ago = std::time::SystemTime::now() - 2 * ABANDONED;
        File::create(&old).unwrap().set_modified(long_ago).unwrap();
        Folder::open(dir.path().join("storage/log")).unwrap();
        assert!(!old.exists());
        assert!(folder.list().unwrap().is_empty());
        assert_eq!(folder.put(1, b"whole").unwrap(), PutAnswer::Created);
        folder.delete(1).unwrap();
        folder.delete(1).unwrap();
        assert!(folder.list().unwrap().is_empty());
    }
}
