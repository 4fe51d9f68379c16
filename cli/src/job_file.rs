//! Reads a job file and what it takes from this process's environment.

use std::path::Path;

use anyhow::{Context, Result};
use pulso_job::{Submission, collect_environment, decode};

/// A job file whose text could be read; whether it makes sense is for [`pulso_job::check`].
pub struct JobFile {
    /// As the user wrote it, for messages.
    pub name: String,
    pub submission: Submission,
}

/// A file that cannot be read as text is an error with its diagnostics as the cause. Paths of `{ file = }` start at the
/// job file's folder.
pub fn read(path: &Path) -> Result<JobFile> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("reading {name}"))?;
    let toml = decode(&bytes, &name)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let variable = |name: &str| std::env::var(name).ok();
    let file = |path: &str| std::fs::read_to_string(folder.join(path)).ok();
    let environment = collect_environment(&toml, variable, file);
    let folder = std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let folder = folder.with_context(|| format!("the folder of {name}"))?.to_string_lossy().into_owned();
    Ok(JobFile { name, submission: Submission { toml, environment, folder } })
}
