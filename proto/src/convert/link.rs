//! What goes over a link between two TaskManagers.

use bytes::Bytes;
use pulso_core::ids::{Attempt, Epoch, EventTime, JobId, Stage, TaskManagerId};
use pulso_core::message::Barrier;

use super::{Result, WireError, id_bytes, job_id, required, stage, uuid};
use crate::v1;

/// One message of a link, with the fence in front.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub job: JobId,
    pub attempt: Attempt,
    pub from: TaskManagerId,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The first one of a link, and only that one.
    Hello {
        to: TaskManagerId,
    },
    /// `payload` is Arrow IPC, opaque here.
    Rows {
        stage: Stage,
        epoch: Epoch,
        payload: Bytes,
    },
    Barrier {
        stage: Stage,
        barrier: Barrier,
    },
}

impl From<Frame> for v1::Frame {
    fn from(frame: Frame) -> Self {
        use v1::frame::Content as Wire;
        let content = match frame.content {
            Content::Hello { to } => Wire::Hello(v1::Hello { to: id_bytes(to.0) }),
            Content::Rows { stage, epoch, payload } => {
                Wire::Rows(v1::Rows { stage: stage.0.into(), epoch: epoch.0, payload })
            }
            Content::Barrier { stage, barrier: Barrier { epoch, watermark } } => {
                Wire::EpochEnd(v1::EpochEnd { stage: stage.0.into(), epoch: epoch.0, watermark: watermark.0 })
            }
        };
        Self {
            job: id_bytes(frame.job.0),
            attempt: frame.attempt.0,
            from: id_bytes(frame.from.0),
            content: Some(content),
        }
    }
}

impl TryFrom<v1::Frame> for Frame {
    type Error = WireError;

    fn try_from(frame: v1::Frame) -> Result<Self> {
        use v1::frame::Content as Wire;
        let content = match required(frame.content, "frame.content")? {
            Wire::Hello(hello) => Content::Hello { to: TaskManagerId(uuid(&hello.to, "hello.to")?) },
            Wire::Rows(v1::Rows { stage: number, epoch, payload }) => {
                Content::Rows { stage: stage(number)?, epoch: Epoch(epoch), payload }
            }
            Wire::EpochEnd(v1::EpochEnd { stage: number, epoch, watermark }) => Content::Barrier {
                stage: stage(number)?,
                barrier: Barrier { epoch: Epoch(epoch), watermark: EventTime(watermark) },
            },
        };
        Ok(Self {
            job: job_id(&frame.job)?,
            attempt: Attempt(frame.attempt),
            from: TaskManagerId(uuid(&frame.from, "frame.from")?),
            content,
        })
    }
}
