//! Synthetic records with a known answer: new ones, duplicates, corrections and bad ones, at their pace, whatever they are
//! about. Pure: the clock is an argument, the same seed gives the same stream.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;

/// A duplicate is sent this long after what it repeats, in microseconds; as the retries of the original systems were.
const DUPLICATE_AFTER: (u64, u64) = (50_000, 200_000);
const CORRECTION_AFTER: (u64, u64) = (200_000, 1_000_000);
/// The same without a rate, counted in new messages.
const FAST_AFTER: (u64, u64) = (1000, 5000);
/// Above this too few records would be left for what is derived from them.
const MOST_DERIVED: f64 = 0.9;

/// How far a late record is behind: more than any window's lateness in the example jobs, less than their `keep_for`.
pub(crate) const LATE_BY_MS: i64 = 15 * 60 * 1000;
/// 2099-01-01: ahead of every clock by more than `max_future`.
pub(crate) const FAR_FUTURE_MS: i64 = 4_070_908_800_000;

/// How much of what. Shares are of all messages, 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    pub seed: u64,
    /// Messages in all; `None`: until [`Stream::finish`].
    pub count: Option<u64>,
    /// Messages a second on average; `None`: as fast as they are asked for.
    pub rate: Option<f64>,
    /// The very same bytes again.
    pub duplicates: f64,
    /// The same key, other values; the correction is what must be stored.
    pub corrections: f64,
    /// Of every flaw in turn.
    pub invalid: f64,
    /// Good records whose event time lies back.
    pub late: f64,
}

impl Default for Mix {
    fn default() -> Mix {
        Mix { seed: 1, count: None, rate: None, duplicates: 0.3, corrections: 0.0, invalid: 0.0, late: 0.0 }
    }
}

/// One good record, which may be sent again and be corrected.
pub trait Record: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// Why a record must become a dead letter.
    type Flaw: Copy + Debug + PartialEq + Eq + Send + Sync + 'static;
    const FLAWS: &'static [Self::Flaw];

    /// The record key.
    fn key(&self) -> Arc<str>;
    fn payload(&self) -> Vec<u8>;
    /// What is sent instead of it where it shall be bad.
    fn flawed(&self, flaw: Self::Flaw) -> Vec<u8>;
    /// Its row, or rows, as PostgreSQL's `\copy ... csv` reads them, each with a line end.
    fn csv(&self) -> String;
    /// Moves its event time back.
    fn make_late(&mut self);
}

/// Makes the new records of a stream.
pub trait Subject: Send + 'static {
    type Record: Record;
    /// Whether the job that reads these records knows corrections.
    const CORRECTS: bool = false;

    fn record(&mut self, turn: &Turn, random: &mut Pcg64Mcg) -> Self::Record;
    /// Changes other values than the key.
    fn correct(&mut self, _record: &mut Self::Record, _now_us: i64, _random: &mut Pcg64Mcg) {}
}

/// Which record is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// New records before this one.
    pub n: u64,
    /// Microseconds since 1970.
    pub now_us: i64,
    /// About how many new ones there will be, where a given number is sent as fast as possible. Their event times are
    /// spread over the time up to the start, as if read from a backlog; otherwise a record is of the moment.
    pub backlog: Option<u64>,
}

/// One message to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Message<R: Record> {
    pub kind: Kind<R::Flaw>,
    pub key: Arc<str>,
    pub payload: Arc<[u8]>,
    /// The record's timestamp, to be set explicitly: a correction's is greater than that of anything it corrects, so
    /// that it wins in whatever partition the records are.
    pub timestamp_ms: i64,
    /// What must be stored at the end, on the one message of each record that decides it.
    pub row: Option<R>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<F> {
    New,
    Duplicate,
    Correction,
    Invalid(F),
}

/// What was generated so far: `messages` = `distinct` + `duplicates` + `corrections` + `invalid`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub messages: u64,
    /// Records that must be stored.
    pub distinct: u64,
    pub duplicates: u64,
    pub corrections: u64,
    pub invalid: u64,
    /// Those of `distinct` whose event time lies back.
    pub late: u64,
}

/// Ask [`Stream::due`] when, then [`Stream::next`] what.
#[derive(Debug)]
pub struct Stream<S: Subject> {
    mix: Mix,
    subject: S,
    chances: Chances,
    random: Pcg64Mcg,
    counts: Counts,
    /// When the next new message is due: microseconds from the start, or new messages where there is no rate.
    clock: f64,
    interval: f64,
    /// Records that have follow-ups, by when the next one is due.
    pending: BinaryHeap<Reverse<Pending<S::Record>>>,
    pending_steps: u64,
    new: u64,
    finished: bool,
}

#[derive(Debug)]
struct Chances {
    /// That a new message is invalid; that a good one is late; that it is corrected.
    invalid: f64,
    late: f64,
    correction: f64,
    /// Expected number of duplicates of each version of a record.
    duplicates: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Duplicate,
    Correction,
}

#[derive(Debug)]
struct Pending<R> {
    due: u64,
    /// Tells those that are due at once apart.
    order: u64,
    steps: VecDeque<Step>,
    record: R,
    payload: Arc<[u8]>,
    /// Of the last message of this record.
    timestamp_ms: i64,
}

impl<R> PartialEq for Pending<R> {
    fn eq(&self, other: &Pending<R>) -> bool {
        self.cmp(other).is_eq()
    }
}
impl<R> Eq for Pending<R> {}
impl<R> PartialOrd for Pending<R> {
    fn partial_cmp(&self, other: &Pending<R>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<R> Ord for Pending<R> {
    fn cmp(&self, other: &Pending<R>) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl<S: Subject> Stream<S> {
    /// Fails, in words for people, on shares that make no sense.
    pub fn new(mix: Mix, subject: impl FnOnce(&mut Pcg64Mcg) -> S) -> Result<Stream<S>, String> {
        let chances = Chances::of(&mix)?;
        if mix.corrections > 0.0 && !S::CORRECTS {
            return Err("the job that reads these records ignores corrections".to_owned());
        }
        let interval = match mix.rate {
            Some(rate) if !(rate.is_finite() && rate > 0.0) => return Err("the rate must be above 0".to_owned()),
            // Duplicates and corrections come on top of the new messages.
            Some(rate) => 1e6 / (rate * (1.0 - mix.duplicates - mix.corrections)),
            None => 1.0,
        };
        let mut random = Pcg64Mcg::seed_from_u64(mix.seed);
        Ok(Stream {
            subject: subject(&mut random),
            mix,
            chances,
            random,
            counts: Counts::default(),
            clock: 0.0,
            interval,
            pending: BinaryHeap::new(),
            pending_steps: 0,
            new: 0,
            finished: false,
        })
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// No new records from here on; the duplicates and corrections of earlier ones still come.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// When the next message is to be sent, from the start; `None` when there are no more.
    pub fn due(&self) -> Option<Duration> {
        let due = match (self.may_start(), self.pending.peek()) {
            (false, None) => return None,
            (true, None) => self.clock as u64,
            (true, Some(Reverse(next))) => next.due.min(self.clock as u64),
            (false, Some(Reverse(next))) => next.due,
        };
        Some(if self.mix.rate.is_some() { Duration::from_micros(due) } else { Duration::ZERO })
    }

    /// The next message, sent at `now_us` microseconds since 1970.
    pub fn next(&mut self, now_us: i64) -> Option<Message<S::Record>> {
        let started_before = |next: &Reverse<Pending<S::Record>>, clock: f64| next.0.due < clock as u64;
        let message = if self.may_start() && !self.pending.peek().is_some_and(|next| started_before(next, self.clock)) {
            self.start_new(now_us)
        } else {
            let Reverse(pending) = self.pending.pop()?;
            self.follow_up(pending, now_us)
        };
        self.counts.messages += 1;
        match message.kind {
            Kind::New => self.counts.distinct += 1,
            Kind::Duplicate => self.counts.duplicates += 1,
            Kind::Correction => self.counts.corrections += 1,
            Kind::Invalid(_) => self.counts.invalid += 1,
        }
        Some(message)
    }

    /// Whether a new message fits before the follow-ups that are promised already.
    fn may_start(&self) -> bool {
        !self.finished && self.mix.count.is_none_or(|count| self.counts.messages + self.pending_steps < count)
    }

    fn start_new(&mut self, now_us: i64) -> Message<S::Record> {
        let n = self.new;
        self.new += 1;
        let at = self.clock as u64;
        self.clock += self.interval;
        let turn = Turn { n, now_us, backlog: self.backlog() };
        let mut record = self.subject.record(&turn, &mut self.random);
        let (key, timestamp_ms) = (record.key(), now_us / 1000);
        if self.random.random_bool(self.chances.invalid) {
            let flaw = S::Record::FLAWS[self.counts.invalid as usize % S::Record::FLAWS.len()];
            let payload = record.flawed(flaw).into();
            return Message { kind: Kind::Invalid(flaw), key, payload, timestamp_ms, row: None };
        }
        if self.random.random_bool(self.chances.late) {
            record.make_late();
            self.counts.late += 1;
        }
        let steps = self.steps();
        let payload: Arc<[u8]> = record.payload().into();
        let row = (!steps.contains(&Step::Correction)).then(|| record.clone());
        self.pending_steps += steps.len() as u64;
        let pending = Pending { due: at, order: n, steps, record, payload: payload.clone(), timestamp_ms };
        self.wait(pending);
        Message { kind: Kind::New, key, payload, timestamp_ms, row }
    }

    fn follow_up(&mut self, mut pending: Pending<S::Record>, now_us: i64) -> Message<S::Record> {
        self.pending_steps -= 1;
        let key = pending.record.key();
        let (kind, row) = match pending.steps.pop_front() {
            Some(Step::Correction) => {
                self.subject.correct(&mut pending.record, now_us, &mut self.random);
                pending.payload = pending.record.payload().into();
                pending.timestamp_ms = (now_us / 1000).max(pending.timestamp_ms + 1);
                (Kind::Correction, Some(pending.record.clone()))
            }
            // Who waits has a step.
            Some(Step::Duplicate) | None => {
                pending.timestamp_ms = (now_us / 1000).max(pending.timestamp_ms);
                (Kind::Duplicate, None)
            }
        };
        let (payload, timestamp_ms) = (pending.payload.clone(), pending.timestamp_ms);
        self.wait(pending);
        Message { kind, key, payload, timestamp_ms, row }
    }

    /// Queues what follows, its time counted from the message just made.
    fn wait(&mut self, mut pending: Pending<S::Record>) {
        let (least, most) = match (pending.steps.front(), self.mix.rate) {
            (None, _) => return,
            (Some(_), None) => FAST_AFTER,
            (Some(Step::Duplicate), Some(_)) => DUPLICATE_AFTER,
            (Some(Step::Correction), Some(_)) => CORRECTION_AFTER,
        };
        pending.due += self.random.random_range(least..=most);
        self.pending.push(Reverse(pending));
    }

    /// Duplicates of the record, then perhaps a correction and its duplicates: a duplicate of what was corrected must
    /// not be sent later, or its greater record timestamp would bring the old values back.
    fn steps(&mut self) -> VecDeque<Step> {
        let mut steps = VecDeque::new();
        self.add_duplicates(&mut steps);
        if self.random.random_bool(self.chances.correction) {
            steps.push_back(Step::Correction);
            self.add_duplicates(&mut steps);
        }
        if let Some(count) = self.mix.count {
            let left = count - self.counts.messages - 1 - self.pending_steps;
            steps.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        steps
    }

    fn add_duplicates(&mut self, steps: &mut VecDeque<Step>) {
        let expected = self.chances.duplicates;
        let more = u32::from(self.random.random_bool(expected.fract()));
        steps.extend((0..expected as u32 + more).map(|_| Step::Duplicate));
    }

    fn backlog(&self) -> Option<u64> {
        let Mix { rate, count, duplicates, corrections, .. } = self.mix;
        // A little more than needed: none lies ahead of the start.
        match (rate, count) {
            (None, Some(count)) => Some((count as f64 * (1.0 - duplicates - corrections) * 1.01) as u64),
            (Some(_), _) | (None, None) => None,
        }
    }
}

impl Chances {
    fn of(mix: &Mix) -> Result<Chances, String> {
        let Mix { duplicates, corrections, invalid, late, .. } = *mix;
        for (name, share) in
            [("duplicates", duplicates), ("corrections", corrections), ("invalid", invalid), ("late", late)]
        {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("the share of {name} must be between 0 and 1"));
            }
        }
        let derived = duplicates + corrections + invalid;
        if derived > MOST_DERIVED {
            return Err(format!("duplicates, corrections and invalid records together exceed {MOST_DERIVED}"));
        }
        let good = 1.0 - derived;
        if corrections > good || late > good {
            return Err(format!("only {good:.3} of the messages are new: too few to be corrected or late"));
        }
        Ok(Chances {
            invalid: invalid / (good + invalid),
            late: late / good,
            correction: corrections / good,
            duplicates: duplicates / (good + corrections),
        })
    }
}
