//! The stream to the JobManager: registers, beats, carries reports out and instructions in, and connects again when it
//! breaks. What is sealed goes on being committed meanwhile.

use std::time::Duration;

use pulso_core::ids::TaskManagerId;
use pulso_core::message::{Instruction, Report};
use pulso_proto::convert::id_bytes;
use pulso_proto::v1;
use pulso_proto::v1::task_manager_service_client::TaskManagerServiceClient;
use pulso_proto::v1::to_job_manager::Kind as Out;
use pulso_proto::v1::to_task_manager::Kind as In;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::figures::Figures;

/// First and longest pause between two attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Instructions that wait for the shell.
const QUEUE: usize = 256;

pub(crate) struct Settings {
    /// HOST:PORT
    pub(crate) jobmanager: String,
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
}

impl Session {
    pub(crate) fn connect(settings: Settings, figures: Figures) -> (Self, mpsc::Receiver<FromJobManager>) {
        let (reports, outgoing) = mpsc::unbounded_channel();
        let (instructions, incoming) = mpsc::channel(QUEUE);
        tokio::spawn(run(settings, figures, outgoing, instructions));
        (Self { reports }, incoming)
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
) {
    let mut pause = PAUSE.0;
    loop {
        let began = std::time::Instant::now();
        let ended = converse(&settings, &figures, &mut reports, &instructions).await;
        if instructions.is_closed() {
            return;
        }
        if began.elapsed() > PAUSE.1 {
            pause = PAUSE.0;
        }
        match ended {
            Ok(()) => tracing::warn!(jobmanager = settings.jobmanager, "the JobManager closed the session"),
            Err(reason) => tracing::warn!(jobmanager = settings.jobmanager, reason, "no session with the JobManager"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
        while reports.try_recv().is_ok() {}
    }
}

/// One stream, from the registration to its end.
async fn converse(
    settings: &Settings,
    figures: &Figures,
    reports: &mut mpsc::UnboundedReceiver<Report>,
    instructions: &mpsc::Sender<FromJobManager>,
) -> Result<(), String> {
    let endpoint = pulso_proto::endpoint(&settings.jobmanager).map_err(|e| format!("not an address: {e}"))?;
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
                let message = message.map_err(|s| s.message().to_owned())?;
                let message = match message.kind {
                    None => return Err("a message without content".into()),
                    Some(In::Welcome(welcome)) => {
                        if welcome.heartbeat_ms > 0 {
                            beat = tokio::time::interval(Duration::from_millis(welcome.heartbeat_ms.into()));
                        }
                        tracing::info!(jobmanager = settings.jobmanager, "registered");
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
