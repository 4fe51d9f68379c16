//! The `jobmanager` process: decides placement, epochs, checkpoints and recovery, and shows how things stand.

mod config;
mod discovery;
mod fit;
mod jobs;
mod log;
mod lookups;
mod metrics;
mod overview;
mod page;
mod panels;
mod rest;
mod run;
mod sessions;
mod shell;
mod storage;
mod submit;

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<()> {
    let config = Config::parse();
    log_to_stderr(config.log_format);
    config.check()?;
    end_on_panic();
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider was installed before"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let result = runtime.block_on(run::run(config));
    // A task that waits for a storage that does not answer must not hold the process.
    runtime.shutdown_background();
    result
}

/// A task that dies alone would leave a JobManager that looks alive and does nothing: the whole process ends, and the
/// next one goes on from the control log.
fn end_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        std::process::abort();
    }));
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}
