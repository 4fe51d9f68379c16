//! Deterministic, bounded, and few move.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn members(ids: &BTreeSet<u128>) -> BTreeMap<TaskManagerId, String> {
    ids.iter().map(|id| (TaskManagerId(Uuid::from_u128(*id)), format!("host{id}:1"))).collect()
}

fn splits(count: u32) -> impl Iterator<Item = SplitId> {
    (0..count).map(SplitId)
}

fn moved<T: Ord>(before: &BTreeMap<T, TaskManagerId>, after: &BTreeMap<T, TaskManagerId>) -> usize {
    before.iter().filter(|(item, owner)| after.get(item) != Some(owner)).count()
}

fn loads<T>(owners: &BTreeMap<T, TaskManagerId>) -> BTreeMap<TaskManagerId, usize> {
    let mut loads = BTreeMap::new();
    for owner in owners.values() {
        *loads.entry(*owner).or_default() += 1;
    }
    loads
}

#[test]
fn a_known_placement_stays_as_it_is() {
    // A changed hash or ring would move all state at the next upgrade.
    let placed = plan(&members(&BTreeSet::from([1, 2, 3])), splits(6), &[12], None);
    let owners: Vec<u128> = placed.key_groups.values().map(|tm| tm.0.as_u128()).collect();
    assert_eq!(owners, KNOWN_KEY_GROUPS);
    let owners: Vec<u128> = placed.splits.values().map(|tm| tm.0.as_u128()).collect();
    assert_eq!(owners, KNOWN_SPLITS);
}

const KNOWN_KEY_GROUPS: [u128; 12] = [2, 2, 1, 3, 3, 3, 3, 2, 1, 1, 1, 2];
const KNOWN_SPLITS: [u128; 6] = [3, 1, 2, 3, 1, 2];

#[test]
fn without_members_nothing_is_placed() {
    let placed = plan(&BTreeMap::new(), splits(3), &[8], None);
    assert_eq!(placed, Plan::default());
}

proptest! {
    #[test]
    fn everything_is_placed_within_the_bound(
        ids in prop::collection::btree_set(any::<u128>(), 1..9),
        before in prop::collection::btree_set(any::<u128>(), 0..9),
        overlap in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        count in 0..40_u32,
        groups in prop::collection::vec(1..65_u16, 1..3),
    ) {
        let mut earlier = before;
        let list: Vec<u128> = ids.iter().copied().collect();
        earlier.extend(overlap.iter().map(|i| *i.get(&list)));
        let previous = plan(&members(&earlier), splits(count), &groups, None);
        let now = plan(&members(&ids), splits(count), &groups, Some(&previous));
        prop_assert_eq!(&now, &plan(&members(&ids), splits(count), &groups, Some(&previous)));
        prop_assert_eq!(now.splits.len(), count as usize);
        prop_assert_eq!(now.key_groups.len(), groups.iter().map(|g| usize::from(*g)).sum::<usize>());
        let bound = (count as usize).div_ceil(ids.len());
        prop_assert!(loads(&now.splits).values().all(|load| *load <= bound));
        for (stage, groups) in groups.iter().enumerate() {
            let of_stage: BTreeMap<_, _> =
                now.key_groups.iter().filter(|(id, _)| usize::from(id.stage.0) == stage).map(|(k, v)| (*k, *v)).collect();
            let bound = usize::from(*groups).div_ceil(ids.len());
            prop_assert!(loads(&of_stage).values().all(|load| *load <= bound));
        }
        let known = members(&ids);
        prop_assert!(now.splits.values().chain(now.key_groups.values()).all(|owner| known.contains_key(owner)));
        // Where everybody stays, everything stays.
        prop_assert!(now.places_like(&plan(&known, splits(count), &groups, Some(&now))));
    }

    #[test]
    fn few_move_when_one_joins(
        ids in prop::collection::btree_set(any::<u128>(), 2..9), which: prop::sample::Index, groups in 1..129_u16,
    ) {
        let list: Vec<u128> = ids.iter().copied().collect();
        let joins = *which.get(&list);
        let mut without = ids.clone();
        without.remove(&joins);
        let before = plan(&members(&without), splits(0), &[groups], None);
        let after = plan(&members(&ids), splits(0), &[groups], Some(&before));
        // Only what the lower bound takes away from the others.
        let bound = usize::from(groups).div_ceil(ids.len());
        let excess: usize = loads(&before.key_groups).values().map(|load| load.saturating_sub(bound)).sum();
        prop_assert_eq!(moved(&before.key_groups, &after.key_groups), excess);
    }

    #[test]
    fn only_its_own_move_when_one_leaves(
        ids in prop::collection::btree_set(any::<u128>(), 2..9), which: prop::sample::Index, groups in 1..129_u16,
    ) {
        let list: Vec<u128> = ids.iter().copied().collect();
        let leaves = *which.get(&list);
        let before = plan(&members(&ids), splits(0), &[groups], None);
        let mut without = ids.clone();
        without.remove(&leaves);
        let after = plan(&members(&without), splits(0), &[groups], Some(&before));
        let own = before.key_groups_of(TaskManagerId(Uuid::from_u128(leaves))).count();
        prop_assert_eq!(moved(&before.key_groups, &after.key_groups), own);
    }
}
