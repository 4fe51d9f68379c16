//! Reads a job file and what it takes from this process's environment.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use pulso_job::{Submission, collect_environment, decode, stand_ins};

/// A job file whose text could be read; whether it makes sense is for [`pulso_job::check`].
pub struct JobFile {
    /// As the user wrote it, for messages.
    pub name: String,
    pub submission: Submission,
    /// What is odd about the files that it takes secrets from.
    pub warnings: Vec<String>,
}

/// A file that cannot be read as text is an error with its diagnostics as the cause. Paths of `{ file = }` start at the
/// job file's folder.
pub fn read(path: &Path) -> Result<JobFile> {
    let (name, toml) = text(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let variable = |name: &str| std::env::var(name).ok();
    let warnings = RefCell::new(Vec::new());
    let file = |path: &str| {
        let path = folder.join(path);
        warnings.borrow_mut().extend(open_to_all(&path));
        std::fs::read_to_string(path).ok()
    };
    let environment = collect_environment(&toml, variable, file);
    let folder = folder_of(path)?;
    let submission = Submission { toml, environment, folder, ..Submission::default() };
    Ok(JobFile { name, submission, warnings: warnings.into_inner() })
}

/// As [`read`], for who asks no server: addresses and credentials are stand-ins, so that none has to be set.
pub fn read_without_secrets(path: &Path) -> Result<JobFile> {
    let (name, toml) = text(path)?;
    let environment = stand_ins(&toml);
    let folder = folder_of(path)?;
    let submission = Submission { toml, environment, folder, ..Submission::default() };
    Ok(JobFile { name, submission, warnings: Vec::new() })
}

/// A file with a secret that every user of the machine may read or write.
fn open_to_all(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let may = match (mode & 0o004 != 0, mode & 0o002 != 0) {
        (false, false) => return None,
        (true, false) => "read",
        (false, true) => "write",
        (true, true) => "read and write",
    };
    let path = path.display();
    Some(format!(
        "everybody on this machine may {may} {path}, which holds a secret (mode {mode:04o}): chmod 600 {path}"
    ))
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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_secret_that_everybody_may_read_is_told_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let (job, secret) = (folder.path().join("job.toml"), folder.path().join("url"));
        fs::write(&job, "[target.db]\nurl = { file = \"url\" }\n").unwrap();
        fs::write(&secret, "postgres://app:hunter2@h/d").unwrap();
        for (mode, may) in [(0o600, None), (0o640, None), (0o604, Some("read")), (0o777, Some("read and write"))] {
            fs::set_permissions(&secret, Permissions::from_mode(mode)).unwrap();
            let read = read(&job).unwrap();
            assert_eq!(read.submission.environment["file:url"], "postgres://app:hunter2@h/d");
            let expected = may.map(|may| format!("everybody on this machine may {may} {}", secret.display()));
            assert_eq!(read.warnings.len(), usize::from(may.is_some()));
            assert!(
                read.warnings
                    .iter()
                    .all(|text| Some(text).zip(expected.as_ref()).is_some_and(|(t, e)| t.starts_with(e)))
            );
            assert!(read.warnings.iter().all(|text| text.contains("chmod 600") && !text.contains("hunter2")));
        }
    }
}
