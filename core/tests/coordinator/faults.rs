//! Random sequences of everything, and then peace: nothing forbidden happens, and the job goes on.

use std::collections::BTreeMap;

use proptest::prelude::*;
use pulso_core::control_log::JobStatus;
use pulso_core::coordinator::{Answer, Call, DefinitionId, Event, NewJob, PhaseView};
use pulso_core::cut::CutHash;
use pulso_core::ids::{Attempt, CheckpointId, Epoch, KeyGroup, KeyGroupId, Position, SplitId, Stage};
use pulso_core::ledger::Mark;
use pulso_core::message::{Counters, Failure, Report, Snapshot, SplitReport, Verdict};
use pulso_core::record::{Change, JobDefinition, Redefinition};

use crate::world::{TARGET, World, definition, job_id, start};

/// Something that no TaskManager should say, of this or another attempt, or of a job that nobody knows.
fn nonsense(world: &mut World) -> Report {
    let newest = world.checker.durable.jobs.get(&job_id(1)).map_or(0, |job| job.attempt.0);
    let chance = &mut world.chance;
    let attempt = Attempt((newest + 1).saturating_sub(chance.below(3)));
    let job = job_id(1 + u128::from(chance.one_in(5)));
    let epoch = Epoch(chance.below(40));
    let key_group = KeyGroupId { stage: Stage(0), group: KeyGroup(chance.below(7) as u16) };
    let checkpoint = CheckpointId(chance.below(6));
    let mark = Mark { epoch, hash: CutHash(1) };
    match chance.below(9) {
        0 => Report::Ready { job, attempt },
        1 => Report::InputWaiting { job, attempt, epoch, full: chance.one_in(2) },
        2 => {
            let report = SplitReport { end: Position(chance.below(300) as i64), count: 3, hash: 1, greatest: None };
            let splits = [(SplitId(chance.below(5) as u32), report)].into();
            Report::CutReported { job, attempt, epoch, splits }
        }
        3 => Report::Committed { job, attempt: Attempt(newest + 1), epoch, counters: Counters::default() },
        4 => {
            let snapshot = Snapshot { epoch, marks: [].into(), counters: Counters::default(), files: vec![] };
            Report::SnapshotTaken { job, attempt, checkpoint, key_group, snapshot }
        }
        5 => Report::CheckpointFailed { job, attempt, checkpoint, reason: "disk".into() },
        6 => {
            let failure = match chance.below(12) {
                0 => Failure::BadSnapshot { key_group, epoch, reason: "checksum".into() },
                1 => Failure::Fatal { reason: "no table".into() },
                2 => Failure::WentBack { target: TARGET, readings: [(key_group, mark)].into() },
                _ => Failure::Retry { reason: "link".into() },
            };
            Report::Failed { job, attempt, failure }
        }
        7 => {
            let verdict = match chance.below(12) {
                0 => Verdict::Ahead { key_group, found: mark },
                1 => Verdict::Behind { readings: [(key_group, mark)].into() },
                _ => Verdict::Consistent,
            };
            Report::TakenOver { job, attempt, target: TARGET, verdict }
        }
        _ => Report::Prepared { job, attempt: Attempt(newest + 1), copies: [].into() },
    }
}

fn call(world: &mut World) {
    let job = job_id(1);
    if world.chance.one_in(6) && world.checker.durable.jobs.contains_key(&job) {
        let fingerprint = 100 + world.chance.below(1_000);
        return change(world, fingerprint);
    }
    let call = match world.chance.below(12) {
        0 => Call::Cancel { job },
        1 | 2 => Call::Stop { job },
        3..6 => Call::Savepoint { job },
        6..9 => Call::Resume { job },
        _ => return submit(world),
    };
    world.call(call);
}

fn fingerprint(world: &World) -> u64 {
    world.checker.durable.jobs.get(&job_id(1)).map_or(1, |job| job.definition.fingerprint)
}

/// Of the file, or of secrets alone.
fn change(world: &mut World, fingerprint: u64) {
    let from = DefinitionId::of(&world.checker.durable.jobs[&job_id(1)]);
    let definition = JobDefinition { fingerprint, ..definition(1, "vitals") };
    let call = if world.chance.one_in(4) {
        let definitions = Redefinition { definition, next: None, before: BTreeMap::new() };
        Call::Redefine { from, definitions: Box::new(definitions) }
    } else {
        let change = Change { definition, source: None, time: false, lookups: None, before: BTreeMap::new() };
        Call::Change { from, change: Box::new(change) }
    };
    world.call(call);
}

fn trouble(world: &mut World) {
    let count = world.task_managers.len() as u64;
    let i = world.chance.below(count.max(1)) as usize;
    match world.chance.below(11) {
        0 if count > 0 => world.kill(i),
        1 if count < 5 => {
            world.add();
        }
        2 if count > 0 => {
            world.lose(i);
            world.connect(i);
        }
        // Opens a session before the old one is known to be lost.
        3 if count > 0 => world.connect(i),
        4 if count > 0 => world.task_managers[i].paused ^= true,
        5 => {
            let landed = world.chance.one_in(2);
            world.restart(landed);
        }
        6 if count > 0 && world.chance.one_in(3) => world.task_managers[i].say(Report::Leaving),
        7 if count > 0 => {
            if let Some(session) = world.task_managers[i].session {
                let report = nonsense(world);
                world.report(i, session, report);
            }
        }
        8 => call(world),
        9 => world.now += world.chance.below(3_000_000),
        10 if world.chance.one_in(4) => {
            let split = SplitId(3 + world.chance.below(2) as u32);
            let of = fingerprint(world);
            world.event(Event::SplitsFound { job: job_id(1), of, splits: [(split, Position(50))].into() });
        }
        _ => {}
    }
}

fn submit(world: &mut World) {
    world.call(Call::Submit(Box::new(NewJob { definition: definition(1, "vitals"), start: start(3), lookups: None })));
}

fn peace(world: &mut World) {
    world.log_takes = 1;
    for i in 0..world.task_managers.len() {
        world.task_managers[i].paused = false;
        if world.task_managers[i].session.is_none() {
            world.connect(i);
        }
    }
    // One that nobody has told to leave.
    world.add();
    world.run(4_000);
    let job = job_id(1);
    // A restart can come before the log has it: nobody was told that there is a job.
    if !world.checker.durable.jobs.contains_key(&job) {
        submit(world);
        world.run(4_000);
    }
    for _ in 0..4 {
        let status = world.checker.durable.jobs[&job].status.clone();
        match status {
            JobStatus::Running | JobStatus::Stopping => break,
            JobStatus::Finished | JobStatus::Cancelled | JobStatus::Failed { .. } => {
                world.call(Call::Resume { job });
                world.run(4_000);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_forbidden_happens_and_the_job_goes_on(seed: u64) {
        let mut world = World::new(seed, 2);
        submit(&mut world);
        world.log_takes = 3;
        for _ in 0..1_500 {
            world.step();
            if world.chance.one_in(12) {
                trouble(&mut world);
            }
        }
        peace(&mut world);
        let state = &world.checker.durable.jobs[&job_id(1)];
        if let JobStatus::Failed { reason } = &state.status {
            // Readings that were made up can rule out every checkpoint, again and again only if they are repeated.
            prop_assert!(false, "failed for good: {reason}");
        }
        if state.status == JobStatus::Running {
            let sealed = state.newest_cut().epoch;
            world.until("running", |w| w.job(1).phase == PhaseView::Running);
            world.until("progress", |w| w.job(1).epochs.committed.0 > sealed.0 + 3);
            let stop = world.call(Call::Stop { job: job_id(1) });
            world.until("stopped", |w| w.answers.contains_key(&stop));
            prop_assert!(matches!(world.answers[&stop], Answer::Stopped { .. }), "{:?}", world.answers[&stop]);
        } else {
            world.until("finished", |w| w.checker.durable.jobs[&job_id(1)].status == JobStatus::Finished);
        }
        let job = world.job(1);
        prop_assert_eq!(job.epochs.committed, job.epochs.sealed);
    }
}

#[test]
fn the_random_sequences_reach_everything() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..30 {
        let mut world = World::new(seed * 7_919, 2);
        submit(&mut world);
        world.log_takes = 3;
        for _ in 0..1_500 {
            world.step();
            if world.chance.one_in(12) {
                trouble(&mut world);
            }
        }
        for (what, count) in world.checker.seen {
            *seen.entry(what).or_insert(0) += count;
        }
    }
    for what in
        ["checkpoint", "collect", "delete", "copy kept", "close session", "savepoint", "stopped", "resumed", "refused"]
    {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "{what}: {seen:?}");
    }
}
