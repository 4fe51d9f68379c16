//! The jobs' panels: asked of their databases at most once in `every`, however many look at them.

mod value;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pulso_connectors::panel::{PanelLimits, ask_panel};
use pulso_core::ids::JobId;
use pulso_core::record::JobDefinition;
use pulso_job::{JobSpec, PanelSpec, Submission};
use serde::Serialize;
use tokio::sync::{Mutex, Semaphore};

use self::value::Answer;

const LIMITS: PanelLimits = PanelLimits { rows: 1_000, bytes: 4 << 20, time: Duration::from_secs(5) };
/// Questions that run at once, over all jobs; each is a connection for a moment.
const AT_ONCE: usize = 4;
/// Answers that nobody has asked for so long are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// A panel as the page draws it.
#[derive(Debug, Serialize)]
pub(crate) struct Definition<'a> {
    index: usize,
    title: &'a str,
    chart: &'a str,
    x: Option<&'a str>,
    y: &'a [String],
    series: Option<&'a str>,
    sql: &'a str,
    /// Name of the target that is asked.
    r#in: &'a str,
    every_ms: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    #[serde(flatten)]
    answer: Answer,
    asked_at_ms: i64,
    took_ms: u64,
}

#[derive(Debug)]
pub(crate) enum PanelError {
    NoSuchPanel,
    /// The control log holds what this JobManager cannot read.
    Internal(String),
    /// The database did not answer, or not with rows.
    Failed(String),
}

type Cached = Option<(Instant, Result<Figures, String>)>;
/// A job, and the fingerprint of its definition: another file has other panels.
type Key = (JobId, u64);
type Answers = HashMap<(Key, usize), Arc<Mutex<Cached>>>;

/// Shared by all requests: what was answered last. A panel's lock is held while it is asked, so that whoever comes
/// meanwhile gets the same answer.
#[derive(Clone)]
pub(crate) struct Panels {
    jobs: Arc<Mutex<HashMap<Key, Arc<JobSpec>>>>,
    answers: Arc<Mutex<Answers>>,
    at_once: Arc<Semaphore>,
}

impl Panels {
    pub(crate) fn new() -> Self {
        Self { jobs: Arc::default(), answers: Arc::default(), at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The checked job of a definition.
    pub(crate) async fn job(&self, definition: &JobDefinition) -> Result<Arc<JobSpec>, PanelError> {
        let mut jobs = self.jobs.lock().await;
        if let Some(job) = jobs.get(&key(definition)) {
            return Ok(Arc::clone(job));
        }
        jobs.retain(|(job, _), _| *job != definition.id);
        let internal = |reason: String| PanelError::Internal(format!("the job of the control log: {reason}"));
        let submission: Submission =
            serde_json::from_str(&definition.submission).map_err(|e| internal(e.to_string()))?;
        let (spec, _) = pulso_job::check(&submission, "job.toml").map_err(|mistakes| internal(mistakes.to_string()))?;
        let spec = Arc::new(spec);
        jobs.insert(key(definition), Arc::clone(&spec));
        Ok(spec)
    }

    /// The answer of at most `every` ago.
    pub(crate) async fn figures(&self, definition: &JobDefinition, index: usize) -> Result<Figures, PanelError> {
        let job = self.job(definition).await?;
        let panel = job.panels.get(index).ok_or(PanelError::NoSuchPanel)?;
        let cell = self.cell((key(definition), index)).await;
        let mut cached = cell.lock().await;
        let answer = match &*cached {
            Some((asked, answer)) if asked.elapsed() < panel.every => answer.clone(),
            Some(_) | None => {
                let answer = self.ask(&job, panel).await;
                *cached = Some((Instant::now(), answer.clone()));
                answer
            }
        };
        answer.map_err(PanelError::Failed)
    }

    async fn cell(&self, key: (Key, usize)) -> Arc<Mutex<Cached>> {
        let mut answers = self.answers.lock().await;
        // One that is locked is being asked for.
        answers.retain(|_, cell| {
            let cached = cell.try_lock();
            !cached.is_ok_and(|cached| cached.as_ref().is_some_and(|(asked, _)| asked.elapsed() > FORGOTTEN))
        });
        Arc::clone(answers.entry(key).or_default())
    }

    /// A failure is an answer too: a database that is down is not asked again by every look at the page.
    async fn ask(&self, job: &JobSpec, panel: &PanelSpec) -> Result<Figures, String> {
        let _turn = self.at_once.acquire().await.map_err(|e| e.to_string())?;
        let target = job.targets.get(panel.target).ok_or_else(|| "the job has no such target".to_owned())?;
        let asked_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = Instant::now();
        let rows = ask_panel(&target.kind, &panel.sql, LIMITS).await?;
        Ok(Figures {
            answer: Answer::new(rows, &value::protected(job)),
            asked_at_ms: i64::try_from(asked_at.as_millis()).unwrap_or(i64::MAX),
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

fn key(definition: &JobDefinition) -> Key {
    (definition.id, definition.fingerprint)
}

/// The panels of a job, in file order.
pub(crate) fn definitions<'j>(job: &'j JobSpec) -> Vec<Definition<'j>> {
    let definition = |(index, panel): (usize, &'j PanelSpec)| {
        let PanelSpec { title, chart, x, y, series, sql, target, every } = panel;
        Definition {
            index,
            title,
            chart,
            x: x.as_deref(),
            y,
            series: series.as_deref(),
            sql,
            r#in: job.targets.get(*target).map_or("", |target| &target.name),
            every_ms: u64::try_from(every.as_millis()).unwrap_or(u64::MAX),
        }
    };
    job.panels.iter().enumerate().map(definition).collect()
}
