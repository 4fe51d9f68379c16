//! Puts the parts together and runs them until the process is told to end.

use anyhow::{Context, Result};
use pulso_core::control_log::{self, Appender};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use crate::config::Config;
use crate::log::{self, Log};
use crate::overview::Overview;
use crate::shell::{self, Handle, Parts};
use crate::storage::{Objects, Place};
use crate::{jobs, rest, sessions};

pub(crate) async fn run(config: Config) -> Result<()> {
    let storage = Place::parse(&config.storage).context("--storage")?;
    let log_place = match &config.log {
        Some(url) => Place::parse(url).context("--log")?,
        None => storage.join("log"),
    };
    let checkpoints = Objects::open(&storage).context("--storage")?;
    let (answer, answers) = mpsc::channel(log::ANSWERS);
    let log = Log::open(&log_place, answer).context("--log")?;

    // Bound before the log is read: a second JobManager on the same ports ends here.
    let rpc = TcpListener::bind(config.rpc).await.with_context(|| format!("binding --rpc to {}", config.rpc))?;
    let http = TcpListener::bind(config.http).await.with_context(|| format!("binding --http to {}", config.http))?;
    let name = config.name();
    let (rpc_address, http_address) = (rpc.local_addr()?, http.local_addr()?);
    tracing::info!(name, rpc = %rpc_address, http = %http_address, storage = storage.url(), log = log_place.url(), "started");

    let (input, inputs) = mpsc::channel(shell::INPUTS);
    let handle = Handle::new(input);
    let (overview, _) = watch::channel(Overview::standby());
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(shell::run(
        Parts {
            appender: Appender::new(control_log::Settings::default(), name, uuid::Uuid::new_v4()),
            settings: config.settings(),
            log,
            answers,
            inputs,
            handle: handle.clone(),
            checkpoints: checkpoints.clone(),
            overview: overview.clone(),
            discovery_interval: config.discovery_interval,
        },
        shutdown.clone(),
    ));
    tasks.spawn(serve_rpc(rpc, handle.clone(), storage.url(), checkpoints.clone(), shutdown.clone()));
    tasks.spawn(serve_http(http, rest::router(handle, overview, config.http_host), shutdown.clone()));
    tasks.spawn(until_told(shutdown.clone()));

    // Whatever ends first ends all: nothing here is useful alone.
    let first = tasks.join_next().await;
    shutdown.cancel();
    if let Some(ended) = first {
        ended.context("a part of the process died")??;
    }
    tracing::info!("ended");
    Ok(())
}

async fn serve_rpc(
    listener: TcpListener,
    handle: Handle,
    storage: String,
    checkpoints: Objects,
    shutdown: CancellationToken,
) -> Result<()> {
    // The server's own setting does not reach connections that come from a listener.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    pulso_proto::server()
        .add_service(sessions::service(handle.clone(), storage))
        .add_service(jobs::service(handle, checkpoints))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await
        .context("serving --rpc")
}

async fn serve_http(listener: TcpListener, router: axum::Router, shutdown: CancellationToken) -> Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await.context("serving --http")
}

/// The control log holds everything: there is nothing to be saved.
async fn until_told(shutdown: CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}
