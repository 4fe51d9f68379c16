//! A server, and a database for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use pulso_servers::{Postgres, PostgresOptions, temporary_folder};
use tokio::sync::Mutex;

pub(crate) use crate::shared::*;

// How this database says what `cases` need.
pub(crate) const SCHEMA: &str = "public";
pub(crate) const LEDGER: &str = "pulso.ledger";
pub(crate) const LETTERS: &str = "pulso.dead_letters";
pub(crate) const LETTERS_OF_INPUT: &str =
    "select split, position, to_char(record_time at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), reason, field,
     upper(encode(key, 'hex')), upper(encode(value, 'hex')), table_name from \"bad vitals\" order by split";
/// Of a dead letter, as text.
pub(crate) const VALUE: &str = "convert_from(value, 'UTF8')";
/// Type of a text that may be a key.
pub(crate) const KEY: &str = "text";
pub(crate) const CREATE_KV: &str =
    "CREATE TABLE \"public\".\"kv\" (\"k\" text NOT NULL, \"v\" bigint, PRIMARY KEY (\"k\"))";
/// Bytes that only a flight of rows holds, and one with COMMIT.
pub(crate) const WRITING: &[u8] = b"PGCOPY";
pub(crate) const COMMIT: &[u8] = b"COMMIT\0";
pub(crate) const LOCK_KV: &str = "begin; lock table kv";
pub(crate) const UNLOCK: &str = "rollback";
/// What is said of a lock that did not come in time, of a session that was ended, and of a write where none is taken.
pub(crate) const LOCKED: &str = "55P03";
pub(crate) const ENDED: &str = "57P01";
pub(crate) const READ_ONLY: &str = "25006";
/// From the transaction on that follows one with a 7, the session writes nothing.
pub(crate) const READ_ONLY_AFTER_7: &str = "create function turn() returns trigger language plpgsql as $$ begin
    if new.v = 7 then perform set_config('default_transaction_read_only', 'on', false); end if; return new; end $$;
    create trigger turn before insert on kv for each row execute function turn()";

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
        url_at(port, &self.name)
    }

    pub(crate) async fn end_the_writers_session(&self) {
        let ours = "application_name like 'pulso/%' and datname = current_database()";
        self.query(&format!("select pg_terminate_backend(pid) from pg_stat_activity where {ours}")).await;
    }
}

pub(crate) fn url_at(port: u16, database: &str) -> String {
    format!("postgresql://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// A client of the test's own, not of the code that is tested.
pub(crate) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn run(client: &mut tokio_postgres::Client, sql: &str) {
    client.batch_execute(sql).await.unwrap();
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
