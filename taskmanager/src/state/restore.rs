//! Where a key group's state comes from in a new attempt.

use std::path::Path;
use std::sync::Arc;

use pulso_core::ids::{Attempt, KeyGroupId};
use pulso_core::message::{Restore, Snapshot};
use rocksdb::ErrorKind;

use super::disk::Disk;
use super::group::{Group, new_folder};
use super::snapshots::SnapshotError;
use super::{Place, Task, Work};
use crate::shell::Event;

impl Task {
    pub(super) fn restore(&mut self, attempt: Attempt, key_group: KeyGroupId, restore: Restore) {
        let job = self.place.job;
        match restore {
            Restore::Fresh => {
                self.groups.insert(key_group, Group::default());
                self.place.tell(Event::Restored { job, attempt, key_group });
            }
            Restore::Copy if self.groups.contains(key_group) => {
                self.place.tell(Event::Restored { job, attempt, key_group });
            }
            Restore::Copy => {
                let reason = "the copy that this TaskManager reported is not here any more".to_owned();
                self.place.tell(Event::RestoreFailed { job, attempt, key_group, reason, retry: true });
            }
            Restore::Snapshot(snapshot) => {
                self.groups.remove(key_group);
                let place = self.place.clone();
                self.place.runtime.spawn(async move { download(place, attempt, key_group, snapshot).await });
            }
        }
    }
}

async fn download(place: Place, attempt: Attempt, key_group: KeyGroupId, snapshot: Snapshot) {
    let Ok(_turn) = Arc::clone(&place.restores).acquire_owned().await else { return };
    let folder = new_folder(&place, key_group);
    let fetched = fetch(&place, &folder, &snapshot).await;
    match fetched {
        Ok(group) => {
            place.queue.send(Work::Downloaded { attempt, key_group, group: Box::new(group) }).ok();
        }
        Err(e) => {
            tokio::fs::remove_dir_all(&folder).await.ok();
            let retry = matches!(e, SnapshotError::Storage(_));
            let (job, reason) = (place.job, e.to_string());
            place.events.send(Event::RestoreFailed { job, attempt, key_group, reason, retry }).await.ok();
        }
    }
}

async fn fetch(place: &Place, folder: &Path, snapshot: &Snapshot) -> Result<Group, SnapshotError> {
    if snapshot.files.is_empty() {
        return Ok(Group::default());
    }
    tokio::fs::create_dir_all(folder)
        .await
        .map_err(|e| SnapshotError::Storage(format!("making {}: {e}", folder.display())))?;
    for file in &snapshot.files {
        place.storage.get(file, folder).await?;
    }
    let (budget, states, folder) = (place.budget.clone(), Arc::clone(&place.states), folder.to_owned());
    let opened = tokio::task::spawn_blocking(move || Disk::open(&folder, &budget, &states)).await;
    let disk = match opened {
        Ok(Ok(disk)) => disk,
        // Anything else is this machine's: a full disk does not make a checkpoint bad.
        Ok(Err(e)) if !matches!(e.kind(), ErrorKind::Corruption | ErrorKind::InvalidArgument) => {
            return Err(SnapshotError::Storage(format!("opening the snapshot: {e}")));
        }
        Ok(Err(e)) => {
            let object = snapshot.files.first().map(|f| f.object.clone()).unwrap_or_default();
            return Err(SnapshotError::Corrupt { object, reason: format!("RocksDB refuses the snapshot: {e}") });
        }
        Err(e) => return Err(SnapshotError::Storage(format!("opening the snapshot: {e}"))),
    };
    let files = snapshot.files.iter().map(|f| (f.name.clone(), f.clone())).collect();
    Ok(Group::restored(Some(disk), files))
}
