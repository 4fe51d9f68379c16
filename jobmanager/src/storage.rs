//! Places that hold the control log and the checkpoints: a local folder or an S3 bucket, named by a URL.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;

/// What a storage URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Folder(PathBuf),
    Bucket { bucket: String, prefix: String },
}

impl Place {
    /// `file:///FOLDER`, `s3://BUCKET[/PREFIX]`, or a path, which is taken from the working folder.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        match url.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Ok(Self::Folder(PathBuf::from(path))),
            Some(("file", _)) => bail!("`{url}`: a file URL has three slashes: file:///FOLDER"),
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    bail!("`{url}`: the bucket is missing: s3://BUCKET/PREFIX");
                }
                Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
            }
            Some((scheme, _)) => {
                bail!("`{url}`: no storage of kind `{scheme}`; use file:///FOLDER or s3://BUCKET/PREFIX")
            }
            None if url.is_empty() => bail!("the storage URL is empty; use file:///FOLDER or s3://BUCKET/PREFIX"),
            None => Ok(Self::Folder(std::path::absolute(url).with_context(|| format!("the path `{url}`"))?)),
        }
    }

    /// The same in the form that every process of the cluster understands.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Folder(path) => format!("file://{}", path.display()),
            Self::Bucket { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
        }
    }

    pub(crate) fn join(&self, name: &str) -> Self {
        match self {
            Self::Folder(path) => Self::Folder(path.join(name)),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => {
                Self::Bucket { bucket: bucket.clone(), prefix: name.to_owned() }
            }
            Self::Bucket { bucket, prefix } => {
                Self::Bucket { bucket: bucket.clone(), prefix: format!("{prefix}/{name}") }
            }
        }
    }
}

/// Objects below one place. Names are relative to it.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    pub(crate) store: Arc<dyn ObjectStore>,
    prefix: object_store::path::Path,
}

impl Objects {
    /// Makes the folder where there is none. Credentials, region and endpoint of S3 come from `AWS_...` variables.
    pub(crate) fn open(place: &Place) -> Result<Self> {
        match place {
            Place::Folder(path) => {
                create_folder(path).with_context(|| format!("making the folder {}", path.display()))?;
                let store = LocalFileSystem::new_with_prefix(path).context("opening the folder")?.with_fsync(true);
                Ok(Self { store: Arc::new(store), prefix: object_store::path::Path::default() })
            }
            Place::Bucket { bucket, prefix } => {
                let store = AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .build()
                    .with_context(|| format!("opening the bucket {bucket}"))?;
                Ok(Self { store: Arc::new(store), prefix: object_store::path::Path::from(prefix.as_str()) })
            }
        }
    }

    pub(crate) fn prefix(&self) -> &object_store::path::Path {
        &self.prefix
    }

    /// Where the object of this name lies; `None` for a name that would leave the place.
    pub(crate) fn path(&self, name: &str) -> Option<object_store::path::Path> {
        if name.is_empty() || name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return None;
        }
        let joined = if self.prefix.as_ref().is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        object_store::path::Path::parse(joined).ok()
    }
}

/// Makes a folder and all above it, for nobody else to read, and durably: a folder that a power cut takes away takes the log with it.
pub(crate) fn create_folder(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_folder(parent)?;
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => sync_folder(parent)?,
        }
    }
    Ok(())
}

pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_places() {
        assert_eq!(Place::parse("file:///var/lib/pulso").unwrap(), Place::Folder("/var/lib/pulso".into()));
        let bucket = Place::parse("s3://hospital/pulso/a/").unwrap();
        assert_eq!(bucket, Place::Bucket { bucket: "hospital".to_owned(), prefix: "pulso/a".to_owned() });
        assert_eq!(bucket.join("log").url(), "s3://hospital/pulso/a/log");
        assert_eq!(Place::parse("s3://hospital").unwrap().join("log").url(), "s3://hospital/log");
        let relative = Place::parse("some/folder").unwrap().url();
        assert!(relative.starts_with("file:///") && relative.ends_with("/some/folder"), "{relative}");
        for wrong in ["", "file://relative", "s3://", "ftp://x/y"] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_stay_within() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::open(&Place::Folder(folder.path().join("a/b"))).unwrap();
        assert_eq!(objects.path("x/y").unwrap().as_ref(), "x/y");
        for wrong in ["", "../x", "x/../../y", "/x", "x//y"] {
            assert!(objects.path(wrong).is_none(), "{wrong}");
        }
    }
}
