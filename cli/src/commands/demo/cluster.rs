//! The processes of the demo's cluster.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::join_all;
use nix::sys::signal::Signal;
use pulso_job::Submission;
use pulso_proto::v1;
use pulso_proto::v1::job_service_client::JobServiceClient;
use pulso_servers::Process;
use tonic::transport::Channel;

use super::say;

/// How long a process may take to end before it is killed.
const END: Duration = Duration::from_secs(10);
/// Where `healthctl` looks when it is not told otherwise.
const RPC_PORT: u16 = 6123;

pub(super) struct Cluster {
    folder: PathBuf,
    rpc: u16,
    http: u16,
    jobmanager: Process,
    /// Oldest first.
    task_managers: Vec<Process>,
    started: usize,
}

impl Cluster {
    /// Starts the JobManager; the page takes another port where the wanted one is in use.
    pub(super) fn start(folder: &Path, http: u16) -> Result<Self> {
        let folder = folder.join("cluster");
        std::fs::create_dir_all(&folder)?;
        let rpc = free_port(RPC_PORT).or_else(|_| free_port(0))?;
        let http = free_port(http).or_else(|_| {
            say(&format!("port {http} is in use: the status page takes another one"));
            free_port(0)
        })?;
        let mut command = program("jobmanager")?;
        command
            .args(["--rpc", &format!("127.0.0.1:{rpc}"), "--http", &format!("127.0.0.1:{http}")])
            .args(["--storage", &format!("file://{}", folder.join("storage").display())]);
        let jobmanager = Process::spawn("the JobManager", command, &folder.join("jobmanager.log"), Signal::SIGKILL)?;
        Ok(Self { folder, rpc, http, jobmanager, task_managers: Vec::new(), started: 0 })
    }

    pub(super) fn http_port(&self) -> u16 {
        self.http
    }

    /// What to add to `healthctl` so that it finds this cluster; empty where it does so by itself.
    pub(super) fn flag(&self) -> String {
        if self.rpc == RPC_PORT { String::new() } else { format!(" --jobmanager 127.0.0.1:{}", self.rpc) }
    }

    pub(super) fn start_task_manager(&mut self) -> Result<()> {
        self.started += 1;
        let name = format!("tm{}", self.started);
        let mut command = program("taskmanager")?;
        command
            .args(["--jobmanager", &format!("127.0.0.1:{}", self.rpc), "--name", &name, "--data-dir"])
            .arg(self.folder.join(&name));
        let log = self.folder.join(format!("{name}.log"));
        self.task_managers.push(Process::spawn(format!("TaskManager {name}"), command, &log, Signal::SIGKILL)?);
        Ok(())
    }

    /// SIGKILL to the oldest one; its pid.
    pub(super) async fn kill_task_manager(&mut self) -> Result<u32> {
        let mut victim = self.task_managers.remove(0);
        if let Some(status) = victim.ended()? {
            bail!("a TaskManager has ended by itself, {status}");
        }
        victim.stop(Signal::SIGKILL, END).await?;
        Ok(victim.pid())
    }

    /// Of the TaskManagers that run.
    pub(super) fn pids(&mut self) -> Vec<u32> {
        self.task_managers.retain_mut(|process| matches!(process.ended(), Ok(None)));
        self.task_managers.iter().map(Process::pid).collect()
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
    pub(super) async fn submit(&self, submission: Submission, limit: Duration) -> Result<v1::Submitted> {
        let until = Instant::now() + limit;
        loop {
            let request = v1::SubmitRequest {
                toml: submission.toml.clone(),
                environment: submission.environment.clone().into_iter().collect(),
                file_name: "jobs/health-records.toml".to_owned(),
                folder: String::new(),
                ..v1::SubmitRequest::default()
            };
            let answer = self.client().await?.submit(request).await;
            match answer.map(|a| a.into_inner().outcome) {
                Ok(Some(v1::submit_response::Outcome::Submitted(submitted))) => return Ok(submitted),
                Ok(Some(v1::submit_response::Outcome::Diagnostics(wrong))) => bail!("{}", wrong.rendered),
                Ok(None) => bail!("the JobManager answered nothing"),
                Err(status) if Instant::now() > until => bail!("submitting the job: {}", status.message()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Lets the job commit what it has read, take a savepoint, and end.
    pub(super) async fn drain(&self, name: &str, limit: Duration) -> Result<v1::StopResponse> {
        let mut client = self.client().await?;
        let stopped = tokio::time::timeout(limit, client.stop(v1::StopRequest { job: name.to_owned() })).await;
        let stopped = stopped.with_context(|| format!("job {name} did not drain within {limit:?}"))?;
        Ok(stopped.with_context(|| format!("draining job {name}"))?.into_inner())
    }

    pub(super) async fn job(&self, name: &str) -> Result<v1::JobSummary> {
        let jobs = self.client().await?.list(v1::ListRequest {}).await?.into_inner().jobs;
        jobs.into_iter().find(|job| job.name == name).with_context(|| format!("job {name} is not there"))
    }

    async fn client(&self) -> Result<JobServiceClient<Channel>> {
        let channel = pulso_proto::endpoint(&format!("127.0.0.1:{}", self.rpc))?.connect().await?;
        Ok(JobServiceClient::new(channel).max_decoding_message_size(pulso_proto::MAX_MESSAGE_BYTES))
    }

    fn all_run(&mut self) -> Result<()> {
        for process in std::iter::once(&mut self.jobmanager).chain(&mut self.task_managers) {
            if let Some(status) = process.ended()? {
                bail!("a process of the cluster ended at once, {status}");
            }
        }
        Ok(())
    }

    /// SIGTERM to the TaskManagers and then to the JobManager, which they take leave of; whoever does not end is killed.
    pub(super) async fn stop(mut self) {
        let leaving = self.task_managers.iter_mut().map(|process| process.stop(Signal::SIGTERM, END));
        let mut ends = join_all(leaving).await;
        ends.push(self.jobmanager.stop(Signal::SIGTERM, END).await);
        ends.into_iter().filter_map(Result::err).for_each(|error| say(&format!("{error:#}")));
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
    Ok(Command::new(path))
}

/// `wanted`, if it is free; for 0 any.
fn free_port(wanted: u16) -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", wanted))?.local_addr()?.port())
}
