//! Reads a job file and what it takes from this process's environment.

use std::path::Path;

use anyhow::{Context, Result};
use pulso_job::{Submission, collect_environment, decode, stand_ins};

/// A job file whose text could be read; whether it makes sense is for [`pulso_job::check`].
pub struct JobFile {
    /// As the user wrote it, for messages.
    pub name: String,
    pub submission: Submission,
}

/// A file that cannot be read as text is an error with its diagnostics as the cause. Paths of `{ file = }` start at the
/// job file's folder.
pub fn read(path: &Path) -> Result<JobFile> {
    let (name, toml) = text(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let variable = |name: &str| std::env::var(name).ok();
    let file = |path: &str| std::fs::read_to_string(folder.join(path)).ok();
    let environment = collect_environment(&toml, variable, file);
    let folder = folder_of(path)?;
    Ok(JobFile { name, submission: Submission { toml, environment, folder, ..Submission::default() } })
}

/// As [`read`], for who asks no server: addresses and credentials are stand-ins, so that none has to be set.
pub fn read_without_secrets(path: &Path) -> Result<JobFile> {
    let (name, toml) = text(path)?;
    let environment = stand_ins(&toml);
    let folder = folder_of(path)?;
    Ok(JobFile { name, submission: Submission { toml, environment, folder, ..Submission::default() } })
}

/// Where relative paths start, whoever reads the submission.
fn folder_of(path: &Path) -> Result<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::path::absolute(folder).with_context(|| format!("the folder of {}", path.display()))?;
    Ok(folder.to_string_lossy().into_owned())
}

fn text(path: &Path) -> Result<(String, String)> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("reading {name}"))?;
    let toml = decode(&bytes, &name)?;
    Ok((name, toml))
}
