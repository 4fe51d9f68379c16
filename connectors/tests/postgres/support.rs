//! A server, and a database for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use pulso_servers::{Postgres, PostgresOptions, temporary_folder};
use tokio::sync::Mutex;

pub(crate) use crate::shared::*;

pub(crate) struct Server {
    // Dropped before its folder goes.
    postgres: Postgres,
    _folder: Box<dyn std::any::Any + Send + Sync>,
}

static SERVER: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database of the test's own.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) port: u16,
    pub(crate) name: String,
    _server: Arc<Server>,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let mut shared = SERVER.lock().await;
        let server = match shared.upgrade() {
            Some(server) => server,
            None => {
                let folder = temporary_folder().unwrap();
                let mut options = PostgresOptions::new(folder.path().join("postgres"), "tests");
                options.settings.push(("fsync".to_owned(), "off".to_owned()));
                let postgres = Postgres::start(options).await.unwrap();
                let server = Arc::new(Server { postgres, _folder: Box::new(folder) });
                *shared = Arc::downgrade(&server);
                server
            }
        };
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        query(server.postgres.url(), &format!("create database {name}")).await;
        let port = server.postgres.port();
        let url = format!("postgresql://postgres@127.0.0.1:{port}/{name}");
        Self { url, port, name, _server: server }
    }

    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        query(&self.url, sql).await
    }

    /// All rows as one text: fields by `|`, rows by blanks.
    pub(crate) async fn text(&self, sql: &str) -> String {
        self.query(sql).await.iter().map(|row| row.join("|")).collect::<Vec<_>>().join(" ")
    }

    /// The same database through another port.
    pub(crate) fn url_by(&self, port: u16) -> String {
        format!("postgresql://postgres@127.0.0.1:{port}/{}?sslmode=disable", self.name)
    }
}

/// A client of the test's own, not of the code that is tested.
pub(crate) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn query(url: &str, sql: &str) -> Vec<Vec<String>> {
    let messages = client(url).await.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let mut rows = Vec::new();
    for message in messages {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).unwrap_or("null").to_owned()).collect());
        }
    }
    rows
}
