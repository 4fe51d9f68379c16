//! What a changed job finds of the time before it.

use uuid::Uuid;

use super::*;
use crate::control_log::LogState;
use crate::cut::CutHash;
use crate::ids::{Position, SplitId, WallTime};
use crate::ledger::Mark;
use crate::message::SnapshotFile;
use crate::record::Record;

const JOB: JobId = JobId(Uuid::from_u128(1));

fn id(stage: u8, group: u16) -> KeyGroupId {
    KeyGroupId { stage: Stage(stage), group: KeyGroup(group) }
}

fn mark(epoch: u64) -> Mark {
    Mark { epoch: Epoch(epoch), hash: CutHash(u128::from(epoch)) }
}

fn definition(fingerprint: u64, stages: u8, targets: &[&str]) -> JobDefinition {
    JobDefinition {
        id: JOB,
        name: "vitals".into(),
        submission: "{}".into(),
        fingerprint,
        key_groups: 2,
        stages,
        targets: targets.iter().map(|&name| name.to_owned()).collect(),
        delay: 0,
        idle_after: 0,
        has_windows: false,
    }
}

/// Two targets and one stage.
fn submitted() -> LogState {
    let part = SplitCut { end: Position(10), count: 0, hash: 0, greatest: Some(EventTime(5)) };
    let start = Cut {
        epoch: Epoch::ZERO,
        clock: WallTime(0),
        splits: [(SplitId(0), part)].into(),
        watermark: EventTime(4),
        idle: [SplitId(0)].into(),
        last: false,
        lookups: None,
        previous: CutHash(0),
    };
    let mut state = LogState::default();
    state.apply(&Record::Submitted { definition: definition(1, 1, &["a", "b"]), start }).unwrap();
    state
}

fn seal(state: &mut LogState) {
    let newest = state.jobs[&JOB].newest_cut();
    let cut = Cut { epoch: newest.epoch.next(), previous: newest.hash(), ..newest.clone() };
    state.apply(&Record::Cut { job: JOB, cut }).unwrap();
}

/// Of the newest epoch. `marks`: of each key group and target, which all write in turn.
fn checkpoint(state: &mut LogState, marks: impl Fn(KeyGroupId, TargetId) -> Option<Mark>) {
    let job = &state.jobs[&JOB];
    let checkpoint = CheckpointId(job.checkpoints.last().map_or(1, |c| c.manifest.checkpoint.0 + 1));
    let epoch = job.newest_cut().epoch;
    let targets: Vec<TargetId> = (0..).map(TargetId).zip(&job.definition.targets).map(|(target, _)| target).collect();
    let snapshot = |id: KeyGroupId| {
        let marks = targets.iter().filter_map(|target| Some((*target, marks(id, *target)?))).collect();
        let object = format!("{id}/{checkpoint}");
        let files = vec![SnapshotFile { name: "1.sst".into(), object, bytes: 1, checksum: 0 }];
        let counters = Counters { late: 1 + u64::from(id.stage.0), ..Counters::default() };
        (id, Snapshot { epoch, marks, counters, files })
    };
    let stages = 0..job.definition.stages;
    let snapshots = stages.flat_map(|stage| [id(stage, 0), id(stage, 1)]).map(snapshot).collect();
    let manifest = Manifest { checkpoint, epoch, taken: WallTime(9), snapshots };
    state.apply(&Record::CheckpointDone { job: JOB, manifest }).unwrap();
}

fn change(state: &mut LogState, change: Change) {
    state.apply(&Record::Changing { job: JOB, change: Box::new(change) }).unwrap();
    state.apply(&Record::Changed { job: JOB }).unwrap();
}

fn to(definition: JobDefinition) -> Change {
    Change { definition, source: None, time: false, lookups: None, before: BTreeMap::new() }
}

fn snapshots(state: &LogState) -> &BTreeMap<KeyGroupId, Snapshot> {
    &state.jobs[&JOB].checkpoints.last().unwrap().manifest.snapshots
}

#[test]
fn targets_keep_their_marks_by_name_also_those_that_are_away_for_a_while() {
    let mut state = submitted();
    seal(&mut state);
    checkpoint(&mut state, |_, _| None);
    seal(&mut state);
    checkpoint(&mut state, |id, target| (id.group.0 == 0 || target.0 == 1).then(|| mark(1 + u64::from(target.0))));
    change(&mut state, to(definition(2, 1, &["c", "b"])));
    let found = snapshots(&state);
    assert_eq!(found[&id(0, 0)].marks, [(TargetId(1), mark(2))].into());
    assert_eq!(found[&id(0, 1)].marks, [(TargetId(1), mark(2))].into());
    assert!(found.values().all(|snapshot| snapshot.epoch == Epoch(3) && snapshot.files.len() == 1));
    assert_eq!(state.jobs[&JOB].unused_marks["a"], [(id(0, 0), mark(1))].into());
    // Nothing is written to c, and a comes back.
    seal(&mut state);
    checkpoint(&mut state, |_, target| (target.0 == 1).then(|| mark(4)));
    change(&mut state, to(definition(3, 1, &["b", "a"])));
    let found = snapshots(&state);
    assert_eq!(found[&id(0, 0)].marks, [(TargetId(0), mark(4)), (TargetId(1), mark(1))].into());
    assert_eq!(found[&id(0, 1)].marks, [(TargetId(0), mark(4))].into());
    assert!(state.jobs[&JOB].unused_marks.is_empty());
    let eras: Vec<_> =
        state.jobs[&JOB].eras().map(|era| (era.definition.fingerprint, era.since.0, era.until)).collect();
    assert_eq!(eras, [(3, 5, None), (2, 3, Some(Epoch(4))), (1, 0, Some(Epoch(2)))]);
}

#[test]
fn a_stage_comes_goes_and_comes_again() {
    let mut state = submitted();
    seal(&mut state);
    checkpoint(&mut state, |_, _| Some(mark(1)));
    change(&mut state, to(definition(2, 2, &["a"])));
    let found = snapshots(&state);
    assert_eq!(found.len(), 4);
    let new = &found[&id(1, 1)];
    assert!(new.marks.is_empty() && new.files.is_empty() && new.counters == Counters::default());
    seal(&mut state);
    checkpoint(&mut state, |_, _| Some(mark(3)));
    assert_eq!(state.jobs[&JOB].checkpoints.last().unwrap().manifest.counters().late, 6);
    change(&mut state, to(definition(3, 1, &["a"])));
    assert_eq!(snapshots(&state).len(), 2);
    // What became of records is not forgotten.
    assert_eq!(state.jobs[&JOB].checkpoints.last().unwrap().manifest.counters().late, 6);
    seal(&mut state);
    checkpoint(&mut state, |_, _| Some(mark(5)));
    change(&mut state, to(definition(4, 2, &["b", "a"])));
    let found = snapshots(&state);
    assert_eq!(found[&id(0, 0)].marks, [(TargetId(0), mark(1)), (TargetId(1), mark(5))].into());
    assert_eq!(found[&id(1, 0)].marks, [(TargetId(1), mark(3))].into());
    assert!(found[&id(1, 0)].files.is_empty());
}

#[test]
fn nothing_is_changed_before_all_is_in_a_checkpoint_or_unasked() {
    let mut state = submitted();
    assert_eq!(state.apply(&Record::Changed { job: JOB }), Err(FoldError::ChangeTooEarly { job: JOB }));
    let wanted = to(definition(2, 1, &["a"]));
    state.apply(&Record::Changing { job: JOB, change: Box::new(wanted) }).unwrap();
    assert!(state.jobs[&JOB].is_draining());
    seal(&mut state);
    assert_eq!(state.apply(&Record::Changed { job: JOB }), Err(FoldError::ChangeTooEarly { job: JOB }));
    checkpoint(&mut state, |_, _| Some(mark(1)));
    state.apply(&Record::Changed { job: JOB }).unwrap();
    assert_eq!((state.jobs[&JOB].definition.fingerprint, state.jobs[&JOB].is_draining()), (2, false));
}

#[test]
fn a_job_without_an_epoch_changes_without_a_checkpoint() {
    let mut state = submitted();
    change(&mut state, to(definition(2, 1, &["a"])));
    let job = &state.jobs[&JOB];
    assert_eq!((job.since, job.newest_cut().epoch, job.past.len()), (Epoch(1), Epoch(1), 0));
    assert!(snapshots(&state).values().all(|snapshot| snapshot.files.is_empty() && snapshot.marks.is_empty()));
    assert_eq!(job.newest_cut().watermark, EventTime(4));
}

#[test]
fn other_event_times_and_sources_begin_anew() {
    let mut state = submitted();
    seal(&mut state);
    checkpoint(&mut state, |_, _| Some(mark(1)));
    let time = Change { time: true, ..to(definition(2, 1, &["a"])) };
    change(&mut state, time);
    let cut = state.jobs[&JOB].newest_cut();
    assert_eq!((cut.watermark, cut.splits[&SplitId(0)].greatest), (EventTime::MIN, None));
    assert!(cut.splits[&SplitId(0)].end == Position(10) && cut.idle.is_empty());
    let source = Some([(SplitId(4), Position(1))].into());
    let source = Change { source, ..to(definition(3, 1, &["a"])) };
    change(&mut state, source);
    let job = &state.jobs[&JOB];
    assert_eq!(job.newest_cut().splits.keys().collect::<Vec<_>>(), [&SplitId(4)]);
    assert_eq!((job.cuts.len(), job.checkpoints.len(), job.past.len()), (1, 1, 0));
}

#[test]
fn behind_the_end_of_its_input_a_job_goes_on_with_the_time_of_its_records() {
    let mut state = submitted();
    let newest = state.jobs[&JOB].newest_cut();
    let cut = Cut { epoch: Epoch(1), previous: newest.hash(), watermark: EventTime::MAX, ..newest.clone() };
    state.apply(&Record::Cut { job: JOB, cut }).unwrap();
    let found = Record::FilesFound { job: JOB, files: vec![], gone: vec![], complete: true };
    state.apply(&found).unwrap();
    state.apply(&Record::Stopping { job: JOB }).unwrap();
    checkpoint(&mut state, |_, _| None);
    change(&mut state, to(definition(2, 1, &["a"])));
    let job = &state.jobs[&JOB];
    assert_eq!((job.newest_cut().watermark, &job.status), (EventTime(5), &JobStatus::Running));
    assert!(!job.files.complete);
}

#[test]
fn a_past_without_the_checkpoint_that_ends_it_is_forgotten_with_its_cuts() {
    let mut state = submitted();
    seal(&mut state);
    checkpoint(&mut state, |_, _| Some(mark(1)));
    seal(&mut state);
    checkpoint(&mut state, |_, _| Some(mark(2)));
    change(&mut state, to(definition(2, 1, &["a"])));
    seal(&mut state);
    checkpoint(&mut state, |_, _| Some(mark(4)));
    let first = state.jobs[&JOB].checkpoints[0].manifest.checkpoint;
    state.apply(&Record::Pinned { job: JOB, checkpoint: first }).unwrap();
    let of_change = state.jobs[&JOB].checkpoints[2].manifest.checkpoint;
    assert_eq!(state.jobs[&JOB].past.len(), 1);
    state.apply(&Record::Collect { job: JOB, checkpoints: vec![of_change] }).unwrap();
    let job = &state.jobs[&JOB];
    assert!(job.past.is_empty() && job.cuts.keys().all(|epoch| *epoch >= job.since));
    assert!(job.checkpoints.iter().any(|c| c.pinned), "it stays, of no use as a way back");
}
