//! A job's life: submit, epochs, savepoint, stop, cancel, resume.

use pulso_core::control_log::JobStatus;
use pulso_core::coordinator::{Answer, Call, Event, NewJob, PhaseView, Refusal};
use pulso_core::ids::{Epoch, EventTime, Position, SplitId};
use pulso_core::message::{Failure, Instruction, Report};

use crate::world::{World, definition, job_id, start};

pub(crate) fn running(task_managers: usize) -> World {
    let mut world = World::new(1, task_managers);
    let submit = world.call(Call::Submit(Box::new(NewJob {
        definition: definition(1, "vitals"),
        start: start(3),
        lookups: None,
    })));
    world.until("running", |w| w.checker.durable.jobs.contains_key(&job_id(1)) && w.job(1).phase == PhaseView::Running);
    assert_eq!(world.answers[&submit], Answer::Submitted { job: job_id(1), known: false });
    world
}

pub(crate) fn commits(world: &mut World, epochs: u64) {
    let before = world.job(1).epochs.committed;
    world.until("epochs are committed", |w| w.job(1).epochs.committed.0 >= before.0 + epochs);
}

#[test]
fn a_submitted_job_runs_and_counts() {
    let mut world = running(2);
    commits(&mut world, 20);
    world.input = u64::MAX;
    world.run(200);
    let job = world.job(1);
    assert_eq!(job.epochs.sealed, job.epochs.committed);
    assert_eq!(job.records_read, job.splits.values().map(|s| s.position.0 as u64 - 100).sum::<u64>());
    assert_eq!(job.counters.written, 2 * job.epochs.committed.0);
    assert_eq!(job.attempts.len(), 1);
    assert!(job.attempts[0].ready.is_some());
    assert_eq!(world.checker.durable.jobs[&job_id(1)].read.values().sum::<u64>(), job.records_read);
}

#[test]
fn no_epoch_without_input_but_for_windows() {
    let mut world = World::new(3, 2);
    world.input = u64::MAX;
    world.call(Call::Submit(Box::new(NewJob { definition: definition(1, "vitals"), start: start(3), lookups: None })));
    world.run(2_000);
    assert_eq!(world.job(1).epochs.sealed, Epoch::ZERO);
    world.input = 2;
    world.until("the watermark moves", |w| w.job(1).watermark > EventTime::MIN);
    world.input = u64::MAX;
    world.run(2_000);
    let sealed = world.job(1).epochs.sealed;
    let cuts = &world.checker.durable.jobs[&job_id(1)].cuts;
    // The last one closes windows and moves nothing.
    assert_eq!(cuts[&sealed].count(), 0);
    assert_eq!(cuts[&sealed].watermark, cuts[&Epoch(sealed.0 - 1)].watermark);
    world.run(2_000);
    assert_eq!(world.job(1).epochs.sealed, sealed);
}

#[test]
fn epochs_with_input_keep_their_distance_unless_full() {
    let mut world = running(1);
    world.input = u64::MAX;
    world.run(200);
    let waiting = |w: &World, full| {
        let job = w.job(1);
        Report::InputWaiting { job: job.id, attempt: job.attempt, epoch: job.epochs.sealed.next(), full }
    };
    let opened = |w: &World, mark| w.count(mark, |i| matches!(i, Instruction::OpenCut { .. }));
    let session = world.task_managers[0].session.unwrap();
    let mark = world.sent.len();
    // Nothing was opened for long, so the first record does not wait.
    let report = waiting(&world, false);
    world.report(0, session, report);
    assert_eq!(opened(&world, mark), 1);
    let sealed = world.job(1).epochs.sealed;
    while world.job(1).epochs.sealed == sealed {
        world.step();
    }
    let begun = world.now;
    let report = waiting(&world, false);
    world.report(0, session, report);
    assert_eq!(opened(&world, mark), 1);
    assert!(world.idle().is_some_and(|idle| idle.as_micros() as u64 <= 10_000));
    world.now = begun + 10_000;
    world.event(Event::Tick);
    assert_eq!(opened(&world, mark), 2);
    let sealed = world.job(1).epochs.sealed;
    while world.job(1).epochs.sealed == sealed {
        world.step();
    }
    let report = waiting(&world, true);
    world.report(0, session, report);
    assert_eq!(opened(&world, mark), 3);
}

#[test]
fn a_target_that_is_down_holds_the_job_at_the_window() {
    let mut world = running(2);
    commits(&mut world, 3);
    world.task_managers[0].commits = false;
    world.input = 1;
    world.run(3_000);
    let job = world.job(1);
    assert_eq!(job.epochs.sealed.0, job.epochs.committed.0 + 4);
    assert_eq!(job.attempts.len(), 1, "waiting is no failure");
    world.task_managers[0].commits = true;
    commits(&mut world, 10);
}

#[test]
fn a_split_goes_idle_and_the_watermark_moves() {
    let mut world = World::new(3, 2);
    let definition = pulso_core::record::JobDefinition { idle_after: 500_000, ..definition(1, "vitals") };
    world.call(Call::Submit(Box::new(NewJob { definition, start: start(3), lookups: None })));
    world.input = u64::MAX;
    world.run(300);
    assert!(world.job(1).splits.values().all(|split| !split.idle));
    world.run(1_000);
    assert!(world.job(1).splits.values().all(|split| split.idle));
    let sealed = world.job(1).epochs.sealed;
    world.run(2_000);
    assert_eq!(world.job(1).epochs.sealed, sealed, "idle is said once");
    world.input = 1;
    world.until("woken", |w| w.job(1).splits.values().any(|split| !split.idle));
}

#[test]
fn a_file_submitted_twice_is_known_and_a_name_is_taken_once() {
    let mut world = World::new(1, 1);
    world.log_takes = u64::MAX;
    let twice = [
        world.call(Call::Submit(Box::new(NewJob {
            definition: definition(1, "vitals"),
            start: start(3),
            lookups: None,
        }))),
        world.call(Call::Submit(Box::new(NewJob {
            definition: definition(1, "vitals"),
            start: start(3),
            lookups: None,
        }))),
    ];
    let other = world.call(Call::Submit(Box::new(NewJob {
        definition: definition(2, "vitals"),
        start: start(3),
        lookups: None,
    })));
    assert_eq!(world.answers.len(), 1, "nothing is known before it is durable");
    world.log_takes = 1;
    world.run(100);
    assert_eq!(
        twice.map(|t| world.answers[&t].clone()),
        [Answer::Submitted { job: job_id(1), known: false }, Answer::Submitted { job: job_id(1), known: true }]
    );
    assert_eq!(world.answers[&other], Answer::Refused(Refusal::NameTaken { job: job_id(1) }));
    let mut again = definition(3, "vitals");
    again.fingerprint = 1;
    let again = world.call(Call::Submit(Box::new(NewJob { definition: again, start: start(3), lookups: None })));
    assert_eq!(world.answers[&again], Answer::Submitted { job: job_id(1), known: true });
    assert_eq!(world.checker.durable.jobs.len(), 1);
}

#[test]
fn a_savepoint_is_pinned_and_outlives_the_others() {
    let mut world = running(2);
    commits(&mut world, 5);
    let savepoint = world.call(Call::Savepoint { job: job_id(1) });
    world.until("a savepoint", |w| w.answers.contains_key(&savepoint));
    let Answer::SavepointTaken { checkpoint, epoch } = world.answers[&savepoint] else { panic!() };
    for _ in 0..8 {
        commits(&mut world, 40);
    }
    let checkpoints = world.job(1).checkpoints;
    assert!(checkpoints.iter().any(|c| c.id == checkpoint && c.epoch == epoch && c.pinned));
    assert_eq!(checkpoints.iter().filter(|c| !c.pinned && c.taken.is_some()).count(), 3, "{checkpoints:#?}");
}

#[test]
fn a_savepoint_of_a_job_without_input_is_taken_too() {
    let mut world = World::new(1, 1);
    world.input = u64::MAX;
    world.call(Call::Submit(Box::new(NewJob { definition: definition(1, "vitals"), start: start(3), lookups: None })));
    world.run(100);
    let first = world.call(Call::Savepoint { job: job_id(1) });
    world.until("a savepoint", |w| w.answers.contains_key(&first));
    let second = world.call(Call::Savepoint { job: job_id(1) });
    world.until("another", |w| w.answers.contains_key(&second));
    assert_eq!(world.answers[&first], world.answers[&second], "nothing came between them");
}

#[test]
fn stop_drains_pins_and_finishes_and_resume_goes_on() {
    let mut world = running(2);
    commits(&mut world, 5);
    let stops = [world.call(Call::Stop { job: job_id(1) }), world.call(Call::Stop { job: job_id(1) })];
    world.until("stopped", |w| stops.iter().all(|stop| w.answers.contains_key(stop)));
    let Answer::Stopped { checkpoint, epoch } = world.answers[&stops[0]] else { panic!() };
    assert_eq!(world.answers[&stops[0]], world.answers[&stops[1]]);
    let job = world.job(1);
    assert_eq!((job.epochs.sealed, job.epochs.committed, job.phase), (epoch, epoch, PhaseView::Ended));
    assert!(job.checkpoints.iter().any(|c| c.id == checkpoint && c.pinned));
    world.run(100);
    assert!(world.task_managers.iter().all(|tm| tm.jobs.is_empty()), "released");
    let again = world.call(Call::Stop { job: job_id(1) });
    assert_eq!(world.answers[&again], world.answers[&stops[0]]);

    let resume = world.call(Call::Resume { job: job_id(1) });
    commits(&mut world, 5);
    assert_eq!(world.answers[&resume], Answer::Resumed);
    let stop = world.call(Call::Stop { job: job_id(1) });
    world.until("stopped", |w| w.answers.contains_key(&stop));
    let Answer::Stopped { epoch: later, .. } = world.answers[&stop] else { panic!() };
    assert!(later > epoch);
}

#[test]
fn a_second_stop_has_a_final_cut_of_its_own() {
    let mut world = running(1);
    commits(&mut world, 3);
    let mut ends = Vec::new();
    for _ in 0..2 {
        let stop = world.call(Call::Stop { job: job_id(1) });
        world.until("stopped", |w| w.answers.contains_key(&stop));
        let Answer::Stopped { epoch, .. } = world.answers[&stop] else { panic!() };
        ends.push(epoch);
        world.input = u64::MAX;
        world.call(Call::Resume { job: job_id(1) });
        world.until("running", |w| w.job(1).phase == PhaseView::Running);
    }
    assert_eq!(ends[1], ends[0].next());
}

#[test]
fn a_stop_survives_a_failover_and_a_restart() {
    for landed in [false, true] {
        let mut world = running(2);
        commits(&mut world, 5);
        world.task_managers[0].checkpoints = false;
        let stop = world.call(Call::Stop { job: job_id(1) });
        world.until("final", |w| w.checker.durable.jobs[&job_id(1)].newest_cut().last);
        world.run(500);
        world.kill(0);
        world.restart(landed);
        world.until("finished", |w| w.checker.durable.jobs[&job_id(1)].status == JobStatus::Finished);
        let cuts = &world.checker.durable.jobs[&job_id(1)].cuts;
        assert_eq!(cuts.values().filter(|cut| cut.last).count(), 1);
        assert!(!world.answers.contains_key(&stop), "who asked the dead one gets no answer");
    }
}

#[test]
fn cancel_releases_only_once_it_is_durable() {
    let mut world = running(2);
    commits(&mut world, 5);
    world.run(20);
    world.log_takes = u64::MAX;
    world.appended();
    let mark = world.sent.len();
    let stop = world.call(Call::Stop { job: job_id(1) });
    let cancel = world.call(Call::Cancel { job: job_id(1) });
    world.run(200);
    assert_eq!(world.count(mark, |i| matches!(i, Instruction::Release { .. })), 0);
    assert!(!world.answers.contains_key(&cancel));
    world.log_takes = 1;
    world.until("cancelled", |w| w.answers.contains_key(&cancel));
    assert_eq!(world.count(mark, |i| matches!(i, Instruction::Release { .. })), 2);
    assert!(matches!(world.answers[&stop], Answer::Refused(Refusal::WrongState { .. })));
    let again = world.call(Call::Cancel { job: job_id(1) });
    assert_eq!(world.answers[&again], Answer::Cancelled);
}

#[test]
fn what_only_a_person_can_mend_fails_the_job_until_resumed() {
    let mut world = running(2);
    commits(&mut world, 5);
    let savepoint = world.call(Call::Stop { job: job_id(1) });
    let (session, attempt) = (world.task_managers[1].session.unwrap(), world.job(1).attempt);
    let failure = Failure::Fatal { reason: "GRANT INSERT ON vitals TO pulso".into() };
    world.report(1, session, Report::Failed { job: job_id(1), attempt, failure });
    world.until("answered", |w| w.answers.contains_key(&savepoint));
    assert!(
        matches!(&world.answers[&savepoint], Answer::Refused(Refusal::JobFailed { reason }) if reason.contains("GRANT"))
    );
    assert!(world.job(1).reason.unwrap().contains("GRANT"));
    let submit = world.call(Call::Submit(Box::new(NewJob {
        definition: definition(2, "vitals"),
        start: start(3),
        lookups: None,
    })));
    assert!(matches!(world.answers[&submit], Answer::Refused(Refusal::WrongState { .. })));
    world.restart(false);
    world.run(3_000);
    assert_eq!(world.job(1).phase, PhaseView::Ended);
    world.call(Call::Resume { job: job_id(1) });
    commits(&mut world, 5);
}

#[test]
fn new_splits_join_and_are_read_from_where_they_begin() {
    let mut world = running(2);
    commits(&mut world, 5);
    let found = [(SplitId(0), Position(0)), (SplitId(3), Position(7))];
    world.event(Event::SplitsFound { job: job_id(1), of: 2, splits: [(SplitId(9), Position(0))].into() });
    world.event(Event::SplitsFound { job: job_id(1), of: 1, splits: found.into() });
    world.until("joined", |w| w.job(1).splits.get(&SplitId(3)).is_some_and(|s| s.records_read > 3));
    let split = world.job(1).splits[&SplitId(3)];
    assert_eq!(split.position.0, 7 + split.records_read as i64);
    assert_eq!(world.job(1).attempts.len(), 2);
    assert!(!world.job(1).splits.contains_key(&SplitId(9)), "found by who looked for another definition");
    // Also in a replay that begins before it joined.
    world.kill(0);
    commits(&mut world, 5);
}
