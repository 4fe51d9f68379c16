//! The brokers of one target, the clients that talk to them, and how long an answer is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pulso_core::ids::JobId;
use pulso_job::spec::{JobSpec, TargetKind};
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use secrecy::SecretString;

use super::super::client;
use crate::target::TargetError;

/// After this long without an answer a call is given up, and what it was for is tried again with a pause.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whose brokers: one job in one target.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) job: JobId,
    /// The target's name.
    pub(super) target: String,
    pub(super) brokers: String,
    security: Vec<(String, SecretString)>,
}

/// What a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    Committed,
    Uncommitted,
}

impl Cluster {
    pub(super) fn new(job: JobId, spec: &JobSpec, target: usize) -> Result<Self, TargetError> {
        let found = spec.targets.get(target);
        let found = found.ok_or_else(|| fatal(format!("the job has no target number {target}")))?;
        let TargetKind::Kafka { brokers, security } = &found.kind else {
            return Err(fatal(format!("target {} is not a Kafka cluster", found.name)));
        };
        Ok(Self { job, target: found.name.clone(), brokers: brokers.clone(), security: security.clone() })
    }

    pub(super) fn config(&self) -> ClientConfig {
        let mut config = client::base(&self.brokers, &self.security);
        config.set("client.id", format!("pulso-{}", self.job));
        config
    }

    pub(super) fn consumer(&self, isolation: Isolation) -> Result<BaseConsumer, TargetError> {
        let isolation = match isolation {
            Isolation::Committed => "read_committed",
            Isolation::Uncommitted => "read_uncommitted",
        };
        let mut config = self.config();
        let settings = [
            // librdkafka wants a group even for partitions assigned by hand; it is never joined.
            ("group.id", "pulso-ledger"),
            ("isolation.level", isolation),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("check.crcs", "true"),
            ("fetch.min.bytes", "1"),
            ("fetch.wait.max.ms", "20"),
            ("fetch.error.backoff.ms", "20"),
            ("topic.metadata.refresh.fast.interval.ms", "10"),
        ];
        for (name, value) in settings {
            config.set(name, value);
        }
        config.create().map_err(|e| does_not_start(&e))
    }

    pub(super) fn admin(&self) -> Result<AdminClient<DefaultClientContext>, TargetError> {
        self.config().create().map_err(|e| does_not_start(&e))
    }

    /// A failure that passes by itself.
    pub(super) fn unreachable(&self, what: &str, why: impl std::fmt::Display) -> TargetError {
        TargetError::Retry { reason: format!("{what} on brokers {}: {why}", self.brokers) }
    }

    /// What the brokers' no to a request about `topic` means.
    pub(super) fn refused(&self, what: &str, topic: &str, error: &ClientError) -> TargetError {
        match error.rdkafka_error_code().and_then(|code| self.needs(code, topic)) {
            Some(reason) => TargetError::Fatal { reason },
            None => self.unreachable(what, error),
        }
    }

    /// What a person has to do, where only a person can.
    pub(super) fn needs(&self, code: RDKafkaErrorCode, topic: &str) -> Option<String> {
        let (brokers, ledger) = (&self.brokers, self.ledger());
        #[expect(clippy::wildcard_enum_match_arm, reason = "of two hundred codes these need a person")]
        let rights = match code {
            RDKafkaErrorCode::TopicAuthorizationFailed if topic == ledger => "DESCRIBE, READ and WRITE on it",
            RDKafkaErrorCode::TopicAuthorizationFailed => "DESCRIBE and WRITE on it",
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
                "DESCRIBE and WRITE on transactional ids that begin with `pulso-`"
            }
            RDKafkaErrorCode::ClusterAuthorizationFailed => "CREATE and IDEMPOTENT_WRITE on the cluster",
            RDKafkaErrorCode::InvalidTransactionTimeout => {
                return Some(format!("brokers {brokers}: transaction.max.timeout.ms must be at least 60000"));
            }
            RDKafkaErrorCode::PolicyViolation => {
                return Some(format!("brokers {brokers} refuse topic {topic} by a policy of theirs"));
            }
            RDKafkaErrorCode::InvalidRecord => {
                return Some(format!(
                    "topic {topic} on brokers {brokers} refuses messages as they are; a compacted topic needs a \
                     `record_key` in its sink"
                ));
            }
            _ => return None,
        };
        Some(format!("brokers {brokers} refuse topic {topic}; the job's user needs {rights}"))
    }

    pub(super) fn ledger(&self) -> String {
        format!("pulso-ledger-{}-{}", self.job, self.target)
    }
}

pub(super) fn does_not_start(error: &ClientError) -> TargetError {
    fatal(format!("the Kafka client does not start: {}", client::without_value(error.clone())))
}

pub(super) fn fatal(reason: String) -> TargetError {
    TargetError::Fatal { reason }
}

/// A call of the client that somebody waits for, with its own end.
#[derive(Debug, Clone)]
pub(super) struct Call {
    wanted: Arc<AtomicBool>,
    until: Instant,
}

/// Ends the call where nobody waits any more.
pub(super) struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Call {
    pub(super) fn new() -> (Self, Wanted) {
        let wanted = Arc::new(AtomicBool::new(true));
        (Self { wanted: Arc::clone(&wanted), until: Instant::now() + PATIENCE }, Wanted(wanted))
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// The next step of it may be waited for.
    pub(super) fn goes_on(&self) -> bool {
        self.is_wanted() && Instant::now() < self.until
    }

    /// The same call with all its patience again: something was achieved.
    pub(super) fn anew(&self) -> Self {
        Self { wanted: Arc::clone(&self.wanted), until: Instant::now() + PATIENCE }
    }
}
