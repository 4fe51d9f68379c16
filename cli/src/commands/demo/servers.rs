//! Kafka and PostgreSQL of the demo, started here or given.

use std::path::Path;

use anyhow::Result;
use pulso_servers::{Kafka, KafkaOptions, Postgres, PostgresOptions};

use super::{Arguments, PARTITIONS, say};

pub(super) struct Servers {
    pub(super) brokers: String,
    pub(super) database_url: String,
    kafka: Option<Kafka>,
    postgres: Option<Postgres>,
}

impl Servers {
    pub(super) async fn start(folder: &Path, arguments: &Arguments) -> Result<Self> {
        let kafka = async {
            if arguments.brokers.is_some() {
                return Ok(None);
            }
            say("starting Kafka");
            let options = KafkaOptions { partitions: PARTITIONS, ..KafkaOptions::new(folder.join("kafka")) };
            Kafka::start(options).await.map(Some)
        };
        let postgres = async {
            if arguments.database_url.is_some() {
                return Ok(None);
            }
            say("starting PostgreSQL");
            Postgres::start(PostgresOptions::new(folder.join("postgres"), "health")).await.map(Some)
        };
        let (kafka, postgres) = tokio::try_join!(kafka, postgres)?;
        let given = |option: &Option<String>| option.clone().unwrap_or_default();
        Ok(Self {
            brokers: kafka.as_ref().map_or_else(|| given(&arguments.brokers), |k| k.brokers().to_owned()),
            database_url: postgres.as_ref().map_or_else(|| given(&arguments.database_url), |p| p.url().to_owned()),
            kafka,
            postgres,
        })
    }

    pub(super) async fn stop(self) -> Result<()> {
        if let Some(kafka) = self.kafka {
            kafka.stop().await?;
        }
        if let Some(mut postgres) = self.postgres {
            postgres.stop_fast().await?;
        }
        Ok(())
    }
}
