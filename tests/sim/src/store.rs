//! Model of the key-group store of one TaskManager: immutable files, an overlay of epochs in front of them, snapshots.

use std::collections::{BTreeMap, BTreeSet};

use pulso_core::ids::{CheckpointId, Epoch, KeyGroupId, TargetId};
use pulso_core::message::{Counters, Restore, Snapshot, SnapshotFile};
use pulso_core::worker::{Output, Processed};

use crate::dedup::{At, Row, SECOND, State, Winner, Written, count, fate, forwarded, written};
use crate::storage::{Objects, checksum};

/// Rows of one epoch and target: what the worker holds as its output.
pub(crate) type Rows = std::rc::Rc<Vec<Written>>;

/// One flush: the winners that changed.
#[derive(Debug, Clone)]
struct File {
    name: String,
    contents: State,
    /// Where a completed checkpoint holds it.
    object: Option<String>,
    /// Where the checkpoint under way put it.
    uploaded: Option<(CheckpointId, String)>,
}

#[derive(Debug, Clone, Default)]
struct Group {
    files: Vec<File>,
    flushed: Epoch,
    overlay: BTreeMap<Epoch, State>,
}

#[derive(Default)]
pub(crate) struct Store {
    groups: BTreeMap<KeyGroupId, Group>,
    named: u64,
}

/// What `Process` asks for.
pub(crate) struct Work<'a> {
    pub(crate) at: At,
    pub(crate) rows: Vec<Row>,
    pub(crate) skip: &'a BTreeSet<KeyGroupId>,
    pub(crate) muted: &'a BTreeMap<TargetId, BTreeSet<KeyGroupId>>,
    pub(crate) targets: u16,
    /// Of the second stage, if there is one and this is the first.
    pub(crate) onward: Option<u16>,
}

impl Group {
    fn winner(&self, key: u32) -> Option<Winner> {
        let overlay = self.overlay.values().rev().find_map(|changes| changes.get(&key));
        overlay.or_else(|| self.files.iter().rev().find_map(|f| f.contents.get(&key))).copied()
    }

    fn flush(&mut self, upto: Epoch, name: String) {
        let rest = self.overlay.split_off(&upto.next());
        let mut contents = State::new();
        for changes in std::mem::replace(&mut self.overlay, rest).into_values() {
            contents.extend(changes);
        }
        self.flushed = self.flushed.max(upto);
        if !contents.is_empty() {
            self.files.push(File { name, contents, object: None, uploaded: None });
        }
    }

    fn compact(&mut self, name: String) {
        let mut contents = State::new();
        for file in std::mem::take(&mut self.files) {
            contents.extend(file.contents);
        }
        self.files.push(File { name, contents, object: None, uploaded: None });
    }
}

impl Store {
    /// The answer says whether another try may help.
    pub(crate) fn restore(
        &mut self,
        key_group: KeyGroupId,
        restore: &Restore,
        objects: &Objects,
    ) -> Result<(), (String, bool)> {
        match restore {
            Restore::Fresh => {
                self.groups.insert(key_group, Group::default());
            }
            Restore::Copy if self.groups.contains_key(&key_group) => {}
            Restore::Copy => return Err((format!("no copy of key group {key_group}"), true)),
            Restore::Snapshot(snapshot) => {
                let mut group = Group { flushed: snapshot.epoch, ..Group::default() };
                for file in &snapshot.files {
                    let contents =
                        objects.read(&file.object).ok_or_else(|| (format!("{} is missing", file.object), false))?;
                    if checksum(&contents) != file.checksum {
                        return Err((format!("{} is damaged", file.object), false));
                    }
                    let (name, object) = (file.name.clone(), Some(file.object.clone()));
                    group.files.push(File { name, contents, object, uploaded: None });
                }
                self.groups.insert(key_group, group);
            }
        }
        Ok(())
    }

    pub(crate) fn take_back(&mut self, key_groups: &BTreeMap<KeyGroupId, Epoch>) {
        self.groups.retain(|id, _| key_groups.contains_key(id));
        for (id, epoch) in key_groups {
            if let Some(group) = self.groups.get_mut(id) {
                group.overlay.split_off(&epoch.next());
            }
        }
    }

    pub(crate) fn drop_groups(&mut self, key_groups: &BTreeSet<KeyGroupId>) {
        self.groups.retain(|id, _| !key_groups.contains(id));
    }

    /// What an epoch came to, and the rows for the next stage.
    pub(crate) fn process(&mut self, mut work: Work<'_>) -> Result<(Processed<Rows>, Vec<Row>), String> {
        let mut onward = Vec::new();
        work.rows.sort_by_key(|r| (r.split, r.position));
        let mut counters: BTreeMap<KeyGroupId, Counters> = BTreeMap::new();
        let mut outputs: BTreeMap<TargetId, Vec<Written>> = BTreeMap::new();
        let mut muted: BTreeMap<TargetId, BTreeSet<KeyGroupId>> = BTreeMap::new();
        for row in work.rows.iter().filter(|r| !work.skip.contains(&r.key_group)) {
            let group = self.groups.get_mut(&row.key_group).ok_or_else(|| format!("{} is not here", row.key_group))?;
            let (fate, change) = fate(row, row.content.and_then(|c| group.winner(c.key)));
            if row.key_group.stage != SECOND {
                count(fate, counters.entry(row.key_group).or_default());
            }
            onward.extend(work.onward.and_then(|key_groups| forwarded(row, fate, key_groups)));
            if let Some((key, winner)) = change {
                group.overlay.entry(work.at.epoch).or_default().insert(key, winner);
            }
            for target in (0..work.targets).map(TargetId) {
                let Some(row) = written(target, work.at, row, fate) else { continue };
                if work.muted.get(&target).is_some_and(|m| m.contains(&row.key_group)) {
                    muted.entry(target).or_default().insert(row.key_group);
                } else {
                    outputs.entry(target).or_default().push(row);
                }
            }
        }
        let outputs = outputs.into_iter().map(|(target, rows)| {
            let key_groups = rows.iter().map(|r| r.key_group).collect();
            let bytes = rows.len() as u64 * 100;
            (target, Output { rows: Rows::new(rows), key_groups, bytes })
        });
        Ok((Processed { outputs: outputs.collect(), muted, counters }, onward))
    }

    /// Writes what is settled to disk; `compact` also merges the files of each key group.
    pub(crate) fn flush(&mut self, upto: Epoch, compact: bool) {
        for (id, group) in &mut self.groups {
            self.named += 1;
            group.flush(upto, format!("{}-{}.sst", id.group, self.named));
            if compact && group.files.len() > 3 {
                self.named += 1;
                group.compact(format!("{}-{}.sst", id.group, self.named));
            }
        }
    }

    /// The newest epoch that any key group has in its overlay or on disk.
    pub(crate) fn newest(&self) -> Epoch {
        let newest = |g: &Group| g.overlay.last_key_value().map_or(g.flushed, |(e, _)| *e);
        self.groups.values().map(newest).max().unwrap_or_default()
    }

    /// Uploads what no completed checkpoint holds. Object names are unique: `unique` is never used twice.
    pub(crate) fn snapshot(
        &mut self,
        key_group: KeyGroupId,
        (checkpoint, epoch): (CheckpointId, Epoch),
        part: (BTreeMap<TargetId, pulso_core::ledger::Mark>, Counters),
        unique: &str,
        objects: &mut Objects,
    ) -> Result<Snapshot, String> {
        let group = self.groups.get_mut(&key_group).ok_or_else(|| format!("{key_group} is not here"))?;
        if group.flushed > epoch {
            return Err(format!("{key_group} is on disk up to epoch {} already", group.flushed));
        }
        self.named += 1;
        group.flush(epoch, format!("{}-{}.sst", key_group.group, self.named));
        let mut files = Vec::new();
        for file in &mut group.files {
            let object = file.object.clone().unwrap_or_else(|| {
                let object = format!("{unique}/{}-{}/{}", key_group.stage, key_group.group, file.name);
                objects.write(&object, file.contents.clone());
                file.uploaded = Some((checkpoint, object.clone()));
                object
            });
            files.push(SnapshotFile {
                name: file.name.clone(),
                object,
                bytes: file.contents.len() as u64,
                checksum: checksum(&file.contents),
            });
        }
        Ok(Snapshot { epoch, marks: part.0, counters: part.1, files })
    }

    /// The checkpoint is complete: its objects need not be uploaded again.
    pub(crate) fn checkpoint_done(&mut self, checkpoint: CheckpointId) {
        for file in self.groups.values_mut().flat_map(|g| &mut g.files) {
            if let Some((_, object)) = file.uploaded.take_if(|(of, _)| *of == checkpoint) {
                file.object = Some(object);
            }
        }
    }
}
