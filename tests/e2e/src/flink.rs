//! A real Flink: one JobManager, one TaskManager, and its SQL client.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pulso_servers::Process;

/// What Java 17 hides and Flink's own start scripts open.
const PACKAGES: [&str; 11] = [
    "java.lang",
    "java.net",
    "java.io",
    "java.nio",
    "sun.nio.ch",
    "java.lang.reflect",
    "java.text",
    "java.time",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
];

/// A cluster of its own folder and ports; it ends with its owner.
pub struct Flink {
    jars: PathBuf,
    folder: PathBuf,
    _processes: [Process; 2],
}

impl Flink {
    /// Where Flink's jars are; the reason where they cannot be had.
    pub fn fetch() -> Result<PathBuf, String> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fetch-flink");
        let done = Command::new(script).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed").to_owned());
        }
        Ok(PathBuf::from(String::from_utf8_lossy(&done.stdout).trim()))
    }

    pub fn start(jars: PathBuf, folder: PathBuf) -> Result<Self> {
        let (conf, scratch) = (folder.join("conf"), folder.join("tmp"));
        std::fs::create_dir_all(&conf)?;
        std::fs::create_dir_all(&scratch)?;
        std::fs::write(conf.join("config.yaml"), configuration(&scratch)?)?;
        std::fs::write(conf.join("log4j2.properties"), LOGGING)?;
        let server = |name: &str, main: &str| {
            let mut command = java(&jars, &folder, name);
            command.args([main, "--configDir"]).arg(&conf);
            Process::spawn(name, command, &folder.join(format!("{name}.out")), Signal::SIGKILL)
        };
        let processes = [
            server("jobmanager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint")?,
            server("taskmanager", "org.apache.flink.runtime.taskexecutor.TaskManagerRunner")?,
        ];
        Ok(Self { jars, folder, _processes: processes })
    }

    /// Runs a script; returns when all its jobs have ended well.
    pub fn run(&self, script: &str) -> Result<()> {
        let file = self.folder.join("script.sql");
        std::fs::write(&file, format!("SET 'table.dml-sync' = 'true';\n{script}"))?;
        let mut command = java(&self.jars, &self.folder, "client");
        command.args(["org.apache.flink.table.client.SqlClient", "embedded", "-f"]).arg(&file);
        let done = command.env("FLINK_CONF_DIR", self.folder.join("conf")).output().context("starting Java")?;
        let said = String::from_utf8_lossy(&done.stdout);
        ensure!(done.status.success() && !said.contains("[ERROR]"), "Flink refused the script:\n{said}");
        Ok(())
    }
}

const LOGGING: &str = "rootLogger.level = INFO
rootLogger.appenderRef.file.ref = file
appender.file.name = file
appender.file.type = File
appender.file.fileName = ${sys:log.file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %c{1} %m%n
";

/// Small, and for one job at a time.
fn configuration(scratch: &Path) -> Result<String> {
    Ok(format!(
        "jobmanager.rpc.address: 127.0.0.1
jobmanager.bind-host: 127.0.0.1
jobmanager.rpc.port: {}
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {}
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: 2
parallelism.default: 2
execution.target: remote
io.tmp.dirs: {}
taskmanager.cpu.cores: 2.0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 64m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 0b
taskmanager.memory.managed.size: 64m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
",
        free_port()?,
        free_port()?,
        scratch.display()
    ))
}

/// In UTC, as the script asks for.
fn java(jars: &Path, folder: &Path, name: &str) -> Command {
    let mut log = OsString::from("-Dlog.file=");
    log.push(folder.join(format!("{name}.log")));
    let mut settings = OsString::from("-Dlog4j2.configurationFile=");
    settings.push(folder.join("conf/log4j2.properties"));
    let mut home = OsString::from("-Duser.home=");
    home.push(folder);
    let mut command = Command::new("java");
    command
        .args(["-Xmx448m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Duser.timezone=UTC"])
        .args(PACKAGES.map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED")))
        .args([log, settings, home])
        .arg("-cp")
        .arg(jars.join("*"))
        .stdin(Stdio::null());
    command
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
