//! Which splits a job's source has, and where each begins.

pub(crate) mod files;

use std::collections::BTreeMap;
use std::time::Duration;

use pulso_connectors::files::Folder;
use pulso_connectors::kafka::{KafkaError, KafkaTopic};
use pulso_core::ids::{JobId, Position, SplitId};
use pulso_core::record::JobDefinition;
use pulso_job::{JobSpec, SourceSpec, StartPosition, Submission};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::shell::{Catalog, Handle};

/// Of one question to the source.
const TIMEOUT: Duration = Duration::from_secs(20);

/// All splits that exist now with their start positions, as the job's file says.
pub(crate) async fn splits(spec: &JobSpec) -> Result<BTreeMap<SplitId, Position>, String> {
    let kafka = match &spec.source {
        SourceSpec::Kafka(kafka) => kafka,
        SourceSpec::Files(source) => {
            files::first_look(spec, source).await?;
            return Ok((0..pulso_core::files::SPLITS).map(|split| (SplitId(split), Position(0))).collect());
        }
    };
    match tokio::time::timeout(TIMEOUT, pulso_connectors::kafka::discover(kafka)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer from {} within {} s", kafka.brokers, TIMEOUT.as_secs())),
    }
}

/// One task for every active job that looks for new splits from time to time.
#[derive(Debug, Default)]
pub(crate) struct Discoveries(BTreeMap<JobId, DropGuard>);

impl Discoveries {
    /// Starts and ends tasks so that they are those of the active jobs.
    pub(crate) fn adjust(&mut self, catalog: &Catalog, handle: &Handle, every: Duration) {
        let active: BTreeMap<JobId, &JobDefinition> = catalog.active().map(|job| (job.id, job)).collect();
        self.0.retain(|job, _| active.contains_key(job));
        for (job, definition) in active {
            self.0.entry(job).or_insert_with(|| {
                let cancel = CancellationToken::new();
                tokio::spawn(look(definition.clone(), handle.clone(), every, cancel.clone()));
                cancel.drop_guard()
            });
        }
    }
}

/// Trouble is said when it begins and when it ends, not every time.
async fn look(definition: JobDefinition, handle: Handle, every: Duration, cancel: CancellationToken) {
    let job = definition.id;
    let topic = match open(&definition) {
        Ok(Input::Topic(topic)) => topic,
        Ok(Input::Files { folder, follow }) => return files::look(job, folder, follow, handle, every, cancel).await,
        Err(reason) => {
            tracing::error!(%job, reason, "no new splits will be found");
            return;
        }
    };
    let mut trouble = false;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        match now(&topic).await {
            Ok(splits) => {
                if trouble {
                    tracing::info!(%job, "the source answers again");
                }
                trouble = false;
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = handle.splits_found(job, splits) => {}
                }
            }
            Err(e) if !trouble => {
                tracing::warn!(%job, reason = %e, "could not ask the source for its splits");
                trouble = true;
            }
            Err(_) => {}
        }
    }
}

/// A split that appears while the job runs is read from its beginning, whatever the start position was.
async fn now(topic: &KafkaTopic) -> Result<BTreeMap<SplitId, Position>, KafkaError> {
    let splits = topic.splits().await?;
    topic.starts(splits, StartPosition::Earliest).await
}

enum Input {
    Topic(KafkaTopic),
    Files { folder: Folder, follow: bool },
}

fn open(definition: &JobDefinition) -> Result<Input, String> {
    let spec = spec_of(definition).map_err(|e| format!("the submission in the control log cannot be read: {e}"))?;
    match &spec.source {
        SourceSpec::Kafka(kafka) => KafkaTopic::open(kafka).map(Input::Topic).map_err(|e| e.to_string()),
        SourceSpec::Files(source) => Ok(Input::Files { folder: Folder::new(&spec, source), follow: source.follow }),
    }
}

fn spec_of(definition: &JobDefinition) -> Result<JobSpec, String> {
    let submission: Submission = serde_json::from_str(&definition.submission).map_err(|e| e.to_string())?;
    let (spec, _) = pulso_job::check(&submission, "job.toml").map_err(|mistakes| mistakes.to_string())?;
    Ok(spec)
}
