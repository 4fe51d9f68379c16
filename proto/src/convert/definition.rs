//! Jobs, plans, cuts and snapshots.

use std::collections::BTreeMap;

use pulso_core::cut::{Cut, SplitCut};
use pulso_core::ids::{Epoch, EventTime, Position, SplitId, WallTime};
use pulso_core::message::{Counters, Snapshot, SnapshotFile};
use pulso_core::placement::Plan;
use pulso_core::record::JobDefinition;

use super::{
    Result, WireError, hash, hash_bytes, id_bytes, job_id, key_group, lookups_bytes, lookups_id, marks, marks_to_wire,
    narrow, required, task_manager_id, unique,
};
use crate::v1;

impl From<JobDefinition> for v1::JobDefinition {
    fn from(job: JobDefinition) -> Self {
        Self {
            id: id_bytes(job.id.0),
            name: job.name,
            submission: job.submission,
            fingerprint: job.fingerprint,
            key_groups: job.key_groups.into(),
            stages: job.stages.into(),
            targets: job.targets,
            delay: job.delay,
            idle_after: job.idle_after,
            has_windows: job.has_windows,
        }
    }
}

impl TryFrom<v1::JobDefinition> for JobDefinition {
    type Error = WireError;

    fn try_from(job: v1::JobDefinition) -> Result<Self> {
        Ok(Self {
            id: job_id(&job.id)?,
            name: job.name,
            submission: job.submission,
            fingerprint: job.fingerprint,
            key_groups: narrow(job.key_groups, "key_groups")?,
            stages: narrow(job.stages, "stages")?,
            targets: job.targets,
            delay: job.delay,
            idle_after: job.idle_after,
            has_windows: job.has_windows,
        })
    }
}

impl From<Plan> for v1::Plan {
    fn from(plan: Plan) -> Self {
        let member = |(id, exchange): (pulso_core::ids::TaskManagerId, String)| v1::Member {
            task_manager: id_bytes(id.0),
            exchange,
        };
        let split = |(split, owner): (SplitId, pulso_core::ids::TaskManagerId)| v1::SplitOwner {
            split: split.0,
            task_manager: id_bytes(owner.0),
        };
        let key_group = |(id, owner): (pulso_core::ids::KeyGroupId, pulso_core::ids::TaskManagerId)| {
            v1::KeyGroupOwner { key_group: Some(id.into()), task_manager: id_bytes(owner.0) }
        };
        Self {
            members: plan.members.into_iter().map(member).collect(),
            splits: plan.splits.into_iter().map(split).collect(),
            key_groups: plan.key_groups.into_iter().map(key_group).collect(),
        }
    }
}

impl TryFrom<v1::Plan> for Plan {
    type Error = WireError;

    fn try_from(plan: v1::Plan) -> Result<Self> {
        Ok(Self {
            members: unique(
                plan.members.into_iter().map(|m| Ok((task_manager_id(&m.task_manager)?, m.exchange))),
                "plan.members",
            )?,
            splits: unique(
                plan.splits.into_iter().map(|s| Ok((SplitId(s.split), task_manager_id(&s.task_manager)?))),
                "plan.splits",
            )?,
            key_groups: unique(
                plan.key_groups.into_iter().map(|k| Ok((key_group(k.key_group)?, task_manager_id(&k.task_manager)?))),
                "plan.key_groups",
            )?,
        })
    }
}

impl From<Cut> for v1::Cut {
    fn from(cut: Cut) -> Self {
        let split = |(split, part): (SplitId, SplitCut)| {
            let greatest = part.greatest.map(|t| t.0);
            (split.0, v1::SplitCut { end: part.end.0, count: part.count, hash: part.hash, greatest })
        };
        Self {
            epoch: cut.epoch.0,
            clock: cut.clock.0,
            splits: cut.splits.into_iter().map(split).collect(),
            watermark: cut.watermark.0,
            idle: cut.idle.into_iter().map(|s| s.0).collect(),
            last: cut.last,
            previous: hash_bytes(cut.previous),
            lookups: lookups_bytes(cut.lookups),
        }
    }
}

impl TryFrom<v1::Cut> for Cut {
    type Error = WireError;

    fn try_from(cut: v1::Cut) -> Result<Self> {
        let split = |(split, part): (u32, v1::SplitCut)| {
            let greatest = part.greatest.map(EventTime);
            let part = SplitCut { end: Position(part.end), count: part.count, hash: part.hash, greatest };
            (SplitId(split), part)
        };
        Ok(Self {
            epoch: Epoch(cut.epoch),
            clock: WallTime(cut.clock),
            splits: cut.splits.into_iter().map(split).collect(),
            watermark: EventTime(cut.watermark),
            idle: cut.idle.into_iter().map(SplitId).collect(),
            last: cut.last,
            previous: hash(&cut.previous, "cut.previous")?,
            lookups: lookups_id(&cut.lookups, "cut.lookups")?,
        })
    }
}

impl From<Counters> for v1::Counters {
    fn from(counters: Counters) -> Self {
        let Counters { written, corrections, filtered, duplicates, superseded, dead_letters, late } = counters;
        Self { written, corrections, filtered, duplicates, superseded, dead_letters, late }
    }
}

impl From<v1::Counters> for Counters {
    fn from(counters: v1::Counters) -> Self {
        let v1::Counters { written, corrections, filtered, duplicates, superseded, dead_letters, late } = counters;
        Self { written, corrections, filtered, duplicates, superseded, dead_letters, late }
    }
}

impl From<Snapshot> for v1::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        let file = |file: SnapshotFile| v1::SnapshotFile {
            name: file.name,
            object: file.object,
            bytes: file.bytes,
            checksum: file.checksum,
        };
        Self {
            epoch: snapshot.epoch.0,
            marks: marks_to_wire(snapshot.marks),
            counters: Some(snapshot.counters.into()),
            files: snapshot.files.into_iter().map(file).collect(),
        }
    }
}

impl TryFrom<v1::Snapshot> for Snapshot {
    type Error = WireError;

    fn try_from(snapshot: v1::Snapshot) -> Result<Self> {
        let file = |file: v1::SnapshotFile| SnapshotFile {
            name: file.name,
            object: file.object,
            bytes: file.bytes,
            checksum: file.checksum,
        };
        let marks: BTreeMap<_, _> = marks(snapshot.marks)?;
        Ok(Self {
            epoch: Epoch(snapshot.epoch),
            marks,
            counters: required(snapshot.counters, "snapshot.counters")?.into(),
            files: snapshot.files.into_iter().map(file).collect(),
        })
    }
}
