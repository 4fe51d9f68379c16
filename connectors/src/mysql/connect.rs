//! One connection of a writer: what its session must hold, the lock that is its name, and its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use pulso_core::ids::ConnectionId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::address::Address;
use super::error::{Failure, Kind};
use super::quote;

/// Sessions hold these whatever the server's defaults are. A session whose client is silent for `wait_timeout` ends, in
/// the middle of a transaction too; ours is never silent for long: see [`PING`].
const SESSION: &str = "
SET NAMES utf8mb4;
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,\
NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00', autocommit = 1, completion_type = 'NO_CHAIN',
    innodb_lock_wait_timeout = 5, lock_wait_timeout = 5, wait_timeout = 30, net_read_timeout = 30,
    net_write_timeout = 30, foreign_key_checks = 1, unique_checks = 1, sql_safe_updates = 0";
const MARIADB: &str = "SET SESSION max_statement_time = 60";
/// Of SELECT only: MySQL has no limit for others.
const MYSQL: &str = "SET SESSION max_execution_time = 60000";
const FACTS: &str = "SELECT CONNECTION_ID(), VERSION(), CURRENT_USER(), @@max_allowed_packet, DATABASE()";

/// From the first packet to a session with all its settings: a server that is paused accepts connections, too.
const OPEN: Duration = Duration::from_secs(10);
/// `max_statement_time` of [`MARIADB`], and 10 s.
const ANSWER: Duration = Duration::from_secs(70);
/// So an idle connection that ends is noticed, and `wait_timeout` is far.
const PING: Duration = Duration::from_secs(1);

/// Grows with every connection of the process: a reading of the ledger is valid only for the one that made it.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Rows of a statement that returns some, every value as text; binary ones are asked for as hexadecimal digits.
pub(crate) type RowSet = Vec<Vec<Option<String>>>;

struct Request {
    sql: String,
    answer: oneshot::Sender<Result<Vec<RowSet>, Failure>>,
}

/// What differs between servers.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) mariadb: bool,
    /// As in GRANT.
    pub(crate) user: String,
    pub(crate) database: String,
    /// Longest statement in bytes.
    pub(crate) max_packet: usize,
    /// The server's number of this connection. It comes back after a restart of the server.
    pub(crate) number: String,
}

/// Dropping it ends the session: whatever is under way has an unknown outcome.
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) facts: Facts,
    /// Name of a lock that the server holds for this session alone, until the session and its transaction are gone.
    pub(crate) session: String,
    requests: mpsc::Sender<Request>,
    driver: JoinHandle<String>,
}

impl Connection {
    pub(crate) async fn open(address: &Address) -> Result<Self, Failure> {
        in_time(Self::open_now(address)).await
    }

    async fn open_now(address: &Address) -> Result<Self, Failure> {
        let (conn, facts) = session(address).await?;
        let (requests, receiver) = mpsc::channel(1);
        let driver = tokio::spawn(drive(conn, receiver));
        let id = ConnectionId(NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed));
        let mut opened = Self { id, facts, session: String::new(), requests, driver };
        opened.rename().await?;
        Ok(opened)
    }

    /// Gives the session another name: whoever knows it by the old one takes it for gone.
    pub(crate) async fn rename(&mut self) -> Result<(), Failure> {
        let name = format!("pulso/{}", Uuid::new_v4());
        let mut sql = format!("SELECT GET_LOCK({}, 0)", quote::literal(&name));
        if !self.session.is_empty() {
            sql.push_str(&format!("; SELECT RELEASE_LOCK({})", quote::literal(&self.session)));
        }
        let answers = self.ask(sql).await?;
        if text(&answers, 0, 0) != Some("1") {
            return Err(Failure::retry("the server gives no named lock (GET_LOCK)"));
        }
        self.session = name;
        Ok(())
    }

    /// Refuses poolers: there a session, and with it what the ledger names, changes hands between statements.
    pub(crate) async fn prove_session(&self, address: &Address) -> Result<(), Failure> {
        // A server that is full refuses the second client; that is no reason to refuse the first.
        let second = Self::open(address).await.map(|second| second.facts.number.clone()).unwrap_or_default();
        let sql = format!("SELECT CONNECTION_ID(), IS_USED_LOCK({})", quote::literal(&self.session));
        let answers = self.ask(sql).await?;
        let mine = Some(self.facts.number.as_str());
        if text(&answers, 0, 0) == mine && text(&answers, 0, 1) == mine && second != self.facts.number {
            return Ok(());
        }
        Err(Failure::fatal(
            "the target is behind a proxy that shares sessions between statements; give the job's url the server itself",
        ))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }

    /// Resolves when the connection has ended, with the reason.
    pub(crate) async fn ended(&mut self) -> String {
        (&mut self.driver).await.unwrap_or_else(|e| e.to_string())
    }

    pub(crate) async fn run(&self, sql: impl Into<String>) -> Result<(), Failure> {
        self.ask(sql).await.map(drop)
    }

    /// One or several statements in one flight. Behind the first that fails none runs. Returns the rows of those that
    /// have a result.
    pub(crate) async fn ask(&self, sql: impl Into<String>) -> Result<Vec<RowSet>, Failure> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Failure::lost("the connection has ended");
        self.requests.send(Request { sql: sql.into(), answer }).await.map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))?
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A session with all its settings.
async fn session(address: &Address) -> Result<(Conn, Facts), Failure> {
    let mut conn = address.connect().await?;
    ask(&mut conn, SESSION.to_owned()).await?;
    let facts = facts(ask(&mut conn, FACTS.to_owned()).await?)?;
    ask(&mut conn, if facts.mariadb { MARIADB } else { MYSQL }.to_owned()).await?;
    Ok((conn, facts))
}

/// A session of no writer, in a transaction that only reads; a SELECT without a limit of its own gives so many rows.
pub(crate) async fn open_read_only(address: &Address, rows: usize) -> Result<(Conn, Facts), Failure> {
    in_time(async {
        let (mut conn, facts) = session(address).await?;
        ask(&mut conn, format!("SET SESSION sql_select_limit = {rows}; START TRANSACTION READ ONLY")).await?;
        Ok((conn, facts))
    })
    .await
}

async fn in_time<T>(opening: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let opened = tokio::time::timeout(OPEN, opening).await;
    opened.unwrap_or_else(|_| Err(Failure::lost(format!("no session within {} s", OPEN.as_secs()))))
}

/// Owns the connection, so that a question that nobody waits for any more does not leave it in between two packets.
async fn drive(mut conn: Conn, mut requests: mpsc::Receiver<Request>) -> String {
    loop {
        tokio::select! {
            biased;
            request = requests.recv() => {
                let Some(Request { sql, answer }) = request else { return "closed".to_owned() };
                let answers = ask(&mut conn, sql).await;
                let lost = match &answers {
                    Err(failure) if failure.kind == Kind::ConnectionLost => Some(failure.text.clone()),
                    Ok(_) | Err(_) => None,
                };
                answer.send(answers).ok();
                if let Some(reason) = lost {
                    return reason;
                }
            }
            () = tokio::time::sleep(PING) => {
                if let Err(failure) = answered(conn.ping()).await {
                    return failure.text;
                }
            }
        }
    }
}

async fn ask(conn: &mut Conn, sql: String) -> Result<Vec<RowSet>, Failure> {
    answered(async {
        let mut result = conn.query_iter(sql).await?;
        let mut answers = Vec::new();
        loop {
            let has_rows = !result.columns_ref().is_empty();
            let rows = result.collect::<Row>().await?;
            if has_rows {
                answers.push(rows.iter().map(values).collect());
            }
            if result.is_empty() {
                break;
            }
        }
        // A failure of any but the first statement looks like the end of the results, and only this tells of it.
        result.drop_result().await?;
        Ok(answers)
    })
    .await
}

fn values(row: &Row) -> Vec<Option<String>> {
    let value = |i: usize| match row.as_ref(i) {
        Some(Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
        // The text protocol has no others.
        _ => None,
    };
    (0..row.len()).map(value).collect()
}

/// Whatever the server answers it answers before its own time-out, and a little later at most over the network.
pub(crate) async fn answered<T>(answer: impl Future<Output = Result<T, mysql_async::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::lost(format!("the server has not answered for {} s", ANSWER.as_secs()))),
    }
}

/// A value of the first row of the `set`th statement with a result.
pub(crate) fn text(answers: &[RowSet], set: usize, column: usize) -> Option<&str> {
    answers.get(set)?.first()?.get(column)?.as_deref()
}

fn facts(answers: Vec<RowSet>) -> Result<Facts, Failure> {
    let fact = |column| text(&answers, 0, column).ok_or_else(|| Failure::lost("the server did not say who it is"));
    let version = fact(1)?;
    let mariadb = version.contains("MariaDB");
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let number = [0; 3].map(|_: i32| numbers.next().unwrap_or(0));
    if number < if mariadb { [10, 5, 0] } else { [8, 0, 17] } {
        return Err(Failure::fatal(format!("MySQL 8.0.17 or MariaDB 10.5 or newer is needed, this is {version}")));
    }
    let (user, host) = fact(2)?.rsplit_once('@').unwrap_or((fact(2)?, "%"));
    let max_packet =
        fact(3)?.parse().map_err(|_| Failure::lost("the server did not say how long a statement may be"))?;
    Ok(Facts {
        mariadb,
        user: format!("{}@{}", quote::literal(user), quote::literal(host)),
        database: fact(4)?.to_owned(),
        max_packet,
        number: fact(0)?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: &str) -> Result<Facts, Failure> {
        let row = ["7", version, "app@%", "16777216", "db"].map(|text| Some(text.to_owned()));
        facts(vec![vec![row.to_vec()]])
    }

    #[test]
    fn servers_say_who_they_are() {
        let facts = of("10.11.19-MariaDB-0+deb12u1").unwrap();
        assert_eq!((facts.mariadb, facts.user.as_str(), facts.max_packet), (true, "'app'@'%'", 16_777_216));
        assert!(!of("8.0.17").unwrap().mariadb);
        assert!(of("5.7.44-log").is_err() && of("8.0.16").is_err() && of("10.4.3-MariaDB").is_err());
    }
}
