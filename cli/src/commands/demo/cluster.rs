//! The processes of the demo's cluster.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pulso_job::Submission;
use pulso_proto::v1;
use pulso_proto::v1::job_service_client::JobServiceClient;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use super::say;

/// How long a process may take to drain before it is killed.
const DRAIN: Duration = Duration::from_secs(10);

pub(super) struct Cluster {
    folder: PathBuf,
    rpc: u16,
    http: u16,
    jobmanager: Child,
    /// Oldest first.
    task_managers: Vec<Child>,
    started: usize,
}

impl Cluster {
    /// Starts the JobManager; the page takes another port where the wanted one is in use.
    pub(super) fn start(folder: &Path, http: u16) -> Result<Self> {
        let folder = folder.join("cluster");
        std::fs::create_dir_all(&folder)?;
        let rpc = free_port(0)?;
        let http = free_port(http).or_else(|_| {
            say(&format!("port {http} is in use: the status page takes another one"));
            free_port(0)
        })?;
        let mut command = program("jobmanager")?;
        command
            .args(["--rpc", &format!("127.0.0.1:{rpc}"), "--http", &format!("127.0.0.1:{http}")])
            .args(["--storage", &format!("file://{}", folder.join("storage").display())]);
        let jobmanager = spawn(command, &folder.join("jobmanager.log"))?;
        Ok(Self { folder, rpc, http, jobmanager, task_managers: Vec::new(), started: 0 })
    }

    pub(super) fn http_port(&self) -> u16 {
        self.http
    }

    pub(super) fn start_task_manager(&mut self) -> Result<()> {
        self.started += 1;
        let name = format!("tm{}", self.started);
        let mut command = program("taskmanager")?;
        command
            .args(["--jobmanager", &format!("127.0.0.1:{}", self.rpc), "--name", &name, "--data-dir"])
            .arg(self.folder.join(&name));
        self.task_managers.push(spawn(command, &self.folder.join(format!("{name}.log")))?);
        Ok(())
    }

    /// SIGKILL to the oldest one; its pid.
    pub(super) async fn kill_task_manager(&mut self) -> Result<u32> {
        let mut victim = self.task_managers.remove(0);
        let pid = victim.id().context("the TaskManager has ended by itself")?;
        victim.kill().await?;
        Ok(pid)
    }

    pub(super) fn pids(&self) -> String {
        let pids: Vec<String> = self.task_managers.iter().filter_map(|t| t.id().map(|id| id.to_string())).collect();
        pids.join(" ")
    }

    pub(super) async fn wait_for_task_managers(&mut self, count: usize, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let nodes = match self.client().await {
                Ok(mut client) => client.nodes(v1::NodesRequest {}).await.map_or(0, |r| r.into_inner().nodes.len()),
                Err(_) => 0,
            };
            if nodes >= count {
                return Ok(());
            }
            self.all_run()?;
            if Instant::now() > until {
                bail!("{nodes} of {count} TaskManagers registered within {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Submits as soon as the topic is there; the generator creates it.
    pub(super) async fn submit(&mut self, submission: Submission, limit: Duration) -> Result<String> {
        let until = Instant::now() + limit;
        loop {
            let request = v1::SubmitRequest {
                toml: submission.toml.clone(),
                environment: submission.environment.clone().into_iter().collect(),
                file_name: "jobs/health-records.toml".to_owned(),
            };
            let answer = self.client().await?.submit(request).await;
            match answer.map(|a| a.into_inner().outcome) {
                Ok(Some(v1::submit_response::Outcome::Submitted(submitted))) => return Ok(submitted.name),
                Ok(Some(v1::submit_response::Outcome::Diagnostics(wrong))) => bail!("{}", wrong.rendered),
                Ok(None) => bail!("the JobManager answered nothing"),
                Err(status) if Instant::now() > until => bail!("submitting the job: {}", status.message()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub(super) async fn job(&mut self, name: &str) -> Result<v1::JobSummary> {
        let jobs = self.client().await?.list(v1::ListRequest {}).await?.into_inner().jobs;
        jobs.into_iter().find(|job| job.name == name).with_context(|| format!("job {name} is not there"))
    }

    async fn client(&self) -> Result<JobServiceClient<Channel>> {
        let channel = pulso_proto::endpoint(&format!("127.0.0.1:{}", self.rpc))?.connect().await?;
        Ok(JobServiceClient::new(channel).max_decoding_message_size(pulso_proto::MAX_MESSAGE_BYTES))
    }

    fn all_run(&mut self) -> Result<()> {
        for process in std::iter::once(&mut self.jobmanager).chain(&mut self.task_managers) {
            if let Some(status) = process.try_wait()? {
                bail!("a process of the cluster ended at once, {status}");
            }
        }
        Ok(())
    }

    /// SIGTERM to the TaskManagers, then to the JobManager; whoever does not end is killed.
    pub(super) async fn stop(mut self) {
        // Without a JobManager there is nothing to drain to, and the job's state is of no further use.
        for process in std::iter::once(&mut self.jobmanager).chain(&mut self.task_managers) {
            if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
                kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
            }
        }
        let until = tokio::time::Instant::now() + DRAIN;
        for process in std::iter::once(&mut self.jobmanager).chain(&mut self.task_managers) {
            if tokio::time::timeout_at(until, process.wait()).await.is_err() {
                process.kill().await.ok();
            }
        }
    }

    /// What the processes said last, for when something went wrong.
    pub(super) fn print_log_tails(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for path in entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "log")) {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            say(&format!("--- {}", path.file_name().unwrap_or_default().to_string_lossy()));
            lines[lines.len().saturating_sub(10)..].iter().for_each(|line| say(line));
        }
    }
}

/// The program beside this one; the processes must be of one build.
fn program(name: &str) -> Result<Command> {
    let me = std::env::current_exe().context("finding my own file")?;
    let path = me.with_file_name(name);
    if !path.exists() {
        bail!("{} is missing: the demo needs all programs of one build in one folder (make build)", path.display());
    }
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).kill_on_drop(true);
    // Ctrl-C on the terminal is for the demo, which ends its processes in order.
    command.process_group(0);
    Ok(command)
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    command.stdout(log.try_clone()?).stderr(log).spawn().context("starting a process of the cluster")
}

/// `wanted`, if it is free; for 0 any.
fn free_port(wanted: u16) -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", wanted))?.local_addr()?.port())
}
