//! From a job file to what the coordinator takes: the checked definition and the cut where everything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use pulso_core::cut::{Cut, CutHash, SplitCut};
use pulso_core::ids::{Epoch, EventTime, JobId, Position, SplitId, WallTime};
use pulso_core::lookups::LookupsVersion;
use pulso_core::record::JobDefinition;
use pulso_job::{AggregateSpec, Diagnostics, JobSpec, Submission};

use crate::storage::Objects;
use crate::{discovery, lookups};

/// Why a submission leads to nothing.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// Mistakes in the file.
    Mistakes(Diagnostics),
    /// The source cannot be asked, or has no such topic; or a lookup cannot be read.
    Input(String),
    Internal(String),
}

/// A submission that may become a job.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) definition: JobDefinition,
    pub(crate) start: Cut,
    pub(crate) lookups: Option<LookupsVersion>,
    /// What is odd about the file without being wrong.
    pub(crate) warnings: Vec<String>,
}

/// Checks the file, asks the source where to start, and reads the lookups.
pub(crate) async fn prepare(
    mut submission: Submission,
    file_name: &str,
    objects: &Objects,
) -> Result<Prepared, Rejection> {
    let file_name = if file_name.is_empty() { "job.toml" } else { file_name };
    let (mut spec, mut warnings) = pulso_job::check(&submission, file_name).map_err(Rejection::Mistakes)?;
    if !spec.lookups.is_empty() {
        submission.lookups = lookups::types(&spec).await.map_err(Rejection::Input)?;
        (spec, warnings) = pulso_job::check(&submission, file_name).map_err(Rejection::Mistakes)?;
    }
    let splits = discovery::splits(&spec).await.map_err(Rejection::Input)?;
    let definition = definition(&spec, &submission)?;
    let mut start = first_cut(splits);
    let mut version = None;
    if !spec.lookups.is_empty() {
        let first = lookups::first(definition.id, &spec, objects).await.map_err(Rejection::Input)?;
        start.lookups = Some(first.id);
        version = Some(first);
    }
    let warnings =
        warnings.iter().map(|w| format!("{file_name}:{}:{}: {} [{}]", w.line, w.column, w.message, w.code)).collect();
    Ok(Prepared { definition, start, lookups: version, warnings })
}

/// The job of a file whose addresses and credentials play no part.
pub(crate) fn without_secrets(toml: &str, file_name: &str) -> Result<JobSpec, Diagnostics> {
    let submission = Submission {
        toml: toml.to_owned(),
        environment: pulso_job::stand_ins(toml),
        folder: "/jobs".to_owned(),
        ..Submission::default()
    };
    pulso_job::check(&submission, file_name).map(|(spec, _)| spec)
}

fn definition(spec: &JobSpec, submission: &Submission) -> Result<JobDefinition, Rejection> {
    let microseconds = |d: std::time::Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    let internal = |e: &dyn std::error::Error| Rejection::Internal(e.to_string());
    // Half of the hash is plenty to tell a file from its next version.
    let fingerprint = (pulso_job::fingerprint(submission) >> 64) as u64;
    Ok(JobDefinition {
        id: new_id(),
        name: spec.name.clone(),
        submission: serde_json::to_string(submission).map_err(|e| internal(&e))?,
        fingerprint,
        key_groups: spec.key_groups,
        stages: spec.stages(),
        targets: spec.targets.iter().map(|target| target.name.clone()).collect(),
        delay: spec.time.as_ref().map_or(0, |time| microseconds(time.delay)),
        idle_after: spec.time.as_ref().map_or(0, |time| microseconds(time.idle_after)),
        has_windows: spec.aggregates.iter().any(AggregateSpec::closes),
    })
}

/// Version 7: ids sort by the time of submission, so that of two jobs with one name the later one is known.
fn new_id() -> JobId {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let mut random = [0; 10];
    random.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[6..]);
    JobId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

/// Cut(0): where every split starts.
fn first_cut(splits: BTreeMap<SplitId, Position>) -> Cut {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = |end: Position| SplitCut { end, count: 0, hash: 0, greatest: None };
    Cut {
        epoch: Epoch::ZERO,
        clock: WallTime(i64::try_from(wall.as_micros()).unwrap_or(i64::MAX)),
        splits: splits.into_iter().map(|(split, position)| (split, start(position))).collect(),
        watermark: EventTime::MIN,
        idle: BTreeSet::new(),
        last: false,
        lookups: None,
        previous: CutHash::default(),
    }
}
