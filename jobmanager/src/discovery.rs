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

use crate::lookups;
use crate::shell::{Catalog, Handle};
use crate::storage::Objects;

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

/// One task for every definition of an active job that looks for new splits from time to time.
#[derive(Debug, Default)]
pub(crate) struct Discoveries(BTreeMap<(JobId, u64), DropGuard>);

impl Discoveries {
    /// Starts and ends tasks so that they are those of the active jobs.
    pub(crate) fn adjust(&mut self, catalog: &Catalog, handle: &Handle, objects: &Objects, every: Duration) {
        let active: BTreeMap<(JobId, u64), &JobDefinition> =
            catalog.active().map(|job| ((job.id, job.fingerprint), job)).collect();
        self.0.retain(|job, _| active.contains_key(job));
        for ((job, of), definition) in active {
            self.0.entry((job, of)).or_insert_with(|| {
                let cancel = CancellationToken::new();
                let about = About { job, of, handle: handle.clone(), every, cancel: cancel.clone() };
                match spec_of(definition) {
                    Ok(spec) => start(about, spec, objects),
                    Err(reason) => tracing::error!(%job, reason, "the submission in the control log cannot be read"),
                }
                cancel.drop_guard()
            });
        }
    }
}

/// What looks are about, and whom they tell.
#[derive(Clone)]
pub(crate) struct About {
    pub(crate) job: JobId,
    /// The fingerprint of its definition.
    pub(crate) of: u64,
    pub(crate) handle: Handle,
    pub(crate) every: Duration,
    pub(crate) cancel: CancellationToken,
}

fn start(about: About, spec: JobSpec, objects: &Objects) {
    match &spec.source {
        SourceSpec::Files(source) => {
            let (folder, follow) = (Folder::new(&spec, source), source.follow);
            tokio::spawn(files::look(about.clone(), folder, follow));
        }
        SourceSpec::Kafka(kafka) => match KafkaTopic::open(kafka) {
            Ok(topic) => drop(tokio::spawn(look(about.clone(), topic))),
            Err(e) => tracing::error!(job = %about.job, reason = %e, "no new splits will be found"),
        },
    }
    if !spec.lookups.is_empty() {
        tokio::spawn(lookups::refresh(about, spec, objects.clone()));
    }
}

/// Trouble is said when it begins and when it ends, not every time.
async fn look(About { job, of, handle, every, cancel }: About, topic: KafkaTopic) {
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
                    () = handle.splits_found(job, of, splits) => {}
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

fn spec_of(definition: &JobDefinition) -> Result<JobSpec, String> {
    let submission: Submission = serde_json::from_str(&definition.submission).map_err(|e| e.to_string())?;
    let (spec, _) = pulso_job::check(&submission, "job.toml").map_err(|mistakes| mistakes.to_string())?;
    Ok(spec)
}
