//! Flags and environment of the `jobmanager` process.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use pulso_core::coordinator::Settings;

/// Decides for a Pulso cluster: placement, epochs, checkpoints, recovery. Its memory is the control log.
#[derive(Debug, Clone, Parser)]
#[command(name = "jobmanager", version)]
pub(crate) struct Config {
    /// Address for TaskManagers and healthctl (gRPC).
    #[arg(long, env = "PULSO_RPC", default_value = "127.0.0.1:6123", value_name = "IP:PORT")]
    pub(crate) rpc: SocketAddr,

    /// Address of the status page, the REST API and the metrics.
    #[arg(long, env = "PULSO_HTTP", default_value = "127.0.0.1:8081", value_name = "IP:PORT")]
    pub(crate) http: SocketAddr,

    /// Checkpoint storage, the same for all processes of the cluster: file:///FOLDER or s3://BUCKET/PREFIX.
    #[arg(long, env = "PULSO_STORAGE", value_name = "URL")]
    pub(crate) storage: String,

    /// Control log, where it shall not be in the folder `log` of the checkpoint storage.
    #[arg(long, env = "PULSO_LOG_STORAGE", value_name = "URL")]
    pub(crate) log: Option<String>,

    /// Tells this JobManager from others of the cluster; must stay the same when it restarts.
    /// By default host name and RPC port.
    #[arg(long, env = "PULSO_NAME")]
    pub(crate) name: Option<String>,

    /// Time between checkpoints of a job.
    #[arg(long, env = "PULSO_CHECKPOINT_INTERVAL", default_value = "10s", value_parser = duration)]
    pub(crate) checkpoint_interval: Duration,

    /// Records after which a checkpoint is due before the interval has passed.
    #[arg(long, env = "PULSO_CHECKPOINT_RECORDS", default_value_t = 500_000)]
    pub(crate) checkpoint_records: u64,

    /// A checkpoint that takes longer is given up.
    #[arg(long, env = "PULSO_CHECKPOINT_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub(crate) checkpoint_timeout: Duration,

    /// Checkpoints kept of each job, besides savepoints.
    #[arg(long, env = "PULSO_RETAINED", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) retained: u16,

    /// Epochs in flight: opened and not yet committed in every target.
    #[arg(long, env = "PULSO_WINDOW", default_value_t = 16, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    pub(crate) window: u64,

    /// Least time between the openings of two epochs, unless the first is full.
    #[arg(long, env = "PULSO_EPOCH_AGE", default_value = "10ms", value_parser = duration)]
    pub(crate) epoch_age: Duration,

    /// A TaskManager that says nothing for this long is given up.
    #[arg(long, env = "PULSO_SESSION_TIMEOUT", default_value = "1500ms", value_parser = duration)]
    pub(crate) session_timeout: Duration,

    /// How long the TaskManagers of the last placement are waited for after a start.
    #[arg(long, env = "PULSO_SETTLE", default_value = "1500ms", value_parser = duration)]
    pub(crate) settle: Duration,

    /// How often new partitions are looked for.
    #[arg(long, env = "PULSO_DISCOVERY_INTERVAL", default_value = "5s", value_parser = duration)]
    pub(crate) discovery_interval: Duration,

    /// Name by which browsers reach the status page, besides `localhost` and addresses. May be repeated.
    #[arg(long, env = "PULSO_HTTP_HOST", value_name = "NAME", value_delimiter = ',')]
    pub(crate) http_host: Vec<String>,

    /// Form of the log lines on standard error. What is logged: `RUST_LOG`, by default `info`.
    #[arg(long, env = "PULSO_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// Allow binding to an address that other machines reach, without TLS.
    #[arg(long, env = "PULSO_INSECURE")]
    pub(crate) insecure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// What the argument parser cannot check by itself.
    pub(crate) fn check(&self) -> Result<()> {
        for (flag, address) in [("--rpc", self.rpc), ("--http", self.http)] {
            if !address.ip().is_loopback() && !self.insecure {
                bail!(
                    "{flag} {address} can be reached from other machines and is not protected: \
                     bind to 127.0.0.1, or say --insecure"
                );
            }
        }
        let ms = Duration::from_millis;
        for (flag, value, least) in [
            ("--epoch-age", self.epoch_age, ms(1)),
            // Several heartbeats.
            ("--session-timeout", self.session_timeout, ms(500)),
            ("--checkpoint-interval", self.checkpoint_interval, ms(100)),
            ("--checkpoint-timeout", self.checkpoint_timeout, ms(1000)),
            ("--discovery-interval", self.discovery_interval, ms(100)),
        ] {
            if value < least {
                bail!(
                    "{flag} {} is too short: at least {}",
                    humantime::format_duration(value),
                    humantime::format_duration(least)
                );
            }
        }
        Ok(())
    }

    pub(crate) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host = host.trim();
            format!("{}:{}", if host.is_empty() { "jobmanager" } else { host }, self.rpc.port())
        })
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            epoch_age: self.epoch_age,
            window: self.window,
            session_timeout: self.session_timeout,
            settle: self.settle,
            checkpoint_interval: self.checkpoint_interval,
            checkpoint_records: self.checkpoint_records,
            checkpoint_timeout: self.checkpoint_timeout,
            retained: self.retained.into(),
            ..Settings::default()
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; a duration is a number with a unit, such as 10s or 50ms"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Config {
        let all = ["jobmanager", "--storage", "file:///tmp/x"].iter().chain(arguments);
        Config::try_parse_from(all).unwrap()
    }

    #[test]
    fn arguments_are_consistent() {
        Config::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable() {
        for argument in
            Config::command().get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str()))
        {
            let name = argument.get_env().and_then(|name| name.to_str()).unwrap_or_default();
            assert!(name.starts_with("PULSO_"), "{}", argument.get_id());
        }
    }

    #[test]
    fn other_machines_only_when_said() {
        assert!(parse(&[]).check().is_ok());
        let error = parse(&["--http", "0.0.0.0:8081"]).check().unwrap_err().to_string();
        assert!(error.contains("--http 0.0.0.0:8081") && error.contains("--insecure"), "{error}");
        assert!(parse(&["--http", "0.0.0.0:8081", "--insecure"]).check().is_ok());
    }
}
