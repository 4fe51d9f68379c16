use super::*;

const C: CheckpointId = CheckpointId(7);

fn take(rig: &mut Rig, epoch: u64) -> Vec<Order> {
    let (job, attempt) = (JOB, rig.attempt);
    rig.instruct(Instruction::TakeCheckpoint { job, attempt, checkpoint: C, epoch: Epoch(epoch) })
}

fn stored(rig: &mut Rig, key_group: KeyGroupId, snapshot: &Snapshot) -> Vec<Order> {
    let (job, attempt, snapshot) = (JOB, rig.attempt, snapshot.clone());
    rig.on(Event::SnapshotStored { job, attempt, checkpoint: C, key_group, snapshot })
}

fn refused(out: &[Order]) -> bool {
    reports(out).iter().any(|r| matches!(r, Report::CheckpointFailed { checkpoint: C, .. }))
}

fn taken(out: &[Order]) -> Vec<KeyGroupId> {
    let taken = |r| if let Report::SnapshotTaken { key_group, .. } = r { Some(key_group) } else { None };
    reports(out).into_iter().filter_map(taken).collect()
}

fn reads(out: &[Order], of: TargetId) -> bool {
    has(out, |c| matches!(c, Command::ReadLedger { target, .. } if *target == of))
}

/// Epochs 1 to 3 are committed here.
fn three() -> Rig {
    let mut rig = Rig::ready();
    for epoch in 1..=3 {
        rig.write(epoch);
        rig.outcome(A, Outcome::Committed);
    }
    rig
}

#[test]
fn a_snapshot_is_of_exactly_the_epoch_asked_for() {
    let mut rig = three();
    let out = take(&mut rig, 2);
    let part = |written| (BTreeMap::from([(A, mark(2)), (B, mark(0))]), counters(written));
    let key_groups = BTreeMap::from([(X, part(2)), (Y, part(4))]);
    let (job, attempt, epoch) = (JOB, Attempt(1), Epoch(2));
    assert!(out.contains(&Command::Snapshot { job, attempt, checkpoint: C, epoch, key_groups }));
}

#[test]
fn only_what_is_committed_here_may_be_in_a_checkpoint() {
    let mut rig = three();
    rig.write(4);
    assert!(refused(&take(&mut rig, 4)));
    rig.outcome(A, Outcome::Committed);
    assert!(!refused(&take(&mut rig, 4)));
}

#[test]
fn what_is_settled_beyond_the_epoch_refuses() {
    let mut rig = three();
    rig.instruct(Instruction::Progress { job: JOB, attempt: Attempt(1), committed: Epoch(3) });
    let out = take(&mut rig, 2);
    assert!(refused(&out));
    assert!(!has(&out, |c| matches!(c, Command::Snapshot { .. })));
}

#[test]
fn a_snapshot_counts_once_every_ledger_was_read_again() {
    let mut rig = three();
    take(&mut rig, 3);
    assert_eq!(stored(&mut rig, X, &snapshot(3, 3)), []);
    // Not of this checkpoint.
    let other = Event::SnapshotStored {
        job: JOB,
        attempt: Attempt(1),
        checkpoint: CheckpointId(6),
        key_group: Y,
        snapshot: snapshot(3, 3),
    };
    assert_eq!(rig.on(other), []);
    let out = stored(&mut rig, Y, &snapshot(3, 3));
    assert!(reads(&out, A) && reads(&out, B));
    assert_eq!(taken(&rig.read(A, 1, rows(1, 3, 3))), []);
    assert_eq!(taken(&rig.read(B, 1, rows(1, 0, 0))), [X, Y]);
}

#[test]
fn a_database_that_went_back_meanwhile_is_found_before_the_checkpoint_counts() {
    let mut rig = three();
    take(&mut rig, 3);
    stored(&mut rig, X, &snapshot(3, 3));
    stored(&mut rig, Y, &snapshot(3, 3));
    rig.read(B, 1, rows(1, 0, 0));
    let out = rig.read(A, 1, rows(1, 3, 1));
    assert_eq!(taken(&out), []);
    assert!(matches!(failures(&out).as_slice(), [Failure::WentBack { target: A, .. }]));
}

#[test]
fn a_reading_waits_for_the_transaction_and_survives_a_lost_connection() {
    let mut rig = three();
    take(&mut rig, 3);
    stored(&mut rig, X, &snapshot(3, 3));
    rig.write(4);
    assert!(!reads(&stored(&mut rig, Y, &snapshot(3, 3)), A));
    rig.read(B, 1, rows(1, 0, 0));
    assert!(reads(&rig.outcome(A, Outcome::Committed), A));
    assert!(registers(&rig.lose(A)));
    let out = rig.read(A, 2, rows(1, 4, 4));
    assert_eq!(taken(&out), []);
    assert!(reads(&out, A));
    // An answer of the lost connection does not count.
    assert_eq!(taken(&rig.read(A, 1, rows(1, 4, 4))), []);
    assert_eq!(taken(&rig.read(A, 2, rows(1, 4, 4))), [X, Y]);
}

#[test]
fn a_failed_snapshot_ends_the_checkpoint_and_not_the_job() {
    let mut rig = three();
    take(&mut rig, 3);
    let reason = "storage is down".to_owned();
    let failed = Event::SnapshotFailed { job: JOB, attempt: Attempt(1), checkpoint: C, reason };
    let out = rig.on(failed.clone());
    assert!(refused(&out));
    assert_eq!(failures(&out), []);
    assert_eq!(rig.on(failed), []);
    stored(&mut rig, X, &snapshot(3, 3));
    assert_eq!(stored(&mut rig, Y, &snapshot(3, 3)), []);
    assert_eq!(transactions(&rig.write(4)).len(), 1);
}

#[test]
fn a_checkpoint_ends_with_its_attempt() {
    let mut rig = three();
    take(&mut rig, 3);
    stored(&mut rig, X, &snapshot(3, 3));
    rig.prepare(2);
    rig.attempt = Attempt(1);
    assert_eq!(stored(&mut rig, Y, &snapshot(3, 3)), []);
}

#[test]
fn a_copy_can_be_snapshotted_at_an_epoch_before_it_resumed() {
    let mut rig = three();
    rig.prepare(2);
    // g was still 2 as far as the JobManager knows; Y is restored from there.
    let mut plan = deployment(2, 2, 3, [(X, Restore::Copy, 3), (Y, Restore::Snapshot(snapshot(2, 2)), 2)]);
    plan.committed = Epoch(2);
    rig.deploy(plan);
    rig.all_restored();
    rig.taken_over(A, rows(2, 3, 3));
    // The snapshot claims rows up to 2 in both targets, the copy none in B.
    rig.taken_over(B, rows(2, 0, 2));
    let out = take(&mut rig, 2);
    let key_groups = BTreeMap::from([
        (X, (BTreeMap::from([(A, mark(2)), (B, mark(0))]), counters(2))),
        (Y, (BTreeMap::from([(A, mark(2)), (B, mark(2))]), counters(100))),
    ]);
    let (job, attempt, epoch) = (JOB, Attempt(2), Epoch(2));
    assert!(out.contains(&Command::Snapshot { job, attempt, checkpoint: C, epoch, key_groups }), "{out:?}");
}

#[test]
fn a_complete_checkpoint_is_told_to_the_store() {
    let mut rig = three();
    let done = |attempt| Instruction::CheckpointDone { job: JOB, attempt: Attempt(attempt), checkpoint: C };
    assert_eq!(rig.instruct(done(0)), []);
    let told = Command::CheckpointDone { job: JOB, attempt: Attempt(1), checkpoint: C };
    assert_eq!(rig.instruct(done(1)), [told]);
}
