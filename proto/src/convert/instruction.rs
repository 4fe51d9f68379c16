//! What the JobManager tells a TaskManager.

use pulso_core::files::{FileNumber, FoundFile, PlacedFile};
use pulso_core::ids::{Attempt, CheckpointId, Epoch, EventTime, JobId, KeyGroupId, Position, SplitId, WallTime};
use pulso_core::message::{Deployment, Instruction, Opening, Restore, Seal};

use super::{
    Result, WireError, hash, hash_bytes, id_bytes, invalid, job_id, key_group, lookups_bytes, lookups_id, required,
    unique,
};
use crate::v1;
use crate::v1::instruction::Kind;

impl From<Instruction> for v1::ToTaskManager {
    fn from(instruction: Instruction) -> Self {
        Self { kind: Some(v1::to_task_manager::Kind::Instruction(instruction.into())) }
    }
}

/// `Welcome`, which opens a session, is none.
impl TryFrom<v1::ToTaskManager> for Instruction {
    type Error = WireError;

    fn try_from(message: v1::ToTaskManager) -> Result<Self> {
        match required(message.kind, "to_task_manager.kind")? {
            v1::to_task_manager::Kind::Instruction(instruction) => instruction.try_into(),
            v1::to_task_manager::Kind::Welcome(_) => Err(invalid("to_task_manager.kind", "a second welcome")),
        }
    }
}

impl From<Instruction> for v1::Instruction {
    fn from(instruction: Instruction) -> Self {
        let (job, attempt, kind) = match instruction {
            Instruction::Prepare { job, attempt } => (job, attempt, Kind::Prepare(v1::Prepare {})),
            Instruction::Deploy(deployment) => {
                (deployment.job, deployment.attempt, Kind::Deploy(deploy_to_wire(*deployment)))
            }
            Instruction::OpenCut { job, attempt, opening } => {
                let Opening { epoch, clock, watermark, lookups } = opening;
                let lookups = lookups_bytes(lookups);
                let cut = v1::OpenCut { epoch: epoch.0, clock: clock.0, watermark: watermark.0, lookups };
                (job, attempt, Kind::OpenCut(cut))
            }
            Instruction::Seal { job, attempt, seal } => {
                let Seal { epoch, hash, committed, last } = seal;
                let seal = v1::Seal { epoch: epoch.0, hash: hash_bytes(hash), committed: committed.0, last };
                (job, attempt, Kind::Seal(seal))
            }
            Instruction::Progress { job, attempt, committed } => {
                (job, attempt, Kind::Progress(v1::Progress { committed: committed.0 }))
            }
            Instruction::TakeCheckpoint { job, attempt, checkpoint, epoch } => {
                let take = v1::TakeCheckpoint { checkpoint: checkpoint.0, epoch: epoch.0 };
                (job, attempt, Kind::TakeCheckpoint(take))
            }
            Instruction::CheckpointDone { job, attempt, checkpoint } => {
                (job, attempt, Kind::CheckpointDone(v1::CheckpointDone { checkpoint: checkpoint.0 }))
            }
            Instruction::Files { job, attempt, files } => {
                let files = files.into_iter().map(file_to_wire).collect();
                (job, attempt, Kind::Files(v1::Files { files }))
            }
            Instruction::Release { job, attempt } => (job, attempt, Kind::Release(v1::Release {})),
        };
        Self { job: id_bytes(job.0), attempt: attempt.0, kind: Some(kind) }
    }
}

impl TryFrom<v1::Instruction> for Instruction {
    type Error = WireError;

    fn try_from(message: v1::Instruction) -> Result<Self> {
        let (job, attempt) = (job_id(&message.job)?, Attempt(message.attempt));
        Ok(match required(message.kind, "instruction.kind")? {
            Kind::Prepare(v1::Prepare {}) => Self::Prepare { job, attempt },
            Kind::Deploy(deploy) => Self::Deploy(Box::new(deployment(job, attempt, deploy)?)),
            Kind::OpenCut(v1::OpenCut { epoch, clock, watermark, lookups }) => {
                let opening = Opening {
                    epoch: Epoch(epoch),
                    clock: WallTime(clock),
                    watermark: EventTime(watermark),
                    lookups: lookups_id(&lookups, "open_cut.lookups")?,
                };
                Self::OpenCut { job, attempt, opening }
            }
            Kind::Seal(seal) => {
                let seal = Seal {
                    epoch: Epoch(seal.epoch),
                    hash: hash(&seal.hash, "seal.hash")?,
                    committed: Epoch(seal.committed),
                    last: seal.last,
                };
                Self::Seal { job, attempt, seal }
            }
            Kind::Progress(v1::Progress { committed }) => Self::Progress { job, attempt, committed: Epoch(committed) },
            Kind::TakeCheckpoint(v1::TakeCheckpoint { checkpoint, epoch }) => {
                Self::TakeCheckpoint { job, attempt, checkpoint: CheckpointId(checkpoint), epoch: Epoch(epoch) }
            }
            Kind::CheckpointDone(v1::CheckpointDone { checkpoint }) => {
                Self::CheckpointDone { job, attempt, checkpoint: CheckpointId(checkpoint) }
            }
            Kind::Files(v1::Files { files }) => {
                Self::Files { job, attempt, files: files.into_iter().map(placed_file).collect() }
            }
            Kind::Release(v1::Release {}) => Self::Release { job, attempt },
        })
    }
}

fn deploy_to_wire(deployment: Deployment) -> v1::Deploy {
    let resume = |(key_group, epoch): (KeyGroupId, Epoch)| v1::KeyGroupEpoch {
        key_group: Some(key_group.into()),
        epoch: epoch.0,
    };
    v1::Deploy {
        definition: Some(deployment.definition.into()),
        plan: Some(deployment.plan.into()),
        resume: deployment.resume.into_iter().map(resume).collect(),
        restore: deployment.restore.into_iter().map(restore_to_wire).collect(),
        start: Some(deployment.start.into()),
        replay: deployment.replay.into_iter().map(Into::into).collect(),
        joined: deployment.joined.into_iter().map(|(split, start)| (split.0, start.0)).collect(),
        committed: deployment.committed.0,
        window: deployment.window,
        since: deployment.since.0,
        until: deployment.until.map(|epoch| epoch.0),
        rewound: deployment.rewound,
        files: deployment.files.into_iter().map(file_to_wire).collect(),
    }
}

fn file_to_wire(placed: PlacedFile) -> v1::PlacedFile {
    let FoundFile { path, from, to, modified, inode, bad } = placed.file;
    v1::PlacedFile { split: placed.split.0, number: placed.number.0, path, from, to, modified, inode, bad }
}

fn placed_file(wire: v1::PlacedFile) -> PlacedFile {
    let v1::PlacedFile { split, number, path, from, to, modified, inode, bad } = wire;
    let file = FoundFile { path, from, to, modified, inode, bad };
    PlacedFile { split: SplitId(split), number: FileNumber(number), file }
}

fn deployment(job: JobId, attempt: Attempt, deploy: v1::Deploy) -> Result<Deployment> {
    let resume = deploy.resume.into_iter().map(|r| Ok((key_group(r.key_group)?, Epoch(r.epoch))));
    Ok(Deployment {
        job,
        attempt,
        definition: required(deploy.definition, "deploy.definition")?.try_into()?,
        plan: required(deploy.plan, "deploy.plan")?.try_into()?,
        resume: unique(resume, "deploy.resume")?,
        restore: unique(deploy.restore.into_iter().map(restore), "deploy.restore")?,
        start: required(deploy.start, "deploy.start")?.try_into()?,
        replay: deploy.replay.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        joined: deploy.joined.into_iter().map(|(split, start)| (SplitId(split), Position(start))).collect(),
        committed: Epoch(deploy.committed),
        window: deploy.window,
        since: Epoch(deploy.since),
        until: deploy.until.map(Epoch),
        rewound: deploy.rewound,
        files: deploy.files.into_iter().map(placed_file).collect(),
    })
}

fn restore_to_wire((key_group, restore): (KeyGroupId, Restore)) -> v1::KeyGroupRestore {
    use v1::key_group_restore::From;
    let from = match restore {
        Restore::Fresh => From::Fresh(v1::Fresh {}),
        Restore::Copy => From::Copy(v1::LocalCopy {}),
        Restore::Snapshot(snapshot) => From::Snapshot(snapshot.into()),
    };
    v1::KeyGroupRestore { key_group: Some(key_group.into()), from: Some(from) }
}

fn restore(wire: v1::KeyGroupRestore) -> Result<(KeyGroupId, Restore)> {
    use v1::key_group_restore::From;
    let restore = match required(wire.from, "restore.from")? {
        From::Fresh(v1::Fresh {}) => Restore::Fresh,
        From::Copy(v1::LocalCopy {}) => Restore::Copy,
        From::Snapshot(snapshot) => Restore::Snapshot(snapshot.try_into()?),
    };
    Ok((key_group(wire.key_group)?, restore))
}
