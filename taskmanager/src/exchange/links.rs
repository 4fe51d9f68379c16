//! The sending end: where the rows of each key group go in one attempt.

use std::collections::BTreeMap;
use std::sync::Arc;

use pulso_core::ids::{Attempt, Epoch, JobId, Stage, TaskManagerId};
use pulso_core::message::{Barrier, Deployment};
use pulso_dataflow::batch::Payload;
use pulso_proto::convert::{Content, Frame};
use pulso_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::shell::{Event, Events};

/// Frames that wait for the network; the source task waits when it is full.
const QUEUE: usize = 64;

/// Links of one attempt; a clone speaks over the same ones.
#[derive(Clone)]
pub(crate) struct Links(Arc<Inner>);

struct Inner {
    job: JobId,
    attempt: Attempt,
    me: TaskManagerId,
    destinations: Vec<Destination>,
    stages: Vec<OfStage>,
    events: Events,
}

/// Where the rows of one stage go.
struct OfStage {
    /// Destination of each key group, by its number.
    owner_of: Vec<usize>,
    /// Epoch up to which each key group has everything, by its number.
    resume: Vec<Epoch>,
    /// Greatest of `resume`: beyond it every row is sent.
    resumed: Epoch,
}

enum Destination {
    Here,
    There(mpsc::Sender<Frame>),
}

/// Why nothing more goes over the links.
#[derive(Debug)]
pub(crate) enum LinkClosed {
    /// A link is broken, or the attempt is over: somebody else tells.
    Over,
    /// The rows cannot be sent.
    Rows(String),
}

/// Rows are sent in pieces of about this many bytes at most: far below what a message may hold.
const PIECE: usize = 16 << 20;

impl Links {
    pub(super) fn open(me: TaskManagerId, deployment: &Deployment, events: &Events, token: &CancellationToken) -> Self {
        let (job, attempt) = (deployment.job, deployment.attempt);
        let mut index = BTreeMap::new();
        let mut destinations = Vec::new();
        for (member, address) in &deployment.plan.members {
            if !deployment.plan.key_groups.values().any(|owner| owner == member) {
                continue;
            }
            index.insert(*member, destinations.len());
            destinations.push(if *member == me {
                Destination::Here
            } else {
                let (frames, queue) = mpsc::channel(QUEUE);
                let link = Link { job, attempt, me, peer: *member, address: address.clone(), events: events.clone() };
                tokio::spawn(link.run(queue, token.clone()));
                Destination::There(frames)
            });
        }
        let of_stage = |stage: Stage| {
            let owners = deployment.plan.key_groups.iter().filter(|(id, _)| id.stage == stage);
            let resume = deployment.resume.iter().filter(|(id, _)| id.stage == stage);
            let resume: Vec<Epoch> = resume.map(|(_, epoch)| *epoch).collect();
            OfStage {
                owner_of: owners.map(|(_, owner)| index.get(owner).copied().unwrap_or(usize::MAX)).collect(),
                resumed: resume.iter().copied().max().unwrap_or(Epoch::ZERO),
                resume,
            }
        };
        let stages = (0..deployment.definition.stages).map(|stage| of_stage(Stage(stage))).collect();
        Self(Arc::new(Inner { job, attempt, me, destinations, stages, events: events.clone() }))
    }

    /// There is a stage behind this one.
    pub(crate) fn is_before_last(&self, stage: Stage) -> bool {
        usize::from(stage.0) + 1 < self.0.stages.len()
    }

    /// Rows of an epoch, each to the TaskManager of its key group, but not to key groups that have the epoch already.
    /// Blocks while a link is full.
    pub(crate) fn send(&self, stage: Stage, epoch: Epoch, payload: Payload) -> Result<(), LinkClosed> {
        if payload.is_empty() {
            return Ok(());
        }
        let links = &*self.0;
        let Some(of_stage) = links.stages.get(usize::from(stage.0)) else {
            return Err(LinkClosed::Rows(format!("the job has no stage {stage}")));
        };
        let parts = if epoch > of_stage.resumed {
            payload.route(&of_stage.owner_of, links.destinations.len())
        } else {
            let owner_of: Vec<usize> = of_stage
                .owner_of
                .iter()
                .zip(&of_stage.resume)
                .map(|(owner, resume)| if *resume < epoch { *owner } else { usize::MAX })
                .collect();
            payload.route(&owner_of, links.destinations.len())
        };
        let parts = parts.map_err(|e| LinkClosed::Rows(format!("rows cannot be routed: {e}")))?;
        for (destination, part) in links.destinations.iter().zip(parts) {
            if part.is_empty() {
                continue;
            }
            match destination {
                Destination::Here => {
                    let (job, attempt, from) = (links.job, links.attempt, links.me);
                    let event = Event::Arrived { job, attempt, stage, from, epoch, payload: part };
                    links.events.send_blocking(event).map_err(|_| LinkClosed::Over)?;
                }
                Destination::There(frames) => {
                    for piece in part.pieces(PIECE) {
                        let encoded = piece.encode();
                        let payload = encoded.map_err(|e| LinkClosed::Rows(format!("rows cannot be encoded: {e}")))?;
                        self.frame(frames, Content::Rows { stage, epoch, payload: payload.into() })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Behind the epoch's rows, to everyone.
    pub(crate) fn barrier(&self, stage: Stage, barrier: Barrier) -> Result<(), LinkClosed> {
        let links = &*self.0;
        for destination in &links.destinations {
            match destination {
                Destination::Here => {
                    let (job, attempt, from) = (links.job, links.attempt, links.me);
                    let event = Event::BarrierArrived { job, attempt, stage, from, barrier };
                    links.events.send_blocking(event).map_err(|_| LinkClosed::Over)?;
                }
                Destination::There(frames) => {
                    self.frame(frames, Content::Barrier { stage, barrier })?;
                }
            }
        }
        Ok(())
    }

    fn frame(&self, frames: &mpsc::Sender<Frame>, content: Content) -> Result<(), LinkClosed> {
        let (job, attempt, from) = (self.0.job, self.0.attempt, self.0.me);
        frames.blocking_send(Frame { job, attempt, from, content }).map_err(|_| LinkClosed::Over)
    }
}

/// One link to another TaskManager.
struct Link {
    job: JobId,
    attempt: Attempt,
    me: TaskManagerId,
    peer: TaskManagerId,
    address: String,
    events: Events,
}

impl Link {
    async fn run(self, frames: mpsc::Receiver<Frame>, token: CancellationToken) {
        let reason = tokio::select! {
            () = token.cancelled() => return,
            reason = self.carry(frames) => reason,
        };
        let (job, attempt, peer) = (self.job, self.attempt, self.peer);
        self.events.send(Event::LinkLost { job, attempt, peer, reason }).await.ok();
    }

    /// Ends only when the link is broken; says why.
    async fn carry(&self, frames: mpsc::Receiver<Frame>) -> String {
        let connected = match pulso_proto::endpoint(&self.address) {
            Ok(endpoint) => endpoint.connect().await,
            Err(e) => return format!("{} is no address: {e}", self.address),
        };
        let channel = match connected {
            Ok(channel) => channel,
            Err(e) => return format!("{} does not answer: {e}", self.address),
        };
        let mut client = v1::exchange_service_client::ExchangeServiceClient::new(channel)
            .max_encoding_message_size(pulso_proto::MAX_MESSAGE_BYTES);
        let (job, attempt, from) = (self.job, self.attempt, self.me);
        let hello = Frame { job, attempt, from, content: Content::Hello { to: self.peer } };
        let stream = tokio_stream::once(hello).chain(ReceiverStream::new(frames)).map(v1::Frame::from);
        let mut acks = match client.link(stream).await {
            Ok(response) => response.into_inner(),
            Err(status) => return format!("{} refused the link: {}", self.address, status.message()),
        };
        loop {
            match acks.message().await {
                Ok(Some(v1::LinkAck {})) => {}
                Ok(None) => return format!("{} closed the link", self.address),
                Err(status) => return format!("the link to {} broke: {}", self.address, status.message()),
            }
        }
    }
}
