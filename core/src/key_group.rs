//! Which key group a routing key belongs to. Stable for ever: state on disk depends on it.

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{KeyGroup, SplitId};

/// Key group of a typed routing key in its canonical encoding.
#[must_use]
pub fn of_key(encoded: &[u8], key_groups: u16) -> KeyGroup {
    of_hash(xxh3_64(encoded), key_groups)
}

/// Key group of a record that has no usable routing key, such as a dead letter.
#[must_use]
pub fn of_split(split: SplitId, key_groups: u16) -> KeyGroup {
    of_hash(xxh3_64(&split.0.to_le_bytes()), key_groups)
}

/// Maps a hash onto `0..key_groups` by its high bits, without the bias of a remainder.
#[must_use]
pub fn of_hash(hash: u64, key_groups: u16) -> KeyGroup {
    let group = (u128::from(hash) * u128::from(key_groups)) >> 64;
    KeyGroup(u16::try_from(group).expect("a product of a u64 and a u16, shifted by 64 bits, fits a u16"))
}
