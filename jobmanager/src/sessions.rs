//! `TaskManagerService`: one stream per TaskManager, from the wire to the loop and back. Decides nothing.

use futures::StreamExt;
use futures::stream::BoxStream;
use pulso_core::message::Report;
use pulso_proto::v1;
use pulso_proto::v1::task_manager_service_server::{TaskManagerService, TaskManagerServiceServer};
use pulso_proto::{MAX_MESSAGE_BYTES, convert};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::shell::{Handle, Registration, SessionEnd, ToTaskManager};

/// A third of the shortest session timeout that makes sense.
const HEARTBEAT_MS: u32 = 200;
/// An address or a name; longer ones are a mistake or an attack.
const MAX_TEXT: usize = 256;

pub(crate) struct Sessions {
    handle: Handle,
    /// URL of the checkpoint storage.
    storage: String,
}

pub(crate) fn service(handle: Handle, storage: String) -> TaskManagerServiceServer<impl TaskManagerService> {
    TaskManagerServiceServer::new(Sessions { handle, storage })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

#[tonic::async_trait]
impl TaskManagerService for Sessions {
    type SessionStream = BoxStream<'static, Result<v1::ToTaskManager, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ToJobManager>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut incoming = request.into_inner();
        let registration = match incoming.message().await? {
            Some(v1::ToJobManager { kind: Some(v1::to_job_manager::Kind::Register(register)) }) => check(register)?,
            Some(_) | None => return Err(Status::invalid_argument("the first message of a session is `Register`")),
        };
        let end = self.handle.register(registration).await.map_err(|e| Status::unavailable(e.to_string()))?;
        let SessionEnd { id, queue, ended } = end;
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let reason = tokio::select! {
                () = ended.cancelled() => None,
                reason = listen(&handle, id, &mut incoming) => reason,
            };
            if let Some(reason) = reason {
                tracing::warn!(session = %id, reason, "a TaskManager says what cannot be understood");
            }
            handle.session_lost(id).await;
        });
        let welcome = v1::Welcome { storage: self.storage.clone(), heartbeat_ms: HEARTBEAT_MS };
        let welcome = v1::ToTaskManager { kind: Some(v1::to_task_manager::Kind::Welcome(welcome)) };
        let instructions = ReceiverStream::new(queue).map(|message| match message {
            ToTaskManager::Instruction(instruction) => Ok(instruction.into()),
            ToTaskManager::Close(reason) => Err(Status::aborted(reason)),
        });
        Ok(Response::new(futures::stream::iter([Ok(welcome)]).chain(instructions).boxed()))
    }
}

fn check(register: v1::Register) -> Result<Registration, Status> {
    let version = env!("CARGO_PKG_VERSION");
    if register.version != version {
        let text = format!("this JobManager has version {version}, the TaskManager {}", register.version);
        return Err(Status::failed_precondition(text));
    }
    if register.exchange.is_empty() || register.exchange.len() > MAX_TEXT || register.name.len() > MAX_TEXT {
        return Err(Status::invalid_argument("the exchange's address is missing, or a text is too long"));
    }
    Ok(Registration {
        task_manager: convert::task_manager_id(&register.task_manager)?,
        name: register.name,
        exchange: register.exchange,
    })
}

/// Until the stream ends; what to say about it where that is not the network's doing.
async fn listen(
    handle: &Handle,
    session: pulso_core::ids::SessionId,
    incoming: &mut Streaming<v1::ToJobManager>,
) -> Option<String> {
    loop {
        let message = match incoming.message().await {
            Ok(Some(message)) => message,
            Ok(None) | Err(_) => return None,
        };
        match message.kind {
            Some(v1::to_job_manager::Kind::Report(report)) => match Report::try_from(report) {
                Ok(report) => handle.reported(session, report).await,
                Err(e) => return Some(e.to_string()),
            },
            Some(v1::to_job_manager::Kind::Heartbeat(heartbeat)) => {
                handle.heartbeat(session, heartbeat.figures).await;
            }
            Some(v1::to_job_manager::Kind::Register(_)) => return Some("a second `Register`".to_owned()),
            None => return Some("a message of an unknown kind".to_owned()),
        }
    }
}
