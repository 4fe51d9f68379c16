//! Which TaskManager works on which split and key group.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use crate::ids::{KeyGroup, KeyGroupId, SplitId, Stage, TaskManagerId};

/// Points of each TaskManager on the ring; more spread the load better and cost time to sort.
const POINTS: usize = 64;

/// The placement of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Members and the address of their exchange, `host:port`.
    pub members: BTreeMap<TaskManagerId, String>,
    pub splits: BTreeMap<SplitId, TaskManagerId>,
    pub key_groups: BTreeMap<KeyGroupId, TaskManagerId>,
}

impl Plan {
    /// The same owners, wherever their exchanges are.
    #[must_use]
    pub fn places_like(&self, other: &Self) -> bool {
        self.splits == other.splits && self.key_groups == other.key_groups
    }

    pub fn key_groups_of(&self, member: TaskManagerId) -> impl Iterator<Item = KeyGroupId> + '_ {
        self.key_groups.iter().filter(move |(_, owner)| **owner == member).map(|(key_group, _)| *key_group)
    }
}

/// Places splits and key groups by consistent hashing with bounded load: nobody gets more than `ceil(count / members)`
/// of the splits or of the key groups of a stage, and what `previous` placed stays where that bound allows it.
///
/// A pure function of its arguments. `key_groups` is their number per stage. Without members nothing is placed.
#[must_use]
pub fn plan(
    members: &BTreeMap<TaskManagerId, String>,
    splits: impl IntoIterator<Item = SplitId>,
    key_groups: &[u16],
    previous: Option<&Plan>,
) -> Plan {
    let nodes = members.keys().map(|member| Node::new(*member.0.as_bytes()).value(*member).quantity(POINTS));
    let ring = StaticHashRing::new(Points, nodes);
    let candidates = |kind: u8, number: u32| -> Vec<TaskManagerId> {
        ring.calc_candidates(&(kind, number)).map(|node| node.value).collect()
    };
    let splits = splits.into_iter().map(|split| (split, candidates(u8::MAX, split.0)));
    let mut placed = Plan {
        members: members.clone(),
        splits: bounded(splits.collect(), members.len(), previous.map(|p| &p.splits)),
        key_groups: BTreeMap::new(),
    };
    for (stage, count) in (0_u8..).zip(key_groups) {
        let ids = (0..*count).map(|group| KeyGroupId { stage: Stage(stage), group: KeyGroup(group) });
        let items = ids.map(|id| (id, candidates(stage, u32::from(id.group.0)))).collect();
        placed.key_groups.extend(bounded(items, members.len(), previous.map(|p| &p.key_groups)));
    }
    placed
}

/// Owners of items, each given with its candidates in ring order.
fn bounded<T: Ord + Copy>(
    items: BTreeMap<T, Vec<TaskManagerId>>,
    members: usize,
    previous: Option<&BTreeMap<T, TaskManagerId>>,
) -> BTreeMap<T, TaskManagerId> {
    let bound = items.len().div_ceil(members.max(1));
    let mut load: BTreeMap<TaskManagerId, usize> = BTreeMap::new();
    let mut owners = BTreeMap::new();
    let mut take = |item: T, member: TaskManagerId, owners: &mut BTreeMap<T, TaskManagerId>| {
        let load = load.entry(member).or_default();
        let fits = *load < bound;
        if fits {
            *load += 1;
            owners.insert(item, member);
        }
        fits
    };
    // Who must give something up gives up what the ring would not give it.
    let mut stay: Vec<(usize, T, TaskManagerId)> = Vec::new();
    for (item, candidates) in &items {
        let owner = previous.and_then(|previous| previous.get(item));
        if let Some(rank) = owner.and_then(|owner| candidates.iter().position(|c| c == owner)) {
            stay.push((rank, *item, candidates[rank]));
        }
    }
    stay.sort_by_key(|(rank, item, _)| (*rank, *item));
    for (_, item, owner) in stay {
        take(item, owner, &mut owners);
    }
    for (item, candidates) in items {
        if !owners.contains_key(&item) {
            candidates.into_iter().any(|member| take(item, member, &mut owners));
        }
    }
    owners
}

/// XXH3 without a seed: the same on every process and version, so that a plan is a function of its arguments.
struct Points;

impl RingHash for Points {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut hasher = LittleEndian(Xxh3Default::new());
        item.hash(&mut hasher);
        hasher.finish()
    }
}

struct LittleEndian(Xxh3Default);

impl Hasher for LittleEndian {
    fn finish(&self) -> u64 {
        self.0.digest()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn write_u32(&mut self, number: u32) {
        self.write(&number.to_le_bytes());
    }

    fn write_usize(&mut self, number: usize) {
        self.write(&(number as u64).to_le_bytes());
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
