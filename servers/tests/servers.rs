//! Both servers for real: they come up, keep port and data over a restart of every kind, and leave nothing running.
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;

use pulso_servers::{Kafka, KafkaOptions, Postgres, PostgresOptions};

fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn runs(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn query(url: &str, statement: &str) -> String {
    let done = Command::new("psql").args(["-X", "-q", "-A", "-t", "-d", url, "-c", statement]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_come_up_survive_and_end() {
    let folder = pulso_servers::temporary_folder().unwrap();
    let kafka = KafkaOptions { partitions: 2, heap_mib: 384, ..KafkaOptions::new(folder.path().join("kafka")) };
    let mut postgres = PostgresOptions::new(folder.path().join("postgres"), "health");
    postgres.settings.push(("max_connections".to_owned(), "17".to_owned()));
    let (mut kafka, mut postgres) = tokio::try_join!(Kafka::start(kafka), Postgres::start(postgres)).unwrap();

    let broker: u16 = kafka.brokers().rsplit_once(':').unwrap().1.parse().unwrap();
    assert!(accepts(broker));
    let first = kafka.pid().unwrap();
    kafka.kill().await.unwrap();
    assert!(!accepts(broker) && !runs(first));
    kafka.restart().await.unwrap();
    assert!(kafka.is_running() && accepts(broker));

    let url = postgres.url().to_owned();
    assert_eq!(query(&url, "show max_connections"), "17");
    assert_eq!(query(&url, "show track_commit_timestamp"), "on");
    query(&url, "create table kept (n int); insert into kept values (1)");
    let mut seen = vec![postgres.pid().unwrap()];
    for n in 2..=4 {
        match n {
            2 => postgres.stop_immediate().await.unwrap(),
            3 => postgres.kill().await.unwrap(),
            _ => postgres.stop_fast().await.unwrap(),
        }
        assert!(!postgres.is_running() && !accepts(postgres.port()));
        postgres.restart().await.unwrap();
        query(&url, &format!("insert into kept values ({n})"));
        seen.push(postgres.pid().unwrap());
    }
    assert_eq!(query(&url, "select string_agg(n::text, ' ' order by n) from kept"), "1 2 3 4");

    let last = kafka.pid().unwrap();
    kafka.stop().await.unwrap();
    drop(postgres);
    assert!(!runs(last));
    assert!(seen.into_iter().all(|pid| !runs(pid)), "a server outlived its owner");
}
