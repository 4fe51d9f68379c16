//! One MariaDB server with one database.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::User;

use crate::log::Log;
use crate::process::Process;
use crate::{folder, ports, program};

/// A start after a crash replays the redo log.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);
const READY: &str = "ready for connections";
/// Debian puts the server where only root's PATH looks.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/libexec"];

/// How to start a server.
#[derive(Debug, Clone)]
pub struct MariaDbOptions {
    /// Created if it is missing; data that is there already is served again. As root its parents must be open to the
    /// server's user: see [`crate::temporary_folder`].
    pub dir: PathBuf,
    /// Created if it is missing.
    pub database: String,
    /// Further settings, such as `("max_connections", "20")`; they win over ours.
    pub settings: Vec<(String, String)>,
}

impl MariaDbOptions {
    pub fn new(dir: impl Into<PathBuf>, database: impl Into<String>) -> MariaDbOptions {
        MariaDbOptions { dir: dir.into(), database: database.into(), settings: Vec::new() }
    }
}

/// A server on 127.0.0.1, user `root`, no password. Dropping it stops it at once; its data stays in its folder.
#[derive(Debug)]
pub struct MariaDb {
    dir: PathBuf,
    /// `None`: our own.
    user: Option<User>,
    settings: Vec<(String, String)>,
    port: u16,
    url: String,
    process: Option<Process>,
}

impl MariaDb {
    /// Returns when the server takes connections and the database exists.
    pub async fn start(options: MariaDbOptions) -> Result<MariaDb> {
        program::check_database_name(&options.database)?;
        let user = program::unprivileged("MariaDB", &["mysql", "nobody"])?;
        let dir = folder::create(&options.dir, user.as_ref())?;
        let port = ports::free_port()?;
        let url = format!("mysql://root@127.0.0.1:{port}/{}", options.database);
        let mut mariadb = MariaDb { dir, user, settings: options.settings, port, url, process: None };
        if !mariadb.dir.join("data").exists() {
            mariadb.initialize().await?;
        }
        mariadb.run().await?;
        mariadb.create_database(&options.database).await?;
        Ok(mariadb)
    }

    /// `mysql://root@127.0.0.1:port/database`
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `None` after it was stopped or killed.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.ended(), Ok(None)))
    }

    /// Transactions are rolled back, the data is written out.
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM).await
    }

    /// As after a power cut, except for the disk's cache; the next start recovers.
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL).await
    }

    /// Starts it again on the same port with the same data, after a stop if it still runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
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
        let mut install = self.command("mariadb-install-db")?;
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-name-resolve"]);
        install.args(["--skip-test-db", "--innodb-flush-log-at-trx-commit=0"]);
        install.arg(format!("--datadir={}", fresh.display()));
        program::output("mariadb-install-db", install).await?;
        std::fs::rename(&fresh, self.dir.join("data"))?;
        Ok(())
    }

    async fn run(&mut self) -> Result<()> {
        let began = Instant::now();
        let output = self.dir.join("server.log");
        let log = Log::of_next_run(&output);
        let mut mariadb = self.command("mariadbd")?;
        mariadb.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        mariadb.arg(format!("--port={}", self.port));
        for (option, file) in [("datadir", "data"), ("socket", "socket"), ("pid-file", "pid")] {
            mariadb.arg(format!("--{option}={}", self.dir.join(file).display()));
        }
        mariadb.args(["--character-set-server=utf8mb4", "--innodb-buffer-pool-size=256M"]);
        mariadb.args(self.settings.iter().map(|(name, value)| format!("--{name}={value}")));
        let mut process = Process::spawn("MariaDB", mariadb, &output, Signal::SIGKILL)?;
        let ready = || log.contains(READY) && ports::accepts(self.port);
        process.until(ready, START, &[&log]).await?;
        tracing::info!(pid = process.pid(), port = self.port, took = ?began.elapsed(), "mariadb started");
        self.process = Some(process);
        Ok(())
    }

    async fn create_database(&self, name: &str) -> Result<()> {
        let mut client = self.command("mariadb")?;
        client.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user=root"]);
        client.arg(format!("--port={}", self.port));
        client.args(["--execute", &format!("create database if not exists `{name}`")]);
        program::output("mariadb", client).await.map(drop)
    }

    /// One of the server's programs, run by its user in its folder, without our own `MYSQL*` variables.
    fn command(&self, name: &str) -> Result<Command> {
        let found = program::find(name, &FOLDERS);
        let mut command = Command::new(found.with_context(|| format!("no {name} found; `make setup` installs it"))?);
        command.current_dir(&self.dir).stdin(Stdio::null()).env("LC_ALL", "C");
        let ours = |name: &str| name.starts_with("MYSQL") || name.starts_with("MARIADB");
        for (name, _) in std::env::vars_os().filter(|(name, _)| ours(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        Ok(command)
    }
}
