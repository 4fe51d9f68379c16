//! Another file in the place of the one that a job runs from: when it is in force, what it begins with, and the way back
//! behind it.

use std::collections::BTreeMap;

use pulso_core::control_log::{JobState, JobStatus};
use pulso_core::coordinator::{Answer, Call, DefinitionId, NewJob, PhaseView, Refusal};
use pulso_core::cut::CutHash;
use pulso_core::ids::{
    Epoch, EventTime, KeyGroup, KeyGroupId, LookupsId, Position, RequestId, SplitId, Stage, WallTime,
};
use pulso_core::ledger::Mark;
use pulso_core::lookups::{LookupsVersion, object};
use pulso_core::message::{Deployment, Failure, Instruction, Report, Restore};
use pulso_core::record::{Change, JobDefinition, Redefinition};
use uuid::Uuid;

use crate::jobs::{commits, running};
use crate::world::{TARGET, World, definition, job_id, start};

pub(crate) fn state(world: &World) -> &JobState {
    &world.checker.durable.jobs[&job_id(1)]
}

fn another(fingerprint: u64) -> JobDefinition {
    JobDefinition { fingerprint, ..definition(1, "vitals") }
}

pub(crate) fn same_source(definition: JobDefinition) -> Change {
    Change { definition, source: None, time: false, lookups: None, before: BTreeMap::new() }
}

pub(crate) fn change(world: &mut World, change: Change) -> RequestId {
    let from = DefinitionId::of(state(world));
    world.call(Call::Change { from, change: Box::new(change) })
}

fn in_force(world: &mut World, fingerprint: u64) {
    let running = |w: &World| w.job(1).phase == PhaseView::Running;
    world.until("in force", |w| state(w).definition.fingerprint == fingerprint && running(w));
}

/// Of the newest attempt.
fn deployments(world: &World) -> Vec<&Deployment> {
    let all = world.sent.iter().filter_map(|(_, instruction)| {
        if let Instruction::Deploy(deployment) = instruction { Some(deployment.as_ref()) } else { None }
    });
    let newest = all.clone().map(|deployment| deployment.attempt).max();
    all.filter(|deployment| Some(deployment.attempt) == newest).collect()
}

#[test]
fn another_file_is_in_force_behind_everything_of_the_one_before() {
    let mut world = running(2);
    commits(&mut world, 30);
    let request = change(&mut world, same_source(another(9)));
    assert!(!world.answers.contains_key(&request), "not durable yet");
    world.until("answered", |w| w.answers.contains_key(&request));
    assert_eq!(world.answers[&request], Answer::Changing { job: job_id(1) });
    assert!(world.job(1).changing);
    in_force(&mut world, 9);
    assert!(!world.job(1).changing);
    let state = state(&world);
    let (since, era) = (state.since, state.past[0].clone());
    assert_eq!((era.definition.fingerprint, era.since, era.until.next()), (1, Epoch::ZERO, since));
    let (last, first) = (&state.cuts[&era.until], &state.cuts[&since]);
    assert!(last.last && !first.last && first.count() == 0 && first.previous == last.hash());
    assert_eq!((first.watermark, &first.idle), (last.watermark, &last.idle));
    let ends = |cut: &pulso_core::cut::Cut| cut.splits.values().map(|part| part.end).collect::<Vec<_>>();
    assert_eq!(ends(first), ends(last));
    for deployment in deployments(&world) {
        assert_eq!((deployment.definition.fingerprint, deployment.since, deployment.until), (9, since, None));
        assert!(deployment.is_first(), "new targets may be made");
        for restore in deployment.restore.values() {
            let Restore::Snapshot(snapshot) = restore else { panic!("{restore:?}") };
            assert!(snapshot.epoch == since && !snapshot.files.is_empty());
        }
    }
    assert_eq!(world.job(1).attempts.last().unwrap().reason, "the job file changed");
    let read = world.job(1).records_read;
    commits(&mut world, 30);
    assert!(world.job(1).records_read > read);
    // And once more; later attempts keep what they have.
    change(&mut world, same_source(another(10)));
    in_force(&mut world, 10);
    commits(&mut world, 3);
    world.kill(0);
    commits(&mut world, 10);
    assert!(deployments(&world).iter().all(|d| !d.is_first() && d.definition.fingerprint == 10));
}

#[test]
fn the_past_goes_with_its_checkpoints() {
    let mut world = running(1);
    commits(&mut world, 10);
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    assert_eq!(state(&world).past.len(), 1);
    world.until("three newer checkpoints", |w| state(w).checkpoints.iter().all(|c| c.manifest.epoch > state(w).since));
    assert!(state(&world).past.is_empty());
    assert!(state(&world).cuts.keys().all(|epoch| *epoch > state(&world).since));
    commits(&mut world, 5);
}

#[test]
fn it_waits_for_a_target_that_is_down_also_through_a_restart() {
    let mut world = running(1);
    commits(&mut world, 5);
    world.task_managers[0].commits = false;
    world.run(200);
    let request = change(&mut world, same_source(another(9)));
    world.run(2_000);
    assert_eq!(world.answers[&request], Answer::Changing { job: job_id(1) });
    assert_eq!(state(&world).definition.fingerprint, 1);
    let reason = world.job(1).reason.unwrap();
    assert!(reason.contains("once everything before it is committed"), "{reason}");
    world.restart(true);
    world.run(500);
    // The same again is known, another one has to wait, and so has the one that runs.
    let same = change(&mut world, same_source(another(9)));
    let other = change(&mut world, same_source(another(8)));
    let old = world.call(Call::Submit(Box::new(NewJob {
        definition: JobDefinition { id: job_id(2), ..another(1) },
        start: start(3),
        lookups: None,
    })));
    world.run(100);
    assert_eq!(world.answers[&same], Answer::Changing { job: job_id(1) });
    for request in [other, old] {
        let Answer::Refused(Refusal::WrongState { reason }) = &world.answers[&request] else { panic!() };
        assert!(reason.contains("about to go on with another file"), "{reason}");
    }
    world.task_managers[0].commits = true;
    in_force(&mut world, 9);
    commits(&mut world, 5);
}

#[test]
fn an_ended_job_goes_on_with_the_file_at_once_where_nothing_is_left_to_commit() {
    let mut world = running(1);
    commits(&mut world, 5);
    let stop = world.call(Call::Stop { job: job_id(1) });
    world.until("stopped", |w| w.answers.contains_key(&stop));
    let newest = state(&world).newest_cut().epoch;
    let request = change(&mut world, same_source(another(9)));
    world.until("answered", |w| w.answers.contains_key(&request));
    assert_eq!((state(&world).since, state(&world).definition.fingerprint), (newest.next(), 9));
    commits(&mut world, 5);
    // A job that could never begin has nothing either.
    let mut world = World::new(1, 1);
    world.input = u64::MAX;
    world.call(Call::Submit(Box::new(NewJob { definition: definition(1, "vitals"), start: start(3), lookups: None })));
    world.until("running", |w| w.checker.durable.jobs.contains_key(&job_id(1)) && w.job(1).phase == PhaseView::Running);
    world.input = 3;
    let session = world.task_managers[0].session.unwrap();
    let failure = Failure::Fatal { reason: "no such table".into() };
    let attempt = world.job(1).attempt;
    world.report(0, session, Report::Failed { job: job_id(1), attempt, failure });
    world.until("failed", |w| matches!(state(w).status, JobStatus::Failed { .. }));
    assert_eq!(state(&world).newest_cut().epoch, Epoch::ZERO);
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    assert!(state(&world).past.is_empty() && deployments(&world).iter().all(|d| d.is_first()));
    commits(&mut world, 5);
}

#[test]
fn a_failed_job_first_commits_what_is_sealed_under_the_file_before() {
    let mut world = running(1);
    commits(&mut world, 5);
    world.task_managers[0].commits = false;
    world.run(200);
    let (session, attempt) = (world.task_managers[0].session.unwrap(), world.job(1).attempt);
    let failure = Failure::Fatal { reason: "no such table".into() };
    world.report(0, session, Report::Failed { job: job_id(1), attempt, failure });
    world.until("failed", |w| matches!(state(w).status, JobStatus::Failed { .. }));
    let sealed = state(&world).newest_cut().epoch;
    world.task_managers[0].commits = true;
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    assert!(state(&world).since > sealed.next(), "a last epoch came in between");
    assert_eq!(state(&world).status, JobStatus::Running);
}

#[test]
fn stop_and_cancel_of_a_job_that_is_about_to_change() {
    let mut world = running(1);
    commits(&mut world, 5);
    change(&mut world, same_source(another(9)));
    let stop = world.call(Call::Stop { job: job_id(1) });
    world.until("stopped", |w| w.answers.contains_key(&stop));
    assert!(matches!(world.answers[&stop], Answer::Stopped { .. }));
    assert_eq!((&state(&world).status, state(&world).definition.fingerprint), (&JobStatus::Finished, 9));

    let mut world = running(1);
    world.task_managers[0].commits = false;
    change(&mut world, same_source(another(9)));
    world.run(100);
    let cancel = world.call(Call::Cancel { job: job_id(1) });
    world.until("cancelled", |w| w.answers.contains_key(&cancel));
    assert_eq!((&state(&world).status, &state(&world).change), (&JobStatus::Cancelled, &None));
    let refused = change(&mut world, same_source(another(9)));
    assert!(matches!(&world.answers[&refused], Answer::Refused(_)));
}

#[test]
fn what_was_compared_with_another_file_is_refused_and_its_lookups_are_deleted() {
    let mut world = running(1);
    commits(&mut world, 5);
    let before = DefinitionId::of(state(&world));
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    let version =
        LookupsVersion { id: LookupsId(Uuid::from_u128(77)), hash: 1, rows: vec![1], bytes: 1, read: WallTime(0) };
    let late = Change { lookups: Some(version.clone()), ..same_source(another(10)) };
    let request = world.call(Call::Change { from: before, change: Box::new(late.clone()) });
    let Answer::Refused(Refusal::WrongState { reason }) = &world.answers[&request] else { panic!() };
    assert_eq!(reason, "the job was changed meanwhile; try again");
    assert!(world.deleted.contains(&object(job_id(1), version.id)));
    change(&mut world, late);
    in_force(&mut world, 10);
    assert_eq!(state(&world).newest_cut().lookups, Some(version.id));
    change(&mut world, same_source(another(11)));
    in_force(&mut world, 11);
    commits(&mut world, 3);
    assert_eq!(state(&world).newest_cut().lookups, None);
    world.until("given up", |w| state(w).lookups.stored.is_empty());
}

#[test]
fn another_source_begins_where_it_says_and_nobody_goes_back_behind_it() {
    let mut world = running(1);
    world.until("two checkpoints", |w| w.job(1).checkpoints.iter().filter(|c| c.taken.is_some()).count() == 2);
    let old = state(&world).checkpoints.clone();
    let source = [(SplitId(0), Position(7)), (SplitId(9), Position(3))].into();
    let other = Change { source: Some(source), ..same_source(another(9)) };
    change(&mut world, other);
    in_force(&mut world, 9);
    let first = &state(&world).cuts[&state(&world).since];
    assert_eq!(first.splits.keys().collect::<Vec<_>>(), [&SplitId(0), &SplitId(9)]);
    assert_eq!((first.splits[&SplitId(0)].end, first.splits[&SplitId(0)].greatest), (Position(7), None));
    assert!(state(&world).past.is_empty() && !state(&world).cuts.contains_key(&Epoch::ZERO));
    assert!(
        state(&world).checkpoints.iter().all(|c| old.iter().all(|o| o.manifest.checkpoint != c.manifest.checkpoint))
    );
    assert!(!world.deleted.is_empty(), "of checkpoints that are of no use");
    commits(&mut world, 10);
}

#[test]
fn another_event_time_begins_anew() {
    let mut world = running(1);
    world.until("a watermark", |w| w.job(1).watermark > EventTime::MIN);
    let other = Change { time: true, ..same_source(another(9)) };
    change(&mut world, other);
    in_force(&mut world, 9);
    let first = &state(&world).cuts[&state(&world).since];
    assert!(first.watermark == EventTime::MIN && first.splits.values().all(|part| part.greatest.is_none()));
    world.until("a watermark", |w| w.job(1).watermark > EventTime::MIN);
}

#[test]
fn other_secrets_are_used_by_the_next_attempt_and_cut_nothing() {
    let mut world = running(1);
    commits(&mut world, 5);
    world.task_managers[0].commits = false;
    world.run(200);
    let from = DefinitionId::of(state(&world));
    let definitions = Redefinition { definition: another(9), next: None, before: BTreeMap::new() };
    let request = world.call(Call::Redefine { from, definitions: Box::new(definitions) });
    world.until("answered", |w| w.answers.contains_key(&request));
    assert_eq!(world.answers[&request], Answer::Changing { job: job_id(1) });
    let sealed = state(&world).newest_cut().clone();
    assert!((state(&world).definition.fingerprint, state(&world).since) == (9, Epoch::ZERO) && !sealed.last);
    world.task_managers[0].commits = true;
    commits(&mut world, 5);
    assert!(deployments(&world).iter().all(|d| d.definition.fingerprint == 9));
    assert!(state(&world).past.is_empty() && !state(&world).newest_cut().last);
}

/// The epoch of a savepoint, behind which nothing is forgotten.
fn saved(world: &mut World) -> Epoch {
    commits(world, 5);
    let savepoint = world.call(Call::Savepoint { job: job_id(1) });
    world.until("a savepoint", |w| w.answers.contains_key(&savepoint));
    let Answer::SavepointTaken { epoch, .. } = world.answers[&savepoint] else { panic!() };
    epoch
}

fn mark(epoch: Epoch) -> Mark {
    Mark { epoch, hash: CutHash(u128::from(epoch.0)) }
}

/// The ledger is as it was after this epoch, and the next attempt finds that.
fn went_back(world: &mut World, epoch: Epoch) {
    let ledger: BTreeMap<_, _> =
        (0..5).map(|group| (KeyGroupId { stage: Stage(0), group: KeyGroup(group) }, mark(epoch))).collect();
    world.task_managers.iter_mut().for_each(|tm| tm.ledger = ledger.clone());
    let (session, attempt) = (world.task_managers[0].session.unwrap(), world.job(1).attempt);
    let failure = Failure::Retry { reason: "a link broke".into() };
    world.report(0, session, Report::Failed { job: job_id(1), attempt, failure });
}

/// A database is restored from a backup of before the change.
#[test]
fn a_target_behind_the_change_is_brought_forward_under_the_file_before() {
    let mut world = running(2);
    world.until("two checkpoints", |w| w.job(1).checkpoints.iter().filter(|c| c.taken.is_some()).count() == 2);
    let back = state(&world).checkpoints[1].manifest.epoch;
    commits(&mut world, 3);
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    let since = state(&world).since;
    commits(&mut world, 3);
    world.task_managers.iter_mut().for_each(|tm| tm.checkpoints = false);
    went_back(&mut world, back);
    let past = |w: &World| deployments(w).iter().any(|d| d.until.is_some());
    world.until("the past", |w| past(w) && w.job(1).phase == PhaseView::Running);
    for deployment in deployments(&world) {
        assert_eq!(
            (deployment.definition.fingerprint, deployment.start.epoch, deployment.since),
            (1, back, Epoch::ZERO)
        );
        assert_eq!((deployment.until.unwrap().next(), deployment.sealed().next()), (since, since));
        assert!(!deployment.is_first());
    }
    let reason = world.job(1).reason.unwrap();
    assert!(reason.contains("went back behind a change"), "{reason}");
    // What it lacked is written.
    world.task_managers.iter_mut().for_each(|tm| tm.ledger.clear());
    world.until("back", |w| !past(w) && w.job(1).phase == PhaseView::Running);
    assert_eq!(deployments(&world)[0].start.epoch, since);
    assert_eq!(world.job(1).attempts.last().unwrap().reason, "goes on with the job file that followed");
    world.task_managers.iter_mut().for_each(|tm| tm.checkpoints = true);
    commits(&mut world, 20);
}

/// A file that fails before it has read anything, and the one that mends it: the way back leads over both.
#[test]
fn a_definition_without_an_epoch_leaves_no_gap() {
    let mut world = running(1);
    world.until("two checkpoints", |w| w.job(1).checkpoints.iter().filter(|c| c.taken.is_some()).count() == 2);
    let back = state(&world).checkpoints[1].manifest.epoch;
    world.input = u64::MAX;
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    let (session, attempt) = (world.task_managers[0].session.unwrap(), world.job(1).attempt);
    assert_eq!(state(&world).newest_cut().epoch, state(&world).since);
    let failure = Failure::Fatal { reason: "no such table".into() };
    world.report(0, session, Report::Failed { job: job_id(1), attempt, failure });
    world.until("failed", |w| matches!(state(w).status, JobStatus::Failed { .. }));
    change(&mut world, same_source(another(10)));
    in_force(&mut world, 10);
    let eras: Vec<_> = state(&world).eras().map(|era| era.definition.fingerprint).collect();
    assert_eq!(eras, [10, 1]);
    assert_eq!(state(&world).past[0].until.next(), state(&world).since);
    world.task_managers[0].checkpoints = false;
    world.input = 3;
    commits(&mut world, 3);
    went_back(&mut world, back);
    world.until("the past", |w| deployments(w)[0].until.is_some() && w.job(1).phase == PhaseView::Running);
    assert_eq!(deployments(&world)[0].definition.fingerprint, 1);
    world.task_managers[0].ledger.clear();
    world.until("back", |w| deployments(w)[0].until.is_none() && w.job(1).phase == PhaseView::Running);
    let deployment = deployments(&world)[0];
    assert!(deployment.start.epoch == state(&world).since && deployment.rewound && deployment.is_first());
    world.task_managers[0].checkpoints = true;
    world.until("a checkpoint", |w| state(w).rewound.is_none());
    commits(&mut world, 3);
}

/// Whatever is brought forward is behind again: the address of before leads elsewhere.
#[test]
fn a_target_that_is_brought_forward_in_vain_fails_the_job() {
    let mut world = running(1);
    world.until("two checkpoints", |w| w.job(1).checkpoints.iter().filter(|c| c.taken.is_some()).count() == 2);
    let back = state(&world).checkpoints[1].manifest.epoch;
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    commits(&mut world, 3);
    world.task_managers[0].checkpoints = false;
    world.input = u64::MAX;
    went_back(&mut world, back);
    // The TaskManager finds the same whenever it looks, also after it has written what was missing.
    world.until("failed", |w| matches!(state(w).status, JobStatus::Failed { .. }));
    let reason = world.job(1).reason.unwrap();
    assert!(reason.contains("does its address lead to another one now"), "{reason}");
}

/// An era that does not write to a target cannot bring it forward.
#[test]
fn a_target_that_came_again_and_is_behind_fails_the_job_where_nobody_can_write_it() {
    let mut world = running(1);
    world.until("two checkpoints", |w| w.job(1).checkpoints.iter().filter(|c| c.taken.is_some()).count() == 2);
    let without = JobDefinition { targets: vec!["another".into()], ..another(9) };
    change(&mut world, same_source(without));
    in_force(&mut world, 9);
    commits(&mut world, 3);
    // The first definition is forgotten, and with it the way to bring the warehouse forward.
    world.until("only newer checkpoints", |w| state(w).past.is_empty());
    change(&mut world, same_source(another(10)));
    in_force(&mut world, 10);
    assert!(state(&world).checkpoints.last().unwrap().manifest.snapshots.values().all(|s| s.marks.len() == 1));
    let (session, attempt) = (world.task_managers[0].session.unwrap(), world.job(1).attempt);
    let reading = (KeyGroupId { stage: Stage(0), group: KeyGroup(0) }, Mark::NOTHING);
    let failure = Failure::WentBack { target: TARGET, readings: [reading].into() };
    world.report(0, session, Report::Failed { job: job_id(1), attempt, failure });
    world.until("failed", |w| matches!(state(w).status, JobStatus::Failed { .. }));
    let reason = world.job(1).reason.unwrap();
    assert!(reason.contains("target warehouse went back"), "{reason}");
}

/// The same, where the first definition is still there: it writes what is missing, and the one between is not left out.
#[test]
fn a_target_that_came_again_and_is_behind_is_brought_forward_by_who_wrote_to_it() {
    let mut world = running(1);
    let back = saved(&mut world);
    commits(&mut world, 3);
    world.input = u64::MAX;
    let without = JobDefinition { targets: vec!["another".into()], ..another(9) };
    change(&mut world, same_source(without));
    in_force(&mut world, 9);
    // An epoch of its own.
    world.input = 1;
    let sealed = world.job(1).epochs.sealed;
    world.until("an epoch", |w| w.job(1).epochs.sealed > sealed);
    world.input = u64::MAX;
    change(&mut world, same_source(another(10)));
    in_force(&mut world, 10);
    assert_eq!(state(&world).eras().count(), 3);
    world.task_managers[0].checkpoints = false;
    let from = world.job(1).attempt;
    let readings = (0..5).map(|group| (KeyGroupId { stage: Stage(0), group: KeyGroup(group) }, mark(back)));
    let failure = Failure::WentBack { target: TARGET, readings: readings.collect() };
    let session = world.task_managers[0].session.unwrap();
    world.report(0, session, Report::Failed { job: job_id(1), attempt: from, failure });
    world.until("back", |w| w.job(1).phase == PhaseView::Running && w.job(1).attempt.0 == from.0 + 3);
    let after = |(_, instruction): &(_, Instruction)| {
        if let Instruction::Deploy(d) = instruction { Some((d.attempt, d.definition.fingerprint)) } else { None }
    };
    let deployed = world.sent.iter().filter_map(after).filter(|(attempt, _)| *attempt > from);
    let deployed: Vec<u64> = deployed.map(|(_, fingerprint)| fingerprint).collect();
    assert_eq!(deployed, [1, 9, 10]);
}

/// What an attempt says that has ended with its source.
#[test]
fn nothing_that_was_said_of_the_source_before_counts() {
    let mut world = running(1);
    commits(&mut world, 5);
    let source = Change { source: Some([(SplitId(0), Position(7))].into()), ..same_source(another(9)) };
    change(&mut world, source);
    world.until("changed", |w| state(w).definition.fingerprint == 9);
    let (session, attempt) = (world.task_managers[0].session.unwrap(), world.job(1).attempt);
    let reading = (KeyGroupId { stage: Stage(0), group: KeyGroup(0) }, Mark::NOTHING);
    for failure in [
        Failure::WentBack { target: TARGET, readings: [reading].into() },
        Failure::Fatal { reason: "no such table".into() },
    ] {
        world.report(0, session, Report::Failed { job: job_id(1), attempt, failure });
    }
    in_force(&mut world, 9);
    assert_eq!(world.job(1).attempt, attempt.next());
    commits(&mut world, 3);
}

#[test]
fn windows_that_the_last_epoch_made_due_close_without_input() {
    let mut world = running(1);
    world.until("a watermark", |w| w.job(1).watermark > EventTime::MIN);
    world.input = u64::MAX;
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    let since = state(&world).since;
    world.until("an epoch under the watermark of the change", |w| w.job(1).epochs.committed > since);
    world.run(2_000);
    assert_eq!(world.job(1).epochs.sealed, since.next(), "and no more");
}

#[test]
fn a_stage_that_goes_with_the_source_leaves_nothing_in_the_storage() {
    let mut world = World::new(1, 1);
    let two = JobDefinition { stages: 2, ..definition(1, "vitals") };
    world.call(Call::Submit(Box::new(NewJob { definition: two, start: start(3), lookups: None })));
    world.until("a checkpoint", |w| {
        w.checker.durable.jobs.contains_key(&job_id(1)) && w.job(1).checkpoints.iter().any(|c| c.taken.is_some())
    });
    let source = Change { source: Some([(SplitId(0), Position(7))].into()), ..same_source(another(9)) };
    change(&mut world, source);
    in_force(&mut world, 9);
    let of = |stage: u8| world.deleted.iter().filter(|object| object.contains(&format!("/{stage}/"))).count();
    assert!(of(1) > 0 && state(&world).checkpoints.last().unwrap().manifest.snapshots.len() == 5);
    commits(&mut world, 3);
}

#[test]
fn secrets_of_now_are_those_of_every_definition() {
    let mut world = running(1);
    saved(&mut world);
    commits(&mut world, 3);
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    world.task_managers[0].commits = false;
    world.run(100);
    change(&mut world, same_source(another(11)));
    world.run(100);
    // The change that waits gets them too, and is in force once it can be.
    let from = DefinitionId::of(state(&world));
    let definitions =
        Redefinition { definition: another(10), next: Some(another(12)), before: [(Epoch::ZERO, another(2))].into() };
    let request = world.call(Call::Redefine { from, definitions: Box::new(definitions.clone()) });
    world.run(100);
    assert_eq!(world.answers[&request], Answer::Changing { job: job_id(1) });
    let fingerprints = |w: &World| state(w).eras().map(|era| era.definition.fingerprint).collect::<Vec<_>>();
    assert_eq!((fingerprints(&world), state(&world).change.is_some()), (vec![10, 2], true));
    // Again: it is so already.
    let attempt = world.job(1).attempt;
    let from = DefinitionId::of(state(&world));
    let again = world.call(Call::Redefine { from, definitions: Box::new(definitions) });
    assert_eq!((&world.answers[&again], world.job(1).attempt), (&Answer::Changing { job: job_id(1) }, attempt));
    world.task_managers[0].commits = true;
    in_force(&mut world, 12);
    assert_eq!(fingerprints(&world), [12, 10, 2]);
    commits(&mut world, 3);
}

#[test]
fn a_savepoint_of_before_stays_a_way_back() {
    let mut world = running(1);
    let epoch = saved(&mut world);
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    let since = state(&world).since;
    let newer = |w: &World| state(w).checkpoints.iter().filter(|c| c.manifest.epoch > since).count();
    world.until("newer checkpoints", |w| newer(w) >= 3 && w.job(1).checkpoints.len() <= 6);
    commits(&mut world, 50);
    assert_eq!(state(&world).past.len(), 1);
    went_back(&mut world, epoch);
    world.until("the past", |w| deployments(w)[0].until.is_some() && w.job(1).phase == PhaseView::Running);
    assert_eq!(deployments(&world)[0].start.epoch, epoch);
    world.task_managers[0].ledger.clear();
    commits(&mut world, 20);
}

#[test]
fn without_the_checkpoint_of_the_change_nobody_goes_back_behind_it() {
    let mut world = running(1);
    world.until("a checkpoint", |w| w.job(1).checkpoints.iter().any(|c| c.taken.is_some()));
    change(&mut world, same_source(another(9)));
    in_force(&mut world, 9);
    let since = state(&world).since;
    let (session, attempt) = (world.task_managers[0].session.unwrap(), world.job(1).attempt);
    let id = KeyGroupId { stage: Stage(0), group: KeyGroup(0) };
    let bad = Failure::BadSnapshot { key_group: id, epoch: since, reason: "checksum".into() };
    world.report(0, session, Report::Failed { job: job_id(1), attempt, failure: bad });
    let ended = |w: &World| matches!(state(w).status, JobStatus::Failed { .. });
    world.until("failed or back", |w| ended(w) || w.job(1).attempt > attempt && w.job(1).phase == PhaseView::Running);
    assert!(deployments(&world).iter().all(|d| d.until.is_none()));
}
