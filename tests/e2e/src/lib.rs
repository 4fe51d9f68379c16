//! Real processes, real Kafka, real PostgreSQL: a cluster to break, and an oracle that shares no code with the product.

mod cluster;
mod flink;
mod hold;
mod input;
mod jobs;
mod oracle;
mod proxy;
mod scene;
mod tables;
mod topic;
mod wait;
mod ward;

pub use cluster::{Cluster, JobFile, TaskManager, healthctl};
pub use flink::Flink;
pub use hold::{hold, waiting_copies};
pub use input::{Input, Reading};
pub use jobs::without_kafka;
pub use oracle::{Key, Record, Rejected, Row, Rows, any_expected, compare, expected, records, rejected, stored};
pub use proxy::Proxy;
pub use scene::Scene;
pub use tables::{Tables, real_messages};
pub use topic::{Message, committed};
pub use wait::{until, until_ok};
pub use ward::{FILES_LETTERS, FILES_SINK, Ward, names};

use anyhow::Result;
use pulso_servers::{Kafka, KafkaOptions, Postgres, PostgresOptions, TemporaryFolder};
use tokio::sync::{Mutex, MutexGuard};

/// Two clusters at once would only measure the machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Until the guard is dropped no other test of this process runs.
pub async fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().await
}

/// The outside world of one test: its servers and a folder that is deleted at its end.
pub struct World {
    pub kafka: Kafka,
    pub postgres: Postgres,
    pub folder: TemporaryFolder,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    pub async fn start() -> Result<Self> {
        let alone = alone().await;
        let folder = pulso_servers::temporary_folder()?;
        let kafka = KafkaOptions { partitions: 4, ..KafkaOptions::new(folder.path().join("kafka")) };
        let postgres = PostgresOptions::new(folder.path().join("postgres"), "health");
        let (kafka, postgres) = tokio::try_join!(Kafka::start(kafka), Postgres::start(postgres))?;
        Ok(Self { kafka, postgres, folder, _alone: alone })
    }

    /// A connection to the sink's database.
    pub async fn database(&self) -> Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(self.postgres.url(), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}
