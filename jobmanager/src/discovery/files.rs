//! The folder of a job that reads files: looked into again and again, and tidied where nothing needs a file any more.

use std::time::{Duration, Instant};

use pulso_connectors::files::{Folder, Looked, retire};
use pulso_core::files::{FilesState, PlacedFile};
use pulso_core::ids::JobId;
use pulso_core::record::JobDefinition;
use pulso_job::{FilesSourceSpec, JobSpec, SourceSpec};

use super::{About, spec_of};
use crate::shell::Handle;

/// Before the first look.
const FIRST: Duration = Duration::from_millis(20);
/// Between two looks, however long the interval for other sources is.
const EVERY: Duration = Duration::from_secs(1);
/// A look into a large folder takes its time: so many times as long nothing is looked at.
const REST: u32 = 4;

/// Fails where the job could not read anything.
pub(super) async fn first_look(job: &JobSpec, source: &FilesSourceSpec) -> Result<(), String> {
    let mut folder = Folder::new(job, source);
    let look = move || folder.look(&FilesState::default(), Instant::now());
    let looked = tokio::task::spawn_blocking(look).await.map_err(|e| e.to_string())?;
    let looked = looked.map_err(|e| format!("{e}; the JobManager and every TaskManager must see this folder"))?;
    if looked.found.is_empty() && !source.follow {
        let trouble = looked.trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
        return Err(format!("no file matches {}{trouble}; `follow = true` waits for files", source.pattern));
    }
    Ok(())
}

/// Looks until `cancel`. Trouble is said when it begins and when it ends, not every time.
pub(super) async fn look(About { job, of, handle, every, cancel }: About, mut folder: Folder, follow: bool) {
    let mut troubled = false;
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = every.min(EVERY);
        // The job's record is perhaps not durable yet.
        let Some(known) = handle.files(job).await else { continue };
        if known.complete {
            return;
        }
        let began = Instant::now();
        let (back, looked) = match tokio::task::spawn_blocking(move || {
            let looked = folder.look(&known, Instant::now());
            (folder, looked)
        })
        .await
        {
            Ok(done) => done,
            Err(e) => {
                tracing::error!(%job, error = %e, "no new files will be found");
                return;
            }
        };
        folder = back;
        pause = pause.max(began.elapsed() * REST);
        let trouble = match looked {
            Ok(looked) => {
                let trouble = looked.trouble.clone();
                tell(&handle, (job, of), looked, follow).await;
                trouble
            }
            Err(e) => Some(e.to_string()),
        };
        match &trouble {
            Some(reason) if !troubled => tracing::warn!(%job, reason, "a file or its folder cannot be looked into"),
            None if troubled => tracing::info!(%job, "all files can be looked into again"),
            Some(_) | None => {}
        }
        troubled = trouble.is_some();
    }
}

async fn tell(handle: &Handle, (job, of): (JobId, u64), looked: Looked, follow: bool) {
    let Looked { found, gone, complete, .. } = looked;
    let complete = complete && !follow;
    if complete || !found.is_empty() || !gone.is_empty() {
        handle.files_found(job, of, found, gone, complete).await;
    }
}

/// Moves files away that nothing needs any more, where the job says so.
pub(crate) async fn tidy(definition: JobDefinition, files: Vec<PlacedFile>, handle: Handle) {
    let job = definition.id;
    let wanted = files.len();
    let done = tokio::task::spawn_blocking(move || match spec_of(&definition) {
        Ok(JobSpec { source: SourceSpec::Files(source), .. }) => retire(&source, &files),
        Ok(_) => (Vec::new(), Some("the job reads no files".to_owned())),
        Err(reason) => (Vec::new(), Some(reason)),
    });
    let (retired, trouble) = done.await.unwrap_or_else(|e| (Vec::new(), Some(e.to_string())));
    if let Some(reason) = trouble {
        tracing::warn!(%job, reason, "a file could not be moved away; it is tried again");
    }
    let all = retired.len() == wanted;
    handle.files_retired(job, retired, all).await;
}
