//! Snapshots of key groups: written and hard-linked here, uploaded beside the queue.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pulso_core::ids::{Attempt, CheckpointId, Epoch, KeyGroupId, TargetId};
use pulso_core::ledger::Mark;
use pulso_core::message::{Counters, Snapshot};

use super::disk::Disk;
use super::group::{Files, new_folder};
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
        let horizon = self.horizon(epoch);
        let mut parts = Vec::new();
        for (key_group, (marks, counters)) in key_groups {
            let Some(group) = self.groups.group(key_group.group) else {
                return fail(&self.place, format!("key group {key_group} is not here"));
            };
            if let Err(e) = group.write(key_group.group, epoch, horizon, &self.place) {
                return fail(&self.place, format!("writing key group {key_group}: {e}"));
            }
            parts.push(Part {
                key_group,
                disk: group.disk.clone(),
                folder: new_folder(&self.place, key_group.group),
                known: group.completed.clone(),
                snapshot: Snapshot { epoch, marks, counters, files: Vec::new() },
            });
        }
        self.linking += 1;
        let place = self.place.clone();
        self.place.runtime.spawn(async move { store(place, attempt, checkpoint, parts).await });
    }
}

/// Links all parts first, because state is not written to disk until that is done; then uploads one after another.
async fn store(place: Place, attempt: Attempt, checkpoint: CheckpointId, parts: Vec<Part>) {
    let job = place.job;
    let linked = tokio::task::spawn_blocking(move || {
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
    let parts = match linked {
        Ok(parts) => parts,
        Err(reason) => {
            place.events.send(Event::SnapshotFailed { job, attempt, checkpoint, reason }).await.ok();
            return;
        }
    };
    for part in parts {
        let key_group = part.key_group;
        let event = match upload(&place, attempt, &part).await {
            Ok(files) => {
                let snapshot = Snapshot { files: files.values().cloned().collect(), ..part.snapshot };
                place.queue.send(Work::Stored { checkpoint, key_group, files }).ok();
                Event::SnapshotStored { job, attempt, checkpoint, key_group, snapshot }
            }
            Err(reason) => Event::SnapshotFailed { job, attempt, checkpoint, reason },
        };
        tokio::fs::remove_dir_all(&part.folder).await.ok();
        let failed = matches!(event, Event::SnapshotFailed { .. });
        if place.events.send(event).await.is_err() || failed {
            return;
        }
    }
}

/// Uploads what the last completed checkpoint does not hold.
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
    Ok(files)
}

fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sst")
}
