//! Flags and environment of the `taskmanager` process.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Parser, ValueEnum};

/// Works on splits and key groups of Pulso jobs. Ends after draining on SIGTERM or Ctrl-C.
#[derive(Debug, Clone, Parser)]
#[command(name = "taskmanager", version)]
pub(crate) struct Config {
    /// JobManager, as HOST:PORT of its RPC port; several, with commas between, where others stand by.
    #[arg(long, env = "PULSO_JOBMANAGER", default_value = "127.0.0.1:6123", value_delimiter = ',')]
    pub(crate) jobmanager: Vec<String>,

    /// Folder for the state of key groups. Its contents are working copies: after a restart they are deleted and
    /// restored from the checkpoint storage.
    #[arg(long, env = "PULSO_DATA_DIR")]
    pub(crate) data_dir: PathBuf,

    /// Address on which other TaskManagers reach the exchange; port 0 takes a free one.
    #[arg(long, env = "PULSO_EXCHANGE", default_value = "127.0.0.1:0")]
    pub(crate) exchange: SocketAddr,

    /// Address that is told to the other TaskManagers, where it differs from the one bound (behind NAT, in a container).
    #[arg(long, env = "PULSO_EXCHANGE_ADVERTISED")]
    pub(crate) exchange_advertised: Option<String>,

    /// Memory for state, caches and buffers together.
    #[arg(long, env = "PULSO_MEMORY", default_value = "1GiB", value_parser = memory)]
    pub(crate) memory: ByteSize,

    /// Name on the status page and in logs; by default the host name and the process id.
    #[arg(long, env = "PULSO_NAME")]
    pub(crate) name: Option<String>,

    /// Form of the log lines on standard error. What is logged: `RUST_LOG`, by default `info`.
    #[arg(long, env = "PULSO_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// Allow binding to an address that other machines reach, without TLS.
    #[arg(long, env = "PULSO_INSECURE")]
    pub(crate) insecure: bool,
}

/// Below this nothing useful fits into its parts.
const LEAST_MEMORY: ByteSize = ByteSize::mib(64);

fn memory(text: &str) -> Result<ByteSize, String> {
    let memory: ByteSize = text.parse()?;
    if memory < LEAST_MEMORY { Err(format!("at least {LEAST_MEMORY} are needed")) } else { Ok(memory) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_has_a_variable() {
        Config::command().debug_assert();
        for argument in
            Config::command().get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str()))
        {
            let name = argument.get_env().and_then(|name| name.to_str()).unwrap_or_default();
            assert!(name.starts_with("PULSO_"), "{}", argument.get_id());
        }
    }

    #[test]
    fn memory_has_a_unit_and_a_least_size() {
        assert_eq!(memory("1GiB"), Ok(ByteSize::gib(1)));
        assert!(memory("1").is_err() && memory("10MB").is_err() && memory("much").is_err());
    }
}
