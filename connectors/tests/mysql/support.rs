//! A server, and a database for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use pulso_servers::{MariaDb, MariaDbOptions, temporary_folder};
use tokio::sync::Mutex;

pub(crate) use crate::shared::*;

// How this database says what `cases` need.
pub(crate) const SCHEMA: &str = "";
pub(crate) const LEDGER: &str = "pulso_ledger";
pub(crate) const LETTERS: &str = "pulso_dead_letters";
pub(crate) const LETTERS_OF_INPUT: &str =
    "select split, position, record_time, reason, field, hex(`key`), hex(value), table_name from `bad vitals`
     order by split";
/// Of a dead letter, as text.
pub(crate) const VALUE: &str = "convert(value using utf8mb4)";
/// Type of a text that may be a key.
pub(crate) const KEY: &str = "varchar(20) collate utf8mb4_nopad_bin";
pub(crate) const CREATE_KV: &str = "CREATE TABLE `kv` (`k` VARCHAR(768) NOT NULL, `v` BIGINT, PRIMARY KEY (`k`))";
/// Bytes that only a flight of rows holds, and one with COMMIT.
pub(crate) const WRITING: &[u8] = b"INSERT INTO `kv`";
pub(crate) const COMMIT: &[u8] = b"\x03COMMIT";
pub(crate) const LOCK_KV: &str = "lock tables kv write";
pub(crate) const UNLOCK: &str = "unlock tables";
/// What is said of a lock that did not come in time, of a session that was ended, and of a write where none is taken.
pub(crate) const LOCKED: &str = "1205";
pub(crate) const ENDED: &str = "connection closed";
pub(crate) const READ_ONLY: &str = "1792";
/// From the transaction on that follows one with a 7, the session writes nothing.
pub(crate) const READ_ONLY_AFTER_7: &str = "create trigger turn before insert on kv for each row
    begin if new.v = 7 then set session tx_read_only = 1; end if; end";

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
        url_at(port, &self.name)
    }

    pub(crate) async fn end_the_writers_session(&self) {
        let number = self.text("select is_used_lock(session) from pulso_ledger limit 1").await;
        self.query(&format!("kill connection {number}")).await;
    }
}

pub(crate) fn url_at(port: u16, database: &str) -> String {
    format!("mysql://root@127.0.0.1:{port}/{database}?ssl-mode=disabled")
}

/// A client of the test's own, not of the code that is tested.
pub(crate) async fn client(url: &str) -> Conn {
    Conn::new(mysql_async::Opts::from_url(url).unwrap()).await.unwrap()
}

pub(crate) async fn run(client: &mut Conn, sql: &str) {
    client.query_drop(sql).await.unwrap();
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
