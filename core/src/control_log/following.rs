//! A JobManager that does not lead: reads the log from its newest base on, keeps up, and notices silence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::appender::{Command, Event, Known, Settings};
use super::{Frame, LogState, ObjectHash, unframe};
use crate::ids::Instant;
use crate::record::Record;

/// A number that is listed and then gone, or missing below others, is a leader that collects while we read: list
/// again. Where nothing new appears in so many rounds, there is no such leader and the record is lost.
const ROUNDS: u32 = 5;
/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Following {
    step: Step,
    /// A JobManager that restarts takes over from itself at once.
    restarting: bool,
    /// When the newest number was first not the newest any more.
    quiet_since: Option<Instant>,
    next_list: Instant,
    /// Newest number at the last round that failed, and how many have.
    failed: (u64, u32),
}

#[derive(Debug)]
enum Step {
    Idle,
    /// Silence counts up to when the list was asked for, so that a pause of this process is not taken for one.
    Listing {
        asked: Instant,
    },
    Reading(Reading),
}

/// Reads downwards from `high` until a base, or what is known already.
#[derive(Debug)]
struct Reading {
    listed: BTreeSet<u64>,
    high: u64,
    /// Everything up to here is known.
    low: u64,
    /// The least number asked for.
    asked: u64,
    outstanding: BTreeSet<u64>,
    found: BTreeMap<u64, (ObjectHash, Frame)>,
}

pub(super) enum Looked {
    On(Vec<Command>),
    /// The log is read to its end and nobody writes.
    Silence,
    Corrupt(String),
}

enum Read {
    More(Vec<Command>),
    Gone,
    Complete,
    Corrupt(String),
}

impl Following {
    pub(super) fn at_start() -> Self {
        Self { step: Step::Idle, restarting: true, quiet_since: None, next_list: Instant::default(), failed: (0, 0) }
    }

    /// After another JobManager was faster.
    pub(super) fn behind(now: Instant) -> Self {
        Self { step: Step::Idle, restarting: false, quiet_since: Some(now), next_list: now, failed: (0, 0) }
    }

    pub(super) fn handle(
        &mut self,
        event: Event,
        now: Instant,
        settings: &Settings,
        name: &str,
        log: &mut Known,
    ) -> Looked {
        match (std::mem::replace(&mut self.step, Step::Idle), event) {
            (Step::Idle, Event::Tick) if now >= self.next_list => {
                self.step = Step::Listing { asked: now };
                Looked::On(vec![Command::List])
            }
            (Step::Listing { asked }, Event::Listed { numbers }) => {
                self.next_list = now.plus(settings.list_every);
                self.listed(asked, numbers, settings, name, log)
            }
            (Step::Reading(mut reading), Event::ReadAnswered { number, bytes }) => {
                match reading.answered(number, bytes, settings.read_batch) {
                    Read::More(commands) => {
                        self.step = Step::Reading(reading);
                        Looked::On(commands)
                    }
                    Read::Gone => self.again(reading.high, number, now),
                    Read::Corrupt(reason) => Looked::Corrupt(reason),
                    Read::Complete => {
                        // Lists again at once: a restart should not wait for the next round.
                        self.next_list = now;
                        match reading.fold(log) {
                            Ok(()) => Looked::On(Vec::new()),
                            Err(reason) => Looked::Corrupt(reason),
                        }
                    }
                }
            }
            (step, _) => {
                self.step = step;
                Looked::On(Vec::new())
            }
        }
    }

    fn listed(
        &mut self,
        asked: Instant,
        numbers: Vec<u64>,
        settings: &Settings,
        name: &str,
        log: &mut Known,
    ) -> Looked {
        let listed: BTreeSet<u64> = numbers.into_iter().collect();
        let high = listed.last().copied().unwrap_or(0);
        if high > log.newest {
            self.quiet_since = Some(asked);
            let mut reading = Reading {
                low: if ((log.newest + 1)..=high).all(|n| listed.contains(&n)) { log.newest } else { 0 },
                listed,
                high,
                asked: high + 1,
                outstanding: BTreeSet::new(),
                found: BTreeMap::new(),
            };
            return match reading.ask(settings.read_batch) {
                Some(commands) => {
                    self.step = Step::Reading(reading);
                    Looked::On(commands)
                }
                None => self.again(high, high, asked),
            };
        }
        if high < log.newest {
            return Looked::Corrupt(format!("record {} of the control log was there and is gone", log.newest));
        }
        log.objects = listed;
        let quiet_since = *self.quiet_since.get_or_insert(asked);
        let own = self.restarting && (log.newest == 0 || log.state.leader == name);
        if own || asked.since(quiet_since) >= settings.takeover_after {
            return Looked::Silence;
        }
        Looked::On(Vec::new())
    }

    fn again(&mut self, high: u64, missing: u64, now: Instant) -> Looked {
        let rounds = if self.failed.0 == high { self.failed.1 + 1 } else { 1 };
        if rounds > ROUNDS {
            return Looked::Corrupt(format!("record {missing} of the control log is missing below record {high}"));
        }
        self.failed = (high, rounds);
        self.next_list = now.plus(ROUND_PAUSE);
        Looked::On(Vec::new())
    }
}

impl Reading {
    /// The next batch downwards, as far as there is no gap: below a base there may be one. `None` at a gap.
    fn ask(&mut self, batch: usize) -> Option<Vec<Command>> {
        let downwards = (self.low + 1..self.asked).rev().take(batch);
        let numbers: BTreeSet<u64> = downwards.take_while(|number| self.listed.contains(number)).collect();
        self.asked = *numbers.first()?;
        let commands = numbers.iter().rev().map(|number| Command::Read { number: *number }).collect();
        self.outstanding = numbers;
        Some(commands)
    }

    fn answered(&mut self, number: u64, bytes: Option<Vec<u8>>, batch: usize) -> Read {
        if !self.outstanding.remove(&number) {
            return Read::More(Vec::new());
        }
        let Some(bytes) = bytes else { return Read::Gone };
        match unframe(&bytes) {
            Ok(frame) => self.found.insert(number, (ObjectHash::of(&bytes), frame)),
            Err(error) => return Read::Corrupt(format!("record {number} of the control log: {error}")),
        };
        if !self.outstanding.is_empty() {
            return Read::More(Vec::new());
        }
        if self.base().is_some() || self.asked == self.low + 1 {
            return Read::Complete;
        }
        self.ask(batch).map_or(Read::Gone, Read::More)
    }

    fn base(&self) -> Option<u64> {
        let is_base = |frame: &Frame| frame.records.iter().any(|record| matches!(record, Record::Base(_)));
        self.found.iter().rev().find(|(_, (_, frame))| is_base(frame)).map(|(number, _)| *number)
    }

    /// From the newest base on, each object chained to the one before it.
    fn fold(self, log: &mut Known) -> Result<(), String> {
        let base = self.base();
        let mut previous = match base {
            Some(_) => None,
            None if self.low == 0 => Some(ObjectHash::NONE),
            None => Some(log.hash),
        };
        if base.is_some() || self.low == 0 {
            log.state = LogState::default();
            log.since_base = 0;
        }
        for (number, (hash, frame)) in self.found.range(base.unwrap_or(0)..) {
            if previous.is_some_and(|previous| frame.previous != previous) {
                return Err(format!("record {number} of the control log does not follow the record before it"));
            }
            previous = Some(*hash);
            let folded = log.state.apply_object(*number, &frame.records);
            folded.map_err(|e| format!("record {number} of the control log: {e}"))?;
            log.hash = *hash;
            log.since_base += 1;
        }
        log.newest = self.high;
        log.objects = self.listed;
        Ok(())
    }
}
