//! The servers for real: they come up, keep port and data over a restart of every kind, and leave nothing running.
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;

use pulso_servers::{Kafka, KafkaOptions, MariaDb, MariaDbOptions, Postgres, PostgresOptions};

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

fn mysql_query(port: u16, statement: &str) -> String {
    let port = format!("--port={port}");
    let to = ["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user=root", &port, "--database=hospital"];
    let done =
        Command::new("mariadb").args(to).args(["--batch", "--skip-column-names", "-e", statement]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_comes_up_survives_and_ends() {
    let folder = pulso_servers::temporary_folder().unwrap();
    let mut options = MariaDbOptions::new(folder.path().join("mariadb"), "hospital");
    options.settings.push(("max_connections".to_owned(), "17".to_owned()));
    let mut mariadb = MariaDb::start(options).await.unwrap();
    let port = mariadb.port();
    assert_eq!(mariadb.url(), format!("mysql://root@127.0.0.1:{port}/hospital"));
    assert_eq!(mysql_query(port, "select @@max_connections, @@innodb_flush_log_at_trx_commit"), "17\t1");
    mysql_query(port, "create table kept (n int) engine = innodb; insert into kept values (1)");
    let mut seen = vec![mariadb.pid().unwrap()];
    for n in 2..=3 {
        match n {
            2 => mariadb.kill().await.unwrap(),
            _ => mariadb.stop().await.unwrap(),
        }
        assert!(!mariadb.is_running() && !accepts(port));
        mariadb.restart().await.unwrap();
        mysql_query(port, &format!("insert into kept values ({n})"));
        seen.push(mariadb.pid().unwrap());
    }
    assert_eq!(mysql_query(port, "select group_concat(n order by n separator ' ') from kept"), "1 2 3");
    drop(mariadb);
    assert!(seen.into_iter().all(|pid| !runs(pid)), "a server outlived its owner");
}
