//! Round trips of every message, and what is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use pulso_core::cut::{Cut, CutHash, SplitCut};
use pulso_core::files::{FileNumber, FoundFile, PlacedFile};
use pulso_core::ids::{
    Attempt, CheckpointId, Epoch, EventTime, JobId, KeyGroup, KeyGroupId, LookupsId, Position, SplitId, Stage,
    TargetId, TaskManagerId, WallTime,
};
use pulso_core::ledger::Mark;
use pulso_core::message::{
    Barrier, Copy, Counters, Deployment, Failure, Instruction, Opening, Report, Restore, Seal, Snapshot, SnapshotFile,
    SplitReport, Verdict,
};
use pulso_core::placement::Plan;
use pulso_core::record::JobDefinition;
use uuid::Uuid;

use super::{Content, Frame, WireError};
use crate::v1;

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn job() -> impl Strategy<Value = JobId> {
    uuid().prop_map(JobId)
}

fn task_manager() -> impl Strategy<Value = TaskManagerId> {
    uuid().prop_map(TaskManagerId)
}

fn attempt() -> impl Strategy<Value = Attempt> {
    any::<u64>().prop_map(Attempt)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn checkpoint() -> impl Strategy<Value = CheckpointId> {
    any::<u64>().prop_map(CheckpointId)
}

fn key_group() -> impl Strategy<Value = KeyGroupId> {
    (any::<u8>(), any::<u16>()).prop_map(|(s, g)| KeyGroupId { stage: Stage(s), group: KeyGroup(g) })
}

fn mark() -> impl Strategy<Value = Mark> {
    (epoch(), any::<u128>()).prop_map(|(epoch, hash)| Mark { epoch, hash: CutHash(hash) })
}

fn marks() -> impl Strategy<Value = BTreeMap<TargetId, Mark>> {
    btree_map(any::<u16>().prop_map(TargetId), mark(), 0..3)
}

fn readings() -> impl Strategy<Value = BTreeMap<KeyGroupId, Mark>> {
    btree_map(key_group(), mark(), 0..3)
}

fn counters() -> impl Strategy<Value = Counters> {
    any::<[u64; 7]>().prop_map(|[written, corrections, filtered, duplicates, superseded, dead_letters, late]| {
        Counters { written, corrections, late, filtered, duplicates, superseded, dead_letters }
    })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let file = (".*", ".*", any::<u64>(), any::<u32>()).prop_map(|(name, object, bytes, checksum)| SnapshotFile {
        name,
        object,
        bytes,
        checksum,
    });
    (epoch(), marks(), counters(), vec(file, 0..3)).prop_map(|(epoch, marks, counters, files)| Snapshot {
        epoch,
        marks,
        counters,
        files,
    })
}

fn split() -> impl Strategy<Value = SplitId> {
    any::<u32>().prop_map(SplitId)
}

fn greatest() -> impl Strategy<Value = Option<EventTime>> {
    option::of(any::<i64>().prop_map(EventTime))
}

fn lookups() -> impl Strategy<Value = Option<LookupsId>> {
    option::of(any::<u128>().prop_map(|id| LookupsId(Uuid::from_u128(id))))
}

fn cut() -> impl Strategy<Value = Cut> {
    let part = (any::<i64>(), any::<u64>(), any::<u64>(), greatest())
        .prop_map(|(end, count, hash, greatest)| SplitCut { end: Position(end), count, hash, greatest });
    let fields = (
        epoch(),
        any::<i64>(),
        btree_map(split(), part, 0..3),
        any::<i64>(),
        btree_set(split(), 0..3),
        any::<bool>(),
        lookups(),
        any::<u128>(),
    );
    fields.prop_map(|(epoch, clock, splits, watermark, idle, last, lookups, previous)| Cut {
        epoch,
        clock: WallTime(clock),
        splits,
        watermark: EventTime(watermark),
        idle,
        last,
        lookups,
        previous: CutHash(previous),
    })
}

fn definition() -> impl Strategy<Value = JobDefinition> {
    let first = (job(), ".*", ".*", any::<u64>(), any::<u16>());
    let second = (any::<u8>(), vec(".*", 0..3), any::<i64>(), any::<i64>(), any::<bool>());
    (first, second).prop_map(
        |((id, name, submission, fingerprint, key_groups), (stages, targets, delay, idle_after, has_windows))| {
            JobDefinition {
                id,
                name,
                submission,
                fingerprint,
                key_groups,
                stages,
                targets,
                delay,
                idle_after,
                has_windows,
            }
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let members = btree_map(task_manager(), ".*", 0..3);
    let splits = btree_map(split(), task_manager(), 0..3);
    let key_groups = btree_map(key_group(), task_manager(), 0..3);
    (members, splits, key_groups).prop_map(|(members, splits, key_groups)| Plan { members, splits, key_groups })
}

fn restore() -> impl Strategy<Value = Restore> {
    prop_oneof![Just(Restore::Fresh), Just(Restore::Copy), snapshot().prop_map(Restore::Snapshot)]
}

fn deployment() -> impl Strategy<Value = Deployment> {
    let first = (job(), attempt(), definition(), plan(), btree_map(key_group(), epoch(), 0..3));
    let joined = (btree_map(split(), any::<i64>().prop_map(Position), 0..3), vec(file(), 0..3));
    let era = (epoch(), proptest::option::of(epoch()), any::<bool>());
    let second = (btree_map(key_group(), restore(), 0..3), cut(), vec(cut(), 0..3), joined, epoch(), any::<u64>(), era);
    (first, second).prop_map(
        |(
            (job, attempt, definition, plan, resume),
            (restore, start, replay, (joined, files), committed, window, (since, until, rewound)),
        )| {
            Deployment {
                job,
                attempt,
                definition,
                plan,
                resume,
                restore,
                start,
                replay,
                joined,
                files,
                committed,
                window,
                since,
                until,
                rewound,
            }
        },
    )
}

fn file() -> impl Strategy<Value = PlacedFile> {
    let found = (any::<String>(), any::<[u64; 3]>(), any::<i64>(), proptest::option::of(any::<String>()));
    (split(), any::<u32>(), found).prop_map(|(split, number, (path, [from, to, inode], modified, bad))| {
        let file = FoundFile { path, from, to, modified, inode, bad };
        PlacedFile { split, number: FileNumber(number), file }
    })
}

fn instruction() -> impl Strategy<Value = Instruction> {
    let fence = || (job(), attempt());
    let opening = (epoch(), any::<i64>(), any::<i64>(), lookups()).prop_map(|(epoch, clock, watermark, lookups)| {
        Opening { epoch, clock: WallTime(clock), watermark: EventTime(watermark), lookups }
    });
    let seal = (epoch(), any::<u128>(), epoch(), any::<bool>()).prop_map(|(epoch, hash, committed, last)| Seal {
        epoch,
        hash: CutHash(hash),
        committed,
        last,
    });
    prop_oneof![
        fence().prop_map(|(job, attempt)| Instruction::Prepare { job, attempt }),
        deployment().prop_map(|d| Instruction::Deploy(Box::new(d))),
        (fence(), vec(file(), 0..3)).prop_map(|((job, attempt), files)| Instruction::Files { job, attempt, files }),
        (fence(), opening).prop_map(|((job, attempt), opening)| Instruction::OpenCut { job, attempt, opening }),
        (fence(), seal).prop_map(|((job, attempt), seal)| Instruction::Seal { job, attempt, seal }),
        (fence(), epoch()).prop_map(|((job, attempt), committed)| Instruction::Progress { job, attempt, committed }),
        (fence(), checkpoint(), epoch()).prop_map(|((job, attempt), checkpoint, epoch)| {
            Instruction::TakeCheckpoint { job, attempt, checkpoint, epoch }
        }),
        (fence(), checkpoint()).prop_map(|((job, attempt), checkpoint)| Instruction::CheckpointDone {
            job,
            attempt,
            checkpoint
        }),
        fence().prop_map(|(job, attempt)| Instruction::Release { job, attempt }),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Consistent),
        readings().prop_map(|readings| Verdict::Behind { readings }),
        (key_group(), mark()).prop_map(|(key_group, found)| Verdict::Ahead { key_group, found }),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![
        ".*".prop_map(|reason| Failure::Retry { reason }),
        (any::<u16>(), readings())
            .prop_map(|(target, readings)| Failure::WentBack { target: TargetId(target), readings }),
        (key_group(), epoch(), ".*").prop_map(|(key_group, epoch, reason)| Failure::BadSnapshot {
            key_group,
            epoch,
            reason
        }),
        ".*".prop_map(|reason| Failure::Fatal { reason }),
    ]
}

fn report() -> impl Strategy<Value = Report> {
    let fence = || (job(), attempt());
    let copy = (epoch(), marks()).prop_map(|(epoch, marks)| Copy { epoch, marks });
    let part = (any::<i64>(), any::<u64>(), any::<u64>(), greatest())
        .prop_map(|(end, count, hash, greatest)| SplitReport { end: Position(end), count, hash, greatest });
    prop_oneof![
        (fence(), btree_map(key_group(), copy, 0..3)).prop_map(|((job, attempt), copies)| Report::Prepared {
            job,
            attempt,
            copies
        }),
        (fence(), any::<u16>(), verdict()).prop_map(|((job, attempt), target, verdict)| Report::TakenOver {
            job,
            attempt,
            target: TargetId(target),
            verdict
        }),
        fence().prop_map(|(job, attempt)| Report::Ready { job, attempt }),
        (fence(), epoch(), any::<bool>()).prop_map(|((job, attempt), epoch, full)| Report::InputWaiting {
            job,
            attempt,
            epoch,
            full
        }),
        (fence(), epoch(), btree_map(split(), part, 0..3))
            .prop_map(|((job, attempt), epoch, splits)| Report::CutReported { job, attempt, epoch, splits }),
        (fence(), epoch(), counters()).prop_map(|((job, attempt), epoch, counters)| Report::Committed {
            job,
            attempt,
            epoch,
            counters
        }),
        (fence(), checkpoint(), key_group(), snapshot()).prop_map(
            |((job, attempt), checkpoint, key_group, snapshot)| {
                Report::SnapshotTaken { job, attempt, checkpoint, key_group, snapshot }
            }
        ),
        (fence(), checkpoint(), ".*").prop_map(|((job, attempt), checkpoint, reason)| {
            Report::CheckpointFailed { job, attempt, checkpoint, reason }
        }),
        (fence(), failure()).prop_map(|((job, attempt), failure)| Report::Failed { job, attempt, failure }),
        Just(Report::Leaving),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let content = prop_oneof![
        task_manager().prop_map(|to| Content::Hello { to }),
        (any::<u8>(), epoch(), vec(any::<u8>(), 0..20)).prop_map(|(stage, epoch, payload)| Content::Rows {
            stage: Stage(stage),
            epoch,
            payload: Bytes::from(payload)
        }),
        (any::<u8>(), epoch(), any::<i64>()).prop_map(|(stage, epoch, watermark)| Content::Barrier {
            stage: Stage(stage),
            barrier: Barrier { epoch, watermark: EventTime(watermark) }
        }),
    ];
    (job(), attempt(), task_manager(), content).prop_map(|(job, attempt, from, content)| Frame {
        job,
        attempt,
        from,
        content,
    })
}

/// Through the bytes, not only through the types.
fn over_the_wire<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn instructions_arrive_as_sent(sent in instruction()) {
        let wire = over_the_wire(&v1::ToTaskManager::from(sent.clone()));
        prop_assert_eq!(Instruction::try_from(wire), Ok(sent));
    }

    #[test]
    fn reports_arrive_as_sent(sent in report()) {
        let wire = over_the_wire(&v1::ToJobManager::from(sent.clone()));
        let Some(v1::to_job_manager::Kind::Report(wire)) = wire.kind else { panic!("not a report") };
        prop_assert_eq!(Report::try_from(wire), Ok(sent));
    }

    #[test]
    fn frames_arrive_as_sent(sent in frame()) {
        let wire = over_the_wire(&v1::Frame::from(sent.clone()));
        prop_assert_eq!(Frame::try_from(wire), Ok(sent));
    }

    /// Any bytes are a message or an error, never a panic.
    #[test]
    fn garbage_is_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = v1::ToTaskManager::decode(bytes.as_slice()) {
            let _ = Instruction::try_from(wire);
        }
        if let Ok(wire) = v1::Report::decode(bytes.as_slice()) {
            let _ = Report::try_from(wire);
        }
        if let Ok(wire) = v1::Frame::decode(bytes.as_slice()) {
            let _ = Frame::try_from(wire);
        }
    }
}

fn seal() -> v1::Instruction {
    let seal = Seal { epoch: Epoch(3), hash: CutHash(9), committed: Epoch(2), last: false };
    Instruction::Seal { job: JobId(Uuid::from_u128(1)), attempt: Attempt(1), seal }.into()
}

#[test]
fn what_is_missing_is_named() {
    let mut message = seal();
    message.job.clear();
    assert_eq!(Instruction::try_from(message), Err(WireError::Missing("job")));

    let mut message = seal();
    message.kind = None;
    assert_eq!(Instruction::try_from(message), Err(WireError::Missing("instruction.kind")));

    let kind = v1::report::Kind::Committed(v1::Committed { epoch: 1, counters: None });
    let message = v1::Report { job: seal().job, attempt: 1, kind: Some(kind) };
    assert_eq!(Report::try_from(message), Err(WireError::Missing("committed.counters")));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut message = seal();
    message.job.pop();
    assert!(matches!(Instruction::try_from(message), Err(WireError::Invalid { field: "job", .. })));

    let copy = |group| v1::KeyGroupCopy {
        key_group: Some(v1::KeyGroupId { stage: 0, group }),
        epoch: 1,
        marks: BTreeMap::new(),
    };
    let prepared = |copies| v1::Report {
        job: seal().job,
        attempt: 1,
        kind: Some(v1::report::Kind::Prepared(v1::Prepared { copies })),
    };
    assert!(Report::try_from(prepared(vec![copy(1), copy(2)])).is_ok());
    assert!(matches!(
        Report::try_from(prepared(vec![copy(1), copy(1)])),
        Err(WireError::Invalid { field: "prepared.copies", .. })
    ));
    assert!(matches!(Report::try_from(prepared(vec![copy(70_000)])), Err(WireError::Invalid { field: "group", .. })));
}

#[test]
fn secrets_are_not_in_debug() {
    let environment = BTreeMap::from([("DATABASE_URL".to_owned(), "postgres://u:hunter2@h/d".to_owned())]);
    let request = v1::SubmitRequest { toml: "key = 'hunter2'".to_owned(), environment, ..Default::default() };
    let definition = v1::JobDefinition { submission: "hunter2".to_owned(), ..Default::default() };
    let text = format!("{request:?} {definition:?}");
    assert!(text.contains("DATABASE_URL") && !text.contains("hunter2"), "{text}");
}
