//! The processes of a Pulso cluster, as a person would start them.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::World;
use crate::wait::{until, until_ok};

/// One JobManager and its TaskManagers.
pub struct Cluster {
    folder: PathBuf,
    rpc: u16,
    http: u16,
    brokers: String,
    database_url: String,
    jobmanager: Option<Child>,
    standby: Option<Standby>,
    started: usize,
    jobmanager_flags: Vec<String>,
}

/// A second JobManager, on the same storage.
struct Standby {
    rpc: u16,
    process: Child,
}

/// A TaskManager process.
pub struct TaskManager {
    process: Child,
    pub name: String,
}

/// Where a job's file lies.
pub struct JobFile(pub PathBuf);

impl Cluster {
    /// A JobManager that answers, without TaskManagers.
    pub async fn start(world: &World, flags: &[&str]) -> Result<Self> {
        Self::start_at(world.folder.path(), world.kafka.brokers(), world.postgres.url(), flags).await
    }

    /// The same without Kafka, for jobs that read files.
    pub async fn start_at(folder: &Path, brokers: &str, database_url: &str, flags: &[&str]) -> Result<Self> {
        let mut cluster = Self {
            folder: folder.join("cluster"),
            rpc: free_port()?,
            http: free_port()?,
            brokers: brokers.to_owned(),
            database_url: database_url.to_owned(),
            jobmanager: None,
            standby: None,
            started: 0,
            jobmanager_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        std::fs::create_dir_all(&cluster.folder)?;
        cluster.start_jobmanager()?;
        until("the JobManager to answer", Duration::from_secs(20), async || Ok(cluster.json(&["nodes"]).is_ok()))
            .await?;
        Ok(cluster)
    }

    /// The sink's database, where it is not reached directly but through a proxy of the test.
    pub fn reach_database_at(&mut self, url: String) {
        self.database_url = url;
    }

    pub fn storage(&self) -> PathBuf {
        self.folder.join("storage")
    }

    pub fn start_jobmanager(&mut self) -> Result<()> {
        self.jobmanager = Some(self.jobmanager_at(self.rpc, self.http)?);
        Ok(())
    }

    /// A second JobManager; TaskManagers that are started from now on know both, and so does healthctl.
    pub fn start_standby(&mut self) -> Result<()> {
        let (rpc, http) = (free_port()?, free_port()?);
        self.standby = Some(Standby { rpc, process: self.jobmanager_at(rpc, http)? });
        Ok(())
    }

    fn jobmanager_at(&mut self, rpc: u16, http: u16) -> Result<Child> {
        let mut command = self.command("jobmanager");
        command
            .args(["--rpc", &format!("127.0.0.1:{rpc}"), "--http", &format!("127.0.0.1:{http}")])
            .args(["--storage", &format!("file://{}", self.storage().display())])
            .args(&self.jobmanager_flags);
        self.spawn(command, "jobmanager")
    }

    fn jobmanagers(&self) -> String {
        let ports = [Some(self.rpc), self.standby.as_ref().map(|standby| standby.rpc)];
        ports.iter().flatten().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill_jobmanager(&mut self) -> Result<()> {
        let mut process = self.jobmanager.take().context("no JobManager runs")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// SIGSTOP
    pub fn pause_jobmanager(&self) -> Result<()> {
        signal(self.jobmanager.as_ref().context("no JobManager runs")?, Signal::SIGSTOP)
    }

    /// SIGCONT
    pub fn resume_jobmanager(&self) -> Result<()> {
        signal(self.jobmanager.as_ref().context("no JobManager runs")?, Signal::SIGCONT)
    }

    /// Starts a TaskManager; it registers by itself.
    pub fn start_task_manager(&mut self) -> Result<TaskManager> {
        let name = format!("tm{}", self.started);
        let mut command = self.command("taskmanager");
        command
            .args(["--jobmanager", &self.jobmanagers(), "--name", &name])
            .arg("--data-dir")
            .arg(self.folder.join(&name));
        Ok(TaskManager { process: self.spawn(command, &name)?, name })
    }

    /// Starts TaskManagers and waits until the JobManager knows them.
    pub async fn start_task_managers(&mut self, count: usize) -> Result<Vec<TaskManager>> {
        let before = self.nodes()?.len();
        self.task_managers_up_to(before + count, count).await
    }

    /// The same where the JobManager has just been started, and may not answer yet.
    pub async fn start_task_managers_of_new_jobmanager(&mut self, count: usize) -> Result<Vec<TaskManager>> {
        self.task_managers_up_to(count, count).await
    }

    async fn task_managers_up_to(&mut self, sum: usize, count: usize) -> Result<Vec<TaskManager>> {
        let task_managers = (0..count).map(|_| self.start_task_manager()).collect::<Result<Vec<_>>>()?;
        until("the TaskManagers to register", Duration::from_secs(20), async || {
            Ok(self.nodes().is_ok_and(|nodes| nodes.len() >= sum))
        })
        .await?;
        Ok(task_managers)
    }

    /// Names of the TaskManagers that are registered.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let nodes = self.json(&["nodes"])?;
        let list = nodes.as_array().or_else(|| nodes["task_managers"].as_array()).context("a list of TaskManagers")?;
        list.iter().map(|n| Ok(n["name"].as_str().context("a name")?.to_owned())).collect()
    }

    /// How many key groups each TaskManager has that is registered.
    pub fn key_groups(&self) -> Result<Vec<u64>> {
        let nodes = self.json(&["nodes"])?;
        let list = nodes.as_array().context("a list of TaskManagers")?;
        list.iter().map(|node| node["key_groups"].as_u64().context("key groups")).collect()
    }

    /// The health job without its aggregate, on this topic; `change` edits its text.
    pub fn health_job(&self, topic: &str, change: impl FnOnce(String) -> String) -> Result<JobFile> {
        self.job("health-records", |text| {
            assert!(text.contains("\"health-data\""), "the job reads another topic than this test expects");
            change(text.replace("\"health-data\"", &format!("\"{topic}\"")))
        })
    }

    /// The file of this name in `jobs/`; `change` edits its text.
    pub fn job(&self, name: &str, change: impl FnOnce(String) -> String) -> Result<JobFile> {
        let text = std::fs::read_to_string(repository().join(format!("jobs/{name}.toml")))?;
        let path = self.folder.join(format!("{name}.toml"));
        std::fs::write(&path, change(text))?;
        Ok(JobFile(path))
    }

    /// A job of the repository, unchanged.
    pub fn example(name: &str) -> JobFile {
        JobFile(repository().join("jobs").join(name).with_extension("toml"))
    }

    pub fn submit(&self, job: &JobFile) -> Result<()> {
        let path = job.0.to_str().context("the path is text")?;
        self.healthctl(&["submit", path]).map(drop)
    }

    /// Waits until the conservation line adds up: each of the `total` records is read, and accounted for in one place.
    pub async fn accounts_for(&self, total: u64) -> Result<()> {
        self.job_accounts_for("health-records", total).await
    }

    /// The same of this job.
    pub async fn job_accounts_for(&self, job: &str, total: u64) -> Result<()> {
        until_ok("every record to be accounted for", Duration::from_secs(60), async || {
            let status = self.json(&["status", job])?;
            let of = |name: &str| status[name].as_u64().unwrap_or(0);
            let sum = ["written", "filtered", "duplicates", "superseded", "dead_letters"].map(of).iter().sum::<u64>();
            let adds_up = sum == total && of("records_read") == total && status["conserved"] == true;
            ensure!(adds_up, "of {total} records: {status}");
            Ok(())
        })
        .await
    }

    /// What `healthctl ARGUMENTS -o json` prints.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let printed = self.healthctl(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("healthctl {arguments:?} prints JSON"))
    }

    /// What `healthctl` prints; an error where it does not exit with 0.
    pub fn healthctl(&self, arguments: &[&str]) -> Result<String> {
        Ok(String::from_utf8(self.done(arguments)?.stdout)?)
    }

    /// What `healthctl` warns of, where it exits with 0.
    pub fn warnings(&self, arguments: &[&str]) -> Result<String> {
        Ok(String::from_utf8(self.done(arguments)?.stderr)?)
    }

    fn done(&self, arguments: &[&str]) -> Result<Output> {
        let done = self.command("healthctl").args(arguments).output()?;
        if !done.status.success() {
            bail!("healthctl {arguments:?} ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr));
        }
        Ok(done)
    }

    /// Starts `healthctl`, which prints nothing.
    pub fn start_healthctl(&self, arguments: &[&str]) -> Result<Child> {
        self.command("healthctl").args(arguments).stdout(Stdio::null()).spawn().context("starting healthctl")
    }

    /// What the processes of the cluster logged so far.
    pub fn logs(&self) -> Result<String> {
        let paths = std::fs::read_dir(&self.folder)?.flatten().map(|entry| entry.path());
        let logs = paths.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        Ok(logs.map(std::fs::read_to_string).collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// How often a job has been started anew.
    pub fn attempt(&self, job: &str) -> Result<u64> {
        Ok(self.json(&["status", job])?["attempt"].as_u64().unwrap_or(0))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(binary(program));
        command
            .env("PULSO_JOBMANAGER", self.jobmanagers())
            .env("KAFKA_BROKERS", &self.brokers)
            .env("DATABASE_URL", &self.database_url)
            .env("MYSQL_URL", &self.database_url)
            .stdin(Stdio::null());
        command
    }

    fn spawn(&mut self, mut command: Command, name: &str) -> Result<Child> {
        let log = File::create(self.folder.join(format!("{}-{name}.log", self.started)))?;
        self.started += 1;
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}: has the workspace been built?"))
    }

    /// Copies the processes' logs to standard error, for a test that fails.
    pub fn print_logs(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for path in entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "log")) {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}", path.display());
            for line in &lines[lines.len().saturating_sub(60)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A test that returns an error does not panic: set this to see what its cluster said.
        if std::thread::panicking() || std::env::var_os("PULSO_TEST_LOGS").is_some() {
            self.print_logs();
        }
        let standby = self.standby.take().map(|standby| standby.process);
        for mut process in self.jobmanager.take().into_iter().chain(standby) {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

impl TaskManager {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// SIGSTOP
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// SIGTERM; returns when it has drained, and says whether it ended well.
    pub fn terminate(mut self) -> Result<bool> {
        self.signal(Signal::SIGTERM)?;
        Ok(self.process.wait()?.success())
    }

    fn signal(&self, sent: Signal) -> Result<()> {
        signal(&self.process, sent)
    }
}

fn signal(process: &Child, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(process.id())?), signal)?;
    Ok(())
}

impl Drop for TaskManager {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The program, without a cluster.
pub fn healthctl() -> Command {
    Command::new(binary("healthctl"))
}

/// Programs lie beside the folder of the test's own binary.
fn binary(name: &str) -> PathBuf {
    let me = std::env::current_exe().unwrap_or_default();
    me.ancestors().skip(2).map(|folder| folder.join(name)).next().unwrap_or_else(|| PathBuf::from(name))
}
