//! The receiving end: always drains; what arrives is an event of the worker, which knows whether it counts.

use std::pin::Pin;

use futures::Stream;
use pulso_core::ids::{Attempt, JobId, TaskManagerId};
use pulso_dataflow::batch::Payload;
use pulso_proto::convert::{Content, Frame};
use pulso_proto::v1;
use pulso_proto::v1::exchange_service_server::{ExchangeService, ExchangeServiceServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::shell::{Event, Events};

pub(super) async fn serve(me: TaskManagerId, listener: TcpListener, events: Events) {
    let service =
        ExchangeServiceServer::new(Service { me, events }).max_decoding_message_size(pulso_proto::MAX_MESSAGE_BYTES);
    let served = pulso_proto::server().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await;
    if let Err(e) = served {
        tracing::error!(error = %e, "the exchange stopped");
        std::process::exit(1);
    }
}

struct Service {
    me: TaskManagerId,
    events: Events,
}

#[tonic::async_trait]
impl ExchangeService for Service {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::LinkAck, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<v1::Frame>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.ok_or_else(|| Status::invalid_argument("the link is empty"))?;
        let Frame { job, attempt, from: peer, content } = Frame::try_from(first)?;
        match content {
            Content::Hello { to } if to == self.me => {}
            Content::Hello { .. } => {
                return Err(Status::failed_precondition("another TaskManager lives at this address now"));
            }
            Content::Rows { .. } | Content::Barrier { .. } => {
                return Err(Status::invalid_argument("the first frame must be Hello"));
            }
        }
        let (acks, answer) = mpsc::channel(1);
        let link = Incoming { job, attempt, peer, events: self.events.clone() };
        tokio::spawn(async move {
            acks.send(Ok(v1::LinkAck {})).await.ok();
            let reason = match link.drain(frames).await {
                Ok(()) => "the sender closed the link".to_owned(),
                Err(status) => status.message().to_owned(),
            };
            link.events.send(Event::LinkLost { job, attempt, peer, reason }).await.ok();
            drop(acks);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answer))))
    }
}

struct Incoming {
    job: JobId,
    attempt: Attempt,
    peer: TaskManagerId,
    events: Events,
}

impl Incoming {
    async fn drain(&self, mut frames: Streaming<v1::Frame>) -> Result<(), Status> {
        while let Some(frame) = frames.message().await? {
            let Frame { job, attempt, from, content } = Frame::try_from(frame)?;
            if (job, attempt, from) != (self.job, self.attempt, self.peer) {
                return Err(Status::invalid_argument("a link carries one attempt of one job from one sender"));
            }
            let event = match content {
                Content::Hello { .. } => return Err(Status::invalid_argument("Hello comes once")),
                Content::Rows { stage, epoch, payload } => {
                    let payload = Payload::decode(&payload)
                        .map_err(|e| Status::data_loss(format!("rows of epoch {epoch}: {e}")))?;
                    Event::Arrived { job, attempt, stage, from, epoch, payload }
                }
                Content::Barrier { stage, barrier } => Event::BarrierArrived { job, attempt, stage, from, barrier },
            };
            self.events.send(event).await.map_err(|_| Status::unavailable("the TaskManager is ending"))?;
        }
        Ok(())
    }
}
