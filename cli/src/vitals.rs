//! Synthetic vital signs with a known answer: readings, duplicates, corrections and invalid records, in the form that
//! `jobs/health-vitals.toml` reads. Pure: the clock is an argument, the same seed gives the same stream.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;

/// Bytes of `large_data`, its send time included.
const LARGE_DATA: usize = 100;
const NOISE: usize = 100_003;
/// A duplicate is sent this long after what it repeats, in microseconds; as the original system's retries were.
const DUPLICATE_AFTER: (u64, u64) = (50_000, 200_000);
const CORRECTION_AFTER: (u64, u64) = (200_000, 1_000_000);
/// The same without a rate, counted in new messages.
const FAST_AFTER: (u64, u64) = (1000, 5000);
/// Between two readings of a patient when a given number is sent as fast as possible.
const FAST_STEP_MS: i64 = 1000;
/// How far a late reading is behind: more than any window's lateness in the example jobs, less than their `keep_for`.
const LATE_BY_MS: i64 = 15 * 60 * 1000;
/// 2099-01-01: ahead of every clock by more than `max_future`.
const FAR_FUTURE_MS: i64 = 4_070_908_800_000;
/// Above this too few readings would be left for what is derived from them.
const MOST_DERIVED: f64 = 0.9;

/// What to generate. Shares are of all messages, 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct VitalsOptions {
    pub seed: u64,
    pub patients: u32,
    /// Messages in all; `None`: until [`Vitals::finish`].
    pub count: Option<u64>,
    /// Messages a second on average; `None`: as fast as they are asked for.
    pub rate: Option<f64>,
    /// The very same bytes again.
    pub duplicates: f64,
    /// The same patient and time, other values; the correction is what must be stored.
    pub corrections: f64,
    /// Of every [`Flaw`] in turn.
    pub invalid: f64,
    /// Good readings whose event time lies 15 minutes back.
    pub late: f64,
}

impl Default for VitalsOptions {
    fn default() -> VitalsOptions {
        VitalsOptions {
            seed: 1,
            patients: 1000,
            count: None,
            rate: None,
            duplicates: 0.3,
            corrections: 0.0,
            invalid: 0.0,
            late: 0.0,
        }
    }
}

/// One message to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub kind: Kind,
    /// The patient.
    pub key: Arc<str>,
    pub payload: Arc<[u8]>,
    /// The record's timestamp, to be set explicitly: a correction's is greater than that of anything it corrects, so
    /// that it wins in whatever partition the records are.
    pub timestamp_ms: i64,
    /// The row that must be stored at the end, on the one message of each reading that decides it.
    pub row: Option<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Reading,
    Duplicate,
    Correction,
    Invalid(Flaw),
}

/// Why a record must become a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    OutOfRange,
    NoPatient,
    NoTimestamp,
    Malformed,
    WrongType,
    NoVitalSign,
    LostSignal,
    FarFuture,
}

impl Flaw {
    pub const ALL: [Flaw; 8] = [
        Flaw::OutOfRange,
        Flaw::NoPatient,
        Flaw::NoTimestamp,
        Flaw::Malformed,
        Flaw::WrongType,
        Flaw::NoVitalSign,
        Flaw::LostSignal,
        Flaw::FarFuture,
    ];
}

/// A row as it must be in the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub patient_id: Arc<str>,
    pub timestamp_ms: i64,
    pub heart_rate: f64,
    pub temperature: f64,
    pub oxygen_saturation: f64,
    pub large_data: Arc<str>,
}

impl Row {
    /// A line, as PostgreSQL's `\copy ... csv` reads it, columns in the order of the fields.
    pub fn csv(&self) -> String {
        let time = Timestamp::from_millisecond(self.timestamp_ms).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S%.3f");
        let Row { patient_id, heart_rate, temperature, oxygen_saturation, large_data, .. } = self;
        format!("{patient_id},{time}+00,{heart_rate},{temperature},{oxygen_saturation},{large_data}\n")
    }
}

/// What was generated so far: `messages` = `distinct` + `duplicates` + `corrections` + `invalid`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub messages: u64,
    /// Rows that must be stored.
    pub distinct: u64,
    pub duplicates: u64,
    pub corrections: u64,
    pub invalid: u64,
    /// Those of `distinct` whose event time lies back.
    pub late: u64,
}

/// The stream. Ask [`Vitals::due`] when, then [`Vitals::next`] what.
#[derive(Debug)]
pub struct Vitals {
    options: VitalsOptions,
    chances: Chances,
    random: Pcg64Mcg,
    noise: String,
    counts: Counts,
    /// When the next new message is due: microseconds from the start, or new messages where there is no rate.
    clock: f64,
    interval: f64,
    /// Readings that have follow-ups, by when the next one is due.
    pending: BinaryHeap<Reverse<Pending>>,
    pending_steps: u64,
    first_ms: Option<i64>,
    /// By patient: times are unique per patient, and even; late ones are odd.
    last_ms: Vec<i64>,
    new: u64,
    finished: bool,
}

#[derive(Debug)]
struct Chances {
    /// That a new message is invalid; that a reading is late; that it is corrected.
    invalid: f64,
    late: f64,
    correction: f64,
    /// Expected number of duplicates of each version of a reading.
    duplicates: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Duplicate,
    Correction,
}

#[derive(Debug)]
struct Pending {
    due: u64,
    /// Tells those that are due at once apart.
    order: u64,
    steps: VecDeque<Step>,
    reading: Reading,
    payload: Arc<[u8]>,
    /// Of the last message of this reading.
    timestamp_ms: i64,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Pending) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Pending {}
impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Pending) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pending {
    fn cmp(&self, other: &Pending) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// Values in tenths, as a device would send them.
#[derive(Debug, Clone)]
struct Reading {
    patient: Arc<str>,
    time_ms: i64,
    heart: u32,
    temperature: u32,
    oxygen: u32,
    large_data: Arc<str>,
}

impl Vitals {
    /// Fails, in words for people, on options that make no sense.
    pub fn new(options: VitalsOptions) -> Result<Vitals, String> {
        let chances = Chances::of(&options)?;
        if options.patients == 0 {
            return Err("there must be at least one patient".to_owned());
        }
        let interval = match options.rate {
            Some(rate) if !(rate.is_finite() && rate > 0.0) => return Err("the rate must be above 0".to_owned()),
            // Duplicates and corrections come on top of the new messages.
            Some(rate) => 1e6 / (rate * (1.0 - options.duplicates - options.corrections)),
            None => 1.0,
        };
        let mut random = Pcg64Mcg::seed_from_u64(options.seed);
        let noise = (0..NOISE).map(|_| char::from(random.sample(rand::distr::Alphanumeric))).collect();
        let last_ms = vec![i64::MIN; options.patients as usize];
        Ok(Vitals {
            options,
            chances,
            random,
            noise,
            counts: Counts::default(),
            clock: 0.0,
            interval,
            pending: BinaryHeap::new(),
            pending_steps: 0,
            first_ms: None,
            last_ms,
            new: 0,
            finished: false,
        })
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// No new readings from here on; the duplicates and corrections of earlier ones still come.
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
        Some(if self.options.rate.is_some() { Duration::from_micros(due) } else { Duration::ZERO })
    }

    /// The next message, sent at `now_us` microseconds since 1970.
    pub fn next(&mut self, now_us: i64) -> Option<Message> {
        let started_before = |next: &Reverse<Pending>, clock: f64| next.0.due < clock as u64;
        let message = if self.may_start() && !self.pending.peek().is_some_and(|next| started_before(next, self.clock)) {
            self.start_new(now_us)
        } else {
            let Reverse(pending) = self.pending.pop()?;
            self.follow_up(pending, now_us)
        };
        self.counts.messages += 1;
        match message.kind {
            Kind::Reading => self.counts.distinct += 1,
            Kind::Duplicate => self.counts.duplicates += 1,
            Kind::Correction => self.counts.corrections += 1,
            Kind::Invalid(_) => self.counts.invalid += 1,
        }
        Some(message)
    }

    /// Whether a new message fits before the follow-ups that are promised already.
    fn may_start(&self) -> bool {
        !self.finished && self.options.count.is_none_or(|count| self.counts.messages + self.pending_steps < count)
    }

    fn start_new(&mut self, now_us: i64) -> Message {
        let n = self.new;
        self.new += 1;
        let at = self.clock as u64;
        self.clock += self.interval;
        let patient = n % u64::from(self.options.patients);
        let time_ms = self.event_time(n, patient as usize, now_us);
        let mut reading = Reading {
            patient: format!("P{:04}", patient + 1).into(),
            time_ms,
            heart: self.random.random_range(500..1200),
            temperature: self.random.random_range(355..405),
            oxygen: self.random.random_range(900..1000),
            large_data: self.large_data(now_us),
        };
        let timestamp_ms = now_us / 1000;
        if self.random.random_bool(self.chances.invalid) {
            let flaw = Flaw::ALL[self.counts.invalid as usize % Flaw::ALL.len()];
            let (key, payload) = (reading.patient.clone(), reading.flawed(flaw).into_bytes().into());
            return Message { kind: Kind::Invalid(flaw), key, payload, timestamp_ms, row: None };
        }
        if self.random.random_bool(self.chances.late) {
            // Odd, and a fixed distance back: it meets no other reading of this patient.
            reading.time_ms -= LATE_BY_MS - 1;
            self.counts.late += 1;
        }
        let steps = self.steps();
        let payload: Arc<[u8]> = reading.json().into_bytes().into();
        let row = (!steps.contains(&Step::Correction)).then(|| reading.row());
        let key = reading.patient.clone();
        self.pending_steps += steps.len() as u64;
        let pending = Pending { due: at, order: n, steps, reading, payload: payload.clone(), timestamp_ms };
        self.wait(pending);
        Message { kind: Kind::Reading, key, payload, timestamp_ms, row }
    }

    fn follow_up(&mut self, mut pending: Pending, now_us: i64) -> Message {
        self.pending_steps -= 1;
        let key = pending.reading.patient.clone();
        let (kind, row) = match pending.steps.pop_front() {
            Some(Step::Correction) => {
                pending.reading.heart += self.random.random_range(1..=50);
                pending.reading.large_data = self.large_data(now_us);
                pending.payload = pending.reading.json().into_bytes().into();
                pending.timestamp_ms = (now_us / 1000).max(pending.timestamp_ms + 1);
                (Kind::Correction, Some(pending.reading.row()))
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
    fn wait(&mut self, mut pending: Pending) {
        let (least, most) = match (pending.steps.front(), self.options.rate) {
            (None, _) => return,
            (Some(_), None) => FAST_AFTER,
            (Some(Step::Duplicate), Some(_)) => DUPLICATE_AFTER,
            (Some(Step::Correction), Some(_)) => CORRECTION_AFTER,
        };
        pending.due += self.random.random_range(least..=most);
        self.pending.push(Reverse(pending));
    }

    /// Duplicates of the reading, then perhaps a correction and its duplicates: a duplicate of what was corrected must
    /// not be sent later, or its greater record timestamp would bring the old values back.
    fn steps(&mut self) -> VecDeque<Step> {
        let mut steps = VecDeque::new();
        self.add_duplicates(&mut steps);
        if self.random.random_bool(self.chances.correction) {
            steps.push_back(Step::Correction);
            self.add_duplicates(&mut steps);
        }
        if let Some(count) = self.options.count {
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

    /// A given number sent as fast as possible is spread over the time up to the start, as if read from a backlog;
    /// otherwise a reading is of the moment.
    fn event_time(&mut self, n: u64, patient: usize, now_us: i64) -> i64 {
        let now_ms = now_us / 1000;
        let time = match (self.options.rate, self.options.count) {
            (None, Some(count)) => {
                let patients = u64::from(self.options.patients);
                let VitalsOptions { duplicates, corrections, .. } = self.options;
                let new = count as f64 * (1.0 - duplicates - corrections);
                // A little more than needed: none lies ahead of the start.
                let rounds = (new * 1.01) as i64 / i64::from(self.options.patients) + 10;
                let first = *self.first_ms.get_or_insert(now_ms - rounds * FAST_STEP_MS);
                let round = i64::try_from(n / patients).unwrap_or(0);
                first + round * FAST_STEP_MS + self.random.random_range(0..FAST_STEP_MS)
            }
            (Some(_), _) | (None, None) => now_ms,
        };
        let last = &mut self.last_ms[patient];
        *last = (time & !1).max(last.saturating_add(2));
        *last
    }

    fn large_data(&mut self, now_us: i64) -> Arc<str> {
        let mut text = format!("{now_us}:");
        let length = LARGE_DATA.saturating_sub(text.len());
        let at = self.random.random_range(0..NOISE - length);
        text.push_str(&self.noise[at..at + length]);
        text.into()
    }
}

impl Chances {
    fn of(options: &VitalsOptions) -> Result<Chances, String> {
        let VitalsOptions { duplicates, corrections, invalid, late, .. } = *options;
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
        let readings = 1.0 - derived;
        if corrections > readings || late > readings {
            return Err(format!("only {readings:.3} of the messages are readings: too few to be corrected or late"));
        }
        Ok(Chances {
            invalid: invalid / (readings + invalid),
            late: late / readings,
            correction: corrections / readings,
            duplicates: duplicates / (readings + corrections),
        })
    }
}

impl Reading {
    fn json(&self) -> String {
        format!(r#"{{"patientId":"{}",{}{}"#, self.patient, self.time(), self.signs_and_noise())
    }

    fn time(&self) -> String {
        format!(r#""timestamp":{},"#, self.time_ms)
    }

    fn signs_and_noise(&self) -> String {
        let (heart, temperature, oxygen) = (Tenths(self.heart), Tenths(self.temperature), Tenths(self.oxygen));
        let large = &self.large_data;
        format!(
            r#""heartRate":{heart},"temperature":{temperature},"oxygenSaturation":{oxygen},"large_data":"{large}"}}"#
        )
    }

    fn flawed(&self, flaw: Flaw) -> String {
        let (patient, time, large) = (&self.patient, self.time(), &self.large_data);
        match flaw {
            Flaw::OutOfRange => Reading { heart: 9000 + self.heart, ..self.clone() }.json(),
            Flaw::NoPatient => format!("{{{time}{}", self.signs_and_noise()),
            Flaw::NoTimestamp => format!(r#"{{"patientId":"{patient}",{}"#, self.signs_and_noise()),
            Flaw::Malformed => {
                let json = self.json();
                json[..json.len() - LARGE_DATA].to_owned()
            }
            Flaw::WrongType => {
                format!(r#"{{"patientId":"{patient}",{time}"heartRate":"fast","large_data":"{large}"}}"#)
            }
            Flaw::NoVitalSign => format!(r#"{{"patientId":"{patient}",{time}"large_data":"{large}"}}"#),
            Flaw::LostSignal => Reading { heart: 0, ..self.clone() }.json(),
            Flaw::FarFuture => Reading { time_ms: FAR_FUTURE_MS, ..self.clone() }.json(),
        }
    }

    fn row(&self) -> Row {
        Row {
            patient_id: self.patient.clone(),
            timestamp_ms: self.time_ms,
            heart_rate: f64::from(self.heart) / 10.0,
            temperature: f64::from(self.temperature) / 10.0,
            oxygen_saturation: f64::from(self.oxygen) / 10.0,
            large_data: self.large_data.clone(),
        }
    }
}

struct Tenths(u32);

impl std::fmt::Display for Tenths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

#[cfg(test)]
#[path = "vitals_tests.rs"]
mod tests;
