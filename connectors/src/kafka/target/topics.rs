//! The topics that a target writes: they are made where they are missing, and have a largest message.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResourceResult, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};

use super::cluster::{Call, Cluster, fatal};
use super::ledger;
use crate::target::TargetError;

/// Where messages go that are too large for the topic they are for.
pub(super) const OVERSIZE: &str = "pulso-dead-letters";
/// What that topic takes, where Pulso makes it; a source's record has at most 1 MiB unless a job says more.
const OVERSIZE_BYTES: &str = "33554432";
/// `max.message.bytes` of brokers that were not told otherwise.
pub(super) const DEFAULT_BYTES: usize = 1_048_588;

const ANSWER: Duration = Duration::from_secs(5);
/// A topic that was just made, or a broker that just started, is not known everywhere at once.
const AGAIN: Duration = Duration::from_millis(50);
/// After this long an unknown topic is a missing one.
const UNKNOWN: u32 = 40;

/// Largest batch of each topic in bytes; none of a topic whose settings this user may not read.
pub(super) type Limits = BTreeMap<String, usize>;

/// Looks for the topics and the ledger. `create`: makes those that are missing; else a missing one of `topics` is an
/// error. A ledger that is missing then is none, but `None`: its rows are missing, and the caller judges that.
pub(super) fn prepare(
    cluster: &Cluster,
    topics: &[&str],
    create: bool,
    call: &Call,
) -> Result<Option<Limits>, TargetError> {
    let admin = cluster.admin()?;
    let ledger = cluster.ledger();
    let there = exists(cluster, &admin, &ledger, create, call)?;
    let mut missing: Vec<NewTopic<'_>> = if there { Vec::new() } else { vec![ledger::new_topic(&ledger)] };
    for topic in topics {
        if !exists(cluster, &admin, topic, create, call)? {
            // Partitions and replicas as the brokers' administrator wants them.
            missing.push(NewTopic::new(topic, -1, TopicReplication::Fixed(-1)));
        }
    }
    if !create {
        if let Some(topic) = missing.iter().find(|new| new.name != ledger) {
            return Err(fatal(make_it(cluster, topic.name, "does not exist")));
        }
        if !there {
            return Ok(None);
        }
    }
    make(cluster, &admin, &missing, call)?;
    let all: Vec<&str> = topics.iter().copied().chain([ledger.as_str()]).collect();
    limits(cluster, &admin, &all).map(Some)
}

/// The largest message of the topic for what is too large elsewhere, which is made here; `None` where the brokers do not
/// tell.
pub(super) fn oversize(cluster: &Cluster, call: &Call) -> Result<Option<usize>, TargetError> {
    let admin = cluster.admin()?;
    if !exists(cluster, &admin, OVERSIZE, true, call)? {
        let new = NewTopic::new(OVERSIZE, -1, TopicReplication::Fixed(-1)).set("max.message.bytes", OVERSIZE_BYTES);
        make(cluster, &admin, &[new], call)?;
    }
    Ok(limits(cluster, &admin, &[OVERSIZE])?.remove(OVERSIZE))
}

fn make(
    cluster: &Cluster,
    admin: &AdminClient<DefaultClientContext>,
    missing: &[NewTopic<'_>],
    call: &Call,
) -> Result<(), TargetError> {
    if missing.is_empty() {
        return Ok(());
    }
    let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
    let made = wait(admin.create_topics(missing, &options)).map_err(|e| cluster.unreachable("creating topics", e))?;
    for result in made {
        match result {
            Ok(topic) => tracing::info!(job = %cluster.job, topic, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let denied = matches!(
                    code,
                    RDKafkaErrorCode::TopicAuthorizationFailed
                        | RDKafkaErrorCode::ClusterAuthorizationFailed
                        | RDKafkaErrorCode::PolicyViolation
                );
                let text = format!("does not exist, and cannot be created ({code})");
                return Err(if denied {
                    fatal(make_it(cluster, &topic, &text))
                } else {
                    cluster.unreachable(&format!("topic {topic} {text}"), code)
                });
            }
        }
    }
    for new in missing {
        while !exists(cluster, admin, new.name, true, call)? {
            if !call.goes_on() {
                return Err(cluster.unreachable(&format!("topic {}", new.name), "created, but not to be seen yet"));
            }
            std::thread::sleep(AGAIN);
        }
    }
    Ok(())
}

fn make_it(cluster: &Cluster, topic: &str, what: &str) -> String {
    let brokers = &cluster.brokers;
    let settings = match topic {
        OVERSIZE => format!(" --config max.message.bytes={OVERSIZE_BYTES}"),
        topic if topic == cluster.ledger() => " --partitions 2 --config cleanup.policy=compact \
             --config segment.bytes=1048576 --config min.cleanable.dirty.ratio=0.1"
            .to_owned(),
        _ => " --partitions 8".to_owned(),
    };
    format!(
        "topic {topic} {what} on brokers {brokers}; an administrator must run: kafka-topics.sh --bootstrap-server \
         {brokers} --create --topic {topic}{settings}"
    )
}

/// `at_once`: the first answer counts.
fn exists(
    cluster: &Cluster,
    admin: &AdminClient<DefaultClientContext>,
    topic: &str,
    at_once: bool,
    call: &Call,
) -> Result<bool, TargetError> {
    let mut tries = if at_once { 1 } else { UNKNOWN };
    loop {
        let what = format!("looking for topic {topic}");
        let metadata = admin.inner().fetch_metadata(Some(topic), ANSWER);
        let metadata = metadata.map_err(|e| cluster.refused(&what, topic, &e))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.and_then(|found| found.error()).map(RDKafkaErrorCode::from) {
            // Who leads it is the producer's concern.
            None | Some(RDKafkaErrorCode::LeaderNotAvailable) if found.is_some() => return Ok(true),
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
            Some(code) => return Err(cluster.refused(&what, topic, &ClientError::MetadataFetch(code))),
        }
        tries -= 1;
        if tries == 0 || !call.goes_on() {
            return Ok(false);
        }
        std::thread::sleep(AGAIN);
    }
}

fn limits(
    cluster: &Cluster,
    admin: &AdminClient<DefaultClientContext>,
    topics: &[&str],
) -> Result<Limits, TargetError> {
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let wanted: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let described = wait(admin.describe_configs(&wanted, &options));
    let described = described.map_err(|e| cluster.unreachable("reading the settings of topics", e))?;
    told(described).map_err(|code| cluster.unreachable("reading the settings of topics", code))
}

/// Who may not read settings may still write. Any other error passes.
fn told(described: Vec<ConfigResourceResult>) -> Result<Limits, RDKafkaErrorCode> {
    let mut limits = Limits::new();
    for resource in described {
        let resource = match resource {
            Ok(resource) => resource,
            Err(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => continue,
            Err(code) => return Err(code),
        };
        let limit = resource.get("max.message.bytes").and_then(|entry| entry.value.as_ref()?.parse().ok());
        if let (OwnedResourceSpecifier::Topic(topic), Some(limit)) = (resource.specifier, limit) {
            limits.insert(topic, limit);
        }
    }
    Ok(limits)
}

/// These calls are made on threads that may block.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(answer)
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, ConfigResource, ConfigSource};

    use super::*;

    #[test]
    fn a_limit_that_is_not_told_is_none() {
        let of = |topic: &str, bytes: &str| {
            let entry = ConfigEntry {
                name: "max.message.bytes".to_owned(),
                value: Some(bytes.to_owned()),
                source: ConfigSource::Unknown,
                is_read_only: false,
                is_default: false,
                is_sensitive: false,
            };
            Ok(ConfigResource { specifier: OwnedResourceSpecifier::Topic(topic.to_owned()), entries: vec![entry] })
        };
        let denied = || Err(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert_eq!(told(vec![of("a", "3000"), denied()]).unwrap(), [("a".to_owned(), 3_000)].into());
        assert_eq!(told(vec![denied(), denied()]).unwrap(), Limits::new());
        let away = told(vec![of("a", "3000"), Err(RDKafkaErrorCode::RequestTimedOut)]);
        assert_eq!(away, Err(RDKafkaErrorCode::RequestTimedOut));
    }
}
