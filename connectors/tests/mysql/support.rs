//! A server, and a database for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use pulso_servers::{MariaDb, MariaDbOptions, temporary_folder};
use tokio::sync::Mutex;

pub(crate) use crate::shared::*;

pub(crate) struct Server {
    // Dropped before its folder goes.
    mariadb: MariaDb,
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
                let mut options = MariaDbOptions::new(folder.path().join("mariadb"), "tests");
                options.settings.push(("innodb-flush-log-at-trx-commit".to_owned(), "0".to_owned()));
                let mariadb = MariaDb::start(options).await.unwrap();
                let server = Arc::new(Server { mariadb, _folder: Box::new(folder) });
                *shared = Arc::downgrade(&server);
                server
            }
        };
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        query(server.mariadb.url(), &format!("create database {name}")).await;
        let port = server.mariadb.port();
        let url = format!("mysql://root@127.0.0.1:{port}/{name}");
        Self { url, port, name, _server: server }
    }

    /// Of the last statement.
    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        query(&self.url, sql).await
    }

    /// All rows as one text: fields by `|`, rows by blanks.
    pub(crate) async fn text(&self, sql: &str) -> String {
        self.query(sql).await.iter().map(|row| row.join("|")).collect::<Vec<_>>().join(" ")
    }

    /// The same database through another port.
    pub(crate) fn url_by(&self, port: u16) -> String {
        format!("mysql://root@127.0.0.1:{port}/{}?ssl-mode=disabled", self.name)
    }
}

/// A client of the test's own, not of the code that is tested.
pub(crate) async fn client(url: &str) -> Conn {
    Conn::new(mysql_async::Opts::from_url(url).unwrap()).await.unwrap()
}

pub(crate) async fn query(url: &str, sql: &str) -> Vec<Vec<String>> {
    let mut client = client(url).await;
    let rows: Vec<Row> = client.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    client.disconnect().await.unwrap();
    texts(&rows)
}

/// Of a query by the text protocol.
pub(crate) fn texts(rows: &[Row]) -> Vec<Vec<String>> {
    let text = |value: &Value| {
        if let Value::Bytes(bytes) = value {
            return String::from_utf8_lossy(bytes).into_owned();
        }
        assert_eq!(*value, Value::NULL, "the text protocol has no others");
        "null".to_owned()
    };
    rows.iter().map(|row| (0..row.len()).map(|i| text(row.as_ref(i).unwrap())).collect()).collect()
}
