//! `healthctl check --online` against real servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;
use std::process::Command;

use pulso_servers::{Kafka, KafkaOptions, Postgres, PostgresOptions, temporary_folder};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

const JOB: &str = r#"version = 1
name = "orders"
[source]
type = "kafka"
brokers = { env = "KAFKA_BROKERS" }
topic = "orders"
[target.db]
type = "postgres"
url = { env = "DATABASE_URL" }
[target.bus]
type = "kafka"
brokers = { env = "KAFKA_BROKERS" }
[fields]
id = { type = "string", required = true }
at = { type = "timestamp", required = true }
[time]
field = "at"
[dedup]
key = ["id", "at"]
keep_for = "1h"
[[sink]]
to = "db"
table = "orders"
key = ["id", "at"]
create = true
[[sink]]
to = "bus"
topic = "out"
[dead_letter]
to = "bus"
topic = "dead"
"#;

struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

fn check(file: &Path, brokers: &str, url: &str, more: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthctl"));
    command.args(["check", "--online"]).arg(file).args(more);
    command.env("KAFKA_BROKERS", brokers).env("DATABASE_URL", url).env("NO_COLOR", "1");
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Answer { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Code, line and message of each diagnostic.
fn diagnostics(answer: &Answer) -> Vec<(String, u64, String)> {
    let json: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let list = json["diagnostics"].as_array().unwrap().iter();
    list.map(|d| (text(&d["code"]), d["line"].as_u64().unwrap(), text(&d["message"]))).collect()
}

async fn create(brokers: &str, topic: &str, policy: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let new = NewTopic::new(topic, 3, TopicReplication::Fixed(1)).set("cleanup.policy", policy);
    let made = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_asked_and_their_answers_shown_at_their_lines() {
    let folder = temporary_folder().unwrap();
    let postgres = Postgres::start(PostgresOptions::new(folder.path().join("postgres"), "shop")).await.unwrap();
    let mut kafka = Kafka::start(KafkaOptions::new(folder.path().join("kafka"))).await.unwrap();
    let (brokers, url) = (kafka.brokers().to_owned(), postgres.url().to_owned());
    let file = folder.path().join("orders.toml");
    std::fs::write(&file, JOB).unwrap();

    // The source's topic is missing, and looking does not make it.
    for _ in 0..2 {
        let answer = check(&file, &brokers, &url, &["-o", "json"]);
        let found = diagnostics(&answer);
        assert_eq!((answer.code, found.len(), found[0].0.as_str(), found[0].1), (Some(1), 1, "P0101", 6), "{found:?}");
        assert!(found[0].2.contains("topic orders does not exist"), "{found:?}");
    }

    create(&brokers, "orders", "delete").await;
    create(&brokers, "dead", "delete").await;
    let answer = check(&file, &brokers, &url, &[]);
    assert_eq!(answer.code, Some(0), "{}", answer.err);
    let facts: Vec<&str> = answer.out.lines().skip(1).collect();
    assert_eq!(
        facts,
        [
            "  topic orders: 3 partitions",
            "  table public.orders: is made at the first start",
            "  topic out: is made at the first start",
            "  topic dead: 3 partitions",
        ]
    );

    // A compacted topic, and a table that will not do.
    create(&brokers, "kept", "compact,delete").await;
    std::fs::write(&file, JOB.replace("topic = \"orders\"", "topic = \"kept\"")).unwrap();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("create table orders (id integer, at timestamptz, primary key (id, at))").await.unwrap();
    let answer = check(&file, &brokers, &url, &["-o", "json"]);
    let found = diagnostics(&answer);
    let places: Vec<(&str, u64)> = found.iter().map(|(code, line, _)| (code.as_str(), *line)).collect();
    assert_eq!((answer.code, places), (Some(1), vec![("P0102", 6), ("P0103", 23)]), "{found:?}");
    let answer = check(&file, &brokers, &url, &[]);
    assert!(
        answer.err.contains("help: run: ALTER TABLE \"public\".\"orders\" ALTER COLUMN \"id\" TYPE text"),
        "{}",
        answer.err
    );

    looked_up(folder.path(), &brokers, &url, &client).await;

    // Nobody is there: a message for each server, and no password.
    kafka.kill().await.unwrap();
    let away = "postgres://app:hunter2@127.0.0.1:1/shop";
    let answer = check(&file, &brokers, away, &["-o", "json"]);
    let found = diagnostics(&answer);
    let places: Vec<(&str, u64)> = found.iter().map(|(code, line, _)| (code.as_str(), *line)).collect();
    assert_eq!(places, [("P0100", 5), ("P0100", 9), ("P0100", 12)], "{found:?}");
    assert!(!format!("{}{}", answer.out, answer.err).contains("hunter2"));
}

/// What lookups find: the columns of the query, then its rows.
async fn looked_up(folder: &Path, brokers: &str, url: &str, client: &tokio_postgres::Client) {
    let file = folder.join("units.toml");
    let lookup =
        "[[lookup]]\nname = \"unit\"\nin = \"db\"\nsql = \"select * from units\"\non = [\"id\"]\nmax_rows = 2\n";
    let derive = "[derive]\nlabel = \"unit.label\"\n";
    let toml = JOB.replace("[time]", &format!("{lookup}{derive}[time]")).replace("\"orders\"\nkey", "\"weighed\"\nkey");
    std::fs::write(&file, toml).unwrap();
    for (sql, expected) in [
        // Not even there.
        ("select", Err("\"units\" does not exist")),
        ("create table units (id integer, label bytea)", Err("`id` is of type int32 in the query and of type string")),
        ("alter table units alter id type text", Err("`label` of the query is of type bytea")),
        ("alter table units alter label type text using ''", Ok("0 rows")),
        ("insert into units values ('a', 'kg'), ('a', 'g')", Err("1 of its 2 rows have the same values")),
        ("insert into units values ('b', 'mg')", Err("more than 2 rows (max_rows)")),
        ("delete from units where label <> 'g'", Ok("1 row")),
    ] {
        client.batch_execute(sql).await.unwrap();
        let answer = check(&file, brokers, url, &["-o", "json"]);
        match expected {
            Ok(rows) => {
                assert_eq!(answer.code, Some(0), "{sql}: {} {}", answer.out, answer.err);
                assert!(answer.out.contains(&format!("lookup unit: {rows}\"")), "{sql}: {}", answer.out);
            }
            Err(words) => {
                let found = diagnostics(&answer);
                assert!(found.iter().all(|(code, line, _)| code == "P0081" && [19, 20].contains(line)), "{found:?}");
                assert!(found.iter().any(|(_, _, message)| message.contains(words)), "{sql}: {found:?}");
            }
        }
    }
}
