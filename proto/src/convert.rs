//! Wire to domain and back. Every message that comes in is checked for what must be there; nothing is guessed.

mod definition;
mod instruction;
mod link;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use pulso_core::cut::CutHash;
use pulso_core::ids::{Epoch, JobId, KeyGroup, KeyGroupId, LookupsId, Stage, TargetId, TaskManagerId};
use pulso_core::ledger::Mark;
use uuid::Uuid;

pub use self::link::{Content, Frame};
use crate::v1;

/// A message that does not say what it must: the peer is broken or of another version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}`: {reason}")]
    Invalid { field: &'static str, reason: String },
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

pub(crate) type Result<T> = std::result::Result<T, WireError>;

fn invalid(field: &'static str, reason: impl ToString) -> WireError {
    WireError::Invalid { field, reason: reason.to_string() }
}

fn required<T>(value: Option<T>, field: &'static str) -> Result<T> {
    value.ok_or(WireError::Missing(field))
}

/// A number that is narrower than the wire's.
fn narrow<T: TryFrom<u32, Error: ToString>>(number: u32, field: &'static str) -> Result<T> {
    T::try_from(number).map_err(|e| invalid(field, e))
}

/// A map out of a list, without two entries for one key.
fn unique<K: Ord, V, I>(items: I, field: &'static str) -> Result<BTreeMap<K, V>>
where
    I: IntoIterator<Item = Result<(K, V)>>,
{
    let mut map = BTreeMap::new();
    for item in items {
        let (key, value) = item?;
        if map.insert(key, value).is_some() {
            return Err(invalid(field, "two entries for one key"));
        }
    }
    Ok(map)
}

fn uuid(bytes: &[u8], field: &'static str) -> Result<Uuid> {
    if bytes.is_empty() {
        return Err(WireError::Missing(field));
    }
    Uuid::from_slice(bytes).map_err(|e| invalid(field, e))
}

fn lookups_id(bytes: &[u8], field: &'static str) -> Result<Option<LookupsId>> {
    if bytes.is_empty() { Ok(None) } else { uuid(bytes, field).map(LookupsId).map(Some) }
}

fn lookups_bytes(id: Option<LookupsId>) -> Vec<u8> {
    id.map_or_else(Vec::new, |id| id_bytes(id.0))
}

/// A job's id as it is on the wire.
pub fn job_id(bytes: &[u8]) -> std::result::Result<JobId, WireError> {
    uuid(bytes, "job").map(JobId)
}

/// A TaskManager's id as it is on the wire.
pub fn task_manager_id(bytes: &[u8]) -> std::result::Result<TaskManagerId, WireError> {
    uuid(bytes, "task_manager").map(TaskManagerId)
}

/// An id's bytes for the wire.
#[must_use]
pub fn id_bytes(id: Uuid) -> Vec<u8> {
    id.into_bytes().to_vec()
}

fn hash_bytes(hash: CutHash) -> Vec<u8> {
    hash.0.to_be_bytes().to_vec()
}

fn hash(bytes: &[u8], field: &'static str) -> Result<CutHash> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| invalid(field, format!("{} bytes, not 16", bytes.len())))?;
    Ok(CutHash(u128::from_be_bytes(bytes)))
}

fn stage(number: u32) -> Result<Stage> {
    narrow(number, "stage").map(Stage)
}

fn target(number: u32) -> Result<TargetId> {
    narrow(number, "target").map(TargetId)
}

impl From<KeyGroupId> for v1::KeyGroupId {
    fn from(id: KeyGroupId) -> Self {
        Self { stage: id.stage.0.into(), group: id.group.0.into() }
    }
}

fn key_group(id: Option<v1::KeyGroupId>) -> Result<KeyGroupId> {
    let v1::KeyGroupId { stage: number, group } = required(id, "key_group")?;
    Ok(KeyGroupId { stage: stage(number)?, group: KeyGroup(narrow(group, "group")?) })
}

impl From<Mark> for v1::Mark {
    fn from(mark: Mark) -> Self {
        Self { epoch: mark.epoch.0, hash: hash_bytes(mark.hash) }
    }
}

impl TryFrom<v1::Mark> for Mark {
    type Error = WireError;

    fn try_from(mark: v1::Mark) -> Result<Self> {
        Ok(Self { epoch: Epoch(mark.epoch), hash: hash(&mark.hash, "mark.hash")? })
    }
}

fn marks_to_wire(marks: BTreeMap<TargetId, Mark>) -> BTreeMap<u32, v1::Mark> {
    marks.into_iter().map(|(target, mark)| (target.0.into(), mark.into())).collect()
}

fn marks(wire: BTreeMap<u32, v1::Mark>) -> Result<BTreeMap<TargetId, Mark>> {
    wire.into_iter().map(|(number, mark)| Ok((target(number)?, mark.try_into()?))).collect()
}

fn readings_to_wire(readings: BTreeMap<KeyGroupId, Mark>) -> Vec<v1::KeyGroupMark> {
    readings
        .into_iter()
        .map(|(key_group, mark)| v1::KeyGroupMark { key_group: Some(key_group.into()), mark: Some(mark.into()) })
        .collect()
}

fn readings(wire: Vec<v1::KeyGroupMark>) -> Result<BTreeMap<KeyGroupId, Mark>> {
    unique(wire.into_iter().map(|r| Ok((key_group(r.key_group)?, required(r.mark, "mark")?.try_into()?))), "readings")
}
