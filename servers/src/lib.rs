//! Real Kafka, PostgreSQL and MariaDB servers as child processes, for `healthctl demo`, the end-to-end tests and the benchmarks.
//!
//! Each server runs on free ports of 127.0.0.1 in a folder of its own, keeps its log there, and ends with its owner,
//! however the owner ends.

mod class_path;
mod folder;
mod kafka;
mod log;
mod mariadb;
mod ports;
mod postgres;
mod process;
mod program;

pub use class_path::fetch_kafka;
pub use folder::{TemporaryFolder, temporary_folder};
pub use kafka::{KAFKA_VERSION, Kafka, KafkaOptions};
pub use mariadb::{MariaDb, MariaDbOptions};
pub use postgres::{Postgres, PostgresOptions};
pub use process::Process;
