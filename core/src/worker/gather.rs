//! The rows of each epoch, until every sender said that there are no more.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, EventTime, Stage, TaskManagerId};
use crate::message::{Barrier, source_task_managers};
use crate::placement::Plan;

/// What arrives for one stage in one attempt.
#[derive(Debug, Clone)]
pub(super) struct Gather<P> {
    senders: BTreeSet<TaskManagerId>,
    /// Worked off next, or at this moment.
    next: Epoch,
    under_way: bool,
    epochs: BTreeMap<Epoch, Parts<P>>,
}

#[derive(Debug, Clone)]
struct Parts<P> {
    /// By sender, so that the order in which links deliver changes nothing.
    payloads: BTreeMap<TaskManagerId, Vec<P>>,
    barriers: BTreeMap<TaskManagerId, EventTime>,
}

impl<P> Default for Parts<P> {
    fn default() -> Self {
        Self { payloads: BTreeMap::new(), barriers: BTreeMap::new() }
    }
}

/// An epoch of which everything is here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Complete<P> {
    pub(super) epoch: Epoch,
    pub(super) watermark: EventTime,
    pub(super) payloads: Vec<P>,
}

impl<P> Gather<P> {
    /// Expects all epochs after `start`, from everyone who feeds the stage.
    pub(super) fn new(stage: Stage, plan: &Plan, start: Epoch) -> Self {
        let senders = match stage.0.checked_sub(1) {
            None => source_task_managers(plan),
            Some(before) => {
                let feeding = plan.key_groups.iter().filter(|(key_group, _)| key_group.stage.0 == before);
                feeding.map(|(_, owner)| *owner).collect()
            }
        };
        Self { senders, next: start.next(), under_way: false, epochs: BTreeMap::new() }
    }

    /// Epochs of which something is here.
    pub(super) fn epochs(&self) -> usize {
        self.epochs.len()
    }

    /// # Errors
    /// Where rows come behind their barrier: a link is not what it promises.
    pub(super) fn arrived(&mut self, from: TaskManagerId, epoch: Epoch, payload: P) -> Result<(), String> {
        if !self.senders.contains(&from) {
            return Ok(());
        }
        if self.is_past(epoch) || self.epochs.get(&epoch).is_some_and(|parts| parts.barriers.contains_key(&from)) {
            return Err(format!("rows of epoch {epoch} from {from} came behind their barrier"));
        }
        self.epochs.entry(epoch).or_default().payloads.entry(from).or_default().push(payload);
        Ok(())
    }

    pub(super) fn barrier(&mut self, from: TaskManagerId, barrier: Barrier) {
        if self.senders.contains(&from) && !self.is_past(barrier.epoch) {
            self.epochs.entry(barrier.epoch).or_default().barriers.insert(from, barrier.watermark);
        }
    }

    /// The next epoch, once every sender's barrier is here and the epoch before was worked off.
    ///
    /// # Errors
    /// Where senders disagree about the watermark.
    pub(super) fn complete(&mut self) -> Result<Option<Complete<P>>, String> {
        let whole = |parts: &Parts<P>| self.senders.iter().all(|sender| parts.barriers.contains_key(sender));
        if self.under_way || self.senders.is_empty() || !self.epochs.get(&self.next).is_some_and(whole) {
            return Ok(None);
        }
        let Some(parts) = self.epochs.remove(&self.next) else { return Ok(None) };
        let watermarks: BTreeSet<EventTime> = parts.barriers.into_values().collect();
        let (Some(watermark), 1) = (watermarks.first().copied(), watermarks.len()) else {
            return Err(format!("barriers of epoch {} disagree about its watermark: {watermarks:?}", self.next));
        };
        self.under_way = true;
        let payloads = parts.payloads.into_values().flatten().collect();
        Ok(Some(Complete { epoch: self.next, watermark, payloads }))
    }

    /// The epoch that [`Self::complete`] gave out is worked off. False where it gave out no such epoch.
    pub(super) fn processed(&mut self, epoch: Epoch) -> bool {
        let expected = self.under_way && epoch == self.next;
        if expected {
            self.under_way = false;
            self.next = self.next.next();
        }
        expected
    }

    fn is_past(&self, epoch: Epoch) -> bool {
        epoch < self.next || (self.under_way && epoch == self.next)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::{KeyGroup, KeyGroupId, SplitId};

    const A: TaskManagerId = TaskManagerId(Uuid::from_u128(1));
    const B: TaskManagerId = TaskManagerId(Uuid::from_u128(2));
    const C: TaskManagerId = TaskManagerId(Uuid::from_u128(3));

    fn plan() -> Plan {
        let group = |stage, group| KeyGroupId { stage: Stage(stage), group: KeyGroup(group) };
        Plan {
            members: BTreeMap::new(),
            splits: BTreeMap::from([(SplitId(0), A), (SplitId(1), B)]),
            key_groups: BTreeMap::from([(group(0, 0), C), (group(1, 0), A)]),
        }
    }

    fn barrier(epoch: u64) -> Barrier {
        Barrier { epoch: Epoch(epoch), watermark: EventTime(7) }
    }

    #[test]
    fn an_epoch_is_complete_with_every_barrier_and_after_the_one_before() {
        let mut gather = Gather::new(Stage(0), &plan(), Epoch(4));
        gather.barrier(B, barrier(5));
        gather.barrier(B, barrier(6));
        gather.arrived(A, Epoch(5), "a1").unwrap();
        gather.arrived(C, Epoch(5), "not a sender").unwrap();
        gather.barrier(C, barrier(5));
        assert_eq!(gather.complete(), Ok(None));
        gather.arrived(A, Epoch(6), "a3").unwrap();
        gather.arrived(A, Epoch(5), "a2").unwrap();
        gather.barrier(A, barrier(6));
        assert_eq!(gather.complete(), Ok(None));
        gather.barrier(A, barrier(5));
        let complete = Complete { epoch: Epoch(5), watermark: EventTime(7), payloads: vec!["a1", "a2"] };
        assert_eq!(gather.complete(), Ok(Some(complete)));
        assert_eq!(gather.complete(), Ok(None));
        assert!(!gather.processed(Epoch(6)));
        assert!(gather.processed(Epoch(5)));
        assert!(!gather.processed(Epoch(5)));
        assert_eq!(gather.complete().unwrap().map(|c| c.payloads), Some(vec!["a3"]));
    }

    #[test]
    fn the_order_of_links_changes_nothing() {
        let gathered = |order: &[(TaskManagerId, &'static str)]| {
            let mut gather = Gather::new(Stage(0), &plan(), Epoch(0));
            for (from, payload) in order {
                gather.arrived(*from, Epoch(1), *payload).unwrap();
            }
            gather.barrier(A, barrier(1));
            gather.barrier(B, barrier(1));
            gather.complete().unwrap().unwrap().payloads
        };
        assert_eq!(gathered(&[(A, "a1"), (B, "b1"), (A, "a2")]), ["a1", "a2", "b1"]);
        assert_eq!(gathered(&[(B, "b1"), (A, "a1"), (A, "a2")]), ["a1", "a2", "b1"]);
    }

    #[test]
    fn a_link_that_breaks_its_promise_is_found() {
        let mut gather = Gather::new(Stage(0), &plan(), Epoch(0));
        gather.barrier(A, barrier(1));
        assert!(gather.arrived(A, Epoch(1), ()).is_err());
        gather.barrier(B, Barrier { epoch: Epoch(1), watermark: EventTime(8) });
        assert!(gather.complete().is_err());
    }

    #[test]
    fn a_later_stage_is_fed_by_the_hosts_of_the_one_before() {
        let mut gather = Gather::new(Stage(1), &plan(), Epoch(0));
        gather.barrier(C, barrier(1));
        let complete: Option<Complete<()>> = gather.complete().unwrap();
        assert_eq!(complete.map(|c| c.epoch), Some(Epoch(1)));
    }

    #[test]
    fn nobody_feeds_a_stage_without_splits() {
        let mut gather: Gather<()> = Gather::new(Stage(0), &Plan::default(), Epoch(0));
        assert_eq!(gather.complete(), Ok(None));
    }
}
