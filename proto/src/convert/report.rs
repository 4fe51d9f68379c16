//! What a TaskManager tells the JobManager.

use std::collections::BTreeMap;

use pulso_core::ids::{Attempt, CheckpointId, Epoch, EventTime, JobId, KeyGroupId, Position, SplitId};
use pulso_core::message::{Copy, Failure, Report, SplitReport, Verdict};

use super::{
    Result, WireError, id_bytes, job_id, key_group, marks, marks_to_wire, readings, readings_to_wire, required, target,
    unique,
};
use crate::v1;
use crate::v1::report::Kind;

impl From<Report> for v1::ToJobManager {
    fn from(report: Report) -> Self {
        Self { kind: Some(v1::to_job_manager::Kind::Report(report.into())) }
    }
}

impl From<Report> for v1::Report {
    fn from(report: Report) -> Self {
        let (job, attempt, kind) = match report {
            Report::Prepared { job, attempt, copies } => {
                let copies = copies.into_iter().map(copy_to_wire).collect();
                (job, attempt, Kind::Prepared(v1::Prepared { copies }))
            }
            Report::TakenOver { job, attempt, target, verdict } => {
                let taken_over = v1::TakenOver { target: target.0.into(), verdict: Some(verdict_to_wire(verdict)) };
                (job, attempt, Kind::TakenOver(taken_over))
            }
            Report::Ready { job, attempt } => (job, attempt, Kind::Ready(v1::Ready {})),
            Report::InputWaiting { job, attempt, epoch, full } => {
                (job, attempt, Kind::InputWaiting(v1::InputWaiting { epoch: epoch.0, full }))
            }
            Report::CutReported { job, attempt, epoch, splits } => {
                let splits = splits_to_wire(splits);
                (job, attempt, Kind::CutReported(v1::CutReported { epoch: epoch.0, splits }))
            }
            Report::Committed { job, attempt, epoch, counters } => {
                let committed = v1::Committed { epoch: epoch.0, counters: Some(counters.into()) };
                (job, attempt, Kind::Committed(committed))
            }
            Report::SnapshotTaken { job, attempt, checkpoint, key_group, snapshot } => {
                let taken = v1::SnapshotTaken {
                    checkpoint: checkpoint.0,
                    key_group: Some(key_group.into()),
                    snapshot: Some(snapshot.into()),
                };
                (job, attempt, Kind::SnapshotTaken(taken))
            }
            Report::CheckpointFailed { job, attempt, checkpoint, reason } => {
                let failed = v1::CheckpointFailed { checkpoint: checkpoint.0, reason };
                (job, attempt, Kind::CheckpointFailed(failed))
            }
            Report::Failed { job, attempt, failure } => (job, attempt, Kind::Failed(failure_to_wire(failure))),
            Report::Leaving => {
                return Self { job: Vec::new(), attempt: 0, kind: Some(Kind::Leaving(v1::Leaving {})) };
            }
        };
        Self { job: id_bytes(job.0), attempt: attempt.0, kind: Some(kind) }
    }
}

impl TryFrom<v1::Report> for Report {
    type Error = WireError;

    fn try_from(message: v1::Report) -> Result<Self> {
        let kind = required(message.kind, "report.kind")?;
        if matches!(kind, Kind::Leaving(_)) {
            return Ok(Self::Leaving);
        }
        of_attempt(job_id(&message.job)?, Attempt(message.attempt), kind)
    }
}

fn of_attempt(job: JobId, attempt: Attempt, kind: Kind) -> Result<Report> {
    Ok(match kind {
        Kind::Prepared(v1::Prepared { copies }) => {
            let copies = unique(copies.into_iter().map(copy), "prepared.copies")?;
            Report::Prepared { job, attempt, copies }
        }
        Kind::TakenOver(taken) => {
            let verdict = verdict(required(taken.verdict, "taken_over.verdict")?)?;
            Report::TakenOver { job, attempt, target: target(taken.target)?, verdict }
        }
        Kind::Ready(v1::Ready {}) => Report::Ready { job, attempt },
        Kind::InputWaiting(v1::InputWaiting { epoch, full }) => {
            Report::InputWaiting { job, attempt, epoch: Epoch(epoch), full }
        }
        Kind::CutReported(v1::CutReported { epoch, splits: parts }) => {
            Report::CutReported { job, attempt, epoch: Epoch(epoch), splits: splits(parts) }
        }
        Kind::Committed(v1::Committed { epoch, counters }) => {
            let counters = required(counters, "committed.counters")?.into();
            Report::Committed { job, attempt, epoch: Epoch(epoch), counters }
        }
        Kind::SnapshotTaken(taken) => Report::SnapshotTaken {
            job,
            attempt,
            checkpoint: CheckpointId(taken.checkpoint),
            key_group: key_group(taken.key_group)?,
            snapshot: required(taken.snapshot, "snapshot_taken.snapshot")?.try_into()?,
        },
        Kind::CheckpointFailed(v1::CheckpointFailed { checkpoint, reason }) => {
            Report::CheckpointFailed { job, attempt, checkpoint: CheckpointId(checkpoint), reason }
        }
        Kind::Failed(v1::Failed { failure: wire }) => {
            Report::Failed { job, attempt, failure: failure(required(wire, "failed.failure")?)? }
        }
        Kind::Leaving(v1::Leaving {}) => Report::Leaving,
    })
}

fn copy_to_wire((key_group, copy): (KeyGroupId, Copy)) -> v1::KeyGroupCopy {
    v1::KeyGroupCopy { key_group: Some(key_group.into()), epoch: copy.epoch.0, marks: marks_to_wire(copy.marks) }
}

fn copy(wire: v1::KeyGroupCopy) -> Result<(KeyGroupId, Copy)> {
    Ok((key_group(wire.key_group)?, Copy { epoch: Epoch(wire.epoch), marks: marks(wire.marks)? }))
}

fn splits_to_wire(splits: BTreeMap<SplitId, SplitReport>) -> BTreeMap<u32, v1::SplitReport> {
    let part = |part: SplitReport| v1::SplitReport {
        end: part.end.0,
        count: part.count,
        hash: part.hash,
        greatest: part.greatest.map(|t| t.0),
    };
    splits.into_iter().map(|(split, report)| (split.0, part(report))).collect()
}

fn splits(wire: BTreeMap<u32, v1::SplitReport>) -> BTreeMap<SplitId, SplitReport> {
    let part = |part: v1::SplitReport| SplitReport {
        end: Position(part.end),
        count: part.count,
        hash: part.hash,
        greatest: part.greatest.map(EventTime),
    };
    wire.into_iter().map(|(split, report)| (SplitId(split), part(report))).collect()
}

fn verdict_to_wire(verdict: Verdict) -> v1::taken_over::Verdict {
    use v1::taken_over::Verdict as Wire;
    match verdict {
        Verdict::Consistent => Wire::Consistent(v1::Consistent {}),
        Verdict::Behind { readings } => Wire::Behind(v1::Behind { readings: readings_to_wire(readings) }),
        Verdict::Ahead { key_group, found } => {
            Wire::Ahead(v1::Ahead { key_group: Some(key_group.into()), found: Some(found.into()) })
        }
    }
}

fn verdict(wire: v1::taken_over::Verdict) -> Result<Verdict> {
    use v1::taken_over::Verdict as Wire;
    Ok(match wire {
        Wire::Consistent(v1::Consistent {}) => Verdict::Consistent,
        Wire::Behind(behind) => Verdict::Behind { readings: readings(behind.readings)? },
        Wire::Ahead(ahead) => Verdict::Ahead {
            key_group: key_group(ahead.key_group)?,
            found: required(ahead.found, "ahead.found")?.try_into()?,
        },
    })
}

fn failure_to_wire(failure: Failure) -> v1::Failed {
    use v1::failed::Failure as Wire;
    let failure = match failure {
        Failure::Retry { reason } => Wire::Retry(v1::Retry { reason }),
        Failure::WentBack { target, readings } => {
            Wire::WentBack(v1::WentBack { target: target.0.into(), readings: readings_to_wire(readings) })
        }
        Failure::BadSnapshot { key_group, epoch, reason } => {
            Wire::BadSnapshot(v1::BadSnapshot { key_group: Some(key_group.into()), epoch: epoch.0, reason })
        }
        Failure::Fatal { reason } => Wire::Fatal(v1::Fatal { reason }),
    };
    v1::Failed { failure: Some(failure) }
}

fn failure(wire: v1::failed::Failure) -> Result<Failure> {
    use v1::failed::Failure as Wire;
    Ok(match wire {
        Wire::Retry(v1::Retry { reason }) => Failure::Retry { reason },
        Wire::WentBack(back) => Failure::WentBack { target: target(back.target)?, readings: readings(back.readings)? },
        Wire::BadSnapshot(bad) => {
            Failure::BadSnapshot { key_group: key_group(bad.key_group)?, epoch: Epoch(bad.epoch), reason: bad.reason }
        }
        Wire::Fatal(v1::Fatal { reason }) => Failure::Fatal { reason },
    })
}
