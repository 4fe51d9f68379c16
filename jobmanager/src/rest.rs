//! HTTP: the REST API under /api/v1, health, metrics and the status page. Only reads: nothing changes a job or a database.

mod guard;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use futures::StreamExt;
use pulso_core::record::JobDefinition;
use pulso_job::Submission;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio_stream::wrappers::WatchStream;

use self::guard::Hosts;
use crate::overview::{Job, Overview};
use crate::panels::{self, PanelError, Panels};
use crate::shell::Handle;
use crate::{metrics, page};

/// Browsers that watch at once; each costs a document every half second.
const WATCHERS: usize = 64;
/// A stream that is quiet this long gets a comment, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Web {
    handle: Handle,
    overview: watch::Sender<Overview>,
    watchers: Arc<Semaphore>,
    panels: Panels,
}

/// `hosts`: names besides `localhost` and addresses by which browsers may call.
pub(crate) fn router(handle: Handle, overview: watch::Sender<Overview>, hosts: Vec<String>) -> Router {
    let web = Web { handle, overview, watchers: Arc::new(Semaphore::new(WATCHERS)), panels: Panels::new() };
    let api = Router::new()
        .route("/cluster", get(cluster))
        .route("/task-managers", get(task_managers))
        .route("/jobs", get(jobs))
        .route("/jobs/{job}", get(job))
        .route("/jobs/{job}/splits", get(splits))
        .route("/jobs/{job}/key-groups", get(key_groups))
        .route("/jobs/{job}/checkpoints", get(checkpoints))
        .route("/jobs/{job}/attempts", get(attempts))
        .route("/jobs/{job}/job.toml", get(job_file))
        .route("/jobs/{job}/panels", get(job_panels))
        .route("/jobs/{job}/panels/{index}", get(job_panel))
        .route("/events", get(events))
        .fallback(async || Problem::NoSuchPage);
    Router::new()
        .nest("/api/v1", api)
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(prometheus))
        .route("/", get(async || page::file("index.html")))
        .route("/{file}", get(async |Path(file): Path<String>| page::file(&file)))
        .fallback(async || Problem::NoSuchPage)
        .layer(middleware::from_fn_with_state(Hosts::new(hosts), guard::check))
        .with_state(web)
}

/// What goes wrong, as JSON with a stable kind.
#[derive(Debug, Clone)]
enum Problem {
    NotLeading,
    NoSuchJob(String),
    NoSuchPage,
    NoSuchPanel,
    TooManyWatchers,
    PanelFailed(String),
    Internal(String),
}

impl From<PanelError> for Problem {
    fn from(error: PanelError) -> Self {
        match error {
            PanelError::NoSuchPanel => Self::NoSuchPanel,
            PanelError::Failed(reason) => Self::PanelFailed(reason),
            PanelError::Internal(reason) => Self::Internal(reason),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, kind, message) = match self {
            Self::NotLeading => {
                let message = "this JobManager does not lead the cluster (yet)".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, "not_leading", message)
            }
            Self::NoSuchJob(name) => (StatusCode::NOT_FOUND, "no_such_job", format!("there is no job `{name}`")),
            Self::NoSuchPage => (StatusCode::NOT_FOUND, "no_such_page", "there is nothing here".to_owned()),
            Self::NoSuchPanel => (StatusCode::NOT_FOUND, "no_such_panel", "the job has no such panel".to_owned()),
            Self::PanelFailed(reason) => (StatusCode::BAD_GATEWAY, "panel_failed", reason),
            Self::TooManyWatchers => {
                (StatusCode::SERVICE_UNAVAILABLE, "too_many_watchers", format!("{WATCHERS} are watching already"))
            }
            Self::Internal(message) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
        };
        let body = serde_json::json!({ "error": { "kind": kind, "message": message } });
        (status, Json(body)).into_response()
    }
}

impl Web {
    async fn leading(&self) -> Result<Overview, Problem> {
        let overview = self.handle.overview().await.map_err(|_| Problem::NotLeading)?;
        if overview.leading { Ok(overview) } else { Err(Problem::NotLeading) }
    }

    async fn definition(&self, name: String) -> Result<JobDefinition, Problem> {
        let found = self.handle.find(&name).await.map_err(|_| Problem::NotLeading)?;
        found.ok_or(Problem::NoSuchJob(name))
    }

    async fn part<T: Serialize>(&self, name: &str, part: impl FnOnce(&Job) -> &T) -> Result<Response, Problem> {
        let overview = self.leading().await?;
        let job = overview.job(name).ok_or_else(|| Problem::NoSuchJob(name.to_owned()))?;
        Ok(Json(part(job)).into_response())
    }
}

#[derive(Serialize)]
struct Cluster {
    leading: bool,
    version: &'static str,
    time_ms: i64,
    task_managers: usize,
    jobs: usize,
    running_jobs: usize,
}

async fn cluster(State(web): State<Web>) -> Result<Json<Cluster>, Problem> {
    let overview = web.handle.overview().await.map_err(|_| Problem::NotLeading)?;
    Ok(Json(Cluster {
        leading: overview.leading,
        version: overview.version,
        time_ms: overview.time_ms,
        task_managers: overview.task_managers.len(),
        jobs: overview.jobs.len(),
        running_jobs: overview.jobs.iter().filter(|job| job.status.is_active()).count(),
    }))
}

async fn task_managers(State(web): State<Web>) -> Result<Response, Problem> {
    Ok(Json(web.leading().await?.task_managers).into_response())
}

async fn jobs(State(web): State<Web>) -> Result<Response, Problem> {
    Ok(Json(web.leading().await?.jobs).into_response())
}

async fn job(State(web): State<Web>, Path(name): Path<String>) -> Result<Response, Problem> {
    web.part(&name, |job| job).await
}

async fn splits(State(web): State<Web>, Path(name): Path<String>) -> Result<Response, Problem> {
    web.part(&name, |job| &job.splits).await
}

async fn key_groups(State(web): State<Web>, Path(name): Path<String>) -> Result<Response, Problem> {
    web.part(&name, |job| &job.key_groups).await
}

async fn checkpoints(State(web): State<Web>, Path(name): Path<String>) -> Result<Response, Problem> {
    web.part(&name, |job| &job.checkpoints).await
}

async fn attempts(State(web): State<Web>, Path(name): Path<String>) -> Result<Response, Problem> {
    web.part(&name, |job| &job.attempts).await
}

async fn job_panels(State(web): State<Web>, Path(name): Path<String>) -> Result<Response, Problem> {
    let job = web.panels.job(&web.definition(name).await?).await?;
    Ok(Json(panels::definitions(&job)).into_response())
}

/// Asks the database, where the last answer is older than the panel's `every`.
async fn job_panel(State(web): State<Web>, Path((name, index)): Path<(String, String)>) -> Result<Response, Problem> {
    let index = index.parse().map_err(|_| Problem::NoSuchPanel)?;
    let definition = web.definition(name).await?;
    Ok(Json(web.panels.figures(&definition, index).await?).into_response())
}

/// As submitted, without the environment, and without secrets that stand in it.
async fn job_file(State(web): State<Web>, Path(name): Path<String>) -> Result<Response, Problem> {
    let definition = web.definition(name).await?;
    let submission: Submission =
        serde_json::from_str(&definition.submission).map_err(|e| Problem::Internal(e.to_string()))?;
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((headers, pulso_job::shown(&submission)).into_response())
}

/// The overview, at once and then twice a second.
async fn events(State(web): State<Web>) -> Result<Response, Problem> {
    let permit = Arc::clone(&web.watchers).try_acquire_owned().map_err(|_| Problem::TooManyWatchers)?;
    // Subscribed before the first document is made: nothing falls between.
    let changes = WatchStream::from_changes(web.overview.subscribe());
    let first = web.handle.overview().await.map_err(|_| Problem::NotLeading)?;
    let documents = futures::stream::iter([first]).chain(changes).map(move |overview| {
        let _watching = &permit;
        let data = serde_json::to_string(&overview).unwrap_or_default();
        Ok::<_, Infallible>(Event::default().event("overview").data(data))
    });
    Ok(Sse::new(documents).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

async fn readyz(State(web): State<Web>) -> Response {
    match web.leading().await {
        Ok(_) => "leading\n".into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not leading\n").into_response(),
    }
}

async fn prometheus(State(web): State<Web>) -> Result<Response, Problem> {
    let overview = web.handle.overview().await.map_err(|_| Problem::NotLeading)?;
    let text = metrics::render(&overview).map_err(|e| Problem::Internal(e.to_string()))?;
    let headers = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    Ok((headers, text).into_response())
}
