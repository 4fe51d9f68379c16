//! The control log's objects: one numbered file or S3 object per record, put only where there is none.
//!
//! Executes the commands of `pulso_core::control_log::Appender`, which decides what each answer means.

mod folder;

use std::time::Duration;

use anyhow::Result;
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use pulso_core::control_log::{Event, PutAnswer};
use tokio::sync::mpsc;

use self::folder::Folder;
use crate::storage::{Objects, Place};

/// An answer that takes longer is unclear: the put may still happen, and the appender settles that by reading.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries of an operation that changes nothing.
const PAUSE: Duration = Duration::from_millis(100);
/// Answers under way: a batch of reads, one put, one list.
pub(crate) const ANSWERS: usize = 256;

/// Cheap to clone; every operation is a task of its own that ends with one answer.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    storage: Storage,
    answers: mpsc::Sender<Event>,
}

#[derive(Debug, Clone)]
enum Storage {
    Folder(Folder),
    Bucket(Objects),
}

impl Log {
    /// Answers go to `answers`.
    pub(crate) fn open(place: &Place, answers: mpsc::Sender<Event>) -> Result<Self> {
        let storage = match place {
            Place::Folder(path) => Storage::Folder(Folder::open(path.clone())?),
            Place::Bucket { .. } => Storage::Bucket(Objects::open(place)?),
        };
        Ok(Self { storage, answers })
    }

    pub(crate) fn put(&self, number: u64, bytes: Vec<u8>) {
        let log = self.clone();
        tokio::spawn(async move {
            let answer = match tokio::time::timeout(TIMEOUT, log.storage.put(number, bytes)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(e)) => {
                    tracing::warn!(number, error = format!("{e:#}"), "unclear whether a record was written");
                    // Reading back at once would only meet the same trouble.
                    tokio::time::sleep(PAUSE).await;
                    PutAnswer::Unclear
                }
                Err(_) => {
                    tracing::warn!(number, "no answer to a write of the control log");
                    PutAnswer::Unclear
                }
            };
            log.answer(Event::PutAnswered { number, answer }).await;
        });
    }

    pub(crate) fn read(&self, number: u64) {
        let log = self.clone();
        tokio::spawn(async move {
            let bytes = insist("reading the control log", || log.storage.read(number)).await;
            log.answer(Event::ReadAnswered { number, bytes }).await;
        });
    }

    pub(crate) fn list(&self) {
        let log = self.clone();
        tokio::spawn(async move {
            let numbers = insist("listing the control log", || log.storage.list()).await;
            log.answer(Event::Listed { numbers }).await;
        });
    }

    pub(crate) fn delete(&self, numbers: Vec<u64>) {
        let log = self.clone();
        tokio::spawn(async move {
            for number in numbers {
                if let Err(e) = log.storage.delete(number).await {
                    tracing::warn!(number, error = format!("{e:#}"), "could not delete a record that is in the base");
                }
            }
        });
    }

    /// Fails only when the process ends.
    async fn answer(&self, event: Event) {
        self.answers.send(event).await.ok();
    }
}

/// Tries until there is an answer; said once, not every time.
async fn insist<T, F: Future<Output = Result<T>>>(what: &str, operation: impl Fn() -> F) -> T {
    let mut told = false;
    loop {
        let error = match tokio::time::timeout(TIMEOUT, operation()).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(e)) => format!("{e:#}"),
            Err(_) => "no answer".to_owned(),
        };
        if !told {
            tracing::warn!(error, "{what}: trying again until it works");
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Fixed width, so that names sort as their numbers do.
fn object_name(number: u64) -> String {
    format!("{number:020}")
}

/// Anything else in the folder is not the log's.
fn number_of(name: &str) -> Option<u64> {
    (name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok())?
}

impl Storage {
    async fn put(&self, number: u64, bytes: Vec<u8>) -> Result<PutAnswer> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                Ok(tokio::task::spawn_blocking(move || folder.put(number, &bytes)).await??)
            }
            Self::Bucket(objects) => {
                let path = objects.prefix().clone().join(object_name(number));
                let options = PutOptions::from(PutMode::Create);
                match objects.store.put_opts(&path, PutPayload::from(bytes), options).await {
                    Ok(_) => Ok(PutAnswer::Created),
                    Err(object_store::Error::AlreadyExists { .. }) => Ok(PutAnswer::Exists),
                    Err(e) => Err(e.into()),
                }
            }
        }
    }

    async fn read(&self, number: u64) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                Ok(tokio::task::spawn_blocking(move || folder.read(number)).await??)
            }
            Self::Bucket(objects) => {
                let path = objects.prefix().clone().join(object_name(number));
                match objects.store.get(&path).await {
                    Ok(found) => Ok(Some(found.bytes().await?.to_vec())),
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(e) => Err(e.into()),
                }
            }
        }
    }

    async fn list(&self) -> Result<Vec<u64>> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                Ok(tokio::task::spawn_blocking(move || folder.list()).await??)
            }
            Self::Bucket(objects) => {
                let all: Vec<_> = objects.store.list(Some(objects.prefix())).try_collect().await?;
                Ok(all.iter().filter_map(|object| number_of(object.location.filename()?)).collect())
            }
        }
    }

    async fn delete(&self, number: u64) -> Result<()> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                Ok(tokio::task::spawn_blocking(move || folder.delete(number)).await??)
            }
            Self::Bucket(objects) => {
                match objects.store.delete(&objects.prefix().clone().join(object_name(number))).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(e) => Err(e.into()),
                }
            }
        }
    }
}
