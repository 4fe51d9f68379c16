//! What one seed is like: how large the cluster and the job are, how much goes wrong, and for how long.

use crate::chance::Chance;
use crate::world::{CHANGE, GOES_BACK};

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) job_managers: usize,
    pub(crate) task_managers: usize,
    pub(crate) targets: u16,
    pub(crate) splits: u32,
    pub(crate) key_groups: u16,
    pub(crate) stages: u8,
    /// What the lookups read changes from time to time. Not of every seed: the epochs that it brings keep a job from idling.
    pub(crate) lookups_change: bool,
    pub(crate) keys: u64,
    /// After this long all records are of one key, and so long before it is another: most key groups are idle.
    pub(crate) narrow_after: u64,
    pub(crate) narrow_for: u64,
    /// Records at once, at most, plus one.
    pub(crate) burst: u64,
    /// Microseconds, like all times here.
    pub(crate) produce_every: u64,
    pub(crate) first_fault: u64,
    pub(crate) fault_every: u64,
    pub(crate) rough_for: u64,
    /// Records stop this long before the faults do, so that those strike an idle job too.
    pub(crate) calm: u64,
    /// Writing the rows of a transaction takes up to this long, so that sealed epochs pile up.
    pub(crate) slow_rows: u64,
    /// After the faults ended: within this all must be committed.
    pub(crate) patience: u64,
    pub(crate) checkpoint_every: u64,
    /// The job is stopped at the end and must finish.
    pub(crate) stops: bool,
    /// Kinds of faults of this seed: few at a time find more than all at once.
    pub(crate) kinds: u64,
}

impl Scenario {
    /// Rows of each ledger.
    pub(crate) fn ledger_rows(&self) -> usize {
        usize::from(self.key_groups) * usize::from(self.stages)
    }

    pub(crate) fn draw(seed: u64, chance: &mut Chance) -> Self {
        Self {
            job_managers: if chance.per_mille(400) { 2 } else { 1 },
            task_managers: 1 + usize::try_from(chance.below(3)).unwrap_or(0),
            targets: if chance.per_mille(500) { 2 } else { 1 },
            splits: 1 + u32::try_from(chance.below(4)).unwrap_or(0),
            key_groups: *chance.pick(&[2, 4, 8]).unwrap_or(&4),
            stages: 1 + u8::from(seed % 5 == 4),
            lookups_change: seed % 5 == 3,
            keys: 20 + chance.below(200),
            narrow_after: if chance.per_mille(300) { chance.between(500_000..3_000_000) } else { u64::MAX },
            narrow_for: chance.between(300_000..2_000_000),
            burst: 1 + chance.below(6),
            produce_every: chance.between(2_000..20_000),
            first_fault: chance.between(100_000..1_500_000),
            fault_every: chance.between(80_000..1_200_000),
            rough_for: chance.between(2_500_000..8_000_000),
            calm: if chance.per_mille(450) { chance.below(2_400_000) } else { 0 },
            slow_rows: if chance.per_mille(300) { chance.between(2_000..60_000) } else { 0 },
            patience: 30_000_000,
            checkpoint_every: chance.between(200_000..1_500_000),
            stops: chance.per_mille(500),
            kinds: {
                let (some, others) = (chance.below(u64::MAX), chance.below(u64::MAX));
                // Going back behind a change takes both, soon after each other.
                if seed % 10 == 7 { some & others | 1 << CHANGE | 1 << GOES_BACK } else { some | others }
            },
        }
    }
}
