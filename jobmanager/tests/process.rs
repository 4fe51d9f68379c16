//! The real process, started, killed and started again. Needs no Kafka: jobs come from a log that was written before.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
mod support;

use std::time::Duration;

use pulso_core::message::Instruction;
use pulso_proto::v1;
use pulso_proto::v1::submit_response::Outcome;

use crate::support::{JOB, JobManager, TOML, seed, wait_for};

#[test]
fn what_others_reach_must_be_meant() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_jobmanager"));
    command.args(["--rpc", "0.0.0.0:0", "--http", "127.0.0.1:0", "--storage"]).arg(folder.path());
    let refused = command.output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--insecure"));
}

#[tokio::test]
async fn the_rest_api_answers_and_keeps_others_out() {
    let folder = tempfile::tempdir().unwrap();
    let jobmanager = JobManager::start(folder.path(), "one");
    wait_for("leading", || jobmanager.get("/readyz").0 == 200).await;

    let (status, head, body) = jobmanager.get("/api/v1/cluster");
    let cluster: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &cluster["leading"], &cluster["jobs"]), (200, &true.into(), &0.into()));
    for header in ["content-security-policy: default-src 'self'", "x-content-type-options: nosniff"] {
        assert!(head.contains(header), "{head}");
    }
    assert!(head.contains("frame-ancestors 'none'"), "{head}");

    assert!(jobmanager.get("/").2.contains("<title>Pulso</title>"));
    assert_eq!(jobmanager.get("/app.js").0, 200);
    assert!(jobmanager.get("/metrics").2.contains("pulso_leading 1\n"));
    assert_eq!(jobmanager.get("/livez").0, 200);
    for wrong in ["/api/v1/jobs/none", "/api/v1/jobs/..%2f..%2fetc%2fpasswd", "/etc/passwd", "/api/v1/nothing"] {
        assert_eq!(jobmanager.get(wrong).0, 404, "{wrong}");
    }
    assert_eq!(jobmanager.request("GET", "/api/v1/jobs", "attacker.example").0, 421);
    assert_eq!(jobmanager.request("POST", "/api/v1/jobs", "localhost").0, 405);

    let events = jobmanager.first_bytes("/api/v1/events");
    assert!(events.contains("event: overview") && events.contains("\"leading\":true"), "{events}");
}

#[tokio::test]
async fn a_wrong_file_is_answered_with_its_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let jobmanager = JobManager::start(folder.path(), "one");
    let mut client = jobmanager.client().await;
    wait_for("leading", || jobmanager.get("/readyz").0 == 200).await;

    let request = v1::SubmitRequest {
        toml: "version = 1\nname = \"Wrong Name\"\n[sauce]\n".to_owned(),
        file_name: "bad.toml".to_owned(),
        ..Default::default()
    };
    let answer = client.submit(request).await.unwrap().into_inner();
    let Some(Outcome::Diagnostics(mistakes)) = answer.outcome else { panic!("accepted: {answer:?}") };
    assert!(mistakes.rendered.contains("bad.toml") && mistakes.rendered.contains("sauce"), "{}", mistakes.rendered);
    let json: serde_json::Value = serde_json::from_str(&mistakes.json).unwrap();
    assert!(json["diagnostics"].as_array().unwrap().len() > 1, "{json}");

    // A good file, but a source that is not there: port 1 refuses.
    let environment = support::environment("127.0.0.1:1");
    let request = v1::SubmitRequest { toml: TOML.to_owned(), environment, ..Default::default() };
    let refused = client.submit(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("127.0.0.1:1"), "{refused}");

    let missing = client.describe(v1::DescribeRequest { job: "none".to_owned() }).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_killed_jobmanager_goes_on_from_its_log() {
    let folder = tempfile::tempdir().unwrap();
    seed(folder.path());
    let mut jobmanager = JobManager::start(folder.path(), "one");
    wait_for("the job", || jobmanager.get(&format!("/api/v1/jobs/{JOB}")).0 == 200).await;
    let file = jobmanager.get("/api/v1/jobs/vitals/job.toml").2;
    assert!(file.contains("[source]") && !file.contains("hunter2"), "{file}");

    let mut member = jobmanager.register("first").await;
    let Instruction::Prepare { attempt, .. } = member.instruction().await else { panic!("not prepared") };
    let nodes = jobmanager.client().await.nodes(v1::NodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].name, "first");

    jobmanager.kill();
    let mut jobmanager = JobManager::start(folder.path(), "one");
    wait_for("the job again", || jobmanager.get("/api/v1/jobs/vitals").0 == 200).await;
    let mut member = jobmanager.register("first").await;
    let Instruction::Prepare { attempt: next, .. } = member.instruction().await else { panic!("not prepared") };
    assert!(next > attempt, "{next} after {attempt}");

    let mut client = jobmanager.client().await;
    client.cancel(v1::CancelRequest { job: "vitals".to_owned() }).await.unwrap();
    jobmanager.kill();
    let jobmanager = JobManager::start(folder.path(), "one");
    wait_for("the end", || jobmanager.get("/api/v1/jobs/vitals").2.contains("\"status\":\"cancelled\"")).await;
}

#[tokio::test]
async fn a_standby_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    seed(folder.path());
    let mut first = JobManager::start(folder.path(), "first");
    wait_for("leading", || first.get("/readyz").0 == 200).await;
    let second = JobManager::start(folder.path(), "second");
    wait_for("standing by", || second.get("/livez").0 == 200).await;
    // Longer than a standby waits for a leader that is silent.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((first.get("/readyz").0, second.get("/readyz").0), (200, 503));
    let refused = second.client().await.list(v1::ListRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);

    first.kill();
    wait_for("taking over", || second.get("/readyz").0 == 200).await;
    assert_eq!(second.get("/api/v1/jobs/vitals").0, 200);
}

/// Paused long enough for the standby to lead; when it wakes up it must step down and not write a record.
#[tokio::test]
async fn a_paused_leader_steps_down() {
    let folder = tempfile::tempdir().unwrap();
    seed(folder.path());
    let first = JobManager::start(folder.path(), "first");
    wait_for("leading", || first.get("/readyz").0 == 200).await;
    let second = JobManager::start(folder.path(), "second");
    first.signal("STOP");
    wait_for("taking over", || second.get("/readyz").0 == 200).await;
    first.signal("CONT");
    wait_for("stepping down", || first.get("/readyz").0 == 503).await;
    assert_eq!(second.get("/readyz").0, 200);
}

#[tokio::test]
async fn a_changed_file_is_compared_with_the_job_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    seed(folder.path());
    let jobmanager = JobManager::start(folder.path(), "one");
    wait_for("the job", || jobmanager.get("/api/v1/jobs/vitals").0 == 200).await;
    let mut client = jobmanager.client().await;
    let request = |toml: String| v1::CompareRequest { toml, file_name: "job.toml".to_owned(), ..Default::default() };

    let same = client.compare(request(TOML.to_owned())).await.unwrap().into_inner();
    assert_eq!(
        (same.job.as_slice(), same.rendered.as_str()),
        (JOB.as_bytes().as_slice(), "positions: kept\ndedup: kept")
    );
    let routed = TOML.replace("keep_for", "route_by = [\"patient_id\"]\nkeep_for");
    let changed = client.compare(request(routed)).await.unwrap().into_inner();
    assert!(changed.rendered.contains("dedup: dropped; the routing key is another one"), "{}", changed.rendered);
    let json: serde_json::Value = serde_json::from_str(&changed.json).unwrap();
    assert_eq!(json["states"][1]["fate"], "dropped");

    let other = client.compare(request(TOML.replace("\"vitals\"", "\"other\""))).await.unwrap().into_inner();
    assert_eq!(other, v1::CompareResponse::default());
    let wrong = client.compare(request("version = 1".to_owned())).await.unwrap_err();
    assert_eq!(wrong.code(), tonic::Code::InvalidArgument);
}
