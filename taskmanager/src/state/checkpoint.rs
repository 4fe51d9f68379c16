//! Snapshots of key groups: written and hard-linked here, uploaded beside the queue.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pulso_core::ids::{Attempt, CheckpointId, Epoch, KeyGroupId, TargetId};
use pulso_core::ledger::Mark;
use pulso_core::message::{Counters, Snapshot};

use super::disk::Disk;
use super::group::Files;
use super::{Place, Task, Work};
use crate::shell::Event;

/// One key group's part of a checkpoint, ready to be linked and uploaded.
struct Part {
    key_group: KeyGroupId,
    disk: Option<Arc<Disk>>,
    folder: PathBuf,
    known: Files,
    snapshot: Snapshot,
}

impl Task {
    /// The writes to RocksDB's memory happen here, in order with the processing; all else beside it.
    pub(super) fn snapshot(
        &mut self,
        attempt: Attempt,
        checkpoint: CheckpointId,
        epoch: Epoch,
        key_groups: BTreeMap<KeyGroupId, (BTreeMap<TargetId, Mark>, Counters)>,
    ) {
        let job = self.place.job;
        let fail = |place: &Place, reason: String| {
            place.tell(Event::SnapshotFailed { job, attempt, checkpoint, reason });
        };
        if self.linking > 0 {
            return fail(&self.place, "the checkpoint before is still being linked".into());
        }
        let folder = self.place.folder.join(format!("checkpoint-{checkpoint}-{}", uuid::Uuid::new_v4().simple()));
        let horizon = self.horizon(epoch);
        let mut parts = Vec::new();
        for (key_group, (marks, counters)) in key_groups {
            let Some(group) = self.groups.group(key_group) else {
                return fail(&self.place, format!("key group {key_group} is not here"));
            };
            if let Err(e) = group.write(key_group, epoch, horizon, &self.place) {
                return fail(&self.place, format!("writing key group {key_group}: {e}"));
            }
            parts.push(Part {
                key_group,
                disk: group.disk.clone(),
                folder: folder.join(format!("{}-{}", key_group.stage, key_group.group)),
                known: group.stored(),
                snapshot: Snapshot { epoch, marks, counters, files: Vec::new() },
            });
        }
        self.linking += 1;
        let place = self.place.clone();
        self.place.runtime.spawn(async move {
            let event = match store(&place, &folder, attempt, checkpoint, parts).await {
                Ok(()) => return,
                Err(reason) => Event::SnapshotFailed { job, attempt, checkpoint, reason },
            };
            place.events.send(event).await.ok();
        });
    }
}

/// Hard links of one checkpoint; gone with this, whatever came of it.
struct Links<'a>(&'a Path);

impl Drop for Links<'_> {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.0).ok();
    }
}

/// Links all parts first, because state is not written to disk until that is done; then uploads one after another.
async fn store(
    place: &Place,
    folder: &Path,
    attempt: Attempt,
    checkpoint: CheckpointId,
    parts: Vec<Part>,
) -> Result<(), String> {
    let (job, links) = (place.job, Links(folder));
    let made = folder.to_owned();
    let linked = tokio::task::spawn_blocking(move || {
        std::fs::create_dir(&made).map_err(|e| format!("making {}: {e}", made.display()))?;
        for part in &parts {
            if let Some(disk) = &part.disk {
                disk.checkpoint(&part.folder).map_err(|e| format!("linking key group {}: {e}", part.key_group))?;
            }
        }
        Ok::<_, String>(parts)
    })
    .await
    .unwrap_or_else(|e| Err(e.to_string()));
    place.queue.send(Work::Linked).ok();
    for part in linked? {
        let key_group = part.key_group;
        let files = upload(place, attempt, &part).await?;
        let snapshot = Snapshot { files: files.values().cloned().collect(), ..part.snapshot };
        if let Some(disk) = &part.disk {
            let folder = disk.path().to_owned();
            place.queue.send(Work::Stored { checkpoint, key_group, folder, files }).ok();
        }
        let event = Event::SnapshotStored { job, attempt, checkpoint, key_group, snapshot };
        if place.events.send(event).await.is_err() {
            break;
        }
    }
    drop(links);
    Ok(())
}

/// Uploads what is not in the checkpoint storage yet.
async fn upload(place: &Place, attempt: Attempt, part: &Part) -> Result<Files, String> {
    let mut files = Files::new();
    if part.disk.is_none() {
        return Ok(files);
    }
    let listed = std::fs::read_dir(&part.folder).map_err(|e| format!("listing the snapshot: {e}"))?;
    for entry in listed {
        let path = entry.map_err(|e| format!("listing the snapshot: {e}"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stored = match part.known.get(&name) {
            // An SST file never changes, and its number is never used again in one directory.
            Some(known) if is_table(&path) => known.clone(),
            _ => {
                let object = format!(
                    "jobs/{}/state/{}/{}-{}-{name}",
                    place.job,
                    part.key_group,
                    attempt,
                    uuid::Uuid::new_v4().simple()
                );
                place.storage.put(&path, object).await.map_err(|e| e.to_string())?
            }
        };
        files.insert(name, stored);
    }
    place.storage.settle(files.values()).await.map_err(|e| e.to_string())?;
    Ok(files)
}

fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sst")
}
