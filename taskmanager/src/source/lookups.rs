//! The rows of the job's lookups, loaded from the checkpoint storage by the thread that decodes.

use std::sync::Arc;

use pulso_core::ids::{JobId, LookupsId};
use pulso_core::lookups::object;
use pulso_dataflow::lookup::{Lookup, unbundle};
use pulso_job::JobSpec;
use thiserror::Error;
use tokio::runtime::Handle;

use crate::state::{SnapshotError, SnapshotStorage};

#[derive(Debug, Error)]
pub(super) enum LookupsError {
    #[error("rows of the lookups: {0}")]
    Storage(#[from] SnapshotError),
    #[error("rows of the lookups: {0}")]
    Contents(#[from] pulso_dataflow::DataflowError),
}

impl LookupsError {
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            Self::Storage(SnapshotError::Storage(_)) => false,
            // A replay with other rows would be another history.
            Self::Storage(SnapshotError::Corrupt { .. }) | Self::Contents(_) => true,
        }
    }
}

/// Loads versions, each once.
pub(crate) struct Lookups {
    job: JobId,
    spec: Arc<JobSpec>,
    storage: SnapshotStorage,
    runtime: Handle,
    loaded: Option<LookupsId>,
}

impl Lookups {
    /// Of a TaskManager's runtime.
    pub(crate) fn new(job: JobId, spec: Arc<JobSpec>, storage: SnapshotStorage) -> Self {
        Self { job, spec, storage, runtime: Handle::current(), loaded: None }
    }

    /// The rows of `version`, in the order of the job's lookups; `None` where they were loaded last.
    pub(super) fn load(&mut self, version: Option<LookupsId>) -> Result<Option<Vec<Arc<Lookup>>>, LookupsError> {
        let Some(version) = version.filter(|version| self.loaded != Some(*version)) else { return Ok(None) };
        let bytes = self.runtime.block_on(self.storage.read(&object(self.job, version)))?;
        let lookups = unbundle(&self.spec, &bytes)?;
        self.loaded = Some(version);
        Ok(Some(lookups))
    }
}
