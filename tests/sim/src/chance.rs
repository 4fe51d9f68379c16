//! The one source of randomness of a run: everything that is drawn comes from the seed, in the order of events.

use std::ops::Range;

use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use uuid::Uuid;

pub(crate) struct Chance(Pcg64Mcg);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::seed_from_u64(seed))
    }

    /// A number in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.random_range(0..bound.max(1))
    }

    pub(crate) fn between(&mut self, range: Range<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// True in `share` of 1000 cases.
    pub(crate) fn per_mille(&mut self, share: u64) -> bool {
        self.below(1000) < share
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of.get(index)
    }

    pub(crate) fn uuid(&mut self) -> Uuid {
        Uuid::from_u128((u128::from(self.0.next_u64()) << 64) | u128::from(self.0.next_u64()))
    }
}
