//! The programs of a database server: where they are, the user that they run as, and what they print.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};

/// Database servers refuse to run as root: the first of these users that exists runs them then. `None`: our own.
pub(crate) fn unprivileged(server: &str, names: &[&str]) -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in names {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("{server} does not run as root, and there is no user {}", names.join(" or "));
}

pub(crate) async fn output(name: &str, command: Command) -> Result<String> {
    let mut command = tokio::process::Command::from(command);
    let done = command.kill_on_drop(true).output().await.with_context(|| format!("starting {name}"))?;
    if !done.status.success() {
        bail!("{name} failed ({}): {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// A program in PATH, else in one of these folders.
pub(crate) fn find(name: &str, folders: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(folders.iter().map(PathBuf::from));
    folders.into_iter().map(|folder| folder.join(name)).find(|program| program.exists())
}

/// Names of databases are put into statements.
pub(crate) fn check_database_name(name: &str) -> Result<()> {
    if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') || name.is_empty() {
        bail!("{name:?} is no name for a database here: lower-case letters, digits and _ only");
    }
    Ok(())
}

/// The folder that a program is in, with symbolic links followed.
pub(crate) fn folder(program: &Path) -> Option<PathBuf> {
    program.canonicalize().ok()?.parent().map(Path::to_owned)
}
