//! The key groups that are hosted here: overlay and disk of each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pulso_core::ids::{CheckpointId, Epoch, KeyGroup, KeyGroupId, Stage};
use pulso_core::message::SnapshotFile;
use pulso_dataflow::DataflowError;
use pulso_dataflow::state::{DiskState, Horizon, KeyGroupState, States};

use super::Place;
use super::disk::Disk;

/// Files of a RocksDB directory by their name there, as they are in the checkpoint storage.
pub(crate) type Files = BTreeMap<String, SnapshotFile>;

/// One key group's state.
#[derive(Default)]
pub(crate) struct Group {
    pub(super) overlay: KeyGroupState,
    /// Made at the first write.
    pub(super) disk: Option<Arc<Disk>>,
    /// What the last completed checkpoint holds of this very directory.
    completed: Files,
    /// Uploaded for checkpoints that are not complete yet.
    uploaded: BTreeMap<CheckpointId, Files>,
}

impl Group {
    pub(super) fn restored(disk: Option<Disk>, completed: Files) -> Self {
        Self { disk: disk.map(Arc::new), completed, ..Self::default() }
    }

    /// Files of this directory that are in the checkpoint storage, also for checkpoints that did not come to be.
    pub(super) fn stored(&self) -> Files {
        let all = self.uploaded.values().chain([&self.completed]);
        all.flatten().map(|(name, file)| (name.clone(), file.clone())).collect()
    }

    /// It came too late: nobody will use it.
    pub(super) fn discard(self) {
        if let Some(disk) = self.disk {
            disk.remove();
        }
    }

    /// Writes versions up to `upto` to disk.
    pub(super) fn write(
        &mut self,
        key_group: KeyGroupId,
        upto: Epoch,
        horizon: Option<Horizon>,
        place: &Place,
    ) -> Result<(), rocksdb::Error> {
        let changes = self.overlay.settle(upto);
        if changes.is_empty() {
            return Ok(());
        }
        let disk = match &self.disk {
            Some(disk) => disk,
            None => {
                self.disk.insert(Arc::new(Disk::open(&new_folder(place, key_group), &place.budget, &place.states)?))
            }
        };
        disk.write(&changes, horizon)?;
        self.overlay.settled(upto);
        Ok(())
    }
}

/// A folder that was never used: a live directory is not opened again.
pub(super) fn new_folder(place: &Place, KeyGroupId { stage, group }: KeyGroupId) -> PathBuf {
    place.folder.join(format!("{stage}-{group}-{}", uuid::Uuid::new_v4().simple()))
}

#[derive(Default)]
pub(crate) struct Groups(BTreeMap<KeyGroupId, Group>);

impl Groups {
    pub(super) fn insert(&mut self, key_group: KeyGroupId, group: Group) {
        self.remove(key_group);
        self.0.insert(key_group, group);
    }

    pub(super) fn remove(&mut self, key_group: KeyGroupId) {
        if let Some(group) = self.0.remove(&key_group) {
            group.discard();
        }
    }

    pub(super) fn contains(&self, key_group: KeyGroupId) -> bool {
        self.0.contains_key(&key_group)
    }

    pub(super) fn group(&mut self, key_group: KeyGroupId) -> Option<&mut Group> {
        self.0.get_mut(&key_group)
    }

    /// Takes the named key groups back to their epochs and drops the others.
    pub(super) fn take_back(&mut self, kept: &BTreeMap<KeyGroupId, Epoch>) {
        let dropped: Vec<KeyGroupId> = self.0.keys().filter(|id| !kept.contains_key(id)).copied().collect();
        dropped.into_iter().for_each(|id| self.remove(id));
        for (key_group, epoch) in kept {
            if let Some(group) = self.0.get_mut(key_group) {
                group.overlay.take_back(*epoch);
            }
        }
    }

    /// Bytes of state that is not on disk.
    pub(super) fn memory(&self) -> u64 {
        self.0.values().map(|group| group.overlay.memory() as u64).sum()
    }

    /// Bytes of state in RocksDB's files.
    pub(super) fn on_disk(&self) -> u64 {
        self.0.values().filter_map(|group| group.disk.as_ref()).map(|disk| disk.bytes()).sum()
    }

    pub(super) fn write(&mut self, upto: Epoch, horizon: Option<Horizon>, place: &Place) -> Result<(), rocksdb::Error> {
        self.0.iter_mut().try_for_each(|(id, group)| group.write(*id, upto, horizon, place))
    }

    /// `folder`: of the database whose files they are. Another one may have taken its place.
    pub(super) fn stored(&mut self, checkpoint: CheckpointId, key_group: KeyGroupId, folder: &Path, files: Files) {
        let same = |group: &&mut Group| group.disk.as_ref().is_some_and(|disk| disk.path() == folder);
        if let Some(group) = self.0.get_mut(&key_group).filter(same) {
            group.uploaded.insert(checkpoint, files);
        }
    }

    pub(super) fn checkpoint_done(&mut self, checkpoint: CheckpointId) {
        for group in self.0.values_mut() {
            if let Some(files) = group.uploaded.remove(&checkpoint) {
                group.completed = files;
            }
            group.uploaded.retain(|id, _| *id > checkpoint);
        }
    }
}

/// A key group without a disk has nothing on it.
struct NoDisk;

impl DiskState for NoDisk {
    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, DataflowError> {
        Ok(vec![None; keys.len()])
    }
}

/// The key groups of one stage.
pub(super) struct OfStage<'a> {
    pub(super) groups: &'a mut Groups,
    pub(super) stage: Stage,
}

impl States for OfStage<'_> {
    fn hosted(&self) -> Vec<KeyGroup> {
        self.groups.0.keys().filter(|id| id.stage == self.stage).map(|id| id.group).collect()
    }

    fn state(&mut self, key_group: KeyGroup) -> Option<(&mut KeyGroupState, &dyn DiskState)> {
        let group = self.groups.0.get_mut(&KeyGroupId { stage: self.stage, group: key_group })?;
        let disk: &dyn DiskState = match &group.disk {
            Some(disk) => disk.as_ref(),
            None => &NoDisk,
        };
        Some((&mut group.overlay, disk))
    }
}
