//! The virtual clock and what happens when: the earliest first, in the order of scheduling where times are equal.

use std::collections::BTreeMap;

use pulso_core::ids::Instant;

pub(crate) struct Schedule<A> {
    now: Instant,
    scheduled: u64,
    queue: BTreeMap<(Instant, u64), A>,
}

impl<A> Schedule<A> {
    pub(crate) fn new() -> Self {
        // Not zero, so that a machine which confuses "never" with the start of the clock is noticed.
        Self { now: Instant(1_000_000), scheduled: 0, queue: BTreeMap::new() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn at(&mut self, when: Instant, action: A) {
        self.scheduled += 1;
        self.queue.insert((when.max(self.now), self.scheduled), action);
    }

    pub(crate) fn after(&mut self, micros: u64, action: A) {
        self.at(Instant(self.now.0 + micros), action);
    }

    /// The next action; the clock moves to its time.
    pub(crate) fn pop(&mut self) -> Option<A> {
        let ((when, _), action) = self.queue.pop_first()?;
        self.now = when;
        Some(action)
    }
}
