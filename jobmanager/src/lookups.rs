//! The rows of jobs' lookups: read from their databases, stored as versions, told to the coordinator where they changed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use object_store::{ObjectStoreExt, PutPayload};
use pulso_connectors::lookup;
use pulso_core::ids::{JobId, LookupsId, WallTime};
use pulso_core::lookups::{LookupsVersion, object};
use pulso_dataflow::lookup::{bundle, encode};
use pulso_job::{JobSpec, LookupSpec, LookupTypes};

use crate::discovery::About;
use crate::storage::Objects;

/// After something failed, where the lookup itself is read less often.
const AGAIN: Duration = Duration::from_secs(10);

/// What the databases say of the columns of a job's lookups.
pub(crate) async fn types(spec: &JobSpec) -> Result<LookupTypes, String> {
    let mut types = LookupTypes::new();
    for lookup in &spec.lookups {
        let told = lookup::types(spec, lookup).await.map_err(|e| e.to_string())?;
        types.insert(lookup.name.clone(), told);
    }
    Ok(types)
}

/// The rows of one lookup, as they were last read.
struct Rows {
    encoded: Vec<u8>,
    count: u64,
}

async fn read(spec: &JobSpec, lookup: &LookupSpec) -> Result<Rows, String> {
    let rows = lookup::rows(spec, lookup).await.map_err(|e| e.to_string())?;
    let encoded = encode(lookup, &rows).map_err(|e| e.to_string())?;
    Ok(Rows { encoded, count: rows.num_rows() as u64 })
}

/// Reads all lookups of a job and stores their rows.
pub(crate) async fn first(job: JobId, spec: &JobSpec, objects: &Objects) -> Result<LookupsVersion, String> {
    let mut all = Vec::new();
    for lookup in &spec.lookups {
        all.push(read(spec, lookup).await?);
    }
    let (bytes, version) = version(all.iter());
    store(job, &version, bytes, objects).await?;
    Ok(version)
}

fn version<'r>(all: impl Iterator<Item = &'r Rows> + Clone) -> (Vec<u8>, LookupsVersion) {
    let encoded: Vec<&[u8]> = all.clone().map(|rows| rows.encoded.as_slice()).collect();
    let (stored, hash) = bundle(&encoded);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let version = LookupsVersion {
        id: LookupsId(uuid::Uuid::new_v4()),
        hash,
        rows: all.map(|rows| rows.count).collect(),
        bytes: stored.len() as u64,
        read: WallTime(i64::try_from(now.as_micros()).unwrap_or(i64::MAX)),
    };
    (stored, version)
}

async fn store(job: JobId, version: &LookupsVersion, bytes: Vec<u8>, objects: &Objects) -> Result<(), String> {
    let name = object(job, version.id);
    let path = objects.path(&name).ok_or_else(|| format!("`{name}` is no name of an object"))?;
    let put = objects.store.put(&path, PutPayload::from(bytes)).await;
    put.map(drop).map_err(|e| format!("storing the rows of lookups: {e}"))
}

/// A lookup that is read again and again.
struct Refreshed<'j> {
    lookup: &'j LookupSpec,
    due: Instant,
    rows: Option<Rows>,
    trouble: Option<String>,
}

impl Refreshed<'_> {
    /// Trouble is said when it begins and when it ends, not every time.
    async fn refresh(&mut self, job: JobId, spec: &JobSpec) {
        let name = &self.lookup.name;
        match read(spec, self.lookup).await {
            Ok(rows) => {
                if self.trouble.take().is_some() {
                    tracing::info!(%job, lookup = name, "the lookup can be read again");
                }
                self.rows = Some(rows);
            }
            Err(reason) => {
                if self.trouble.is_none() {
                    tracing::warn!(%job, lookup = name, reason, "the lookup keeps the rows it has: it cannot be read");
                }
                self.trouble = Some(reason);
            }
        }
        self.due = Instant::now() + self.lookup.refresh;
        if self.trouble.is_some() {
            self.soon();
        }
    }

    fn soon(&mut self) {
        self.due = self.due.min(Instant::now() + AGAIN);
    }
}

/// Reads each lookup of a job as often as it says, until `cancel`. The rows of a new job have just been read.
pub(crate) async fn refresh(about: About, spec: JobSpec, objects: Objects) {
    let About { job, handle, cancel, .. } = &about;
    let job = *job;
    let now = Instant::now();
    let is_new = handle.lookups(job).await.is_none();
    let due = |lookup: &LookupSpec| if is_new { now + lookup.refresh } else { now };
    let refreshed = |lookup| Refreshed { lookup, due: due(lookup), rows: None, trouble: None };
    let mut all: Vec<Refreshed<'_>> = spec.lookups.iter().map(refreshed).collect();
    while let Some(due) = all.iter().map(|one| one.due).min() {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        let now = Instant::now();
        for one in all.iter_mut().filter(|one| one.due <= now) {
            one.refresh(job, &spec).await;
        }
        let mut trouble = all.iter().find_map(|one| one.trouble.clone());
        let rows: Option<Vec<&Rows>> = all.iter().map(|one| one.rows.as_ref()).collect();
        if let Some(rows) = rows
            && let Err(reason) = tell(&about, version(rows.into_iter()), &objects).await
        {
            tracing::warn!(%job, reason, "new rows of lookups are not used yet");
            all.iter_mut().for_each(Refreshed::soon);
            trouble = Some(reason);
        }
        let trouble = trouble.map(|reason| format!("the rows of lookups stay as they are: {reason}"));
        handle.lookups_tried(job, trouble).await;
    }
}

/// Stores the version and tells the coordinator, if it is another than the newest.
async fn tell(
    About { job, of, handle, .. }: &About,
    (bytes, version): (Vec<u8>, LookupsVersion),
    objects: &Objects,
) -> Result<(), String> {
    let (job, of) = (*job, *of);
    let Some(known) = handle.lookups(job).await else { return Ok(()) };
    if known.newest.is_none_or(|newest| newest.hash != version.hash) {
        store(job, &version, bytes, objects).await?;
        tracing::info!(%job, version = %version.id, rows = ?version.rows, bytes = version.bytes, "lookups have other rows");
        handle.lookups_read(job, of, version).await;
    }
    Ok(())
}
