//! One JobManager process on free ports, a TaskManager that only listens, and a log with one job in it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pulso_core::control_log::{ObjectHash, frame};
use pulso_core::cut::{Cut, CutHash, SplitCut};
use pulso_core::ids::{Epoch, EventTime, JobId, Position, SplitId, WallTime};
use pulso_core::message::Instruction;
use pulso_core::record::{JobDefinition, Record};
use pulso_proto::v1;
use pulso_proto::v1::job_service_client::JobServiceClient;
use pulso_proto::v1::task_manager_service_client::TaskManagerServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use uuid::Uuid;

pub(crate) const JOB: Uuid = Uuid::from_u128(0x5ead);
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TOML: &str = r#"version = 1
name = "vitals"

[source]
type = "kafka"
brokers = { env = "KAFKA_BROKERS" }
topic = "health-data"
format = "json"

[target.db]
type = "postgres"
url = { env = "DATABASE_URL" }

[fields]
patient_id = { type = "string", required = true }
timestamp = { type = "timestamp", epoch = "ms", required = true }

[time]
field = "timestamp"

[dedup]
key = ["patient_id", "timestamp"]
keep_for = "24h"

[[sink]]
to = "db"
table = "health_records"
key = ["patient_id", "timestamp"]
create = true
"#;

pub(crate) fn environment(brokers: &str) -> BTreeMap<String, String> {
    let url = "postgres://app:hunter2@127.0.0.1:1/x";
    BTreeMap::from([("KAFKA_BROKERS".to_owned(), brokers.to_owned()), ("DATABASE_URL".to_owned(), url.to_owned())])
}

/// Writes a control log whose only leader submitted one job and died.
pub(crate) fn seed(folder: &Path) {
    seed_job(folder, TOML, &environment("127.0.0.1:1"));
}

pub(crate) fn seed_job(folder: &Path, toml: &str, environment: &BTreeMap<String, String>) {
    let submission = serde_json::json!({ "toml": toml, "environment": environment });
    let definition = JobDefinition {
        id: JobId(JOB),
        name: "vitals".to_owned(),
        submission: submission.to_string(),
        fingerprint: 7,
        key_groups: 4,
        stages: 1,
        targets: vec!["db".to_owned()],
        delay: 0,
        idle_after: 30_000_000,
        has_windows: false,
    };
    let split = SplitCut { end: Position(0), count: 0, hash: 0, greatest: None };
    let start = Cut {
        epoch: Epoch::ZERO,
        clock: WallTime(1),
        splits: BTreeMap::from([(SplitId(0), split)]),
        watermark: EventTime::MIN,
        idle: std::collections::BTreeSet::new(),
        last: false,
        lookups: None,
        previous: CutHash::default(),
    };
    let nonce = Uuid::from_u128(9);
    let claim = frame(nonce, ObjectHash::NONE, &[Record::Leader { nonce, name: "one".to_owned() }]);
    let submitted = frame(nonce, ObjectHash::of(&claim), &[Record::Submitted { definition, start }]);
    let log = folder.join("storage/log");
    std::fs::create_dir_all(&log).unwrap();
    std::fs::write(log.join(format!("{:020}", 1)), claim).unwrap();
    std::fs::write(log.join(format!("{:020}", 2)), submitted).unwrap();
}

fn command(folder: &Path, name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobmanager"));
    command.env("RUST_LOG", "info").args(["--log-format", "json", "--name", name]);
    command.args(["--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--storage"]).arg(folder.join("storage"));
    command
}

/// Killed when dropped.
pub(crate) struct JobManager {
    process: Child,
    rpc: String,
    http: String,
}

impl Drop for JobManager {
    fn drop(&mut self) {
        self.kill();
    }
}

impl JobManager {
    pub(crate) fn start(folder: &Path, name: &str) -> Self {
        let mut process = command(folder, name).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let started: serde_json::Value = loop {
            let line = lines.next().expect("the process ended before it said where it listens").unwrap();
            match serde_json::from_str::<serde_json::Value>(&line) {
                Ok(line) if line["fields"]["message"] == "started" => break line,
                _ => eprintln!("{line}"),
            }
        };
        // Read on, else the process stops at a full pipe; shown where a test fails.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        let field = |name: &str| started["fields"][name].as_str().unwrap().to_owned();
        Self { process, rpc: field("rpc"), http: field("http") }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// Status, head in lower case, body.
    pub(crate) fn get(&self, path: &str) -> (u16, String, String) {
        self.request("GET", path, "localhost")
    }

    pub(crate) fn request(&self, method: &str, path: &str, host: &str) -> (u16, String, String) {
        let mut stream = self.open(method, path, host);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    /// Of an answer that does not end.
    pub(crate) fn first_bytes(&self, path: &str) -> String {
        let mut stream = self.open("GET", path, "localhost");
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&bytes).contains("\"jobs\"") {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "it ended");
            bytes.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn open(&self, method: &str, path: &str, host: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
        stream
    }

    pub(crate) async fn client(&self) -> JobServiceClient<Channel> {
        let channel = pulso_proto::endpoint(&self.rpc).unwrap().connect().await.unwrap();
        JobServiceClient::new(channel)
    }

    /// A TaskManager's session, welcomed.
    pub(crate) async fn register(&self, name: &str) -> Member {
        let channel = pulso_proto::endpoint(&self.rpc).unwrap().connect().await.unwrap();
        let (sender, receiver) = mpsc::channel(8);
        let register = v1::Register {
            task_manager: Uuid::new_v4().as_bytes().to_vec(),
            name: name.to_owned(),
            exchange: "127.0.0.1:1".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let register = v1::ToJobManager { kind: Some(v1::to_job_manager::Kind::Register(register)) };
        sender.send(register).await.unwrap();
        let mut service = TaskManagerServiceClient::new(channel);
        let mut stream = service.session(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let welcome = stream.message().await.unwrap().unwrap().kind.unwrap();
        let v1::to_task_manager::Kind::Welcome(welcome) = welcome else { panic!("no welcome: {welcome:?}") };
        assert!(welcome.storage.starts_with("file:///"), "{welcome:?}");
        tokio::spawn(heartbeats(sender.clone(), welcome.heartbeat_ms));
        Member { stream }
    }
}

async fn heartbeats(sender: mpsc::Sender<v1::ToJobManager>, every_ms: u32) {
    let heartbeat = v1::to_job_manager::Kind::Heartbeat(v1::Heartbeat { figures: None });
    while sender.send(v1::ToJobManager { kind: Some(heartbeat.clone()) }).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(every_ms.into())).await;
    }
}

pub(crate) struct Member {
    stream: Streaming<v1::ToTaskManager>,
}

impl Member {
    pub(crate) async fn instruction(&mut self) -> Instruction {
        let message = tokio::time::timeout(PATIENCE, self.stream.message()).await.expect("no instruction");
        message.unwrap().unwrap().try_into().unwrap()
    }
}

pub(crate) async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
