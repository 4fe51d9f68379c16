use super::*;

#[test]
fn nothing_is_committed_before_its_seal_and_nothing_out_of_order() {
    let mut rig = Rig::ready();
    rig.arrive(1);
    assert_eq!(transactions(&rig.processed(1, &[(A, &[X])])), []);
    // The seal of 2 comes before 2 is processed, and 1 has to be first.
    assert_eq!(transactions(&rig.seal(2, 0)), []);
    rig.arrive(2);
    assert_eq!(transactions(&rig.processed(2, &[(A, &[Y])])), []);
    assert_eq!(transactions(&rig.seal(1, 0)), [(vec![(X, 0, 1), (Y, 0, 2)], vec![1, 2])]);
}

#[test]
fn a_key_group_goes_from_p_to_its_last_epoch_with_rows() {
    let mut rig = Rig::ready();
    rig.write(1);
    // While that runs, three epochs wait.
    for (epoch, ids) in [(2, &[X][..]), (3, &[X, Y]), (4, &[X])] {
        rig.arrive(epoch);
        rig.processed_with(epoch, &[(A, ids)], 40);
        assert_eq!(transactions(&rig.seal(epoch, 0)), []);
    }
    let out = rig.outcome(A, Outcome::Committed);
    assert_eq!(committed(&out), [(1, 3)]);
    // 40 + 40 fit into 100 bytes, a third does not.
    assert_eq!(transactions(&out), [(vec![(X, 1, 3), (Y, 1, 3)], vec![2, 3])]);
    let out = rig.outcome(A, Outcome::Committed);
    assert_eq!(transactions(&out), [(vec![(X, 3, 4)], vec![4])]);
    assert_eq!(committed(&out), [(3, 9)]);
}

#[test]
fn one_epoch_goes_whatever_its_size() {
    let mut rig = Rig::ready();
    rig.arrive(1);
    rig.processed_with(1, &[(A, &[X])], 1_000_000);
    assert_eq!(transactions(&rig.seal(1, 0)).len(), 1);
}

#[test]
fn an_epoch_without_rows_needs_no_transaction() {
    let mut rig = Rig::ready();
    rig.arrive(1);
    rig.processed(1, &[]);
    let out = rig.seal(1, 0);
    assert_eq!((transactions(&out), committed(&out)), (vec![], vec![(1, 3)]));
}

#[test]
fn an_epoch_counts_once_every_target_has_it() {
    let mut rig = Rig::ready();
    rig.arrive(1);
    rig.processed(1, &[(A, &[X]), (B, &[X])]);
    rig.seal(1, 0);
    rig.arrive(2);
    rig.processed(2, &[(A, &[X])]);
    rig.seal(2, 0);
    rig.outcome(A, Outcome::Committed);
    assert_eq!(committed(&rig.outcome(A, Outcome::Committed)), []);
    assert_eq!(committed(&rig.outcome(B, Outcome::Committed)), [(2, 6)]);
}

#[test]
fn state_is_settled_up_to_what_is_committed_everywhere_and_here() {
    let settled =
        |out: &[Order]| out.iter().find_map(|c| if let Command::Settle { upto, .. } = c { Some(upto.0) } else { None });
    let mut rig = Rig::ready();
    rig.write(1);
    assert_eq!(settled(&rig.outcome(A, Outcome::Committed)), None);
    // g is the JobManager's to say, and never lets anything through that is not committed here.
    rig.arrive(2);
    rig.processed(2, &[(A, &[X])]);
    let (job, attempt) = (JOB, Attempt(1));
    let out = rig.instruct(Instruction::Progress { job, attempt, committed: Epoch(2) });
    assert_eq!(settled(&out), Some(1));
    assert!(out.contains(&Command::Committed { job, attempt, committed: Epoch(2) }));
    rig.seal(2, 2);
    assert_eq!(settled(&rig.outcome(A, Outcome::Committed)), Some(2));
}

#[test]
fn a_lost_answer_whose_commit_came_through_is_not_repeated() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.write(2);
    assert!(registers(&rig.lose(A)));
    let out = rig.read(A, 2, rows(1, 1, 1));
    assert_eq!(committed(&out), [(1, 3)]);
    assert_eq!(transactions(&out), [(vec![(X, 1, 2), (Y, 1, 2)], vec![2])]);
}

#[test]
fn a_lost_answer_whose_commit_did_not_come_through_is_repeated() {
    let mut rig = Rig::ready();
    rig.write(1);
    assert!(registers(&rig.lose(A)));
    assert_eq!(transactions(&rig.read(A, 2, rows(1, 0, 0))), [(vec![(X, 0, 1), (Y, 0, 1)], vec![1])]);
}

#[test]
fn a_missed_guard_of_one_key_group_is_judged_by_the_rows_of_all() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.outcome(A, Outcome::Committed);
    rig.arrive(2);
    rig.processed(2, &[(A, &[X])]);
    assert_eq!(transactions(&rig.seal(2, 1)), [(vec![(X, 1, 2)], vec![2])]);
    let out = rig.outcome(A, Outcome::GuardMissed { rows: rows(1, 2, 1) });
    assert_eq!((committed(&out), failures(&out)), (vec![(2, 6)], vec![]));
}

#[test]
fn a_missed_guard_finds_the_own_commit() {
    let mut rig = Rig::ready();
    rig.write(1);
    let out = rig.outcome(A, Outcome::GuardMissed { rows: rows(1, 1, 1) });
    assert_eq!((committed(&out), failures(&out)), (vec![(1, 3)], vec![]));
}

#[test]
fn a_missed_guard_whose_rows_are_as_they_should_be_is_tried_again_later() {
    let mut rig = Rig::ready();
    rig.write(1);
    assert_eq!(rig.outcome(A, Outcome::GuardMissed { rows: rows(1, 0, 0) }), []);
    assert_eq!(transactions(&rig.after(10)).len(), 1);
}

#[test]
fn a_zombie_stops_everything() {
    for missed in [true, false] {
        let mut rig = Rig::ready();
        rig.write(1);
        let out = if missed {
            rig.outcome(A, Outcome::GuardMissed { rows: rows(2, 1, 1) })
        } else {
            rig.lose(A);
            rig.read(A, 2, rows(2, 0, 0))
        };
        assert!(matches!(failures(&out).as_slice(), [Failure::Retry { .. }]));
        for target in [A, B] {
            assert!(out.contains(&Command::Disconnect { job: JOB, target }));
        }
        assert!(out.contains(&Command::Drop { job: JOB, key_groups: BTreeSet::from([X, Y]) }));
        assert_eq!(rig.arrive(2), []);
    }
}

#[test]
fn a_database_that_went_back_is_found_also_by_an_idle_connection() {
    let readings = [
        (rows(1, 0, 2), BTreeMap::from([(X, mark(0)), (Y, mark(2))])),
        (BTreeMap::from([(X, row(1, mark(2)))]), BTreeMap::from([(X, mark(2)), (Y, mark(0))])),
        // An older attempt than the one that took over.
        (rows(0, 2, 2), BTreeMap::from([(X, mark(2)), (Y, mark(2))])),
    ];
    for (ledger, readings) in readings {
        let mut rig = Rig::ready();
        for epoch in [1, 2] {
            rig.write(epoch);
            rig.outcome(A, Outcome::Committed);
        }
        assert!(registers(&rig.lose(A)));
        let out = rig.read(A, 2, ledger);
        assert_eq!(failures(&out), [Failure::WentBack { target: A, readings }]);
        assert_eq!(rig.write(3), []);
    }
}

#[test]
fn a_ledger_that_this_job_has_not_written_is_fatal() {
    let other = Mark { epoch: Epoch(1), hash: CutHash(5) };
    for found in [mark(7), other] {
        let mut rig = Rig::ready();
        rig.write(1);
        rig.lose(A);
        let out = rig.read(A, 2, BTreeMap::from([(X, row(1, found)), (Y, row(1, mark(0)))]));
        let failed = failures(&out);
        assert!(
            matches!(failed.as_slice(), [Failure::Fatal { reason }] if reason.contains("ahead of this control log")),
            "{failed:?}"
        );
    }
}

#[test]
fn half_a_transaction_is_fatal_and_no_copy_claims_it() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.lose(A);
    let out = rig.read(A, 2, rows(1, 1, 0));
    assert!(matches!(failures(&out).as_slice(), [Failure::Fatal { .. }]));
    assert_eq!(copies(&rig.prepare(2)).map(|c| c[&Y].epoch), Some(Epoch(0)));
}

#[test]
fn a_reading_counts_only_for_its_own_connection() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.lose(A);
    // From before the loss: it cannot know how the transaction ended.
    assert_eq!(rig.read(A, 1, rows(1, 0, 0)), []);
    assert_eq!(committed(&rig.read(A, 2, rows(1, 1, 1))), [(1, 3)]);
}

#[test]
fn a_connection_lost_twice_is_looked_at_twice() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.outcome(A, Outcome::Committed);
    assert!(registers(&rig.lose(A)));
    // The idle loss and the answer of what found no connection are told apart by nobody.
    assert!(!registers(&rig.lose(A)));
    let again = rig.after(20);
    assert!(registers(&again));
    rig.read(A, 2, rows(1, 1, 1));
    rig.write(2);
    let out = rig.read(A, 3, rows(1, 0, 0));
    assert!(matches!(failures(&out).as_slice(), [Failure::WentBack { .. }]));
}

#[test]
fn registration_is_tried_at_once_and_then_after_growing_pauses() {
    let mut rig = Rig::ready();
    rig.write(1);
    assert!(registers(&rig.lose(A)));
    let mut pause = 20;
    for _ in 0..8 {
        assert!(!registers(&rig.lose(A)));
        assert!(!registers(&rig.after(pause - 1)));
        assert!(registers(&rig.after(1)));
        // 64 times the first pause of 10 ms.
        pause = (pause * 2).min(640);
    }
    rig.read(A, 2, rows(1, 0, 0));
    rig.outcome(A, Outcome::Committed);
    assert!(registers(&rig.lose(A)));
}

#[test]
fn a_rollback_is_tried_again_and_shown_meanwhile() {
    let mut rig = Rig::ready();
    rig.write(1);
    let deadlock = || Outcome::RolledBack { reason: "deadlock detected".into() };
    assert_eq!(rig.outcome(A, deadlock()), []);
    let view = rig.worker.view();
    let writer = &view[0].deployed.as_ref().unwrap().writers[0];
    assert_eq!((writer.tries, writer.trouble.as_deref()), (1, Some("deadlock detected")));
    assert_eq!(transactions(&rig.after(9)), []);
    assert_eq!(transactions(&rig.after(1)).len(), 1);
    rig.outcome(A, deadlock());
    assert_eq!(transactions(&rig.after(19)), []);
    assert_eq!(transactions(&rig.after(1)).len(), 1);
    assert_eq!(committed(&rig.outcome(A, Outcome::Committed)), [(1, 3)]);
}

#[test]
fn a_refusal_for_good_fails_the_job() {
    let mut rig = Rig::ready();
    rig.write(1);
    let reason = "permission denied for table vitals".to_owned();
    let out = rig.outcome(A, Outcome::Failed { reason: reason.clone() });
    assert_eq!(failures(&out), [Failure::Fatal { reason }]);
}

#[test]
fn a_transaction_refused_without_an_outcome_is_settled_by_a_new_connection() {
    let mut rig = Rig::ready();
    rig.write(1);
    rig.on(Event::TargetRefused { job: JOB, attempt: Attempt(1), target: A, reason: "timeout".into() });
    assert!(registers(&rig.after(10)));
    assert_eq!(committed(&rig.read(A, 2, rows(1, 1, 1))), [(1, 3)]);
}
