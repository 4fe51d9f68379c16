//! Key groups' files in the checkpoint storage: stored under names that are never used again, verified when read back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use pulso_core::message::SnapshotFile;
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum SnapshotError {
    /// Worth another try: network, full disk.
    #[error("checkpoint storage: {0}")]
    Storage(String),
    /// The object is there and is not what was stored: an older checkpoint is needed.
    #[error("{object}: {reason}")]
    Corrupt { object: String, reason: String },
}

/// The checkpoint storage, as the JobManager named it.
#[derive(Clone)]
pub(crate) struct SnapshotStorage {
    objects: Arc<dyn ObjectStore>,
    /// Root of a local storage: object_store does not sync what it writes there.
    local: Option<PathBuf>,
}

impl SnapshotStorage {
    /// `file:///folder` or `s3://bucket/prefix`; credentials of S3 come from the usual environment variables.
    pub(crate) fn open(url: &str) -> Result<Self, SnapshotError> {
        let failed = |e: &dyn std::fmt::Display| SnapshotError::Storage(format!("cannot open {url}: {e}"));
        if let Some(folder) = url.strip_prefix("file://") {
            std::fs::create_dir_all(folder).map_err(|e| failed(&e))?;
            let objects = LocalFileSystem::new_with_prefix(folder).map_err(|e| failed(&e))?;
            return Ok(Self { objects: Arc::new(objects), local: Some(PathBuf::from(folder)) });
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            return Err(failed(&"neither file:// nor s3://"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let s3 =
            object_store::aws::AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(|e| failed(&e))?;
        let objects: Arc<dyn ObjectStore> =
            if prefix.is_empty() { Arc::new(s3) } else { Arc::new(object_store::prefix::PrefixStore::new(s3, prefix)) };
        Ok(Self { objects, local: None })
    }

    /// Stores a local file as `object`; durable after [`SnapshotStorage::settle`].
    pub(crate) async fn put(&self, file: &Path, object: String) -> Result<SnapshotFile, SnapshotError> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let contents = tokio::fs::read(file)
            .await
            .map_err(|e| SnapshotError::Storage(format!("reading {}: {e}", file.display())))?;
        let stored = SnapshotFile { name, object, bytes: contents.len() as u64, checksum: crc32fast::hash(&contents) };
        let at = ObjectPath::from(stored.object.as_str());
        self.objects
            .put(&at, PutPayload::from_bytes(Bytes::from(contents)))
            .await
            .map_err(|e| SnapshotError::Storage(format!("writing {}: {e}", stored.object)))?;
        if let Some(root) = &self.local {
            sync([root.join(&stored.object)].into()).await?;
        }
        Ok(stored)
    }

    /// Makes the names of stored objects durable: the folders of a local storage, up to its root.
    pub(crate) async fn settle(&self, files: impl Iterator<Item = &SnapshotFile>) -> Result<(), SnapshotError> {
        let Some(root) = &self.local else { return Ok(()) };
        let mut folders = BTreeSet::new();
        for file in files {
            let object = root.join(&file.object);
            folders.extend(object.ancestors().skip(1).take_while(|f| f.starts_with(root)).map(Path::to_owned));
        }
        sync(folders).await
    }

    /// The contents of an object.
    pub(crate) async fn read(&self, object: &str) -> Result<Bytes, SnapshotError> {
        let failed = |e: object_store::Error| {
            if matches!(e, object_store::Error::NotFound { .. }) {
                return SnapshotError::Corrupt { object: object.to_owned(), reason: "is missing".to_owned() };
            }
            SnapshotError::Storage(format!("reading {object}: {e}"))
        };
        self.objects.get(&ObjectPath::from(object)).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// Reads an object back into `folder`; anything but the very bytes that were stored is an error.
    pub(crate) async fn get(&self, file: &SnapshotFile, folder: &Path) -> Result<(), SnapshotError> {
        let corrupt = |reason: String| SnapshotError::Corrupt { object: file.object.clone(), reason };
        let contents = self.read(&file.object).await?;
        if contents.len() as u64 != file.bytes {
            return Err(corrupt(format!("has {} bytes instead of {}", contents.len(), file.bytes)));
        }
        let checksum = crc32fast::hash(&contents);
        if checksum != file.checksum {
            return Err(corrupt(format!("has checksum {checksum:08x} instead of {:08x}", file.checksum)));
        }
        let to = folder.join(&file.name);
        tokio::fs::write(&to, &contents)
            .await
            .map_err(|e| SnapshotError::Storage(format!("writing {}: {e}", to.display())))
    }
}

/// Files or folders, on disk for good.
async fn sync(paths: BTreeSet<PathBuf>) -> Result<(), SnapshotError> {
    let done =
        tokio::task::spawn_blocking(move || paths.iter().try_for_each(|path| std::fs::File::open(path)?.sync_all()));
    match done.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(SnapshotError::Storage(format!("syncing: {e}"))),
        Err(e) => Err(SnapshotError::Storage(format!("syncing: {e}"))),
    }
}
