use super::*;

/// State up to 4 with p = 3, cuts up to 8 are sealed.
fn replaying() -> Rig {
    let mut rig = Rig::new();
    rig.prepare(5);
    let restore = || Restore::Snapshot(snapshot(4, 3));
    let out = rig.deploy(deployment(5, 4, 8, [(X, restore(), 4), (Y, restore(), 4)]));
    assert!(has(&out, |c| matches!(c, Command::TakeOver { create: false, .. })));
    rig.all_restored();
    rig
}

fn verdict(out: &[Order]) -> Option<Verdict> {
    reports(out).into_iter().find_map(|r| if let Report::TakenOver { verdict, .. } = r { Some(verdict) } else { None })
}

/// Key groups that skip the epoch, and those that are muted per target.
type Withheld = (BTreeSet<KeyGroupId>, BTreeMap<TargetId, BTreeSet<KeyGroupId>>);

fn processing(out: &[Order]) -> Option<Withheld> {
    out.iter().find_map(|c| {
        if let Command::Process { skip, muted, .. } = c { Some((skip.clone(), muted.clone())) } else { None }
    })
}

#[test]
fn a_ledger_at_p_or_inside_the_replay_is_consistent() {
    for x in [3, 5, 8] {
        let mut rig = replaying();
        assert_eq!(verdict(&rig.taken_over(A, rows(5, x, 3))), Some(Verdict::Consistent));
    }
}

#[test]
fn a_ledger_behind_p_or_without_the_row_went_back() {
    let mut rig = replaying();
    let readings = BTreeMap::from([(X, mark(1)), (Y, mark(3))]);
    assert_eq!(verdict(&rig.taken_over(A, rows(5, 1, 3))), Some(Verdict::Behind { readings }));
    let readings = BTreeMap::from([(X, mark(3)), (Y, Mark::NOTHING)]);
    let missing = BTreeMap::from([(X, row(5, mark(3))), (Y, None)]);
    let out = rig.taken_over(B, missing);
    assert_eq!(verdict(&out), Some(Verdict::Behind { readings }));
    assert!(!reports(&out).iter().any(|r| matches!(r, Report::Ready { .. })));
    assert!(!processes(&rig.arrive(5)));
    // Both stay copies; which of them may be used is the JobManager's to say, from the marks.
    assert_eq!(
        copies(&rig.prepare(6)).map(|c| c[&X].clone()),
        Some(Copy { epoch: Epoch(4), marks: BTreeMap::from([(A, mark(3)), (B, mark(3))]) })
    );
}

#[test]
fn a_ledger_of_another_history_is_ahead() {
    let other = |epoch| Mark { epoch: Epoch(epoch), hash: CutHash(1) };
    // Not in the replay; at p with another hash; in the replay with another hash; in the state, which says otherwise.
    for found in [mark(9), other(3), other(6), mark(4)] {
        let mut rig = replaying();
        let ledger = BTreeMap::from([(X, row(5, found)), (Y, row(5, mark(3)))]);
        let ahead = Verdict::Ahead { key_group: X, found };
        assert_eq!(verdict(&rig.taken_over(A, ledger)), Some(ahead), "{found:?}");
    }
}

#[test]
fn what_the_state_holds_already_is_no_replay_for_it() {
    let mut rig = Rig::new();
    rig.prepare(5);
    let restore = |epoch| Restore::Snapshot(snapshot(epoch, 3));
    rig.deploy(deployment(5, 4, 8, [(X, restore(4), 4), (Y, restore(6), 6)]));
    // Y has epoch 5 and says that it made no rows there; X is about to replay it.
    assert_eq!(verdict(&rig.taken_over(A, rows(5, 5, 3))), Some(Verdict::Consistent));
    assert_eq!(verdict(&rig.taken_over(B, rows(5, 3, 5))), Some(Verdict::Ahead { key_group: Y, found: mark(5) }));
}

#[test]
fn a_ledger_of_a_newer_attempt_ends_everything_here() {
    let mut rig = replaying();
    let out = rig.taken_over(A, rows(6, 3, 3));
    assert!(matches!(failures(&out).as_slice(), [Failure::Retry { .. }]));
    assert!(has(&out, |c| matches!(c, Command::Drop { .. })));
    assert!(has(&out, |c| matches!(c, Command::StopSource { .. })));
    assert_eq!(copies(&rig.prepare(6)), Some(BTreeMap::new()));
}

#[test]
fn replay_is_muted_per_target_and_key_group_up_to_its_own_ledger() {
    let mut rig = replaying();
    rig.taken_over(A, rows(5, 6, 3));
    rig.taken_over(B, rows(5, 3, 5));
    let muted = |a: &[KeyGroupId], b: &[KeyGroupId]| {
        let set = |ids: &[KeyGroupId]| ids.iter().copied().collect::<BTreeSet<_>>();
        let muted = BTreeMap::from([(A, set(a)), (B, set(b))]);
        Some((BTreeSet::new(), muted.into_iter().filter(|(_, ids)| !ids.is_empty()).collect()))
    };
    assert_eq!(processing(&rig.arrive(5)), muted(&[X], &[Y]));
    rig.processed(5, &[(A, &[Y]), (B, &[X])]);
    assert_eq!(processing(&rig.arrive(6)), muted(&[X], &[]));
    rig.processed(6, &[]);
    assert_eq!(processing(&rig.arrive(7)), muted(&[], &[]));
}

#[test]
fn a_guard_starts_from_what_the_takeover_raised() {
    let mut rig = replaying();
    rig.taken_over(A, rows(5, 6, 3));
    rig.taken_over(B, rows(5, 3, 3));
    rig.arrive(5);
    let out = rig.processed(5, &[(A, &[Y])]);
    // The replay is sealed already.
    assert_eq!(transactions(&out), [(vec![(Y, 3, 5)], vec![5])]);
    rig.outcome(A, Outcome::Committed);
    rig.arrive(6);
    rig.processed(6, &[]);
    rig.arrive(7);
    assert_eq!(transactions(&rig.processed(7, &[(A, &[X, Y])])), [(vec![(X, 6, 7), (Y, 5, 7)], vec![7])]);
}

#[test]
fn a_key_group_that_has_the_epoch_does_not_see_it_again() {
    let mut rig = Rig::new();
    rig.prepare(5);
    let restore = |epoch| Restore::Snapshot(snapshot(epoch, 3));
    rig.deploy(deployment(5, 4, 8, [(X, restore(4), 4), (Y, restore(5), 5)]));
    rig.all_restored();
    rig.taken_over(A, rows(5, 3, 3));
    let out = rig.taken_over(B, rows(5, 3, 3));
    assert_eq!(committed(&out), [(4, 200)]);
    assert_eq!(processing(&rig.arrive(5)), Some((BTreeSet::from([Y]), BTreeMap::new())));
    // Even if the store counted it twice, the history would not.
    let out = rig.processed(5, &[(A, &[X])]);
    assert_eq!(transactions(&out), [(vec![(X, 3, 5)], vec![5])]);
    assert_eq!(committed(&rig.outcome(A, Outcome::Committed)), [(5, 201)]);
    assert_eq!(processing(&rig.arrive(6)), Some((BTreeSet::new(), BTreeMap::new())));
}

#[test]
fn a_copy_inside_the_muted_range_keeps_its_true_marks() {
    let mut rig = replaying();
    rig.taken_over(A, rows(5, 7, 7));
    rig.taken_over(B, rows(5, 3, 3));
    rig.arrive(5);
    let muted = BTreeMap::from([(A, BTreeSet::from([X]))]);
    rig.processed_as(5, Processed { outputs: BTreeMap::new(), muted, counters: BTreeMap::new() });
    let marks = |p| BTreeMap::from([(A, mark(p)), (B, mark(3))]);
    let copies = copies(&rig.prepare(6)).unwrap();
    assert_eq!(copies[&X], Copy { epoch: Epoch(5), marks: marks(5) });
    assert_eq!(copies[&Y], Copy { epoch: Epoch(5), marks: marks(3) });
}

#[test]
fn a_takeover_that_fails_is_tried_again_after_growing_pauses() {
    let mut rig = Rig::new();
    rig.prepare(1);
    rig.deploy(first(1));
    rig.all_restored();
    rig.taken_over(B, rows(1, 0, 0));
    let takes = |out: &[Order]| has(out, |c| matches!(c, Command::TakeOver { target: A, create: true, .. }));
    assert!(!takes(&rig.lose(A)));
    assert!(!takes(&rig.after(9)));
    assert!(takes(&rig.after(1)));
    rig.on(Event::TargetRefused { job: JOB, attempt: Attempt(1), target: A, reason: "lock timeout".into() });
    assert!(!takes(&rig.after(19)));
    assert!(takes(&rig.after(1)));
    assert_eq!(rig.worker.view()[0].deployed.as_ref().map(|d| d.writers[0].tries), Some(2));
    let out = rig.taken_over(A, rows(1, 0, 0));
    assert!(reports(&out).contains(&Report::Ready { job: JOB, attempt: Attempt(1) }));
}

#[test]
fn what_only_a_person_can_mend_fails_the_job_with_its_text() {
    let mut rig = replaying();
    let reason = "CREATE TABLE vitals (...)".to_owned();
    let out = rig.on(Event::TargetFailed { job: JOB, attempt: Attempt(5), target: A, reason: reason.clone() });
    assert_eq!(failures(&out), [Failure::Fatal { reason }]);
}
