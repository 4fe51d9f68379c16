//! A job with lookups: versions are named by cuts soon, kept while a replay needs them, and deleted then.

use pulso_core::coordinator::{Answer, Call, Event, NewJob, PhaseView};
use pulso_core::ids::{Epoch, LookupsId, WallTime};
use pulso_core::lookups::{LookupsState, LookupsVersion, object};
use uuid::Uuid;

use crate::world::{World, definition, job_id, start};

fn version(n: u64) -> LookupsVersion {
    LookupsVersion {
        id: LookupsId(Uuid::from_u128(u128::from(n))),
        hash: n,
        rows: vec![n],
        bytes: 1,
        read: WallTime(0),
    }
}

fn new_job(name: &str, job: u128, lookups: u64) -> Call {
    let mut start = start(2);
    start.lookups = Some(version(lookups).id);
    Call::Submit(Box::new(NewJob { definition: definition(job, name), start, lookups: Some(version(lookups)) }))
}

fn joining() -> World {
    let mut world = World::new(1, 2);
    world.input = u64::MAX;
    world.call(new_job("ward", 1, 1));
    world.until("running", |w| w.checker.durable.jobs.contains_key(&job_id(1)) && w.job(1).phase == PhaseView::Running);
    world
}

fn read(world: &mut World, version: LookupsVersion) {
    world.event(Event::LookupsRead { job: job_id(1), of: 1, version });
}

fn lookups(world: &World) -> &LookupsState {
    &world.checker.durable.jobs[&job_id(1)].lookups
}

fn newest(world: &World) -> (Epoch, Option<LookupsId>) {
    let cut = world.checker.durable.jobs[&job_id(1)].newest_cut();
    (cut.epoch, cut.lookups)
}

#[test]
fn other_rows_are_named_by_a_cut_without_input_and_the_same_ones_by_none() {
    let mut world = joining();
    world.run(500);
    assert_eq!(newest(&world), (Epoch::ZERO, Some(version(1).id)));
    read(&mut world, version(2));
    world.until("a cut", |w| newest(w) == (Epoch(1), Some(version(2).id)));
    let view = world.job(1).lookups.unwrap();
    assert_eq!((view.rows, view.waits), (vec![2], false));
    let same = LookupsVersion { id: version(7).id, ..version(2) };
    read(&mut world, same);
    world.run(500);
    assert_eq!(newest(&world).0, Epoch(1), "no epoch for nothing");
    assert_eq!(lookups(&world).stored, [version(1).id, version(2).id]);
    assert!(world.deleted.contains(&object(job_id(1), version(7).id)));
}

#[test]
fn versions_are_deleted_once_no_kept_checkpoint_needs_them() {
    let mut world = joining();
    world.input = 3;
    for n in 2..10 {
        read(&mut world, version(n));
        world.until("a cut", |w| newest(w).1 == Some(version(n).id));
        world.run(300);
    }
    world.until("old checkpoints to go", |w| lookups(w).stored.len() == 1);
    for n in 1..9 {
        assert!(world.deleted.contains(&object(job_id(1), version(n).id)), "{n}");
    }
}

#[test]
fn a_submission_that_comes_to_nothing_leaves_nothing() {
    let mut world = joining();
    let mut other = definition(2, "ward");
    other.fingerprint += 1;
    let mut start = start(2);
    start.lookups = Some(version(5).id);
    let lookups = Some(version(5));
    let refused = world.call(Call::Submit(Box::new(NewJob { definition: other, start, lookups })));
    world.until("an answer", |w| w.answers.contains_key(&refused));
    assert!(matches!(world.answers[&refused], Answer::Refused(_)));
    assert!(world.deleted.contains(&object(job_id(2), version(5).id)));
    // The same job again: what it has stays.
    let again = world.call(new_job("ward", 1, 1));
    world.until("an answer", |w| w.answers.contains_key(&again));
    assert!(!world.deleted.contains(&object(job_id(1), version(1).id)));
}
