//! What each record makes of the state, and which do not fit.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::cut::{CutHash, SplitCut};
use crate::ids::{EventTime, KeyGroup, KeyGroupId, Position, SplitId, Stage, WallTime};
use crate::message::{Counters, Snapshot};
use crate::placement::Plan;

const JOB: JobId = JobId(Uuid::from_u128(1));

fn cut(before: Option<&Cut>, splits: &[(u32, i64, u64)]) -> Cut {
    let part = |(split, end, count): &(u32, i64, u64)| {
        (SplitId(*split), SplitCut { end: Position(*end), count: *count, hash: 0, greatest: None })
    };
    Cut {
        epoch: before.map_or(Epoch::ZERO, |cut| cut.epoch.next()),
        clock: WallTime(0),
        splits: splits.iter().map(part).collect(),
        watermark: EventTime::MIN,
        idle: BTreeSet::new(),
        last: false,
        lookups: None,
        previous: before.map_or(CutHash(0), Cut::hash),
    }
}

fn submitted() -> LogState {
    let definition = JobDefinition {
        id: JOB,
        name: "vitals".into(),
        submission: "{}".into(),
        fingerprint: 3,
        key_groups: 1,
        stages: 1,
        targets: vec![],
        delay: 0,
        idle_after: 0,
        has_windows: false,
    };
    let mut state = LogState::default();
    state.apply(&Record::Submitted { definition, start: cut(None, &[(0, 10, 0)]) }).unwrap();
    state
}

fn seal(state: &mut LogState, splits: &[(u32, i64, u64)]) -> Epoch {
    let cut = cut(Some(state.jobs[&JOB].newest_cut()), splits);
    let epoch = cut.epoch;
    state.apply(&Record::Cut { job: JOB, cut }).unwrap();
    epoch
}

fn sealed(state: &mut LogState, upto: u64) {
    while state.jobs[&JOB].newest_cut().epoch.0 < upto {
        seal(state, &[(0, 10, 1)]);
    }
}

fn done(number: u64, epoch: u64) -> Record {
    let key_group = KeyGroupId { stage: Stage(0), group: KeyGroup(0) };
    let marks = BTreeMap::new();
    let snapshot = Snapshot { epoch: Epoch(epoch), marks, counters: Counters::default(), files: vec![] };
    let snapshots = [(key_group, snapshot)].into();
    let manifest = Manifest { checkpoint: CheckpointId(number), epoch: Epoch(epoch), taken: WallTime(0), snapshots };
    Record::CheckpointDone { job: JOB, manifest }
}

fn collect(checkpoints: &[u64]) -> Record {
    Record::Collect { job: JOB, checkpoints: checkpoints.iter().map(|n| CheckpointId(*n)).collect() }
}

fn oldest(state: &LogState) -> u64 {
    state.jobs[&JOB].oldest_cut().epoch.0
}

#[test]
fn cuts_are_one_history() {
    let mut state = submitted();
    let first = seal(&mut state, &[(0, 12, 2)]);
    let before = state.clone();
    let again = cut(None, &[(0, 12, 2)]);
    let error = state.apply(&Record::Cut { job: JOB, cut: again });
    assert!(matches!(error, Err(FoldError::CutOutOfOrder { newest, .. }) if newest == first));
    let mut other = cut(Some(state.jobs[&JOB].newest_cut()), &[(0, 13, 1)]);
    other.previous = CutHash(1);
    assert!(matches!(state.apply(&Record::Cut { job: JOB, cut: other }), Err(FoldError::OtherHistory { .. })));
    let unknown = JobId(Uuid::from_u128(9));
    assert_eq!(state.apply(&Record::Stopping { job: unknown }), Err(FoldError::UnknownJob(unknown)));
    assert_eq!(state, before);
    seal(&mut state, &[(0, 20, 5)]);
    assert_eq!(state.jobs[&JOB].read[&SplitId(0)], 7);
}

#[test]
fn attempts_grow_and_plans_are_theirs() {
    let mut state = submitted();
    let attempt = |n| Record::Attempt { job: JOB, attempt: Attempt(n), reason: String::new() };
    let plan = |n| Record::Plan { job: JOB, attempt: Attempt(n), plan: Plan::default(), resume: BTreeMap::new() };
    state.apply(&attempt(2)).unwrap();
    assert!(matches!(state.apply(&attempt(2)), Err(FoldError::AttemptOutOfOrder { .. })));
    assert!(matches!(state.apply(&plan(1)), Err(FoldError::AttemptOutOfOrder { .. })));
    state.apply(&plan(2)).unwrap();
    assert_eq!(state.jobs[&JOB].plan.as_ref().unwrap().0, Attempt(2));
}

#[test]
fn cuts_go_with_the_checkpoints_that_need_them() {
    let mut state = submitted();
    sealed(&mut state, 30);
    assert_eq!(oldest(&state), 0, "the beginning is needed until there is a checkpoint");
    state.apply(&done(1, 10)).unwrap();
    assert_eq!(oldest(&state), 10);
    assert!(matches!(state.apply(&done(2, 9)), Err(FoldError::UnknownCheckpoint { .. })));
    state.apply(&done(2, 20)).unwrap();
    state.apply(&done(3, 25)).unwrap();
    state.apply(&Record::Pinned { job: JOB, checkpoint: CheckpointId(1) }).unwrap();
    state.apply(&collect(&[2])).unwrap();
    assert_eq!(oldest(&state), 10, "pinned");
    state.apply(&collect(&[1])).unwrap();
    assert_eq!((oldest(&state), state.jobs[&JOB].cuts.len()), (25, 6));
}

#[test]
fn a_pinned_checkpoint_keeps_its_cuts_for_so_long_only() {
    let mut state = submitted();
    sealed(&mut state, 5);
    state.apply(&done(1, 5)).unwrap();
    state.apply(&Record::Pinned { job: JOB, checkpoint: CheckpointId(1) }).unwrap();
    let many = CUTS_FOR_PINNED as u64 + 4;
    sealed(&mut state, many);
    state.apply(&done(2, many)).unwrap();
    assert_eq!(oldest(&state), 5);
    sealed(&mut state, many + 20);
    state.apply(&done(3, many + 10)).unwrap();
    assert_eq!(oldest(&state), many);
    assert_eq!(state.jobs[&JOB].checkpoints.len(), 3, "its files stay");
}

#[test]
fn splits_that_joined_are_known_until_the_oldest_cut_knows_them() {
    let mut state = submitted();
    let joined = |split, at| Record::SplitsJoined { job: JOB, splits: [(SplitId(split), Position(at))].into() };
    state.apply(&joined(0, 77)).unwrap();
    state.apply(&joined(4, 5)).unwrap();
    state.apply(&joined(4, 6)).unwrap();
    assert_eq!(state.jobs[&JOB].joined, [(SplitId(4), Position(5))].into());
    seal(&mut state, &[(0, 12, 2), (4, 6, 1)]);
    seal(&mut state, &[(0, 12, 0), (4, 6, 0)]);
    assert_eq!(state.jobs[&JOB].joined.len(), 1, "a replay may still begin before it");
    state.apply(&done(1, 1)).unwrap();
    assert!(state.jobs[&JOB].joined.is_empty() && state.jobs[&JOB].knows(SplitId(4)));
}

#[test]
fn a_status_is_what_was_said_last_but_stopping_is_for_the_running() {
    let mut state = submitted();
    sealed(&mut state, 3);
    state.apply(&Record::Stopping { job: JOB }).unwrap();
    assert_eq!((&state.jobs[&JOB].status, state.jobs[&JOB].stopping_after), (&JobStatus::Stopping, Epoch(3)));
    state.apply(&Record::Failed { job: JOB, reason: "x".into() }).unwrap();
    state.apply(&Record::Stopping { job: JOB }).unwrap();
    assert_eq!(state.jobs[&JOB].status, JobStatus::Failed { reason: "x".into() });
    state.apply(&Record::Resumed { job: JOB }).unwrap();
    assert_eq!(state.jobs[&JOB].status, JobStatus::Running);
}

#[test]
fn a_base_stands_for_everything_before_it() {
    let mut state = submitted();
    sealed(&mut state, 9);
    state.apply(&done(1, 4)).unwrap();
    state.apply_object(17, &[Record::Leader { nonce: Uuid::nil(), name: "a".into() }]).unwrap();
    let json = serde_json::to_vec(&Record::Base(Box::new(state.clone()))).unwrap();
    let mut read = LogState::default();
    read.apply(&serde_json::from_slice(&json).unwrap()).unwrap();
    assert_eq!(read, state);
    assert_eq!((read.leader.as_str(), read.claims), ("a", BTreeSet::from([17])));
}

proptest! {
    #[test]
    fn no_sequence_leaves_a_gap_or_loses_what_a_checkpoint_needs(
        steps in prop::collection::vec((0..5_u8, 1..8_u64, 0..40_u64), 0..60)
    ) {
        let mut state = submitted();
        let mut next = 1;
        for (step, n, epoch) in steps {
            let newest = state.jobs[&JOB].newest_cut().epoch.0;
            let _refused = match step {
                0 | 1 => {
                    sealed(&mut state, newest + n);
                    Ok(())
                }
                2 => {
                    next += 1;
                    state.apply(&done(next, epoch.min(newest)))
                }
                3 => state.apply(&Record::Pinned { job: JOB, checkpoint: CheckpointId(n) }),
                _ => state.apply(&collect(&[n])),
            };
            let job = &state.jobs[&JOB];
            let epochs: Vec<u64> = job.cuts.keys().map(|epoch| epoch.0).collect();
            prop_assert_eq!(&epochs, &(epochs[0]..=job.newest_cut().epoch.0).collect::<Vec<_>>());
            for retained in &job.checkpoints {
                prop_assert!(job.cuts.contains_key(&retained.manifest.epoch));
            }
        }
    }
}
