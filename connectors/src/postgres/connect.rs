//! One connection of a writer: how it is made, what its session must hold, and the proof that it is a session at all.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use pulso_core::ids::{Attempt, ConnectionId, JobId};
use secrecy::{ExposeSecret, SecretString};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, CopyInSink, Row, SimpleQueryMessage, SimpleQueryRow, Statement};

use super::error::Failure;
use super::tls::{self, Verify};

/// Sessions hold these whatever the server's or the role's defaults are.
///
/// `search_path` ends with the temporary schema, so that nothing there shadows a name; `public` is for triggers of the
/// tables that we write. A stronger `synchronous_commit` than `on` stays. Without synchronised scans a staging table is
/// read in the order in which it was written.
const SESSION: &str = "
SET search_path = pg_catalog, public, pg_temp;
SET statement_timeout = '60s';
SET lock_timeout = '5s';
SET idle_in_transaction_session_timeout = '30s';
SET tcp_user_timeout = '15s';
SET tcp_keepalives_idle = 10;
SET tcp_keepalives_interval = 3;
SET tcp_keepalives_count = 3;
SET standard_conforming_strings = on;
SET client_min_messages = error;
SET default_transaction_isolation = 'read committed';
SET row_security = off;
SET synchronize_seqscans = off;
SET jit = off;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET extra_float_digits = 1;
SET bytea_output = 'hex';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout';
SELECT pg_backend_pid(), current_setting('server_version_num'), quote_ident(current_user);
";

/// `ON CONFLICT`, `attgenerated` and the TCP settings of a session need it.
const OLDEST_SERVER: u32 = 120_000;

/// From the first packet to a session with all its settings: a server that is paused accepts connections, too.
const OPEN: Duration = Duration::from_secs(10);
/// `statement_timeout` of [`SESSION`], and 10 s.
const ANSWER: Duration = Duration::from_secs(70);

/// Unique in the process: a reading of the ledger is valid only for the connection that made it.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Where a target is and how it is reached.
pub(crate) struct Address {
    config: Config,
    tls: tokio_postgres_rustls::MakeRustlsConnect,
}

impl Address {
    /// Takes a URL or libpq's `key=value` form, `sslmode` up to `verify-full`, and `sslrootcert`.
    pub(crate) fn parse(url: &SecretString) -> Result<Self, Failure> {
        let (text, verify, root) = take_tls(url.expose_secret());
        let mut config: Config =
            text.parse().map_err(|_| Failure::fatal("the target's url is not a PostgreSQL connection string"))?;
        if verify != Verify::Nothing {
            config.ssl_mode(SslMode::Require);
        }
        if config.get_user().is_none() {
            return Err(Failure::fatal("the target's url names no user: postgresql://USER@HOST/DATABASE"));
        }
        config
            .connect_timeout(Duration::from_secs(5))
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(15));
        let tls = tls::connector(verify, root.as_deref()).map_err(Failure::fatal)?;
        Ok(Self { config, tls })
    }
}

/// Takes `sslmode=verify-*` and `sslrootcert` out of the text: the client does not know them.
fn take_tls(text: &str) -> (String, Verify, Option<String>) {
    let (head, parameters, separator) = match text.split_once('?') {
        Some((head, tail)) if text.contains("://") => (format!("{head}?"), tail, '&'),
        None if text.contains("://") => return (text.to_owned(), Verify::Nothing, None),
        _ => (String::new(), text, ' '),
    };
    let (mut verify, mut root, mut kept) = (Verify::Nothing, None, Vec::new());
    for parameter in parameters.split(separator) {
        match parameter.split_once('=') {
            Some(("sslmode", "verify-full")) => verify = Verify::Host,
            Some(("sslmode", "verify-ca")) => verify = Verify::Authority,
            Some(("sslrootcert", file)) => root = Some(file.replace("%2F", "/")),
            _ => kept.push(parameter),
        }
    }
    (head + &kept.join(&separator.to_string()), verify, root)
}

/// The name that a session of this job and attempt goes by in `pg_stat_activity`.
pub(crate) fn application_name(job: JobId, attempt: Attempt) -> String {
    format!("pulso/{job}/{attempt}")
}

/// Dropping it closes the socket at once: whatever is under way has an unknown outcome.
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    client: Client,
    /// As an identifier, quoted where it must be.
    pub(crate) user: String,
    pid: String,
    driver: JoinHandle<String>,
    copies: BTreeMap<String, Statement>,
    rolled_back: u64,
}

impl Connection {
    pub(crate) async fn open(address: &Address, application: &str) -> Result<Self, Failure> {
        let opened = tokio::time::timeout(OPEN, Self::open_now(address, application)).await;
        opened.unwrap_or_else(|_| Err(Failure::lost(format!("no session within {} s", OPEN.as_secs()))))
    }

    async fn open_now(address: &Address, application: &str) -> Result<Self, Failure> {
        let mut config = address.config.clone();
        config.application_name(application);
        let (client, connection) =
            config.connect(address.tls.clone()).await.map_err(|e| Failure::at_connect(&e).during("connecting"))?;
        let driver = tokio::spawn(async move {
            match connection.await {
                Ok(()) => "closed".to_owned(),
                Err(error) => Failure::from(error).text,
            }
        });
        let id = ConnectionId(NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed));
        let mut opened = Self {
            id,
            client,
            user: String::new(),
            pid: String::new(),
            driver,
            copies: BTreeMap::new(),
            rolled_back: 0,
        };
        let facts = opened.simple_rows(SESSION).await?;
        let [pid, version, user] = facts
            .last()
            .and_then(|row| <&[String; 3]>::try_from(row.as_slice()).ok())
            .ok_or_else(|| Failure::lost("the server did not say who it is"))?;
        if version.parse::<u32>().unwrap_or(0) < OLDEST_SERVER {
            return Err(Failure::fatal(format!("PostgreSQL 12 or newer is needed, this is {version}")));
        }
        (opened.pid, opened.user) = (pid.clone(), user.clone());
        Ok(opened)
    }

    /// Refuses transaction poolers: there a backend, and with it what the ledger names, changes hands between statements.
    ///
    /// A pooler gives the server connection that is free to whoever asks next. So a second client gets ours, or we get
    /// another one, or our settings are gone.
    pub(crate) async fn prove_session(&self, address: &Address, application: &str) -> Result<(), Failure> {
        const ASK: &str =
            "SELECT pg_backend_pid(), current_setting('search_path'), current_setting('application_name')";
        // A server that is full refuses the second client; that is no reason to refuse the first.
        let second = match Self::open(address, application).await {
            Ok(second) => second.pid.clone(),
            Err(_) => String::new(),
        };
        let rows = self.simple_rows(ASK).await?;
        let steady = rows.last().is_some_and(|row| {
            row.first() == Some(&self.pid)
                && row.get(1).is_some_and(|path| path == "pg_catalog, public, pg_temp")
                && row.get(2).is_some_and(|name| name == application)
        });
        if steady && second != self.pid {
            return Ok(());
        }
        Err(Failure::fatal(
            "the target is behind a pooler that shares sessions between statements (PgBouncer pool_mode transaction or \
             statement); give the job's url the server itself, or a pool with pool_mode = session",
        ))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Resolves when the connection has ended, with the reason.
    pub(crate) async fn ended(&mut self) -> String {
        (&mut self.driver).await.unwrap_or_else(|e| e.to_string())
    }

    /// A statement that is planned once per connection.
    pub(crate) async fn copy_statement(&mut self, sql: &str) -> Result<Statement, Failure> {
        if let Some(statement) = self.copies.get(sql) {
            return Ok(statement.clone());
        }
        let statement = answered(self.client.prepare(sql)).await?;
        self.copies.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    pub(crate) async fn query(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Failure> {
        answered(self.client.query_typed(sql, parameters)).await
    }

    pub(crate) async fn run(&self, sql: &str) -> Result<(), Failure> {
        self.answers(sql).await.map(drop).map_err(|(_, failure)| failure)
    }

    /// Rolls back after a failure, and proves that the server's answers still belong to what was asked.
    ///
    /// After a COPY that the server refuses before its first row the client sends one Sync too many; the answer to it is
    /// then taken for that of the next statement, and so on: a COMMIT could seem done that is not.
    pub(crate) async fn roll_back(&mut self, sql: &str) -> Result<(), Failure> {
        self.rolled_back += 1;
        let token = self.rolled_back;
        let rows = self.simple_rows(&format!("{sql}; SELECT {token}")).await?;
        if rows == [[token.to_string()]] { Ok(()) } else { Err(Failure::lost("the server's answers are out of step")) }
    }

    /// Values of all rows of all statements as text, null as an empty one.
    pub(crate) async fn simple_rows(&self, sql: &str) -> Result<Vec<Vec<String>>, Failure> {
        let answers = self.answers(sql).await.map_err(|(_, failure)| failure)?;
        Ok(answers.into_iter().flat_map(|answer| answer.rows).collect())
    }

    /// One answer for each of these statements, or the first failure and how many answers came before it.
    pub(crate) async fn answers(&self, sql: &str) -> Result<Vec<Answer>, (usize, Failure)> {
        let (mut answers, mut rows) = (Vec::new(), Vec::new());
        let stream = answered(self.client.simple_query_raw(sql)).await.map_err(|failure| (0, failure))?;
        let mut stream = pin!(stream);
        loop {
            let message = answered(stream.try_next()).await.map_err(|failure| (answers.len(), failure))?;
            match message {
                Some(SimpleQueryMessage::Row(row)) => {
                    rows.push((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect());
                }
                Some(SimpleQueryMessage::CommandComplete(count)) => {
                    answers.push(Answer { count, rows: std::mem::take(&mut rows) });
                }
                Some(_) => {}
                None => return Ok(answers),
            }
        }
    }

    /// Plans one statement; it is not run.
    pub(crate) async fn prepare(&self, sql: &str) -> Result<Statement, Failure> {
        answered(self.client.prepare(sql)).await
    }

    /// Names and types of a statement's columns.
    pub(crate) async fn describe(&self, sql: &str) -> Result<Vec<(String, String)>, Failure> {
        let statement = self.prepare(sql).await?;
        Ok(statement.columns().iter().map(|c| (c.name().to_owned(), c.type_().name().to_owned())).collect())
    }

    /// One statement: the extended protocol takes no second one.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), Failure> {
        answered(self.client.execute(sql, &[])).await.map(drop)
    }

    /// Values as text, of so many bytes together at most, and whether rows were left.
    pub(crate) async fn first_rows(
        &self,
        sql: &str,
        bytes: usize,
    ) -> Result<(Vec<Vec<Option<String>>>, bool), Failure> {
        let (mut rows, mut held) = (Vec::new(), 0);
        let stream = answered(self.client.simple_query_raw(sql)).await?;
        let mut stream = pin!(stream);
        while let Some(message) = answered(stream.try_next()).await? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let values = || (0..row.len()).map(|i| row.get(i));
            held += values().flatten().map(str::len).sum::<usize>();
            if held > bytes {
                return Ok((rows, true));
            }
            rows.push(values().map(|value| value.map(str::to_owned)).collect());
        }
        Ok((rows, false))
    }

    /// Gives each row of one statement as it arrives, values as text, until there are no more or `take` refuses one.
    pub(crate) async fn each_row(
        &self,
        sql: &str,
        mut take: impl FnMut(&SimpleQueryRow) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let stream = answered(self.client.simple_query_raw(sql)).await?;
        let mut stream = pin!(stream);
        while let Some(message) = answered(stream.try_next()).await? {
            if let SimpleQueryMessage::Row(row) = message {
                take(&row)?;
            }
        }
        Ok(())
    }

    pub(crate) async fn start_copy(&self, statement: &Statement) -> Result<CopyInSink<Bytes>, Failure> {
        answered(self.client.copy_in(statement)).await
    }
}

/// What a statement of the simple protocol answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Rows touched or returned.
    pub(crate) count: u64,
    /// As text, null as an empty one.
    pub(crate) rows: Vec<Vec<String>>,
}

/// Whatever the server answers it answers before its own time-out, and a little later at most over the network.
pub(crate) async fn answered<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::lost(format!("the server has not answered for {} s", ANSWER.as_secs()))),
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_parameters_are_taken_out() {
        let (text, verify, root) = take_tls("postgresql://a@h/d?sslmode=verify-full&x=1&sslrootcert=%2Fetc%2Fca.pem");
        assert_eq!(
            (text.as_str(), verify, root.as_deref()),
            ("postgresql://a@h/d?x=1", Verify::Host, Some("/etc/ca.pem"))
        );
        let (text, verify, root) = take_tls("host=h user=a sslmode=verify-ca");
        assert_eq!((text.as_str(), verify, root), ("host=h user=a", Verify::Authority, None));
        let (text, verify, _) = take_tls("postgresql://a@h/d?sslmode=require");
        assert_eq!((text.as_str(), verify), ("postgresql://a@h/d?sslmode=require", Verify::Nothing));
    }

    #[test]
    fn a_bad_url_is_not_repeated_in_the_error() {
        let error = Address::parse(&"postgresql://u:secret@h:notaport/d".to_owned().into()).err().unwrap();
        assert!(!error.text.contains("secret"), "{error}");
    }
}
