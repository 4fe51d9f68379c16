//! A topic as `healthctl check --online` sees it. Changes nothing.

use std::time::Duration;

use pulso_job::spec::KafkaSourceSpec;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use super::client;
use super::error::KafkaError;
use super::topic::KafkaTopic;

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicFacts {
    pub partitions: usize,
    /// `None` where the brokers do not tell: DESCRIBE_CONFIGS may be denied.
    pub compacted: Option<bool>,
}

/// Asks the brokers of `spec` for its topic; of the rest of `spec` only how to log in counts.
///
/// # Errors
/// [`KafkaError::MissingTopic`], [`KafkaError::Denied`], [`KafkaError::Unreachable`] after 10 s, [`KafkaError::Invalid`].
pub async fn inspect_topic(spec: &KafkaSourceSpec) -> Result<TopicFacts, KafkaError> {
    let partitions = KafkaTopic::open(spec)?.splits().await?.len();
    Ok(TopicFacts { partitions, compacted: is_compacted(spec).await })
}

async fn is_compacted(spec: &KafkaSourceSpec) -> Option<bool> {
    let mut config = client::base(&spec.brokers, &spec.security);
    config.set("client.id", "pulso-check");
    let admin: AdminClient<DefaultClientContext> = config.create().ok()?;
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let topic = ResourceSpecifier::Topic(&spec.topic);
    let answers = admin.describe_configs([&topic], &options).await.ok()?;
    let answer = answers.into_iter().next()?.ok()?;
    let policy = answer.get("cleanup.policy")?.value.as_deref()?;
    Some(policy.split(',').any(|word| word.trim() == "compact"))
}
