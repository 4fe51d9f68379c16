//! A job that reads files: its end, and files that leave once no replay needs them.

use pulso_core::control_log::JobStatus;
use pulso_core::coordinator::{Call, Event, NewJob, PhaseView};
use pulso_core::files::{FoundFile, MOST_KNOWN, MOST_UNREAD};
use pulso_core::ids::{Epoch, EventTime, Position, SplitId};
use pulso_core::message::Instruction;
use pulso_core::record::{Change, JobDefinition};

use crate::changes::{same_source, state};
use crate::world::{World, definition, job_id, start};

fn reading() -> World {
    let mut world = World::new(1, 2);
    world.input = u64::MAX;
    let mut start = start(4);
    start.splits.values_mut().for_each(|split| split.end = Position(0));
    world.call(Call::Submit(Box::new(NewJob { definition: definition(1, "ward"), start, lookups: None })));
    world.until("running", |w| w.checker.durable.jobs.contains_key(&job_id(1)) && w.job(1).phase == PhaseView::Running);
    world
}

fn files(numbers: std::ops::Range<usize>) -> Vec<FoundFile> {
    let file = |n: usize| FoundFile {
        path: format!("/in/{n:06}.json"),
        from: 0,
        to: 10,
        modified: n as i64 * 1_000,
        inode: n as u64,
        bad: None,
    };
    numbers.map(file).collect()
}

fn find(world: &mut World, found: Vec<FoundFile>, complete: bool) {
    world.event(Event::FilesFound { job: job_id(1), of: 1, found, gone: vec![], complete });
}

fn newest(world: &World) -> (Epoch, EventTime) {
    let cut = world.checker.durable.jobs[&job_id(1)].newest_cut();
    (cut.epoch, cut.watermark)
}

fn is_read(world: &World) -> bool {
    let state = &world.checker.durable.jobs[&job_id(1)];
    let cut = state.newest_cut();
    cut.splits.iter().all(|(split, part)| state.files.is_drained(*split, part.end))
}

fn windows_are_closed(world: &World) {
    let is_last = |instruction: &Instruction| matches!(instruction, Instruction::OpenCut { opening, .. } if opening.watermark == EventTime::MAX);
    assert!(world.sent.iter().any(|(_, instruction)| is_last(instruction)), "no epoch is under the last watermark");
}

#[test]
fn the_end_closes_windows_whenever_it_is_known() {
    // With the files, before they are read; or once all are read and no epoch is open any more.
    for at_once in [true, false] {
        let mut world = reading();
        find(&mut world, files(0..20), at_once);
        world.until("all is read", |w| newest(w).0 > Epoch::ZERO && is_read(w));
        if !at_once {
            world.run(500);
            assert!(newest(&world).1 < EventTime::MAX);
            find(&mut world, vec![], true);
        }
        world.until("the end", |w| w.checker.durable.jobs[&job_id(1)].status == JobStatus::Finished);
        windows_are_closed(&world);
    }
}

/// The job would end with the files that it reads, and is to go on with others.
#[test]
fn a_change_of_the_source_at_the_end_of_the_input_goes_on_with_the_other_one() {
    for told_before in [true, false] {
        let mut world = reading();
        let other = JobDefinition { fingerprint: 9, ..definition(1, "ward") };
        let source = (0..4).map(|split| (SplitId(split), Position(0))).collect();
        let change = Change { source: Some(source), ..same_source(other) };
        if told_before {
            crate::changes::change(&mut world, change.clone());
        }
        find(&mut world, files(0..20), true);
        if !told_before {
            world.until("the end", |w| state(w).status == JobStatus::Stopping);
            crate::changes::change(&mut world, change);
        }
        world.until("the change", |w| state(w).definition.fingerprint == 9);
        assert_eq!(state(&world).status, JobStatus::Running);
        let found = Event::FilesFound { job: job_id(1), of: 9, found: files(0..3), gone: vec![], complete: true };
        world.event(found);
        world.until("the end", |w| state(w).status == JobStatus::Finished);
        assert!(is_read(&world) && newest(&world).0 > state(&world).since);
    }
}

#[test]
fn an_empty_folder_ends_a_job_too() {
    let mut world = reading();
    find(&mut world, vec![], true);
    world.until("the end", |w| w.checker.durable.jobs[&job_id(1)].status == JobStatus::Finished);
    windows_are_closed(&world);
}

#[test]
fn files_leave_though_no_others_come() {
    let mut world = reading();
    find(&mut world, files(0..20), false);
    world.until("all are moved away", |w| w.retired == 20);
    let sealed = newest(&world).0;
    world.run(5_000);
    assert_eq!(newest(&world).0, sealed, "no epochs without a reason");
}

#[test]
fn a_savepoint_keeps_its_files_until_no_more_could_be_read() {
    let mut world = reading();
    find(&mut world, files(0..20), false);
    world.until("read", |w| newest(w).0 > Epoch::ZERO && is_read(w));
    let stop = world.call(Call::Stop { job: job_id(1) });
    world.until("stopped", |w| w.answers.contains_key(&stop));
    world.call(Call::Resume { job: job_id(1) });
    world.until("running", |w| w.job(1).phase == PhaseView::Running);
    world.run(1_000);
    world.until("what is behind the savepoint leaves", |w| w.retired == 20);
    let mut from = 20;
    while world.retired == 20 {
        find(&mut world, files(from..from + MOST_UNREAD), false);
        world.until("they are read", is_read);
        world.run(50);
        from += MOST_UNREAD;
    }
    assert!(from - 20 >= MOST_KNOWN, "a replay from the savepoint needs all of them");
    for _ in 0..3 {
        let before = newest(&world).0;
        find(&mut world, files(from..from + MOST_UNREAD), false);
        world.until("more are read", |w| newest(w).0 > before && is_read(w));
        from += MOST_UNREAD;
    }
}
