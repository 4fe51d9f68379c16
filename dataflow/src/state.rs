//! The state of a key group: an overlay of recent epochs in memory, in front of whatever the host keeps on disk.
//!
//! The overlay holds every change of an epoch that is not on disk yet, by epoch, so that epochs which were never committed
//! can be taken back. Writing to disk takes three steps, in this order:
//!
//! 1. [`KeyGroupState::settle`] copies out the newest versions up to an epoch that is committed in every target;
//! 2. the host writes them; until then they stay readable here, and a failed write loses nothing;
//! 3. [`KeyGroupState::settled`] with the same epoch drops them here: from now on the disk answers.

use hashbrown::HashTable;
use pulso_core::ids::{Epoch, EventTime, KeyGroup};
use pulso_job::StateId;
use xxhash_rust::xxh3::xxh3_64;

use crate::aggregate::absent_from;
use crate::entry::{Entry, WINDOW_1};
use crate::error::Result;

/// What is on disk of a key group.
pub trait DiskState {
    /// The value of each key, in the order of the keys.
    ///
    /// # Errors
    /// [`crate::DataflowError::State`], where the disk cannot be read.
    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>>;
}

/// The key groups that are hosted here.
pub trait States {
    /// Those that are hosted, ascending.
    fn hosted(&self) -> Vec<KeyGroup>;

    fn state(&mut self, key_group: KeyGroup) -> Option<(&mut KeyGroupState, &dyn DiskState)>;
}

/// Up to where values count as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// The watermark less `keep_for`: dedup entries with an earlier event time.
    pub dedup: EventTime,
    /// The watermark: windows that closed by then.
    pub windows: EventTime,
}

/// How every key begins: its kind, and the piece of state that it belongs to.
pub(crate) fn key_start(kind: u8, state: StateId) -> [u8; 3] {
    let [high, low] = state.to_be_bytes();
    [kind, high, low]
}

/// True for a key of a piece of state that the job has no more, so it may leave the disk.
#[must_use]
pub fn is_dropped(key: &[u8], states: &[StateId]) -> bool {
    matches!(key, [_, high, low, ..] if !states.contains(&StateId::from_be_bytes([*high, *low])))
}

/// True for a value that counts as absent, so it may leave the disk; what is of no known kind stays.
#[must_use]
pub fn is_expired(value: &[u8], horizon: Horizon) -> bool {
    if value.first() == Some(&WINDOW_1) {
        return absent_from(value).is_ok_and(|time| time <= horizon.windows.0);
    }
    Entry::decode(value).is_ok_and(|entry| entry.event_time < horizon.dedup)
}

/// A key and its value for the disk; `None`: removed.
pub type Settled = (Box<[u8]>, Option<Vec<u8>>);

/// The versioned overlay of one key group.
#[derive(Debug, Default)]
pub struct KeyGroupState {
    keys: HashTable<Key>,
    memory: usize,
}

#[derive(Debug)]
struct Key {
    hash: u64,
    key: Box<[u8]>,
    newest: Version,
    /// Ascending.
    older: Vec<Version>,
}

#[derive(Debug)]
struct Version {
    epoch: Epoch,
    /// `None`: removed.
    value: Option<Box<[u8]>>,
}

impl Version {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.value.as_ref().map_or(0, |value| value.len())
    }
}

impl Key {
    fn memory(&self) -> usize {
        // The table keeps up to half of its places free.
        size_of::<Self>() * 3 / 2 + self.key.len() + self.versions().map(Version::memory).sum::<usize>()
    }

    /// Oldest first.
    fn versions(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.older.iter().chain([&self.newest])
    }

    /// Drops the versions that `keep` does not want; false if none is left.
    fn retain(&mut self, keep: impl Fn(Epoch) -> bool) -> bool {
        self.older.retain(|version| keep(version.epoch));
        if keep(self.newest.epoch) {
            return true;
        }
        match self.older.pop() {
            None => false,
            Some(version) => {
                self.newest = version;
                true
            }
        }
    }
}

/// Hash by which the overlay finds a key.
pub(crate) fn hash_of(key: &[u8]) -> u64 {
    xxh3_64(key)
}

impl KeyGroupState {
    /// The newest value of a key: `None` if the overlay does not know the key, `Some(None)` if it was removed.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.find(hash_of(key), key)
    }

    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<Option<&[u8]>> {
        let found = self.keys.find(hash, |known| *known.key == *key)?;
        Some(found.newest.value.as_deref())
    }

    /// Sets the value of a key as of `epoch`, which is not before that of any other change.
    pub fn put(&mut self, epoch: Epoch, key: &[u8], value: Option<&[u8]>) {
        self.put_hashed(epoch, hash_of(key), key, value);
    }

    pub(crate) fn put_hashed(&mut self, epoch: Epoch, hash: u64, key: &[u8], value: Option<&[u8]>) {
        let version = Version { epoch, value: value.map(Box::from) };
        if let Some(known) = self.keys.find_mut(hash, |known| *known.key == *key) {
            self.memory += version.memory();
            if known.newest.epoch == epoch {
                self.memory -= known.newest.memory();
                known.newest = version;
            } else {
                known.older.push(std::mem::replace(&mut known.newest, version));
            }
            return;
        }
        let new = Key { hash, key: key.into(), newest: version, older: Vec::new() };
        self.memory += new.memory();
        self.keys.insert_unique(hash, new, |known| known.hash);
    }

    /// Forgets everything after `upto`: those epochs will be processed again, or never.
    pub fn take_back(&mut self, upto: Epoch) {
        self.retain(|epoch| epoch <= upto);
    }

    /// The newest value up to `upto` of every key that changed since it was last settled, sorted by key.
    #[must_use]
    pub fn settle(&self, upto: Epoch) -> Vec<Settled> {
        let mut settled: Vec<_> = self
            .keys
            .iter()
            .filter_map(|key| {
                let version = key.versions().rev().find(|version| version.epoch <= upto)?;
                Some((key.key.clone(), version.value.as_deref().map(<[u8]>::to_vec)))
            })
            .collect();
        settled.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        settled
    }

    /// What [`KeyGroupState::settle`] gave for `upto` is on disk.
    pub fn settled(&mut self, upto: Epoch) {
        self.retain(|epoch| epoch > upto);
    }

    /// Bytes of the overlay, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Keys that the overlay knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn retain(&mut self, keep: impl Fn(Epoch) -> bool) {
        let mut memory = 0;
        self.keys.retain(|key| {
            let stays = key.retain(&keep);
            memory += if stays { key.memory() } else { 0 };
            stays
        });
        self.memory = memory;
        self.keys.shrink_to(self.keys.len() * 2, |key| key.hash);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Action {
        Put(u8, Option<u8>),
        NextEpoch,
        TakeBack(u64),
        Settle(u64, bool),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            6 => (0u8..6, any::<Option<u8>>()).prop_map(|(key, value)| Action::Put(key, value)),
            3 => Just(Action::NextEpoch),
            1 => (0u64..4).prop_map(Action::TakeBack),
            1 => (0u64..4, any::<bool>()).prop_map(|(back, written)| Action::Settle(back, written)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

        /// Overlay and disk together are what a list of all changes says.
        #[test]
        fn reads_like_a_list_of_all_changes(actions in prop::collection::vec(action(), 1..80)) {
            let (mut state, mut disk) = (KeyGroupState::default(), BTreeMap::<Vec<u8>, Vec<u8>>::new());
            let mut changes: Vec<(Epoch, u8, Option<u8>)> = Vec::new();
            let (mut epoch, mut settled) = (Epoch(1), Epoch(0));
            for action in actions {
                match action {
                    Action::Put(key, value) => {
                        state.put(epoch, &[key], value.as_ref().map(std::slice::from_ref));
                        changes.push((epoch, key, value));
                    }
                    Action::NextEpoch => epoch = epoch.next(),
                    Action::TakeBack(epochs) => {
                        let upto = Epoch(epoch.0.saturating_sub(epochs).max(settled.0));
                        state.take_back(upto);
                        changes.retain(|(epoch, ..)| *epoch <= upto);
                        epoch = upto.next();
                    }
                    Action::Settle(epochs, written) => {
                        let upto = Epoch(epoch.0.saturating_sub(epochs).max(settled.0));
                        let values = state.settle(upto);
                        prop_assert!(values.is_sorted_by(|a, b| a.0 < b.0));
                        if written {
                            for (key, value) in values {
                                match value {
                                    Some(value) => disk.insert(key.to_vec(), value),
                                    None => disk.remove(&key[..]),
                                };
                            }
                            state.settled(upto);
                            settled = upto;
                            // The disk has exactly what was true after that epoch.
                            for key in 0..6 {
                                let last = changes.iter().rev().find(|(epoch, k, _)| *k == key && *epoch <= upto);
                                prop_assert_eq!(disk.get(&vec![key]).map(|v| v[0]), last.and_then(|(.., v)| *v));
                            }
                        }
                    }
                }
                for key in 0..6 {
                    let expected = changes.iter().rev().find(|(_, k, _)| *k == key).and_then(|(.., value)| *value);
                    let found = state.get(&[key]).map_or_else(|| disk.get(&vec![key]).map(|v| v[0]), |v| v.map(|v| v[0]));
                    prop_assert_eq!(found, expected);
                }
                let memory: usize = state.keys.iter().map(Key::memory).sum();
                prop_assert_eq!(state.memory(), memory);
            }
        }
    }

    #[test]
    fn keys_of_other_numbers_are_dropped() {
        let key = |kind, state| [&key_start(kind, state)[..], b"key"].concat();
        assert!(!is_dropped(&key(1, 0), &[0, 258]) && !is_dropped(&key(2, 258), &[0, 258]));
        assert!(is_dropped(&key(1, 1), &[0, 258]) && is_dropped(&key(2, 513), &[0, 258]));
    }

    #[test]
    fn gives_its_memory_back() {
        let mut state = KeyGroupState::default();
        for key in 0u32..1_000 {
            state.put(Epoch(1), &key.to_le_bytes(), Some(&[0; 46]));
        }
        assert!(state.memory() > 1_000 * 50);
        state.settled(Epoch(1));
        assert_eq!((state.memory(), state.len()), (0, 0));
    }
}
