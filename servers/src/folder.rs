//! Folders that a server's own user can reach.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::User;
use tempfile::TempDir;

/// A new temporary folder, removed on drop, that a server running as another user can enter.
pub fn temporary_folder() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("pulso-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .context("making a temporary folder")
}

/// Creates `path` and returns it absolute, owned by `user` if one is named.
pub(crate) fn create(path: &Path, user: Option<&User>) -> Result<PathBuf> {
    let path = std::path::absolute(path)?;
    std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    let Some(user) = user else { return Ok(path) };
    for folder in path.ancestors().skip(1) {
        if !may_enter(folder, user)? {
            bail!(
                "{} runs as user {}, who may not enter {}: choose a folder elsewhere, such as in /tmp",
                path.display(),
                user.name,
                folder.display()
            );
        }
    }
    chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .with_context(|| format!("giving {} to {}", path.display(), user.name))?;
    Ok(path)
}

/// Groups beyond the user's own are not looked at: the server is started without them.
fn may_enter(folder: &Path, user: &User) -> Result<bool> {
    let about = folder.metadata().with_context(|| format!("looking at {}", folder.display()))?;
    let bit = if about.uid() == user.uid.as_raw() {
        0o100
    } else if about.gid() == user.gid.as_raw() {
        0o010
    } else {
        0o001
    };
    Ok(about.mode() & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_is_named() {
        let Some(nobody) = User::from_name("nobody").unwrap() else { return };
        let outer = temporary_folder().unwrap();
        assert!(may_enter(outer.path(), &nobody).unwrap());
        let closed = outer.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
        let error = create(&closed.join("postgres"), Some(&nobody)).unwrap_err().to_string();
        assert!(error.contains("may not enter"), "{error}");
        assert!(error.contains("closed"), "{error}");
    }
}
