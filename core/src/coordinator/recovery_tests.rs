//! Each outcome of the decision, and what holds of all of them.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::cut::{CutHash, SplitCut};
use crate::ids::{EventTime, JobId, KeyGroup, Position, SplitId, Stage, WallTime};
use crate::message::Counters;
use crate::mistake::Mistake;
use crate::record::{JobDefinition, Manifest};

const TARGET: TargetId = TargetId(0);

fn at(group: u16) -> (String, KeyGroupId) {
    ("warehouse".to_owned(), id(group))
}

fn id(group: u16) -> KeyGroupId {
    KeyGroupId { stage: Stage(0), group: KeyGroup(group) }
}

fn tm(n: u128) -> TaskManagerId {
    TaskManagerId(Uuid::from_u128(n))
}

fn mark(epoch: u64) -> Mark {
    Mark { epoch: Epoch(epoch), hash: CutHash(u128::from(epoch)) }
}

fn plan(owners: &[u128]) -> Plan {
    let key_groups = (0..).zip(owners).map(|(group, owner)| (id(group), tm(*owner))).collect();
    Plan { key_groups, ..Plan::default() }
}

fn cuts(from: u64, to: u64) -> BTreeMap<Epoch, Cut> {
    let part = SplitCut { end: Position(from as i64 * 100), count: 0, hash: 0, greatest: None };
    let cut = |epoch| Cut {
        epoch: Epoch(epoch),
        clock: WallTime(0),
        splits: [(SplitId(0), part)].into(),
        watermark: EventTime::MIN,
        idle: BTreeSet::new(),
        last: false,
        lookups: None,
        previous: CutHash(0),
    };
    (from..=to).map(|epoch| (Epoch(epoch), cut(epoch))).collect()
}

/// A checkpoint of two key groups with its *p* one epoch before it.
fn checkpoint(number: u64, epoch: u64) -> RetainedCheckpoint {
    let snapshot = |group| {
        let marks = [(TARGET, mark(epoch - 1))].into();
        (id(group), Snapshot { epoch: Epoch(epoch), marks, counters: Counters::default(), files: vec![] })
    };
    let snapshots = (0..2).map(snapshot).collect();
    let manifest = Manifest { checkpoint: CheckpointId(number), epoch: Epoch(epoch), taken: WallTime(0), snapshots };
    RetainedCheckpoint { manifest, pinned: false }
}

fn copies(of: &[(u128, u16, u64)]) -> Prepared {
    let mut copies = Prepared::new();
    for (owner, group, epoch) in of {
        let copy = Copy { epoch: Epoch(*epoch), marks: [(TARGET, mark(*epoch))].into() };
        copies.entry(tm(*owner)).or_default().insert(id(*group), copy);
    }
    copies
}

/// Two key groups on two TaskManagers, checkpoints at 10 and 20, sealed up to 30.
struct Case {
    before: Plan,
    plan: Plan,
    stages: u8,
    /// Of the definition.
    since: u64,
    until: Option<u64>,
    cuts: BTreeMap<Epoch, Cut>,
    checkpoints: Vec<RetainedCheckpoint>,
    bad: BTreeSet<CheckpointId>,
    readings: Readings,
    copies: Prepared,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            before: plan(&[1, 2]),
            plan: plan(&[1, 2]),
            stages: 1,
            since: 0,
            until: None,
            cuts: cuts(10, 30),
            checkpoints: vec![checkpoint(1, 10), checkpoint(2, 20)],
            bad: BTreeSet::new(),
            readings: Readings::new(),
            copies: copies(&[(1, 0, 25), (2, 1, 27)]),
        }
    }
}

impl Case {
    fn decide(&self) -> Decision {
        let definition = JobDefinition {
            id: JobId(Uuid::from_u128(7)),
            name: "vitals".into(),
            submission: String::new(),
            fingerprint: 1,
            key_groups: 2,
            stages: self.stages,
            targets: vec!["warehouse".into()],
            delay: 0,
            idle_after: 0,
            has_windows: false,
        };
        decide(&Facts {
            plan: &self.plan,
            before: Some(&self.before),
            era: Era { definition: &definition, since: Epoch(self.since), until: self.until.map(Epoch) },
            cuts: &self.cuts,
            checkpoints: &self.checkpoints,
            bad: &self.bad,
            readings: &self.readings,
            copies: &self.copies,
            mistake: Mistake::None,
        })
    }

    /// Where the two key groups resume, and `k`ept, from checkpoint number or `f`resh.
    #[track_caller]
    fn resumes(&self, expected: [(u64, &str); 2]) {
        let Decision::Resume(recovery) = self.decide() else { panic!("{:?}", self.decide()) };
        for (group, (epoch, origin)) in (0..).zip(expected) {
            assert_eq!(recovery.resume[&id(group)], Epoch(epoch), "key group {group}");
            let found = match &recovery.origins[&id(group)] {
                Origin::Kept(_) => "k".to_owned(),
                Origin::Restored(checkpoint, _) => checkpoint.to_string(),
                Origin::Fresh => "f".to_owned(),
            };
            assert_eq!(found, origin, "key group {group}");
        }
    }
}

#[test]
fn who_stays_keeps() {
    Case::default().resumes([(25, "k"), (27, "k")]);
}

#[test]
fn who_moves_or_is_lost_is_restored() {
    Case { plan: plan(&[1, 1]), ..Case::default() }.resumes([(25, "k"), (20, "2")]);
    Case { copies: copies(&[(1, 0, 25)]), ..Case::default() }.resumes([(25, "k"), (20, "2")]);
    // A copy on a host that the plan before did not give the key group to is an old one, whatever its epoch.
    Case { copies: copies(&[(1, 0, 25), (1, 1, 29)]), plan: plan(&[1, 1]), ..Case::default() }
        .resumes([(25, "k"), (20, "2")]);
}

#[test]
fn an_old_copy_does_not_count() {
    Case { copies: copies(&[(1, 0, 19), (2, 1, 20)]), ..Case::default() }.resumes([(20, "2"), (20, "k")]);
    // Nor one of an epoch that was never sealed.
    Case { copies: copies(&[(1, 0, 31), (2, 1, 27)]), ..Case::default() }.resumes([(20, "2"), (27, "k")]);
}

#[test]
fn a_bad_checkpoint_means_the_one_before_and_then_nothing() {
    let bad = |n: &[u64]| n.iter().map(|n| CheckpointId(*n)).collect();
    let lost = Case { copies: Prepared::new(), ..Case::default() };
    Case { bad: bad(&[2]), copies: Prepared::new(), ..Case::default() }.resumes([(10, "1"), (10, "1")]);
    let none = Case { bad: bad(&[1, 2]), ..lost };
    let Decision::Lost { reason } = none.decide() else { panic!() };
    assert!(reason.contains("key group 0/0") && reason.contains("split 0 before 1000"), "{reason}");
}

#[test]
fn a_database_that_went_back_takes_copies_and_checkpoints_along() {
    let readings = [(at(0), mark(15)), (at(1), mark(19))].into();
    Case { readings, ..Case::default() }.resumes([(10, "1"), (20, "2")]);
    let readings = [(at(0), mark(25))].into();
    Case { readings, ..Case::default() }.resumes([(25, "k"), (27, "k")]);
    let readings = [(at(1), mark(8))].into();
    assert!(
        matches!(Case { readings, ..Case::default() }.decide(), Decision::Lost { reason } if reason.contains("0/1"))
    );
}

#[test]
fn without_a_checkpoint_a_job_begins_with_its_first_cut_while_that_is_there() {
    let begin = || Case { checkpoints: vec![], copies: copies(&[(1, 0, 3)]), cuts: cuts(0, 5), ..Case::default() };
    begin().resumes([(3, "k"), (0, "f")]);
    let readings = [(at(0), Mark::NOTHING)].into();
    Case { readings, ..begin() }.resumes([(0, "f"), (0, "f")]);
    assert!(matches!(Case { cuts: cuts(1, 5), ..begin() }.decide(), Decision::Lost { .. }));
}

#[test]
fn stages_resume_together() {
    Case { stages: 2, ..Case::default() }.resumes([(25, "k"), (25, "k")]);
    Case { stages: 2, copies: copies(&[(1, 0, 25)]), ..Case::default() }.resumes([(20, "2"), (20, "2")]);
    let readings = [(at(0), mark(15))].into();
    Case { stages: 2, readings, ..Case::default() }.resumes([(10, "1"), (10, "1")]);
}

#[test]
fn nothing_of_another_definition_counts() {
    let since = || Case { since: 20, ..Case::default() };
    since().resumes([(25, "k"), (27, "k")]);
    Case { copies: Prepared::new(), ..since() }.resumes([(20, "2"), (20, "2")]);
    Case { bad: [CheckpointId(2)].into(), copies: Prepared::new(), ..Case::default() }.resumes([(10, "1"), (10, "1")]);
    assert!(matches!(
        Case { bad: [CheckpointId(2)].into(), copies: Prepared::new(), ..since() }.decide(),
        Decision::Lost { .. }
    ));
    let readings = || Readings::from([(at(0), mark(15)), (at(1), mark(15))]);
    assert!(matches!(Case { readings: readings(), ..since() }.decide(), Decision::Lost { .. }));
    // Under the one before, copies of what followed are none.
    Case { readings: readings(), until: Some(19), ..Case::default() }.resumes([(10, "1"), (10, "1")]);
    Case { until: Some(26), ..Case::default() }.resumes([(25, "k"), (20, "2")]);
    // Nor is the beginning of the job that of its second definition.
    let early = Case { checkpoints: vec![], copies: Prepared::new(), cuts: cuts(0, 5), ..Case::default() };
    assert!(matches!(Case { since: 3, ..early }.decide(), Decision::Lost { .. }));
}

#[test]
fn a_reading_is_of_the_target_of_that_name() {
    let readings = Readings::from([(("another".to_owned(), id(0)), mark(1))]);
    Case { readings, ..Case::default() }.resumes([(25, "k"), (27, "k")]);
}

proptest! {
    #[test]
    fn whatever_is_known_nobody_resumes_where_the_replay_or_the_ledger_cannot_follow(
        owners in prop::collection::vec(1..4_u128, 2),
        before in prop::collection::vec(1..4_u128, 2),
        held in prop::collection::vec((1..4_u128, 0..2_u16, 0..35_u64), 0..6),
        low in prop::option::of((0..2_u16, 0..30_u64)),
        bad in prop::collection::btree_set(1..3_u64, 0..2),
        stages in 1..3_u8,
        first in 0..15_u64,
    ) {
        let case = Case {
            plan: plan(&owners),
            before: plan(&before),
            copies: copies(&held),
            readings: low.iter().map(|(group, epoch)| (at(*group), mark(*epoch))).collect(),
            bad: bad.into_iter().map(CheckpointId).collect(),
            stages,
            cuts: cuts(first, 30),
            ..Case::default()
        };
        if let Decision::Resume(recovery) = case.decide() {
            prop_assert_eq!(recovery.resume.len(), 2);
            for (key_group, origin) in &recovery.origins {
                let epoch = recovery.resume[key_group];
                prop_assert!(case.cuts.contains_key(&epoch) && epoch <= origin.epoch());
                if let Some(reading) = case.readings.get(&at(key_group.group.0)) {
                    prop_assert!(origin.mark(TARGET).epoch <= reading.epoch);
                }
                match origin {
                    Origin::Kept(copy) => {
                        let owner = case.plan.key_groups[key_group];
                        prop_assert_eq!(case.before.key_groups[key_group], owner);
                        prop_assert_eq!(&case.copies[&owner][key_group], copy);
                    }
                    Origin::Restored(checkpoint, _) => prop_assert!(!case.bad.contains(checkpoint)),
                    Origin::Fresh => prop_assert_eq!(epoch, Epoch::ZERO),
                }
            }
            let epochs: BTreeSet<_> = recovery.resume.values().collect();
            prop_assert!(stages == 1 || epochs.len() == 1);
        }
    }
}
