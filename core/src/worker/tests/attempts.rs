use super::*;

#[test]
fn a_job_that_is_not_known_has_no_copies() {
    let mut rig = Rig::new();
    let out = rig.prepare(3);
    let prepared = Report::Prepared { job: JOB, attempt: Attempt(3), copies: BTreeMap::new() };
    assert_eq!(out, [Command::Report(prepared.clone())]);
    // The same once more, for a JobManager that missed the answer; an older one is not answered.
    assert_eq!(rig.instruct(Instruction::Prepare { job: JOB, attempt: Attempt(3) }), [Command::Report(prepared)]);
    assert_eq!(rig.instruct(Instruction::Prepare { job: JOB, attempt: Attempt(2) }), []);
}

#[test]
fn only_a_prepared_attempt_is_deployed() {
    let mut rig = Rig::new();
    assert_eq!(rig.deploy(first(1)), []);
    rig.prepare(2);
    assert_eq!(rig.deploy(first(1)), []);
    assert_eq!(rig.deploy(first(3)), []);
    let out = rig.deploy(first(2));
    let kinds: Vec<_> = out
        .iter()
        .map(|c| {
            let name = format!("{c:?}");
            name.split([' ', '(']).next().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(kinds, ["Restore", "Restore", "TakeOver", "TakeOver", "OpenLinks", "StartSource"]);
    assert!(has(&out, |c| matches!(c, Command::TakeOver { create: true, .. })));
    assert_eq!(rig.deploy(first(2)), []);
}

#[test]
fn nothing_is_processed_before_every_takeover_and_restore() {
    let mut rig = Rig::new();
    rig.prepare(1);
    rig.deploy(first(1));
    assert!(!processes(&rig.arrive(1)));
    assert!(!processes(&rig.restored(X)));
    assert!(!processes(&rig.taken_over(A, rows(1, 0, 0))));
    assert!(!processes(&rig.restored(Y)));
    let out = rig.taken_over(B, rows(1, 0, 0));
    assert!(processes(&out));
    let all = reports(&out);
    assert!(all.contains(&Report::Ready { job: JOB, attempt: Attempt(1) }));
    assert_eq!(committed(&out), [(0, 0)]);
    // Once.
    assert!(!reports(&rig.restored(X)).iter().any(|r| matches!(r, Report::Ready { .. })));
}

#[test]
fn data_of_the_prepared_attempt_is_kept_until_it_is_deployed() {
    let mut rig = Rig::new();
    rig.prepare(1);
    rig.arrive(1);
    rig.deploy(first(1));
    rig.all_restored();
    rig.taken_over(A, rows(1, 0, 0));
    assert!(processes(&rig.taken_over(B, rows(1, 0, 0))));
}

#[test]
fn data_of_any_other_attempt_is_dropped() {
    for other in [0, 2] {
        let mut rig = Rig::new();
        rig.prepare(1);
        rig.attempt = Attempt(other);
        rig.arrive(1);
        rig.attempt = Attempt(1);
        rig.deploy(first(1));
        rig.attempt = Attempt(other);
        rig.arrive(1);
        rig.attempt = Attempt(1);
        rig.all_restored();
        rig.taken_over(A, rows(1, 0, 0));
        assert!(!processes(&rig.taken_over(B, rows(1, 0, 0))));
    }
}

#[test]
fn more_early_data_than_is_kept_fails_the_attempt() {
    let mut rig = Rig::new();
    rig.prepare(1);
    for epoch in 1..2000 {
        rig.arrive(epoch);
    }
    let out = rig.deploy(first(1));
    assert!(matches!(failures(&out).as_slice(), [Failure::Retry { .. }]));
    assert_eq!(out.len(), 1);
}

#[test]
fn a_seal_of_another_attempt_commits_nothing() {
    for other in [0, 2] {
        let mut rig = Rig::ready();
        rig.arrive(1);
        rig.processed(1, &[(A, &[X])]);
        rig.attempt = Attempt(other);
        assert_eq!(rig.seal(1, 0), []);
        rig.attempt = Attempt(1);
        assert_eq!(transactions(&rig.seal(1, 0)), [(vec![(X, 0, 1)], vec![1])]);
    }
}

#[test]
fn prepare_stops_everything_and_takes_back_to_what_is_committed_everywhere() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.outcome(A, Outcome::Committed);
    // Processed, sealed, committed in one of two targets.
    rig.arrive(2);
    rig.processed(2, &[(A, &[X]), (B, &[X])]);
    rig.seal(2, 1);
    rig.outcome(A, Outcome::Committed);
    let out = rig.prepare(2);
    let back = BTreeMap::from([(X, Epoch(1)), (Y, Epoch(1))]);
    let copy = Copy { epoch: Epoch(1), marks: BTreeMap::from([(A, mark(1)), (B, mark(0))]) };
    assert_eq!(
        out,
        [
            Command::StopSource { job: JOB },
            Command::CloseLinks { job: JOB },
            // Target A is idle and stays.
            Command::Disconnect { job: JOB, target: B },
            Command::TakeBack { job: JOB, attempt: Attempt(2), key_groups: back },
            Command::Report(Report::Prepared {
                job: JOB,
                attempt: Attempt(2),
                copies: BTreeMap::from([(X, copy.clone()), (Y, copy)]),
            }),
        ]
    );
}

#[test]
fn prepare_waits_for_what_is_being_processed() {
    let mut rig = Rig::ready();
    assert!(processes(&rig.arrive(1)));
    let prepare = |attempt| Instruction::Prepare { job: JOB, attempt: Attempt(attempt) };
    assert!(!has(&rig.instruct(prepare(2)), |c| matches!(c, Command::TakeBack { .. })));
    assert_eq!(rig.instruct(prepare(3)), []);
    rig.attempt = Attempt(1);
    let out = rig.processed(1, &[(A, &[X])]);
    let key_groups = BTreeMap::from([(X, Epoch(0)), (Y, Epoch(0))]);
    assert_eq!(out, [Command::TakeBack { job: JOB, attempt: Attempt(3), key_groups }]);
    assert_eq!(rig.on(Event::TookBack { job: JOB, attempt: Attempt(2) }), []);
    let out = rig.on(Event::TookBack { job: JOB, attempt: Attempt(3) });
    assert_eq!(copies(&out).map(|c| c.len()), Some(2));
}

#[test]
fn a_copy_that_is_not_confirmed_yet_is_still_a_copy() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.outcome(A, Outcome::Committed);
    rig.prepare(2);
    let out = rig.deploy(deployment(2, 1, 1, [(X, Restore::Copy, 1), (Y, Restore::Snapshot(snapshot(1, 1)), 1)]));
    // Y is made anew, so what is here of it goes first.
    assert_eq!(out.first(), Some(&Command::Drop { job: JOB, key_groups: BTreeSet::from([Y]) }));
    let out = rig.prepare(3);
    assert_eq!(copies(&out).map(|c| c.into_keys().collect()), Some(vec![X]));
}

#[test]
fn a_copy_that_cannot_be_where_it_is_to_resume_is_refused() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.outcome(A, Outcome::Committed);
    rig.prepare(2);
    // It knows nothing of epoch 2.
    let out = rig.deploy(deployment(2, 1, 2, [(X, Restore::Copy, 2), (Y, Restore::Copy, 1)]));
    assert!(matches!(failures(&out).as_slice(), [Failure::Retry { .. }]));
}

#[test]
fn a_copy_goes_back_to_where_all_stages_resume() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.outcome(A, Outcome::Committed);
    rig.prepare(2);
    let out = rig.deploy(deployment(2, 0, 1, [(X, Restore::Copy, 0), (Y, Restore::Copy, 1)]));
    assert!(failures(&out).is_empty());
    let key_groups = BTreeMap::from([(X, Epoch(0)), (Y, Epoch(1))]);
    assert_eq!(out.first(), Some(&Command::TakeBack { job: JOB, attempt: Attempt(2), key_groups }));
}

#[test]
fn what_cannot_be_restored_fails_the_attempt_and_is_no_copy() {
    let failed =
        |retry| Event::RestoreFailed { job: JOB, attempt: Attempt(2), key_group: X, reason: "checksum".into(), retry };
    for retry in [true, false] {
        let mut rig = Rig::new();
        rig.prepare(2);
        let restore = || Restore::Snapshot(snapshot(4, 3));
        rig.deploy(deployment(2, 4, 6, [(X, restore(), 4), (Y, restore(), 4)]));
        rig.restored(Y);
        let out = rig.on(failed(retry));
        if retry {
            assert!(matches!(failures(&out).as_slice(), [Failure::Retry { .. }]));
        } else {
            let bad = Failure::BadSnapshot { key_group: X, epoch: Epoch(4), reason: "checksum".into() };
            assert_eq!(failures(&out), [bad]);
        }
        let copies = copies(&rig.prepare(3)).unwrap();
        assert_eq!(copies.get(&Y).map(|c| (c.epoch, c.marks[&A])), Some((Epoch(4), mark(3))));
        assert_eq!(copies.get(&X), None);
    }
}

#[test]
fn a_lost_link_is_told_once_and_what_is_sealed_is_committed_all_the_same() {
    let mut rig = Rig::ready();
    rig.arrive(1);
    let lost = || Event::LinkLost { job: JOB, attempt: Attempt(1), peer: PEER, reason: "reset".into() };
    assert!(matches!(failures(&rig.on(lost())).as_slice(), [Failure::Retry { .. }]));
    assert_eq!(failures(&rig.on(lost())), []);
    rig.processed(1, &[(A, &[X])]);
    assert_eq!(transactions(&rig.seal(1, 0)).len(), 1);
    assert_eq!(committed(&rig.outcome(A, Outcome::Committed)), [(1, 3)]);
}

#[test]
fn after_a_failure_nothing_is_done_until_the_next_attempt() {
    let mut rig = Rig::ready();
    rig.write(1);
    let reason = "count differs".to_owned();
    let out = rig.on(Event::SourceFailed { job: JOB, attempt: Attempt(1), fatal: true, reason: reason.clone() });
    assert_eq!(failures(&out), [Failure::Fatal { reason }]);
    assert_eq!(rig.outcome(A, Outcome::Committed), []);
    assert_eq!(rig.arrive(2), []);
    assert_eq!(rig.after(1000), []);
    // The outcome that came in between does not count: the next takeover finds it.
    assert_eq!(copies(&rig.prepare(2)).map(|c| c[&X].epoch), Some(Epoch(0)));
}

#[test]
fn release_drops_everything_and_stays_a_fence() {
    let mut rig = Rig::ready();
    assert_eq!(rig.instruct(Instruction::Release { job: JOB, attempt: Attempt(0) }), []);
    let out = rig.instruct(Instruction::Release { job: JOB, attempt: Attempt(1) });
    assert_eq!(
        out,
        [
            Command::StopSource { job: JOB },
            Command::CloseLinks { job: JOB },
            Command::Disconnect { job: JOB, target: A },
            Command::Disconnect { job: JOB, target: B },
            Command::Drop { job: JOB, key_groups: BTreeSet::from([X, Y]) },
        ]
    );
    assert_eq!(rig.worker.view(), []);
    assert_eq!(rig.instruct(Instruction::Prepare { job: JOB, attempt: Attempt(1) }), []);
    assert_eq!(copies(&rig.prepare(2)), Some(BTreeMap::new()));
}

#[test]
fn connections_go_where_nothing_is_hosted_any_more() {
    let mut rig = Rig::ready();
    rig.prepare(2);
    let mut elsewhere = deployment(2, 0, 0, [(X, Restore::Fresh, 0), (Y, Restore::Fresh, 0)]);
    elsewhere.restore.clear();
    let out = rig.deploy(elsewhere);
    for target in [A, B] {
        assert!(out.contains(&Command::Disconnect { job: JOB, target }));
    }
    let all = reports(&out);
    assert!(all.contains(&Report::Ready { job: JOB, attempt: Attempt(2) }));
    // It has nothing to commit, so it holds nothing back.
    assert_eq!(committed(&rig.seal(1, 0)), [(1, 0)]);
}

#[test]
fn the_source_is_spoken_for_only_in_its_own_attempt() {
    let mut rig = Rig::ready();
    let waiting = |attempt| Event::SourceWaiting { job: JOB, attempt: Attempt(attempt), epoch: Epoch(1), full: true };
    let (job, attempt, epoch) = (JOB, Attempt(1), Epoch(1));
    assert_eq!(reports(&rig.on(waiting(1))), [Report::InputWaiting { job, attempt, epoch, full: true }]);
    assert_eq!(rig.on(waiting(0)), []);
    let opening = Opening { epoch, clock: WallTime(5), watermark: EventTime(4), lookups: None };
    let out = rig.instruct(Instruction::OpenCut { job, attempt, opening });
    assert_eq!(out, [Command::CloseEpoch { job, attempt, opening }]);
    assert_eq!(rig.instruct(Instruction::OpenCut { job, attempt: Attempt(2), opening }), []);
    let report = SplitReport { end: Position(3), count: 3, hash: 1, greatest: None };
    let splits = BTreeMap::from([(SplitId(0), report)]);
    let out = rig.on(Event::SourceClosed { job, attempt, epoch, splits: splits.clone() });
    assert_eq!(reports(&out), [Report::CutReported { job, attempt, epoch, splits }]);
}

/// A disk that cannot be read would else be kept for ever, though a checkpoint is there.
#[test]
fn what_cannot_be_processed_is_no_copy() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.arrive(2);
    let failed = Event::ProcessingFailed { job: JOB, attempt: Attempt(1), reason: "the disk".into() };
    assert!(matches!(failures(&rig.on(failed)).as_slice(), [Failure::Retry { .. }]));
    let prepared = Report::Prepared { job: JOB, attempt: Attempt(2), copies: BTreeMap::new() };
    assert!(reports(&rig.prepare(2)).contains(&prepared));
}
