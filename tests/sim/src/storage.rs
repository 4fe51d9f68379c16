//! Model of the checkpoint storage: the objects of the control log (put-if-absent) and the files of checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::dedup::State;

/// Numbered objects; whoever puts a number first has it for ever.
#[derive(Default)]
pub(crate) struct LogObjects {
    objects: BTreeMap<u64, Vec<u8>>,
    newest: u64,
}

impl LogObjects {
    /// False: the number is taken.
    pub(crate) fn put(&mut self, number: u64, bytes: Vec<u8>) -> bool {
        match self.objects.entry(number) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(bytes);
                true
            }
        }
    }

    /// True once per number above all others: a late copy of a put may come back below a base that replaced it, and
    /// nobody reads that.
    pub(crate) fn extends(&mut self, number: u64) -> bool {
        let extends = number > self.newest;
        self.newest = self.newest.max(number);
        extends
    }

    pub(crate) fn read(&self, number: u64) -> Option<Vec<u8>> {
        self.objects.get(&number).cloned()
    }

    pub(crate) fn list(&self) -> BTreeSet<u64> {
        self.objects.keys().copied().collect()
    }

    pub(crate) fn delete(&mut self, number: u64) {
        self.objects.remove(&number);
    }
}

#[derive(Default)]
pub(crate) struct Objects {
    objects: BTreeMap<String, State>,
    /// What a fault damaged: nobody can know before it is read.
    damaged: BTreeSet<String>,
}

impl Objects {
    pub(crate) fn write(&mut self, name: &str, contents: State) {
        self.objects.insert(name.to_owned(), contents);
    }

    pub(crate) fn read(&self, name: &str) -> Option<State> {
        self.objects.get(name).cloned()
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.objects.remove(name);
    }

    /// Loses one entry of an object, as a torn file would.
    pub(crate) fn damage(&mut self, name: &str) -> bool {
        let damaged = self.objects.get_mut(name).is_some_and(|contents| contents.pop_last().is_some());
        if damaged {
            self.damaged.insert(name.to_owned());
        }
        damaged
    }

    pub(crate) fn is_damaged(&self, name: &str) -> bool {
        self.damaged.contains(name)
    }
}

/// Checksum of a file's contents. `DefaultHasher::new` has fixed keys.
pub(crate) fn checksum(contents: &State) -> u32 {
    let mut hasher = DefaultHasher::new();
    for (key, winner) in contents {
        (key, winner.rank, winner.value).hash(&mut hasher);
    }
    (hasher.finish() & u64::from(u32::MAX)) as u32
}
