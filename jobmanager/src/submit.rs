//! From a job file to what the coordinator takes: the checked definition and the cut where everything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use pulso_core::control_log::JobStatus;
use pulso_core::coordinator::Call;
use pulso_core::cut::{Cut, CutHash, SplitCut};
use pulso_core::ids::{Epoch, EventTime, JobId, Position, SplitId, WallTime};
use pulso_core::lookups::LookupsVersion;
use pulso_core::record::{Change, JobDefinition, Redefinition};
use pulso_job::{AggregateSpec, Diagnostic, Diagnostics, JobSpec, Submission};

use crate::fit::{self, Fit};
use crate::shell::Standing;
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
    /// The job there is stands in the way; says how and what to do.
    InTheWay(String),
}

/// What a file that is submitted comes to.
pub(crate) enum Fate {
    /// A new job.
    New(Box<Prepared>),
    Changed(Changed),
    /// The job has this file, or is about to.
    Known {
        job: JobId,
        changes: String,
        warnings: Vec<String>,
    },
}

/// Another file for a job that there is.
pub(crate) struct Changed {
    pub(crate) call: Call,
    /// What becomes of state and sinks.
    pub(crate) changes: String,
    pub(crate) warnings: Vec<String>,
}

/// What a person said of a job that there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) allow_state_drop: bool,
    pub(crate) new: bool,
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

/// A file as it was submitted.
pub(crate) struct Submitted {
    submission: Submission,
    spec: JobSpec,
    file_name: String,
    warnings: Vec<String>,
}

impl Submitted {
    /// Checks the file, without asking anybody.
    pub(crate) fn new(submission: Submission, file_name: &str) -> Result<Self, Rejection> {
        let file_name = if file_name.is_empty() { "job.toml" } else { file_name }.to_owned();
        let (spec, warnings) = checked(&submission, &file_name)?;
        Ok(Self { submission, spec, file_name, warnings })
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Asks the source and the databases of lookups what the job needs to know of them. `standing`: the job of this name.
    pub(crate) async fn prepare(
        self,
        standing: Option<Standing>,
        wishes: Wishes,
        objects: &Objects,
    ) -> Result<Fate, Rejection> {
        // Of two jobs with this name the other one's UUID may be it.
        let in_the_way = standing.filter(|standing| standing.definition.name == self.spec.name);
        let in_the_way = in_the_way.filter(|standing| standing.status.is_active() || !wishes.new);
        let Some(standing) = in_the_way else { return self.start(objects).await };
        let wanted = fingerprint(&self.submission);
        let same = standing.definition.fingerprint == wanted;
        let pending = standing.next.as_ref().map(|next| next.fingerprint);
        let name = &self.spec.name;
        match (&standing.status, same) {
            (JobStatus::Running | JobStatus::Stopping, true) if pending.is_some() => Err(Rejection::InTheWay(format!(
                "job {name} is about to go on with another file; `healthctl cancel {name}`, then \
                     `healthctl resume {name}` takes that back"
            ))),
            (JobStatus::Running | JobStatus::Stopping, true) => {
                Ok(Fate::Known { job: standing.definition.id, changes: String::new(), warnings: self.warnings })
            }
            (JobStatus::Running | JobStatus::Stopping, false) if pending == Some(wanted) => {
                let changes = "it is about to go on with this file already".to_owned();
                Ok(Fate::Known { job: standing.definition.id, changes, warnings: self.warnings })
            }
            (JobStatus::Running | JobStatus::Stopping, false) if wishes.new => {
                Err(Rejection::InTheWay(format!("job {name} runs from another file: cancel it first")))
            }
            (JobStatus::Cancelled, _) | (JobStatus::Finished | JobStatus::Failed { .. }, true) => {
                Err(Rejection::InTheWay(ended(&standing)))
            }
            (_, false) => self.change(&standing, wishes, objects).await.map(Fate::Changed),
        }
    }

    async fn start(mut self, objects: &Objects) -> Result<Fate, Rejection> {
        self.ask_lookups().await?;
        let splits = discovery::splits(&self.spec).await.map_err(Rejection::Input)?;
        let definition = definition(new_id(), &self.spec, &self.submission)?;
        let lookups = self.read_lookups(definition.id, objects).await?;
        let start = Cut { lookups: lookups.as_ref().map(|version| version.id), ..first_cut(splits) };
        Ok(Fate::New(Box::new(Prepared { definition, start, lookups, warnings: self.warnings })))
    }

    /// In the place of the file of a job that there is.
    async fn change(mut self, standing: &Standing, wishes: Wishes, objects: &Objects) -> Result<Changed, Rejection> {
        let (from, id) = (standing.id, standing.definition.id);
        let before = read(&standing.definition)?;
        let now = |old: &JobDefinition| with_environment(old, &self.submission.environment);
        let mut earlier = standing.before.clone();
        for definition in earlier.values_mut() {
            *definition = now(definition)?;
        }
        let wanted = standing.next.as_ref().unwrap_or(&standing.definition);
        if without_environment(&read(wanted)?) == without_environment(&self.submission) {
            let next = standing.next.as_ref().map(now).transpose()?;
            let definitions = Redefinition { definition: now(&standing.definition)?, next, before: earlier };
            let call = Call::Redefine { from, definitions: Box::new(definitions) };
            let changes = "addresses or secrets only: all state is kept".to_owned();
            return Ok(Changed { call, changes, warnings: self.warnings });
        }
        earlier.insert(from.since, now(&standing.definition)?);
        self.ask_lookups().await?;
        let old = without_secrets(&before, "job.toml").map_err(|e| of_log(&e))?;
        let new = without_secrets(&self.submission, &self.file_name).map_err(Rejection::Mistakes)?;
        let comparison = pulso_job::compare(&old, &new);
        if comparison.drops() && !wishes.allow_state_drop {
            return Err(Rejection::InTheWay(format!(
                "job {} ({id}) would lose state with this file:\n{comparison}\n`healthctl submit --allow-state-drop` goes \
                 on without it",
                self.spec.name
            )));
        }
        let kept = pulso_job::kept(&old, before.kept.as_ref(), &new, &comparison);
        self.submission.kept = Some(kept.ok_or_else(|| of_log(&"its file has changed too often"))?);
        self.check_again()?;
        if standing.status.is_active() {
            self.fits().await?;
        }
        let source = match comparison.drops_positions() {
            true => Some(discovery::splits(&self.spec).await.map_err(Rejection::Input)?),
            false => None,
        };
        let definition = definition(id, &self.spec, &self.submission)?;
        let lookups = self.read_lookups(id, objects).await?;
        let change = Box::new(Change { definition, source, time: comparison.time, lookups, before: earlier });
        let (call, changes) = (Call::Change { from, change }, comparison.to_string());
        Ok(Changed { call, changes, warnings: self.warnings })
    }

    /// A job that works is not given a file that it would fail with.
    async fn fits(&mut self) -> Result<(), Rejection> {
        let Fit { findings, untold } = fit::look(&self.spec).await;
        self.warnings.extend(untold.into_iter().map(|reason| format!("not asked whether the tables fit: {reason}")));
        if findings.is_empty() {
            return Ok(());
        }
        let (name, findings) = (&self.spec.name, findings.join("\n"));
        Err(Rejection::InTheWay(format!(
            "job {name} goes on with the file that it has, it would fail with this one:\n{findings}"
        )))
    }

    /// With what is known of it by now.
    fn check_again(&mut self) -> Result<(), Rejection> {
        (self.spec, self.warnings) = checked(&self.submission, &self.file_name)?;
        Ok(())
    }

    async fn ask_lookups(&mut self) -> Result<(), Rejection> {
        if !self.spec.lookups.is_empty() {
            self.submission.lookups = lookups::types(&self.spec).await.map_err(Rejection::Input)?;
            self.check_again()?;
        }
        Ok(())
    }

    async fn read_lookups(&self, job: JobId, objects: &Objects) -> Result<Option<LookupsVersion>, Rejection> {
        if self.spec.lookups.is_empty() {
            return Ok(None);
        }
        lookups::first(job, &self.spec, objects).await.map(Some).map_err(Rejection::Input)
    }
}

/// Another job would start from the beginning, and fail on the tables, which are the ended one's.
fn ended(standing: &Standing) -> String {
    let name = &standing.definition.name;
    let (how, before) = match &standing.status {
        JobStatus::Running | JobStatus::Stopping => ("runs", ""),
        JobStatus::Finished => ("has ended (finished)", "after `healthctl cancel` "),
        JobStatus::Cancelled => ("has ended (cancelled)", ""),
        JobStatus::Failed { .. } => ("has ended (failed)", "after `healthctl cancel` "),
    };
    format!(
        "job {name} exists and {how}; `healthctl resume {name}` lets it go on where it ended, and then with another file; \
         {before}`healthctl submit --new` starts another one from the beginning, which needs tables of its own"
    )
}

fn checked(submission: &Submission, file_name: &str) -> Result<(JobSpec, Vec<String>), Rejection> {
    let (spec, warnings) = pulso_job::check(submission, file_name).map_err(Rejection::Mistakes)?;
    let warning = |w: &Diagnostic| format!("{file_name}:{}:{}: {} [{}]", w.line, w.column, w.message, w.code);
    Ok((spec, warnings.iter().map(warning).collect()))
}

fn of_log(e: &dyn std::fmt::Display) -> Rejection {
    Rejection::Internal(format!("the job of the control log: {e}"))
}

fn read(definition: &JobDefinition) -> Result<Submission, Rejection> {
    serde_json::from_str(&definition.submission).map_err(|e| of_log(&e))
}

/// The same file with these values, where it names them.
fn with_environment(old: &JobDefinition, now: &BTreeMap<String, String>) -> Result<JobDefinition, Rejection> {
    let mut submission = read(old)?;
    for (name, value) in &mut submission.environment {
        if let Some(now) = now.get(name) {
            value.clone_from(now);
        }
    }
    let text = serde_json::to_string(&submission).map_err(|e| of_log(&e))?;
    Ok(JobDefinition { submission: text, fingerprint: fingerprint(&submission), ..old.clone() })
}

/// Equal for files that differ in the values of the environment alone.
fn without_environment(submission: &Submission) -> u64 {
    let Submission { toml, folder, .. } = submission.clone();
    fingerprint(&Submission { toml, folder, ..Submission::default() })
}

/// The job of a file whose addresses and credentials play no part.
pub(crate) fn without_secrets(of: &Submission, file_name: &str) -> Result<JobSpec, Diagnostics> {
    let submission = Submission {
        toml: of.toml.clone(),
        environment: pulso_job::stand_ins(&of.toml),
        folder: if of.folder.is_empty() { "/jobs".to_owned() } else { of.folder.clone() },
        lookups: of.lookups.clone(),
        kept: of.kept.clone(),
    };
    pulso_job::check(&submission, file_name).map(|(spec, _)| spec)
}

/// Half of the hash is plenty to tell a file from its next version.
fn fingerprint(submission: &Submission) -> u64 {
    (pulso_job::fingerprint(submission) >> 64) as u64
}

fn definition(id: JobId, spec: &JobSpec, submission: &Submission) -> Result<JobDefinition, Rejection> {
    let microseconds = |d: std::time::Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    let internal = |e: &dyn std::error::Error| Rejection::Internal(e.to_string());
    Ok(JobDefinition {
        id,
        name: spec.name.clone(),
        submission: serde_json::to_string(submission).map_err(|e| internal(&e))?,
        fingerprint: fingerprint(submission),
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
