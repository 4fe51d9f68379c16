//! The stream to the JobManager: registers, beats, carries reports out and instructions in, and connects again when it
//! breaks. What is sealed goes on being committed meanwhile.

use std::time::{Duration, Instant};

use pulso_core::ids::TaskManagerId;
use pulso_core::message::{Instruction, Report};
use pulso_proto::convert::id_bytes;
use pulso_proto::v1;
use pulso_proto::v1::task_manager_service_client::TaskManagerServiceClient;
use pulso_proto::v1::to_job_manager::Kind as Out;
use pulso_proto::v1::to_task_manager::Kind as In;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use crate::figures::Figures;

/// First and longest pause between two attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Instructions that wait for the shell.
const QUEUE: usize = 256;

pub(crate) struct Settings {
    /// HOST:PORT of each: of the one that leads and of those that stand by.
    pub(crate) jobmanagers: Vec<String>,
    pub(crate) me: TaskManagerId,
    pub(crate) name: String,
    /// HOST:PORT of the exchange, as others reach it.
    pub(crate) exchange: String,
}

pub(crate) enum FromJobManager {
    Welcome { storage: String },
    Instruction(Instruction),
}

/// Handle of the session. Reports are dropped while there is no stream: a JobManager that lost one starts a new attempt.
pub(crate) struct Session {
    reports: mpsc::UnboundedSender<Report>,
    stream: watch::Receiver<Stream>,
}

/// How it stands with the stream.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// When the last one ended; `None` while there is one.
    ended: Option<Instant>,
    /// How often a JobManager gave this TaskManager up: nothing that is here is needed any more.
    given_up: u64,
}

impl Session {
    pub(crate) fn connect(settings: Settings, figures: Figures) -> (Self, mpsc::Receiver<FromJobManager>) {
        let (reports, outgoing) = mpsc::unbounded_channel();
        let (instructions, incoming) = mpsc::channel(QUEUE);
        let (state, stream) = watch::channel(Stream { ended: Some(Instant::now()), given_up: 0 });
        tokio::spawn(run(settings, figures, outgoing, instructions, state));
        (Self { reports, stream }, incoming)
    }

    /// How long there has been no stream.
    pub(crate) fn silence(&self) -> Duration {
        self.stream.borrow().ended.map_or(Duration::ZERO, |ended| ended.elapsed())
    }

    /// How often a JobManager has given this TaskManager up.
    pub(crate) fn given_up(&self) -> u64 {
        self.stream.borrow().given_up
    }

    pub(crate) fn report(&self, report: Report) {
        self.reports.send(report).ok();
    }
}

async fn run(
    settings: Settings,
    figures: Figures,
    mut reports: mpsc::UnboundedReceiver<Report>,
    instructions: mpsc::Sender<FromJobManager>,
    state: watch::Sender<Stream>,
) {
    let mut pause = PAUSE.0;
    for address in settings.jobmanagers.iter().cycle() {
        let began = Instant::now();
        let ended = converse(address, &settings, &figures, &mut reports, &instructions, &state).await;
        state.send_modify(|state| _ = state.ended.get_or_insert_with(Instant::now));
        if instructions.is_closed() {
            return;
        }
        if began.elapsed() > PAUSE.1 {
            pause = PAUSE.0;
        }
        match ended {
            Ok(()) => tracing::warn!(jobmanager = address, "the JobManager closed the session"),
            Err(reason) => tracing::warn!(jobmanager = address, reason, "no session with the JobManager"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
        while reports.try_recv().is_ok() {}
    }
}

/// One stream, from the registration to its end.
async fn converse(
    address: &str,
    settings: &Settings,
    figures: &Figures,
    reports: &mut mpsc::UnboundedReceiver<Report>,
    instructions: &mpsc::Sender<FromJobManager>,
    state: &watch::Sender<Stream>,
) -> Result<(), String> {
    let endpoint = pulso_proto::endpoint(address).map_err(|e| format!("not an address: {e}"))?;
    let channel = endpoint.connect().await.map_err(|e| chain(&e))?;
    let mut client = TaskManagerServiceClient::new(channel)
        .max_decoding_message_size(pulso_proto::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(pulso_proto::MAX_MESSAGE_BYTES);
    let (out, stream) = mpsc::unbounded_channel();
    let register = v1::Register {
        task_manager: id_bytes(settings.me.0),
        name: settings.name.clone(),
        exchange: settings.exchange.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let send = |kind: Out| out.send(v1::ToJobManager { kind: Some(kind) }).map_err(|_| "the stream ended".to_owned());
    send(Out::Register(register))?;
    let response = client.session(UnboundedReceiverStream::new(stream)).await.map_err(|s| s.message().to_owned())?;
    let mut incoming = response.into_inner();
    let mut beat = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            message = incoming.next() => {
                let Some(message) = message else { return Ok(()) };
                let message = message.map_err(|status| {
                    if status.code() == Code::Aborted {
                        state.send_modify(|state| state.given_up += 1);
                    }
                    status.message().to_owned()
                })?;
                let message = match message.kind {
                    None => return Err("a message without content".into()),
                    Some(In::Welcome(welcome)) => {
                        if welcome.heartbeat_ms > 0 {
                            beat = tokio::time::interval(Duration::from_millis(welcome.heartbeat_ms.into()));
                        }
                        tracing::info!(jobmanager = address, "registered");
                        state.send_modify(|state| state.ended = None);
                        FromJobManager::Welcome { storage: welcome.storage }
                    }
                    Some(In::Instruction(wire)) => {
                        FromJobManager::Instruction(Instruction::try_from(wire).map_err(|e| e.to_string())?)
                    }
                };
                if instructions.send(message).await.is_err() {
                    return Ok(());
                }
            }
            Some(report) = reports.recv() => send(Out::Report(v1::Report::from(report)))?,
            _ = beat.tick() => send(Out::Heartbeat(v1::Heartbeat { figures: Some(figures.read()) }))?,
        }
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
