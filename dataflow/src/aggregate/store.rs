//! What the state keeps of windows: a head each, the rows behind it in chunks where they are needed again, and lists.
//!
//! Keys: `2 u8, state u16, kind u8`, then what the kind says; numbers big-endian. Values: `2 u8, time i64` (when the
//! value counts as absent, in microseconds of event time), then what the kind says; numbers little-endian.

use pulso_core::ids::{Epoch, EventTime, KeyGroup};
use pulso_job::StateId;

use crate::entry::WINDOW_1;
use crate::error::{DataflowError, Result};
use crate::state::{States, key_start};

/// First byte of the keys of everything that aggregates keep.
const AGGREGATE: u8 = 2;
/// Rows of one chunk.
pub(super) const CHUNK: usize = 64;
/// Of what is removed by name only.
pub(super) const NEVER: i64 = i64::MAX;

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Head = 1,
    Chunk = 2,
    Sessions = 3,
    Due = 4,
    DueAt = 5,
}

/// Makes the keys of one aggregate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys(pub(super) StateId);

impl Keys {
    fn start(self, kind: Kind) -> Vec<u8> {
        let mut key = key_start(AGGREGATE, self.0).to_vec();
        key.push(kind as u8);
        key
    }

    /// The head of a window.
    pub(super) fn head(self, window_start: i64, group: &[u8]) -> Vec<u8> {
        let mut key = self.start(Kind::Head);
        key.extend_from_slice(&window_start.to_be_bytes());
        key.extend_from_slice(group);
        key
    }

    /// A chunk of a window's rows.
    pub(super) fn chunk(self, window_start: i64, number: u32, group: &[u8]) -> Vec<u8> {
        let mut key = self.start(Kind::Chunk);
        key.extend_from_slice(&window_start.to_be_bytes());
        key.extend_from_slice(&number.to_be_bytes());
        key.extend_from_slice(group);
        key
    }

    /// The open sessions of a group.
    pub(super) fn sessions(self, group: &[u8]) -> Vec<u8> {
        let mut key = self.start(Kind::Sessions);
        key.extend_from_slice(group);
        key
    }

    /// At which times windows of the key group are due.
    pub(super) fn due(self) -> Vec<u8> {
        self.start(Kind::Due)
    }

    /// A chunk of the windows that are due at a time.
    pub(super) fn due_at(self, time: i64, number: u32) -> Vec<u8> {
        let mut key = self.start(Kind::DueAt);
        key.extend_from_slice(&time.to_be_bytes());
        key.extend_from_slice(&number.to_be_bytes());
        key
    }
}

/// Places of a key group's state.
pub(super) type Place = (KeyGroup, Vec<u8>);

/// The newest values of many places, as far as they are not past `watermark`.
pub(super) fn get(states: &mut dyn States, places: &[Place], watermark: EventTime) -> Result<Vec<Option<Vec<u8>>>> {
    let mut values: Vec<Option<Vec<u8>>> = vec![None; places.len()];
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|at| places[*at].0);
    for of_group in order.chunk_by(|a, b| places[*a].0 == places[*b].0) {
        let key_group = places[of_group[0]].0;
        let (overlay, disk) = states.state(key_group).ok_or_else(|| not_hosted(key_group))?;
        let mut unknown = Vec::new();
        for at in of_group {
            match overlay.get(&places[*at].1) {
                Some(value) => values[*at] = value.map(<[u8]>::to_vec),
                None => unknown.push(*at),
            }
        }
        if unknown.is_empty() {
            continue;
        }
        let keys: Vec<&[u8]> = unknown.iter().map(|at| places[*at].1.as_slice()).collect();
        let found = disk.multi_get(&keys)?;
        if found.len() != unknown.len() {
            return Err(DataflowError::State(format!("{} values for {} keys", found.len(), unknown.len())));
        }
        for (at, value) in unknown.into_iter().zip(found) {
            values[at] = value;
        }
    }
    for value in &mut values {
        if let Some(bytes) = value
            && absent_from(bytes)? <= watermark.0
        {
            *value = None;
        }
    }
    Ok(values)
}

pub(super) fn put(states: &mut dyn States, epoch: Epoch, place: &Place, value: Option<&[u8]>) -> Result<()> {
    let (overlay, _) = states.state(place.0).ok_or_else(|| not_hosted(place.0))?;
    overlay.put(epoch, &place.1, value);
    Ok(())
}

fn not_hosted(key_group: KeyGroup) -> DataflowError {
    DataflowError::State(format!("key group {key_group} is not hosted here"))
}

/// When a value counts as absent.
pub(crate) fn absent_from(value: &[u8]) -> Result<i64> {
    match value.split_first() {
        Some((&WINDOW_1, mut rest)) => take(&mut rest).map(i64::from_le_bytes),
        _ => Err(corrupt(value)),
    }
}

fn begin(absent_from: i64) -> Vec<u8> {
    let mut value = vec![WINDOW_1];
    value.extend_from_slice(&absent_from.to_le_bytes());
    value
}

fn body(value: &[u8]) -> Result<&[u8]> {
    value.get(9..).ok_or_else(|| corrupt(value))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (value, rest) = bytes.split_first_chunk::<N>().ok_or_else(|| corrupt(bytes))?;
    *bytes = rest;
    Ok(*value)
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = u32::from_le_bytes(take(bytes)?) as usize;
    let (value, rest) = bytes.split_at_checked(length).ok_or_else(|| corrupt(bytes))?;
    *bytes = rest;
    Ok(value)
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    // A row of one record is far below 4 GiB.
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn corrupt(value: &[u8]) -> DataflowError {
    DataflowError::Corrupt {
        what: "an entry of a window's state",
        reason: format!("kind {:?} and {} bytes are unknown", value.first(), value.len()),
    }
}

/// What a window came to so far.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Head {
    pub(super) end: i64,
    /// xxh3-128 of the row that the sinks have.
    pub(super) shown: Option<u128>,
    /// Rows in its chunks.
    pub(super) rows: u32,
    /// States of the aggregate's functions, as an Arrow row.
    pub(super) state: Vec<u8>,
}

impl Head {
    pub(super) fn encode(&self, absent_from: i64) -> Vec<u8> {
        let mut value = begin(absent_from);
        value.extend_from_slice(&self.end.to_le_bytes());
        value.push(u8::from(self.shown.is_some()));
        value.extend_from_slice(&self.shown.unwrap_or(0).to_le_bytes());
        value.extend_from_slice(&self.rows.to_le_bytes());
        value.extend_from_slice(&self.state);
        value
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self> {
        let mut rest = body(value)?;
        let end = i64::from_le_bytes(take(&mut rest)?);
        let [is_shown] = take(&mut rest)?;
        let hash = u128::from_le_bytes(take(&mut rest)?);
        let rows = u32::from_le_bytes(take(&mut rest)?);
        Ok(Self { end, shown: (is_shown == 1).then_some(hash), rows, state: rest.to_vec() })
    }
}

/// A row of a window: whose it is, and what the functions get of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counted {
    /// xxh3-128 of the record's dedup key.
    pub(super) id: u128,
    pub(super) time: i64,
    /// The arguments, as an Arrow row.
    pub(super) arguments: Vec<u8>,
}

pub(super) fn encode_chunk(absent_from: i64, rows: &[Counted]) -> Vec<u8> {
    let mut value = begin(absent_from);
    for row in rows {
        value.extend_from_slice(&row.id.to_le_bytes());
        value.extend_from_slice(&row.time.to_le_bytes());
        put_bytes(&row.arguments, &mut value);
    }
    value
}

pub(super) fn decode_chunk(value: &[u8], rows: &mut Vec<Counted>) -> Result<()> {
    let mut rest = body(value)?;
    while !rest.is_empty() {
        let id = u128::from_le_bytes(take(&mut rest)?);
        let time = i64::from_le_bytes(take(&mut rest)?);
        let arguments = take_bytes(&mut rest)?.to_vec();
        rows.push(Counted { id, time, arguments });
    }
    Ok(())
}

/// Pairs of numbers: the open sessions of a group (start, end), or the times at which windows are due (time, windows).
pub(super) fn encode_pairs(pairs: &[(i64, i64)]) -> Vec<u8> {
    let mut value = begin(NEVER);
    value.extend(pairs.iter().flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()].concat()));
    value
}

pub(super) fn decode_pairs(value: &[u8]) -> Result<Vec<(i64, i64)>> {
    let mut rest = body(value)?;
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        pairs.push((i64::from_le_bytes(take(&mut rest)?), i64::from_le_bytes(take(&mut rest)?)));
    }
    Ok(pairs)
}

pub(super) fn first_of_pairs(value: &[u8]) -> Result<Option<(i64, i64)>> {
    let mut rest = body(value)?;
    if rest.is_empty() {
        return Ok(None);
    }
    Ok(Some((i64::from_le_bytes(take(&mut rest)?), i64::from_le_bytes(take(&mut rest)?))))
}

/// Windows: start and group.
pub(super) fn encode_windows(windows: &[(i64, Vec<u8>)]) -> Vec<u8> {
    let mut value = begin(NEVER);
    for (start, group) in windows {
        value.extend_from_slice(&start.to_le_bytes());
        put_bytes(group, &mut value);
    }
    value
}

pub(super) fn decode_windows(value: &[u8], windows: &mut Vec<(i64, Vec<u8>)>) -> Result<()> {
    let mut rest = body(value)?;
    while !rest.is_empty() {
        let start = i64::from_le_bytes(take(&mut rest)?);
        windows.push((start, take_bytes(&mut rest)?.to_vec()));
    }
    Ok(())
}
