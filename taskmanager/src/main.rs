//! The `taskmanager` process: source tasks, exchange, key-group state and sink writers of Pulso jobs.

mod config;
mod exchange;
mod figures;
mod folder;
mod memory;
mod session;
mod shell;
mod source;
mod state;
mod target;

use anyhow::{Context, Result, bail};
use clap::Parser;
use pulso_core::ids::TaskManagerId;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<()> {
    let config = Config::parse();
    log_to_stderr(config.log_format);
    end_on_panic();
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider was installed before"))?;
    if !config.exchange.ip().is_loopback() && !config.insecure {
        bail!(
            "--exchange {} can be reached from other machines and is not protected: bind to 127.0.0.1, or say --insecure",
            config.exchange
        );
    }
    if config.exchange.ip().is_unspecified() && config.exchange_advertised.is_none() {
        bail!("--exchange {} is no address that others can connect to: say --exchange-advertised too", config.exchange);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> Result<()> {
    let me = TaskManagerId(uuid::Uuid::new_v4());
    let name = config.name.clone().unwrap_or_else(default_name);
    let folder = folder::Folder::claim(&config.data_dir, me)?;
    let shutdown = CancellationToken::new();
    spawn_signals(shutdown.clone())?;
    let (events, event_queue) = shell::events();
    let (exchange, advertised) =
        exchange::Exchange::bind(me, config.exchange, config.exchange_advertised, events.clone())
            .await
            .with_context(|| format!("binding the exchange to {}", config.exchange))?;
    let figures = figures::Figures::new(config.memory.as_u64());
    let to = session::Settings {
        jobmanagers: config.jobmanager.clone(),
        me,
        name: name.clone(),
        exchange: advertised.clone(),
    };
    let (session, instructions) = session::Session::connect(to, figures.clone());
    tracing::info!(
        task_manager = %me, name, jobmanager = config.jobmanager.join(","), exchange = advertised, memory = %config.memory,
        "started"
    );
    let budget = memory::Budget::divide(config.memory.as_u64());
    let shell = shell::Shell::new(me, folder.path().to_owned(), budget, session, exchange, events, figures);
    shell.run(event_queue, instructions, shutdown).await;
    tracing::info!("ended");
    Ok(())
}

/// A thread or task that dies alone would leave a TaskManager that beats and does nothing: the whole process ends, and
/// others take over.
fn end_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        std::process::abort();
    }));
}

fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    format!("{}-{}", host.as_deref().map_or("taskmanager", str::trim), std::process::id())
}

fn spawn_signals(shutdown: CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
        // A second signal ends the drain.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("told twice: ending without draining");
        std::process::exit(1);
    });
    Ok(())
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}
