//! One Kafka broker, its own controller too (KRaft).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::class_path::ClassPath;
use crate::log::Log;
use crate::process::Process;
use crate::{folder, ports};

pub const KAFKA_VERSION: &str = "4.1.2";

/// A cold start takes 3 s on an idle machine; a busy one gets much longer.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);
const READY: &str = "Kafka Server started";
/// Any 16 bytes in base64; a cluster of its own needs no other.
const CLUSTER_ID: &str = "AAAAAAAAAAAAAAAAAAAAAQ";

const LOG4J2: &str = r#"<Configuration status="WARN" shutdownHook="disable">
  <Appenders>
    <RollingFile name="file" fileName="${sys:kafka.log}" filePattern="${sys:kafka.log}.%i">
      <PatternLayout pattern="%d %p %m (%c{1})%n"/>
      <SizeBasedTriggeringPolicy size="50MB"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Root level="INFO"><AppenderRef ref="file"/></Root>
    <Logger name="org.apache.kafka.common.config.AbstractConfig" level="WARN"/>
  </Loggers>
</Configuration>
"#;

/// How to start a broker.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Created if it is missing; data that is there already is served again.
    pub dir: PathBuf,
    /// Of a topic that is created by its first use.
    pub partitions: u32,
    /// The JVM's heap in MiB.
    pub heap_mib: u32,
    /// Further lines of `server.properties`; they win over ours.
    pub settings: Vec<(String, String)>,
}

impl KafkaOptions {
    /// 8 partitions, a heap of 1 GiB.
    pub fn new(dir: impl Into<PathBuf>) -> KafkaOptions {
        KafkaOptions { dir: dir.into(), partitions: 8, heap_mib: 1024, settings: Vec::new() }
    }
}

/// A broker on 127.0.0.1. Dropping it kills it; its data stays in its folder.
#[derive(Debug)]
pub struct Kafka {
    java: Java,
    dir: PathBuf,
    heap_mib: u32,
    port: u16,
    brokers: String,
    process: Option<Process>,
    /// The class archive that this process writes when it stops, and its final name.
    recording: Option<(PathBuf, PathBuf)>,
}

impl Kafka {
    /// Returns when the broker serves requests.
    pub async fn start(options: KafkaOptions) -> Result<Kafka> {
        let dir = folder::create(&options.dir, None)?;
        let java = Java { program: which("java")?, class_path: ClassPath::resolve().await? };
        let port = ports::free_port()?;
        std::fs::write(dir.join("log4j2.xml"), LOG4J2)?;
        std::fs::write(dir.join("server.properties"), properties(&options, &dir, port)?)?;
        if !dir.join("data/meta.properties").exists() {
            format_storage(&java, &dir).await?;
        }
        let brokers = format!("127.0.0.1:{port}");
        let heap_mib = options.heap_mib;
        let mut kafka = Kafka { java, dir, heap_mib, port, brokers, process: None, recording: None };
        kafka.run().await?;
        Ok(kafka)
    }

    /// `127.0.0.1:port`
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Of the JVM; `None` after [`Kafka::kill`].
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.ended(), Ok(None)))
    }

    /// An orderly shutdown.
    pub async fn stop(mut self) -> Result<()> {
        self.shut_down().await
    }

    /// SIGKILL. [`Kafka::restart`] brings it back.
    pub async fn kill(&mut self) -> Result<()> {
        self.recording = None;
        match self.process.take() {
            Some(mut process) => process.stop(Signal::SIGKILL, STOP).await,
            None => Ok(()),
        }
    }

    /// Starts it again on the same port with the same data, after an orderly shutdown if it still runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.shut_down().await?;
        self.run().await
    }

    async fn shut_down(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::SIGTERM, STOP).await?;
        }
        if let Some((fresh, archive)) = self.recording.take()
            && fresh.exists()
        {
            std::fs::rename(fresh, archive)?;
        }
        Ok(())
    }

    async fn run(&mut self) -> Result<()> {
        let began = Instant::now();
        let (broker_log, output) = (self.dir.join("broker.log"), self.dir.join("stdout"));
        let logs = [Log::of_next_run(&output), Log::of_next_run(&broker_log)];
        let archive = self.java.class_path.archive(&self.java.program);
        let mut command = self.java.command(&self.dir);
        if !archive.exists() {
            // Under a name of its own until it is whole: another broker may start meanwhile.
            let fresh = archive.with_extension(format!("{}-{}.new", std::process::id(), self.port));
            command.arg(format!("-XX:ArchiveClassesAtExit={}", fresh.display()));
            self.recording = Some((fresh, archive));
        }
        command.args([format!("-Xms{}m", self.heap_mib), format!("-Xmx{}m", self.heap_mib)]);
        command.args(["-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Djava.awt.headless=true", "kafka.Kafka"]);
        command.arg(self.dir.join("server.properties"));
        let mut process = Process::spawn("Kafka", command, &output, Signal::SIGKILL)?;
        let ready = || ports::accepts(self.port) && logs[1].contains(READY);
        process.until(ready, START, &[&logs[0], &logs[1]]).await?;
        tracing::info!(pid = process.pid(), port = self.port, took = ?began.elapsed(), "kafka started");
        self.process = Some(process);
        Ok(())
    }
}

#[derive(Debug)]
struct Java {
    program: PathBuf,
    class_path: ClassPath,
}

impl Java {
    /// Java with Kafka on its class path; options and the class to run follow.
    fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.program);
        let archive = self.class_path.archive(&self.program);
        command.args(["-Xlog:cds=off", "-Xlog:cds+dynamic=off"]);
        if archive.exists() {
            command.arg(format!("-XX:SharedArchiveFile={}", archive.display()));
        }
        command.arg(format!("-Dkafka.log={}", dir.join("broker.log").display()));
        command.arg(format!("-Dlog4j2.configurationFile={}", dir.join("log4j2.xml").display()));
        // Of no use to a broker, and a reason for it not to start.
        command.env_remove("JAVA_TOOL_OPTIONS").env_remove("CLASSPATH");
        command.args(["-cp", self.class_path.entries()]).current_dir(dir);
        command
    }
}

async fn format_storage(java: &Java, dir: &Path) -> Result<()> {
    let mut command = java.command(dir);
    command.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]);
    command.arg(dir.join("server.properties")).stdin(Stdio::null());
    let done = tokio::process::Command::from(command).kill_on_drop(true).output().await.context("starting java")?;
    if !done.status.success() {
        let said = [done.stdout, done.stderr].concat();
        bail!("formatting Kafka's storage failed ({}): {}", done.status, String::from_utf8_lossy(&said));
    }
    Ok(())
}

/// One node, so internal topics have one replica; few partitions in them, so that a start is quick.
fn properties(options: &KafkaOptions, dir: &Path, port: u16) -> Result<String> {
    let controller = ports::free_port()?;
    let mut text = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
num.partitions={partitions}
auto.create.topics.enable=true
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
",
        data = dir.join("data").display(),
        partitions = options.partitions,
    );
    for (name, value) in &options.settings {
        text.push_str(&format!("{name}={value}\n"));
    }
    Ok(text)
}

/// The program's real path, so that a replaced one is noticed.
fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find_map(|folder| folder.join(program).canonicalize().ok())
        .with_context(|| format!("{program} is not in PATH; `make setup` installs it"))
}
