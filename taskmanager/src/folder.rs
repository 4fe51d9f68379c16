//! The folder of this process's working copies: its own, whoever else uses the same `--data-dir`.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pulso_core::ids::TaskManagerId;

const PREFIX: &str = "state-";
const LOCK: &str = "lock";

/// Held by a lock as long as the process lives; removed at its end.
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes a folder below `data_dir`, and removes those of processes that are gone: what they left is never opened
    /// again, because it may be ahead of or behind what is committed.
    pub(crate) fn claim(data_dir: &Path, me: TaskManagerId) -> Result<Self> {
        std::fs::create_dir_all(data_dir).with_context(|| format!("making {}", data_dir.display()))?;
        let entries = std::fs::read_dir(data_dir).with_context(|| format!("reading {}", data_dir.display()))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                remove_abandoned(&entry.path());
            }
        }
        let path = data_dir.join(format!("{PREFIX}{me}"));
        let made = || -> std::io::Result<File> {
            // The folder appears with its lock taken: another process never sees it without.
            let building = data_dir.join(format!(".{PREFIX}{me}"));
            std::fs::create_dir(&building)?;
            let lock = File::create(building.join(LOCK))?;
            lock.lock()?;
            std::fs::rename(&building, &path)?;
            Ok(lock)
        };
        let lock = made().with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).ok();
    }
}

fn remove_abandoned(path: &Path) {
    if File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err()) {
        return;
    }
    if let Err(e) = std::fs::remove_dir_all(path) {
        tracing::warn!(folder = %path.display(), error = %e, "what an earlier process left cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> TaskManagerId {
        TaskManagerId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn a_living_process_keeps_its_folder_and_a_dead_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::claim(dir.path(), id(1)).unwrap();
        std::fs::write(first.path().join("file"), b"state").unwrap();
        let second = Folder::claim(dir.path(), id(2)).unwrap();
        assert!(first.path().join("file").exists());
        // As if the process had been killed: the lock goes, the folder stays.
        let killed = dir.path().join("state-killed");
        std::fs::create_dir(&killed).unwrap();
        std::fs::write(killed.join(LOCK), b"").unwrap();
        let gone = second.path().to_owned();
        drop(second);
        assert!(!gone.exists());
        let _third = Folder::claim(dir.path(), id(3)).unwrap();
        assert!(!killed.exists() && first.path().exists());
    }
}
