//! Folders that a server's own user can reach, and a temporary one that goes with its owner.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::User;
use tempfile::TempDir;

/// Waits for the end of its standard input, which the owner holds open. The processes in the folder are ended by guards of
/// their own meanwhile; while one still writes, removing may fail.
const SWEEPER: &str = r#"
read -r _
for pause in 1 1 2 4 8; do
    sleep "$pause"
    rm -rf -- "$1" 2>/dev/null && exit
done
"#;

/// Removed on drop, and also when its owner is killed.
#[derive(Debug)]
pub struct TemporaryFolder {
    // Before the sweeper, in case we are killed meanwhile.
    folder: TempDir,
    _sweeper: Sweeper,
}

#[derive(Debug)]
struct Sweeper(Child);

/// A new temporary folder that a server running as another user can enter.
pub fn temporary_folder() -> Result<TemporaryFolder> {
    let folder = tempfile::Builder::new()
        .prefix("pulso-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .context("making a temporary folder")?;
    let sweeper = Command::new("sh")
        .args(["-c", SWEEPER, "pulso-sweeper"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting sh")?;
    Ok(TemporaryFolder { folder, _sweeper: Sweeper(sweeper) })
}

impl TemporaryFolder {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    fn the_folder_goes_when_its_owner_is_gone() {
        let mut folder = temporary_folder().unwrap();
        // What the kernel does when the owner dies: its end of the pipe is closed.
        drop(folder._sweeper.0.stdin.take());
        let began = std::time::Instant::now();
        while folder.path().exists() {
            assert!(began.elapsed() < std::time::Duration::from_secs(20), "the sweeper did nothing");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

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
