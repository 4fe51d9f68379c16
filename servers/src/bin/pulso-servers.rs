//! `pulso-servers run --dir DIR`: a Kafka broker and a PostgreSQL server until SIGTERM or Ctrl-C, for benchmarks and for
//! trying things out. Prints where they are when both serve.
#![allow(clippy::print_stdout, reason = "its output is its interface")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use pulso_servers::{Kafka, KafkaOptions, Postgres, PostgresOptions};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "pulso-servers", version, about = "A Kafka broker and a PostgreSQL server on free ports of 127.0.0.1")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs both until SIGTERM or Ctrl-C. Data stays in the folder and is served again by the next run.
    ///
    /// When both serve, KAFKA_BROKERS= and DATABASE_URL= are printed and written to DIR/env, the process ids to DIR/pids.
    Run {
        #[arg(long)]
        dir: PathBuf,
        /// Of a topic that is created by its first use
        #[arg(long, default_value_t = 8)]
        partitions: u32,
        /// Of Kafka's JVM, in MiB
        #[arg(long, default_value_t = 1024)]
        heap: u32,
        #[arg(long, default_value = "health")]
        database: String,
    },
    /// Resolves Kafka with Maven, so that later starts need no network
    Fetch,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run { dir, partitions, heap, database } => {
            let kafka = KafkaOptions { partitions, heap_mib: heap, ..KafkaOptions::new(dir.join("kafka")) };
            run(&dir, kafka, PostgresOptions::new(dir.join("postgres"), database)).await
        }
        Command::Fetch => pulso_servers::fetch_kafka().await,
    }
}

async fn run(dir: &Path, kafka: KafkaOptions, postgres: PostgresOptions) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let started = async { tokio::try_join!(Kafka::start(kafka), Postgres::start(postgres)) };
    let (mut kafka, mut postgres) = tokio::select! {
        both = started => both?,
        _ = terminate.recv() => bail!("stopped before both servers were up"),
        _ = interrupt.recv() => bail!("stopped before both servers were up"),
    };
    let (env, pids) = (dir.join("env"), dir.join("pids"));
    let about = format!("KAFKA_BROKERS={}\nDATABASE_URL={}\n", kafka.brokers(), postgres.url());
    let ids = kafka.pid().zip(postgres.pid()).context("a server has ended")?;
    std::fs::write(&pids, format!("{{\"kafka\": {}, \"postgres\": {}}}\n", ids.0, ids.1))?;
    std::fs::write(&env, &about)?;
    print!("{about}");
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        name = either_ended(&mut kafka, &mut postgres) => Some(name),
    };
    for file in [env, pids] {
        std::fs::remove_file(file)?;
    }
    let stopped = tokio::join!(kafka.stop(), postgres.stop_fast());
    stopped.0?;
    stopped.1?;
    match ended {
        Some(name) => bail!("{name} ended by itself; its log is in {}", dir.display()),
        None => Ok(()),
    }
}

async fn either_ended(kafka: &mut Kafka, postgres: &mut Postgres) -> &'static str {
    loop {
        if !kafka.is_running() {
            return "Kafka";
        }
        if !postgres.is_running() {
            return "PostgreSQL";
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
