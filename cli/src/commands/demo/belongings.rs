//! What the demo keeps on the servers: a topic, a table, and the job's rows in schema `pulso`.

use anyhow::{Context, Result};
use pulso_cli::sender::delete_topic;
use pulso_job::Submission;
use uuid::Uuid;

use super::servers::Servers;
use super::{Arguments, say, verify};

const JOB: &str = include_str!("../../../../jobs/health-records.toml");
const TOPIC: &str = "health-data";
const TABLE: &str = "health_records";

pub(super) struct Belongings {
    pub(super) topic: String,
    pub(super) table: String,
    /// On servers that were there before, and that stay.
    on_given_servers: bool,
}

impl Belongings {
    /// Names of their own on given servers: an earlier run, or somebody else, may have left the usual ones there.
    pub(super) fn of_a_run(arguments: &Arguments) -> Self {
        let on_given_servers = arguments.brokers.is_some() || arguments.database_url.is_some();
        let run = if on_given_servers { format!("{:08x}", rand::random::<u32>()) } else { String::new() };
        let name = |name: &str, separator: &str| match run.as_str() {
            "" => name.to_owned(),
            run => format!("{name}{separator}{run}"),
        };
        Self { topic: name(TOPIC, "-"), table: name(TABLE, "_"), on_given_servers }
    }

    pub(super) fn submission(&self, servers: &Servers) -> Submission {
        let topic = JOB.replace(&format!("\"{TOPIC}\""), &format!("\"{}\"", self.topic));
        let environment = [("KAFKA_BROKERS", &servers.brokers), ("DATABASE_URL", &servers.database_url)];
        Submission {
            toml: topic.replace(TABLE, &self.table),
            environment: environment.map(|(name, value)| (name.to_owned(), value.clone())).into(),
            ..Submission::default()
        }
    }

    /// Nothing stays behind on servers that go on. Says what could not be removed, and by what name.
    pub(super) async fn remove(&self, servers: &Servers, job: Option<Uuid>) {
        if !self.on_given_servers {
            return;
        }
        say(&format!("removing topic {} and table {}", self.topic, self.table));
        let topic = delete_topic(&servers.brokers, &self.topic).await;
        let table = self.remove_rows(&servers.database_url, job).await;
        for error in [topic, table].into_iter().filter_map(Result::err) {
            say(&format!("left behind: {error:#}"));
        }
    }

    /// For when there is no time to remove them.
    pub(super) fn say_left_behind(&self) {
        if self.on_given_servers {
            say(&format!("left behind: topic {}, table {} and its job in schema pulso", self.topic, self.table));
        }
    }

    async fn remove_rows(&self, url: &str, job: Option<Uuid>) -> Result<()> {
        let database = verify::connect(url).await?;
        let table = &self.table;
        database.batch_execute(&format!("drop table if exists {table}")).await.context(format!("table {table}"))?;
        let Some(job) = job else { return Ok(()) };
        let rows = ["ledger", "owners", "dead_letters"]
            .map(|table| format!("delete from pulso.{table} where job = '{job}'::uuid;"))
            .concat();
        database.batch_execute(&rows).await.context(format!("rows of job {job} in schema pulso"))
    }
}
