//! Attempts: who is lost, who comes, who went back, and who was only slow.

use std::collections::BTreeMap;

use pulso_core::control_log::JobStatus;
use pulso_core::coordinator::{Event, PhaseView};
use pulso_core::cut::CutHash;
use pulso_core::ids::{Epoch, JobId, KeyGroup, KeyGroupId, Stage};
use pulso_core::ledger::Mark;
use pulso_core::message::{Deployment, Failure, Instruction, Report, Restore};

use crate::jobs::{commits, running};
use crate::world::{TARGET, World, job_id};

const JOB: fn() -> JobId = || job_id(1);

fn deployments(world: &World) -> Vec<&Deployment> {
    let deploy = |(_, instruction): &'_ (_, Instruction)| matches!(instruction, Instruction::Deploy(_));
    let all = world.sent.iter().filter(|sent| deploy(sent));
    all.map(|(_, i)| if let Instruction::Deploy(d) = i { d.as_ref() } else { unreachable!() }).collect()
}

fn restores(world: &World) -> Vec<&Restore> {
    let newest = deployments(world).last().unwrap().attempt;
    deployments(world).into_iter().filter(|d| d.attempt == newest).flat_map(|d| d.restore.values()).collect()
}

fn settled(world: &mut World, attempt: u64) {
    world.until("running", |w| w.job(1).attempt.0 == attempt && w.job(1).phase == PhaseView::Running);
}

fn has_checkpoint(world: &mut World) {
    world.until("a checkpoint", |w| w.job(1).checkpoints.iter().any(|c| c.taken.is_some()));
}

#[test]
fn survivors_keep_their_copies_and_the_rest_is_restored() {
    let mut world = running(2);
    has_checkpoint(&mut world);
    commits(&mut world, 3);
    let newest = world.checker.durable.jobs[&JOB()].checkpoints.last().unwrap().manifest.epoch;
    let own: Vec<_> =
        world.task_managers[0].jobs[&JOB()].deployment.as_ref().unwrap().restore.keys().copied().collect();
    let at = world.now;
    world.kill(1);
    settled(&mut world, 2);
    assert!(world.now - at < 50_000, "{} µs", world.now - at);
    let deployment = *deployments(&world).last().unwrap();
    for (key_group, restore) in &deployment.restore {
        match restore {
            Restore::Copy => assert!(own.contains(key_group)),
            Restore::Snapshot(snapshot) => assert!(!own.contains(key_group) && snapshot.epoch == newest),
            Restore::Fresh => panic!("there is a checkpoint"),
        }
    }
    commits(&mut world, 5);
}

#[test]
fn a_jobmanager_restart_loses_no_copies() {
    let mut world = running(3);
    has_checkpoint(&mut world);
    for landed in [true, false] {
        commits(&mut world, 7);
        let attempt = world.job(1).attempt.0;
        let at = world.now;
        world.restart(landed);
        settled(&mut world, attempt + 1);
        assert!(world.now - at < 100_000, "{} µs", world.now - at);
        assert!(restores(&world).iter().all(|restore| matches!(restore, Restore::Copy)));
        commits(&mut world, 3);
    }
}

#[test]
fn after_a_restart_missing_members_are_waited_for_but_not_for_ever() {
    let mut world = running(2);
    has_checkpoint(&mut world);
    world.reconnects = false;
    world.task_managers[1].session = None;
    world.restart(true);
    world.run(1_400);
    assert_eq!((world.job(1).attempt.0, world.job(1).phase), (1, PhaseView::Waiting));
    world.run(300);
    assert_eq!(world.job(1).attempt.0, 2);
    commits(&mut world, 3);
}

#[test]
fn one_that_is_silent_is_given_up_and_its_old_copies_do_not_count() {
    let mut world = running(2);
    has_checkpoint(&mut world);
    world.task_managers[1].paused = true;
    world.until("without it", |w| w.job(1).attempt.0 == 2 && w.job(1).phase == PhaseView::Running);
    commits(&mut world, 30);
    world.task_managers[1].paused = false;
    world.until("with it again", |w| w.job(1).attempt.0 == 3 && w.job(1).phase == PhaseView::Running);
    let id = world.task_managers[1].id;
    let back = *deployments(&world).iter().rfind(|d| d.restore.len() < 5 && d.plan.members.contains_key(&id)).unwrap();
    let newest = world.checker.durable.jobs[&JOB()].checkpoints.iter().map(|c| c.manifest.epoch).max().unwrap();
    for key_group in back.plan.key_groups_of(id) {
        assert!(back.resume[&key_group] <= newest);
    }
    commits(&mut world, 3);
}

#[test]
fn a_jobmanager_that_stood_still_declares_nobody_dead() {
    let mut world = running(2);
    commits(&mut world, 3);
    world.now += 30_000_000;
    world.event(Event::Tick);
    commits(&mut world, 3);
    assert_eq!(world.job(1).attempt.0, 1);
    // Seconds of ordinary ticks in which one says nothing are another thing.
    world.reconnects = false;
    world.task_managers[0].paused = true;
    world.run(2_000);
    assert_eq!(world.job(1).attempt.0, 2);
}

#[test]
fn without_taskmanagers_a_job_waits_and_says_so() {
    let mut world = running(1);
    commits(&mut world, 3);
    world.kill(0);
    world.run(1_000);
    assert_eq!(world.job(1).phase, PhaseView::Waiting);
    assert!(world.job(1).reason.unwrap().contains("waits for a TaskManager"));
    world.add();
    commits(&mut world, 5);
}

#[test]
fn one_that_joins_gets_its_share_after_a_checkpoint() {
    let mut world = running(1);
    has_checkpoint(&mut world);
    commits(&mut world, 7);
    let committed = world.job(1).epochs.committed;
    world.add();
    settled(&mut world, 2);
    let restored = restores(&world).into_iter().filter_map(|restore| match restore {
        Restore::Snapshot(snapshot) => Some(snapshot.epoch),
        Restore::Copy | Restore::Fresh => None,
    });
    let restored: Vec<Epoch> = restored.collect();
    assert_eq!(restored.len(), 2, "five key groups, at most three stay");
    assert!(restored.iter().all(|epoch| *epoch >= committed), "moved without a fresh checkpoint");
    commits(&mut world, 5);
}

#[test]
fn one_that_joins_while_checkpoints_fail_gets_its_share_all_the_same() {
    let mut world = running(1);
    has_checkpoint(&mut world);
    world.task_managers[0].checkpoints = false;
    // One that was under way may still come through.
    world.run(500);
    world.add();
    world.run(8_000);
    assert_eq!(world.job(1).attempt.0, 1);
    world.run(4_000);
    settled(&mut world, 2);
    commits(&mut world, 5);
}

#[test]
fn one_that_leaves_works_until_all_has_moved_and_is_let_go() {
    let mut world = running(2);
    commits(&mut world, 3);
    world.reconnects = false;
    let session = world.task_managers[0].session.unwrap();
    world.report(0, session, Report::Leaving);
    world.until("let go", |w| w.task_managers[0].session.is_none());
    let job = world.job(1);
    assert!(job.key_groups.values().all(|k| k.owner == Some(world.task_managers[1].id)));
    // The last one leaves after a checkpoint, and the job waits.
    commits(&mut world, 3);
    let committed = world.job(1).epochs.committed;
    let session = world.task_managers[1].session.unwrap();
    world.report(1, session, Report::Leaving);
    world.until("let go", |w| w.task_managers[1].session.is_none());
    assert!(world.checker.durable.jobs[&JOB()].checkpoints.last().unwrap().manifest.epoch >= committed);
    assert_eq!(world.job(1).phase, PhaseView::Waiting);
}

#[test]
fn a_database_that_went_back_is_followed_to_an_older_checkpoint() {
    let mut world = running(2);
    world.until("three checkpoints", |w| w.job(1).checkpoints.iter().filter(|c| c.taken.is_some()).count() == 3);
    let epochs: Vec<Epoch> = world.checker.durable.jobs[&JOB()].checkpoints.iter().map(|c| c.manifest.epoch).collect();
    // It is as it was after the first of them.
    let mark = Mark { epoch: epochs[0], hash: CutHash(u128::from(epochs[0].0)) };
    for i in 0..2 {
        let groups = (0..5).map(|group| (KeyGroupId { stage: Stage(0), group: KeyGroup(group) }, mark));
        world.task_managers[i].ledger = groups.collect();
    }
    world.kill(0);
    world.until("rewound", |w| deployments(w).last().unwrap().start.epoch == epochs[0]);
    world.until("running", |w| w.job(1).phase == PhaseView::Running);
    assert!(restores(&world).iter().all(|r| matches!(r, Restore::Snapshot(s) if s.epoch == epochs[0])));
    world.task_managers[0].ledger.clear();
    let sealed = world.job(1).epochs.sealed;
    world.until("caught up", |w| w.job(1).epochs.committed > sealed);
    // What was found is forgotten once all was taken over.
    world.add();
    world.task_managers[0].checkpoints = false;
    let attempt = world.job(1).attempt.0;
    world.until("moved", |w| w.job(1).attempt.0 > attempt && w.job(1).phase == PhaseView::Running);
}

#[test]
fn a_database_from_before_every_checkpoint_fails_the_job_and_says_what_is_missing() {
    let mut world = running(1);
    has_checkpoint(&mut world);
    let mark = Mark { epoch: Epoch(0), hash: CutHash(0) };
    let readings: BTreeMap<_, _> = [(KeyGroupId { stage: Stage(0), group: KeyGroup(2) }, mark)].into();
    let (session, attempt) = (world.task_managers[0].session.unwrap(), world.job(1).attempt);
    let failure = Failure::WentBack { target: TARGET, readings };
    world.report(0, session, Report::Failed { job: JOB(), attempt, failure });
    world.until("failed", |w| matches!(w.checker.durable.jobs[&JOB()].status, JobStatus::Failed { .. }));
    let reason = world.job(1).reason.unwrap();
    assert!(reason.contains("key group 0/2") && reason.contains("split 0 before 1"), "{reason}");
}

#[test]
fn a_snapshot_that_cannot_be_restored_means_the_checkpoint_before_it() {
    let mut world = running(2);
    world.until("two checkpoints", |w| w.job(1).checkpoints.iter().filter(|c| c.taken.is_some()).count() == 2);
    let epochs: Vec<Epoch> = world.checker.durable.jobs[&JOB()].checkpoints.iter().map(|c| c.manifest.epoch).collect();
    world.kill(0);
    world.until("deploying", |w| w.job(1).attempt.0 == 2 && deployments(w).last().unwrap().attempt.0 == 2);
    let deployment = *deployments(&world).last().unwrap();
    let lost = |restore: &Restore| matches!(restore, Restore::Snapshot(_));
    let (key_group, _) = deployment.restore.iter().find(|(_, restore)| lost(restore)).unwrap();
    let (key_group, session) = (*key_group, world.task_managers[0].session.unwrap());
    // Nothing was restored, so nothing of it is frozen.
    world.step();
    world.task_managers[0].jobs.get_mut(&JOB()).unwrap().deployment = None;
    let failure = Failure::BadSnapshot { key_group, epoch: epochs[1], reason: "checksum".into() };
    let attempt = world.job(1).attempt;
    world.report(0, session, Report::Failed { job: JOB(), attempt, failure });
    settled(&mut world, 3);
    assert_eq!(deployments(&world).last().unwrap().resume[&key_group], epochs[0]);
    commits(&mut world, 5);
}

#[test]
fn failures_are_tried_again_later_and_later() {
    let mut world = running(1);
    let mut waits = Vec::new();
    for _ in 0..8 {
        world.until("running", |w| w.job(1).phase == PhaseView::Running);
        let (session, attempt) = (world.task_managers[0].session.unwrap(), world.job(1).attempt);
        let failure = Failure::Retry { reason: "disk full".into() };
        world.report(0, session, Report::Failed { job: JOB(), attempt, failure });
        let at = world.now;
        world.until("the next attempt", |w| w.job(1).attempt > attempt);
        waits.push((world.now - at) / 1_000);
    }
    assert!(waits[0] < 60 && waits.is_sorted() && (1_600..1_700).contains(&waits[7]), "{waits:?}");
    world.run(2_000);
    let (session, attempt) = (world.task_managers[0].session.unwrap(), world.job(1).attempt);
    let failure = Failure::Retry { reason: "disk full".into() };
    world.report(0, session, Report::Failed { job: JOB(), attempt, failure });
    world.run(100);
    assert!(world.job(1).attempt > attempt, "an attempt that ran for a while counts as a success");
}

#[test]
fn one_that_does_not_prepare_in_time_is_given_up() {
    let mut world = running(3);
    has_checkpoint(&mut world);
    world.reconnects = false;
    world.settings.session_timeout = std::time::Duration::from_secs(60);
    world.restart(true);
    commits(&mut world, 3);
    world.task_managers[1].paused = true;
    let attempt = world.job(1).attempt.0;
    world.kill(2);
    world.run(900);
    assert_eq!(world.job(1).phase, PhaseView::Preparing);
    settled(&mut world, attempt + 1);
    assert!(world.task_managers[1].session.is_none());
    commits(&mut world, 3);
}

#[test]
fn attempts_go_out_only_once_they_are_durable() {
    let mut world = running(2);
    commits(&mut world, 3);
    world.appended();
    world.log_takes = u64::MAX;
    let mark = world.sent.len();
    world.kill(1);
    world.run(500);
    let prepares = |w: &World| w.count(mark, |i| matches!(i, Instruction::Prepare { .. }));
    let deploys = |w: &World| w.count(mark, |i| matches!(i, Instruction::Deploy(_)));
    let seals = |w: &World| w.count(mark, |i| matches!(i, Instruction::Seal { .. }));
    assert_eq!((prepares(&world), deploys(&world), seals(&world)), (0, 0, 0));
    while prepares(&world) == 0 {
        world.appended();
    }
    world.run(500);
    assert_eq!((prepares(&world), deploys(&world)), (1, 0));
    world.appended();
    assert_eq!((prepares(&world), deploys(&world)), (1, 1));
    world.run(500);
    assert_eq!(seals(&world), 0);
    // Of the cut before the failover, if it was under way, nothing is sent any more.
    while seals(&world) == 0 {
        world.appended();
    }
    assert_eq!(seals(&world), 1);
}

/// However long the interval, and however many cuts older checkpoints still need.
#[test]
fn a_recovery_never_has_too_much_to_replay() {
    let mut world = running(1);
    has_checkpoint(&mut world);
    world.settings.checkpoint_interval = std::time::Duration::from_secs(3_600);
    world.settings.most_epochs = 20;
    world.task_managers[0].checkpoints = false;
    world.restart(true);
    world.until("it waits", |w| w.job(1).reason.is_some_and(|reason| reason.contains("no checkpoint")));
    let sealed = world.job(1).epochs.sealed;
    world.run(5_000);
    assert_eq!(world.job(1).epochs.sealed, sealed);
    world.task_managers[0].checkpoints = true;
    world.settings.checkpoint_timeout = std::time::Duration::from_secs(1);
    world.restart(true);
    world.until("it goes on for long", |w| w.job(1).epochs.committed.0 > sealed.0 + 200);
}
