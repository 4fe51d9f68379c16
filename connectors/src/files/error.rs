//! What can be wrong with files, by what the caller does about it.

use std::io;
use std::path::Path;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum FilesError {
    #[error("file {path}: {reason}")]
    Io { path: String, reason: String },
    #[error(
        "file {path} is gone, and is not read to its end or needed once more: put it back where it was, then resume the \
         job. `when_done` moves files away when nothing needs them any more"
    )]
    Gone { path: String },
    #[error("file {path} has {found} bytes and had {wanted} when it was found: it was cut off after that")]
    CutOff { path: String, wanted: u64, found: u64 },
    #[error("file {path}: {reason}; TaskManager and JobManager need to read it")]
    Denied { path: String, reason: String },
    #[error("`{pattern}` cannot be looked for: {reason}")]
    Pattern { pattern: String, reason: String },
}

impl FilesError {
    /// True where another try is of no use before a person has done something.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Io { .. } => false,
            Self::Gone { .. } | Self::CutOff { .. } | Self::Denied { .. } | Self::Pattern { .. } => true,
        }
    }

    pub(super) fn of(path: &Path, error: &io::Error) -> Self {
        let (path, reason) = (path.display().to_string(), error.to_string());
        #[expect(clippy::wildcard_enum_match_arm, reason = "everything else may pass")]
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone { path },
            io::ErrorKind::PermissionDenied => Self::Denied { path, reason },
            _ => Self::Io { path, reason },
        }
    }
}
