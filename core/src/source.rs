//! One source task: which records belong to which epoch, live and in replay.
//!
//! Pure and called once per record; the thread that owns it polls, decodes, and puts rows and barriers on the links.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use crate::cut::{Cut, RunningHash, SplitCut};
use crate::ids::{Epoch, EventTime, LookupsId, Position, SplitId, TaskManagerId, WallTime};
use crate::message::{Deployment, Opening, SplitReport};

/// When a live epoch is full. Replayed epochs have the size that their cut says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimits {
    pub epoch_records: u64,
    /// Of keys and values.
    pub epoch_bytes: u64,
}

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It belongs to the running epoch.
    Take,
    /// It belongs to a later epoch: offer it again after the next [`Source::closed`], and poll nothing of its split
    /// until then.
    Hold,
    /// It lies before what this attempt reads.
    Skip,
}

/// The end of an epoch at this source: flush its rows, put its barrier on all links, then call [`Source::closed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    pub epoch: Epoch,
    /// Watermark under which `epoch` is processed.
    pub watermark: EventTime,
    /// Event times beyond this clock are checked against it.
    pub clock: WallTime,
    /// False while the epoch is replayed: its cut is sealed already, nobody waits for a report.
    pub live: bool,
}

/// The running epoch has its first record, or is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub epoch: Epoch,
    pub full: bool,
}

/// The input is not what the cuts say. Reading it again gives the same, so only a person can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Mismatch {
    #[error(
        "split {split}, epoch {epoch}: {found} of {wanted} records are left before position {end}: \
         records that were read before are gone"
    )]
    Missing { split: SplitId, epoch: Epoch, wanted: u64, found: u64, end: Position },
    #[error(
        "split {split}, epoch {epoch}: the last of its records is at position {found}, not before {wanted}: \
         there are records that were not there before"
    )]
    End { split: SplitId, epoch: Epoch, wanted: Position, found: Position },
    #[error(
        "split {split}, epoch {epoch}: the records are not those that were read before (hash {found:016x}, not {wanted:016x})"
    )]
    Contents { split: SplitId, epoch: Epoch, wanted: u64, found: u64 },
    #[error("split {split}: nothing says where it begins")]
    NoStart { split: SplitId },
    #[error("asked to cut epoch {asked} while epoch {running} runs")]
    Opening { asked: Epoch, running: Epoch },
}

/// Where a split stands in the running epoch.
#[derive(Debug, Clone, Copy)]
struct Split {
    /// Last delivered position + 1; what lies before it was read.
    next: Position,
    count: u64,
    hash: RunningHash,
}

#[derive(Debug)]
enum Mode {
    /// The running epoch is the first of these sealed cuts.
    Replay(VecDeque<Cut>),
    Live {
        records: u64,
        bytes: u64,
        /// A split moved on without a record.
        moved: bool,
        told: Told,
    },
}

/// What the JobManager knows of the running epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    HasInput,
    Full,
}

/// The reader's side of one attempt on one TaskManager.
#[derive(Debug)]
pub struct Source {
    limits: SourceLimits,
    splits: BTreeMap<SplitId, Split>,
    epoch: Epoch,
    /// Watermark after the epoch before; known in replay, brought by the opening when live.
    watermark: EventTime,
    /// Rows of the job's lookups for the running epoch.
    lookups: Option<LookupsId>,
    mode: Mode,
    /// Waits for the epoch it names to be the running one.
    opening: Option<Opening>,
    live_from: Epoch,
    committed: Epoch,
    window: u64,
    /// Nothing is read beyond.
    until: Option<Epoch>,
    /// Splits without a known beginning: found at the first [`Source::boundary`].
    unknown: Option<SplitId>,
    /// A cut may end behind its last record: see [`Source::advance`].
    gaps: bool,
}

impl Source {
    #[must_use]
    pub fn new(me: TaskManagerId, deployment: &Deployment, limits: SourceLimits) -> Self {
        let mut splits = BTreeMap::new();
        let mut unknown = None;
        for split in deployment.plan.splits.iter().filter(|(_, owner)| **owner == me).map(|(split, _)| *split) {
            let known = deployment.start.splits.get(&split).map(|cut| cut.end);
            match known.or_else(|| deployment.joined.get(&split).copied()) {
                Some(next) => {
                    splits.insert(split, Split { next, count: 0, hash: RunningHash::default() });
                }
                None => unknown = Some(split),
            }
        }
        let mut source = Self {
            limits,
            splits,
            epoch: deployment.start.epoch.next(),
            watermark: deployment.start.watermark,
            lookups: deployment.start.lookups,
            mode: Mode::Replay(deployment.replayed().cloned().collect()),
            opening: None,
            live_from: deployment.sealed().next(),
            // All key groups resume after `start`, so everything up to it is committed, whatever *g* was known.
            committed: deployment.committed.max(deployment.start.epoch),
            window: deployment.window,
            until: deployment.until,
            unknown,
            gaps: false,
        };
        source.end_replay();
        source
    }

    /// For splits in which positions go on where no record is: behind the end of a file.
    #[must_use]
    pub fn with_gaps(mut self) -> Self {
        self.gaps = true;
        self
    }

    /// No record lies before `position` any more, behind those that were taken.
    ///
    /// # Errors
    /// In replay, where records of the cut lie before it and did not come.
    pub fn advance(&mut self, split: SplitId, position: Position) -> Result<Offer, Mismatch> {
        let epoch = self.epoch;
        let Some(state) = self.splits.get_mut(&split).filter(|state| state.next < position) else {
            return Ok(Offer::Skip);
        };
        match &mut self.mode {
            Mode::Replay(cuts) => {
                let Some(cut) = wanted(cuts, split) else { return Ok(Offer::Hold) };
                if cut.end < position {
                    if state.count < cut.count {
                        let (wanted, found) = (cut.count, state.count);
                        return Err(Mismatch::Missing { split, epoch, wanted, found, end: cut.end });
                    }
                    return Ok(Offer::Hold);
                }
            }
            Mode::Live { moved, .. } => {
                state.next = position;
                *moved = true;
            }
        }
        Ok(Offer::Take)
    }

    /// Where each split of this TaskManager is read from.
    #[must_use]
    pub fn starts(&self) -> BTreeMap<SplitId, Position> {
        self.splits.iter().map(|(split, state)| (*split, state.next)).collect()
    }

    /// The running epoch: the one that records taken now belong to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The rows of the job's lookups that records taken now are joined with.
    #[must_use]
    pub fn lookups(&self) -> Option<LookupsId> {
        self.lookups
    }

    /// The clock that event times of the running epoch are checked against; `None` until the cut is opened.
    #[must_use]
    pub fn clock(&self) -> Option<WallTime> {
        match &self.mode {
            Mode::Replay(cuts) => cuts.front().map(|cut| cut.clock),
            Mode::Live { .. } => self.opening.map(|opening| opening.clock),
        }
    }

    /// Whether a key group that resumes after `resume` is sent rows of the running epoch.
    #[must_use]
    pub fn sends_to(&self, resume: Epoch) -> bool {
        resume < self.epoch
    }

    /// Whether records of this split are wanted now.
    #[must_use]
    pub fn may_read(&self, split: SplitId) -> bool {
        let Some(state) = self.splits.get(&split) else { return false };
        self.within_window()
            && match &self.mode {
                Mode::Replay(cuts) => state.count < wanted(cuts, split).map_or(0, |cut| cut.count),
                Mode::Live { records, bytes, .. } => !self.limits.reached(*records, *bytes),
            }
    }

    /// Decides where a record belongs. Records of a split come in order of position.
    ///
    /// # Errors
    /// In replay, where the records are not those of the cut.
    pub fn offer(
        &mut self,
        split: SplitId,
        position: Position,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Offer, Mismatch> {
        let within_window = self.within_window();
        let Some(state) = self.splits.get_mut(&split) else { return Ok(Offer::Skip) };
        if position < state.next {
            return Ok(Offer::Skip);
        }
        match &mut self.mode {
            Mode::Replay(cuts) => {
                let Some(cut) = wanted(cuts, split).filter(|cut| state.count < cut.count) else {
                    return Ok(Offer::Hold);
                };
                if !within_window {
                    return Ok(Offer::Hold);
                }
                let (cut, epoch) = (*cut, self.epoch);
                if position >= cut.end {
                    let (wanted, found) = (cut.count, state.count);
                    return Err(Mismatch::Missing { split, epoch, wanted, found, end: cut.end });
                }
                state.take(position, timestamp_ms, key, value);
                if state.count == cut.count {
                    state.check(split, epoch, &cut, self.gaps)?;
                }
            }
            Mode::Live { records, bytes, .. } => {
                if !within_window || self.limits.reached(*records, *bytes) {
                    return Ok(Offer::Hold);
                }
                state.take(position, timestamp_ms, key, value);
                *records += 1;
                *bytes += (key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len)) as u64;
            }
        }
        Ok(Offer::Take)
    }

    /// The running epoch may end: a replayed one is complete, a live one was opened for its cut.
    ///
    /// # Errors
    /// Where a replayed epoch does not end where its cut says.
    pub fn boundary(&self) -> Result<Option<Boundary>, Mismatch> {
        if let Some(split) = self.unknown {
            return Err(Mismatch::NoStart { split });
        }
        let epoch = self.epoch;
        match &self.mode {
            Mode::Replay(cuts) => {
                let Some(cut) = cuts.front() else { return Ok(None) };
                for (split, state) in &self.splits {
                    // A split that the cut does not know joined later.
                    let Some(wanted) = cut.splits.get(split) else { continue };
                    if state.count < wanted.count {
                        return Ok(None);
                    }
                    state.check(*split, epoch, wanted, self.gaps)?;
                }
                // Without records of its own, nothing else would hold this source back.
                if !self.within_window() {
                    return Ok(None);
                }
                Ok(Some(Boundary { epoch, watermark: self.watermark, clock: cut.clock, live: false }))
            }
            Mode::Live { .. } => Ok(self.opening.filter(|opening| opening.epoch == epoch).map(|opening| Boundary {
                epoch,
                watermark: opening.watermark,
                clock: opening.clock,
                live: true,
            })),
        }
    }

    /// The JobManager opened the cut of the first live epoch that is not closed; kept while replay is not through.
    ///
    /// # Errors
    /// Where it cannot be the next live epoch.
    pub fn opened(&mut self, opening: Opening) -> Result<(), Mismatch> {
        let next = self.epoch.max(self.live_from);
        if opening.epoch > next {
            return Err(Mismatch::Opening { asked: opening.epoch, running: next });
        }
        // An older one was closed already.
        if opening.epoch == next {
            self.opening = Some(opening);
        }
        Ok(())
    }

    /// The rows and the barrier of the running epoch are on all links: goes on to the next one. `greatest`: per split
    /// the greatest event time of a good record of the epoch. Returns what to report, for a live epoch, of all splits.
    pub fn closed(&mut self, greatest: &BTreeMap<SplitId, EventTime>) -> Option<BTreeMap<SplitId, SplitReport>> {
        let report = match &mut self.mode {
            Mode::Replay(cuts) => {
                if let Some(cut) = cuts.pop_front() {
                    (self.watermark, self.lookups) = (cut.watermark, cut.lookups);
                    for (split, state) in self.splits.iter_mut().filter(|_| self.gaps) {
                        state.next = cut.splits.get(split).map_or(state.next, |part| part.end);
                    }
                }
                None
            }
            Mode::Live { records, bytes, moved, told } => {
                (*records, *bytes, *moved, *told) = (0, 0, false, Told::Nothing);
                if let Some(opening) = self.opening.take() {
                    self.lookups = opening.lookups;
                }
                let report = |(split, state): (&SplitId, &Split)| (*split, state.report(greatest.get(split).copied()));
                Some(self.splits.iter().map(report).collect())
            }
        };
        for state in self.splits.values_mut() {
            (state.count, state.hash) = (0, RunningHash::default());
        }
        self.epoch = self.epoch.next();
        self.end_replay();
        report
    }

    /// *g* moved.
    pub fn committed(&mut self, committed: Epoch) {
        self.committed = self.committed.max(committed);
    }

    /// What the JobManager should know of the running epoch; each at most once per epoch.
    pub fn waiting(&mut self) -> Option<Waiting> {
        let Mode::Live { records, bytes, moved, told } = &mut self.mode else { return None };
        let now = match *records {
            0 if *moved => Told::HasInput,
            0 => Told::Nothing,
            _ if self.limits.reached(*records, *bytes) => Told::Full,
            _ => Told::HasInput,
        };
        // Once the cut is open there is nothing left to ask for.
        if now <= *told || self.opening.is_some() {
            return None;
        }
        *told = now;
        Some(Waiting { epoch: self.epoch, full: now == Told::Full })
    }

    /// At most *K* epochs are read beyond *g*; the oldest uncommitted one always may be.
    fn within_window(&self) -> bool {
        let in_time = self.until.is_none_or(|until| self.epoch <= until);
        in_time && self.epoch.0 <= self.committed.0.saturating_add(self.window.max(1))
    }

    fn end_replay(&mut self) {
        if matches!(&self.mode, Mode::Replay(cuts) if cuts.is_empty()) {
            self.mode = Mode::Live { records: 0, bytes: 0, moved: false, told: Told::Nothing };
        }
    }
}

fn wanted(cuts: &VecDeque<Cut>, split: SplitId) -> Option<&SplitCut> {
    cuts.front().and_then(|cut| cut.splits.get(&split))
}

impl SourceLimits {
    fn reached(&self, records: u64, bytes: u64) -> bool {
        // An epoch takes one record whatever its size, or a large one would stop its split for ever.
        records > 0 && (records >= self.epoch_records || bytes >= self.epoch_bytes)
    }
}

impl Split {
    fn take(&mut self, position: Position, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.next = Position(position.0 + 1);
        self.count += 1;
        self.hash.add(position, timestamp_ms, key, value);
    }

    fn check(&self, split: SplitId, epoch: Epoch, cut: &SplitCut, gaps: bool) -> Result<(), Mismatch> {
        if self.next != cut.end && !(gaps && self.next < cut.end) {
            return Err(Mismatch::End { split, epoch, wanted: cut.end, found: Position(self.next.0 - 1) });
        }
        if self.hash.value() != cut.hash {
            return Err(Mismatch::Contents { split, epoch, wanted: cut.hash, found: self.hash.value() });
        }
        Ok(())
    }

    fn report(&self, greatest: Option<EventTime>) -> SplitReport {
        SplitReport { end: self.next, count: self.count, hash: self.hash.value(), greatest }
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
