//! One PostgreSQL server with one database.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::User;

use crate::log::Log;
use crate::process::{self, Process};
use crate::{folder, ports, program};

/// A start after a crash replays the write-ahead log, up to `max_wal_size`.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);
const READY: &str = "database system is ready to accept connections";

/// Commit times are for measuring; the sizes keep a benchmark from measuring checkpoints.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
track_commit_timestamp = on
shared_buffers = 512MB
max_wal_size = 4GB
max_prepared_transactions = 64
";

/// How to start a server.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Created if it is missing; data that is there already is served again. As root its parents must be open to the
    /// server's user: see [`crate::temporary_folder`].
    pub dir: PathBuf,
    /// Created if it is missing.
    pub database: String,
    /// Further settings, such as `("max_connections", "20")`; they win over ours.
    pub settings: Vec<(String, String)>,
}

impl PostgresOptions {
    pub fn new(dir: impl Into<PathBuf>, database: impl Into<String>) -> PostgresOptions {
        PostgresOptions { dir: dir.into(), database: database.into(), settings: Vec::new() }
    }
}

/// A server on 127.0.0.1, superuser `postgres`, no password. Dropping it stops it at once; its data stays in its folder.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    /// `None`: our own.
    user: Option<User>,
    settings: Vec<(String, String)>,
    port: u16,
    url: String,
    process: Option<Process>,
}

impl Postgres {
    /// Returns when the server takes connections and the database exists.
    pub async fn start(options: PostgresOptions) -> Result<Postgres> {
        let (bin, user) = (binaries()?, program::unprivileged("PostgreSQL", &["postgres", "nobody"])?);
        let dir = folder::create(&options.dir, user.as_ref())?;
        let port = ports::free_port()?;
        let url = format!("postgresql://postgres@127.0.0.1:{port}/{}", options.database);
        let mut postgres = Postgres { bin, dir, user, settings: options.settings, port, url, process: None };
        if !postgres.dir.join("data").exists() {
            postgres.initialize().await?;
        }
        postgres.run().await?;
        postgres.create_database(&options.database).await?;
        Ok(postgres)
    }

    /// `postgresql://postgres@127.0.0.1:port/database`
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of the postmaster; `None` after it was stopped or killed.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.ended(), Ok(None)))
    }

    /// Like `pg_ctl stop -m fast`: transactions are rolled back, the data is written out.
    pub async fn stop_fast(&mut self) -> Result<()> {
        self.end(Signal::SIGINT).await
    }

    /// Like `pg_ctl stop -m immediate`: as after a power cut, except for the disk's cache; the next start recovers.
    pub async fn stop_immediate(&mut self) -> Result<()> {
        self.end(Signal::SIGQUIT).await
    }

    /// SIGKILL to the postmaster and to every one of its processes.
    pub async fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        // First the postmaster, so that no further one appears. An orphan would keep the shared memory, and with it
        // the next start, from us for as long as its statement runs.
        let before = process::children(process.pid());
        process.stop(Signal::SIGKILL, STOP).await?;
        for child in before {
            child.kill(STOP).await?;
        }
        Ok(())
    }

    /// Starts it again on the same port with the same data, after a fast stop if it still runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop_fast().await?;
        self.run().await
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(signal, STOP).await,
            None => Ok(()),
        }
    }

    /// A data folder gets its name only when it is whole.
    async fn initialize(&self) -> Result<()> {
        let fresh = self.dir.join("data.new");
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh)?;
        }
        let mut initdb = self.command("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]).arg(&fresh);
        program::output("initdb", initdb).await?;
        let conf = fresh.join("postgresql.conf");
        let settings = std::fs::read_to_string(&conf)? + SETTINGS;
        std::fs::write(&conf, settings)?;
        std::fs::rename(&fresh, self.dir.join("data"))?;
        Ok(())
    }

    async fn run(&mut self) -> Result<()> {
        let began = Instant::now();
        let output = self.dir.join("server.log");
        let log = Log::of_next_run(&output);
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.dir.join("data")).args(["-p", &self.port.to_string()]);
        for (name, value) in &self.settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        // On SIGQUIT the postmaster takes all of its processes along.
        let mut process = Process::spawn("PostgreSQL", postgres, &output, Signal::SIGQUIT)?;
        let ready = || log.contains(READY) && ports::accepts(self.port);
        process.until(ready, START, &[&log]).await?;
        tracing::info!(pid = process.pid(), port = self.port, took = ?began.elapsed(), "postgresql started");
        self.process = Some(process);
        Ok(())
    }

    async fn create_database(&self, name: &str) -> Result<()> {
        program::check_database_name(name)?;
        let there = self.psql(&format!("select 1 from pg_database where datname = '{name}'")).await?;
        if there.trim().is_empty() {
            self.psql(&format!("create database \"{name}\"")).await?;
        }
        Ok(())
    }

    async fn psql(&self, statement: &str) -> Result<String> {
        let mut psql = self.command("psql");
        psql.args(["-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        psql.args(["-d", "postgres", "-c", statement]);
        program::output("psql", psql).await
    }

    /// One of the server's programs, run by its user in its folder, without our own `PG*` variables.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(&self.dir).stdin(Stdio::null()).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }
}

/// The folder of the server's programs: next to `initdb` in PATH, else the newest of Debian's.
fn binaries() -> Result<PathBuf> {
    if let Some(folder) = program::find("initdb", &[]).as_deref().and_then(program::folder) {
        return Ok(folder);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .max()
        .map(|(_, bin)| bin)
        .context("no PostgreSQL server programs found; `make setup` installs them")
}
