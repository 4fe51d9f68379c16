//! Batch files of bedside collectors in the form that `jobs/ward-files.toml` reads: one file, one patient, many readings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::generator::Outlet;
use crate::object::Object;
use crate::stream::{LATE_BY_MS, Message, Mix, Record, Stream, Subject, Turn};

/// Of the job's `assume_zone`.
const ZONE: &str = "America/Sao_Paulo";
/// Between two readings of a sensor.
const STEP_MS: i64 = 100;
/// A file is read as a whole.
const MOST_RECORDS: u32 = 100_000;

/// Name, unit, and the range of values in hundredths.
pub const SENSORS: [(&str, &str, i32, i32); 5] = [
    ("frequencia_cardiaca", "bpm", 5_000, 12_000),
    ("temperatura", "Cel", 3_550, 4_050),
    ("saturacao", "%", 9_000, 10_000),
    ("frequencia_respiratoria", "rpm", 1_000, 2_800),
    ("pressao_sistolica", "mmHg", 9_000, 16_000),
];

#[derive(Debug, Clone, PartialEq)]
pub struct WardOptions {
    /// Of files: `invalid` ones are no JSON.
    pub mix: Mix,
    pub patients: u32,
    /// In each file.
    pub records: u32,
    /// Share of the records that must become dead letters.
    pub bad_records: f64,
}

/// Fails, in words for people, on options that make no sense.
pub fn ward(options: WardOptions) -> Result<Stream<Ward>, String> {
    let WardOptions { mix, patients, records, bad_records } = options;
    if patients == 0 || !(1..=MOST_RECORDS).contains(&records) {
        return Err(format!("there must be at least one patient, and 1 to {MOST_RECORDS} records in a file"));
    }
    if !(0.0..=1.0).contains(&bad_records) {
        return Err("the share of bad records must be between 0 and 1".to_owned());
    }
    let rounds = i64::from(records.div_ceil(SENSORS.len() as u32));
    let most = f64::from(patients) * 1000.0 / (rounds * STEP_MS) as f64;
    match mix.rate {
        None if mix.count.is_none() => return Err("say how many files, or at which rate".to_owned()),
        Some(rate) if rate > most => {
            return Err(format!(
                "a sensor is read every {STEP_MS} ms: {patients} patients give at most {most:.0} such files a second"
            ));
        }
        Some(_) | None => {}
    }
    let zone = TimeZone::get(ZONE).map_err(|error| format!("zone {ZONE}: {error}"))?;
    let ward =
        Ward { zone, records, rounds, bad_records, first_ms: None, last_ms: vec![i64::MIN; patients as usize], bad: 0 };
    Stream::new(mix, |_| ward)
}

/// Batches of all patients in turn.
#[derive(Debug)]
pub struct Ward {
    zone: TimeZone,
    records: u32,
    /// How often each sensor is read for one file.
    rounds: i64,
    bad_records: f64,
    first_ms: Option<i64>,
    /// By patient: where the times of the next file begin at the earliest. All are even; late ones are odd.
    last_ms: Vec<i64>,
    bad: usize,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    zone: TimeZone,
    patient: u64,
    readings: Vec<Reading>,
}

#[derive(Debug, Clone, PartialEq)]
struct Reading {
    /// Index into [`SENSORS`].
    sensor: usize,
    /// In hundredths.
    value: i32,
    time_ms: i64,
    bad: Option<BadReading>,
}

/// Why a record must become a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BadReading {
    NoValue,
    TooPrecise,
    ValueAsText,
    NoTimestamp,
    NoSuchDay,
    /// No patient has one.
    UnknownSensor,
    NoObject,
}

const BAD_READINGS: [BadReading; 7] = [
    BadReading::NoValue,
    BadReading::TooPrecise,
    BadReading::ValueAsText,
    BadReading::NoTimestamp,
    BadReading::NoSuchDay,
    BadReading::UnknownSensor,
    BadReading::NoObject,
];

/// Why a file is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    CutOff,
    Empty,
    OtherFormat,
    OtherEncoding,
}

impl Subject for Ward {
    type Record = Batch;
    const CORRECTS: bool = true;

    fn record(&mut self, turn: &Turn, random: &mut Pcg64Mcg) -> Batch {
        let (count, span) = (self.last_ms.len() as u64, self.rounds * STEP_MS);
        let patient = turn.n % count;
        let begin = match turn.backlog {
            Some(backlog) => {
                let rounds = i64::try_from(backlog / count).unwrap_or(0) + 10;
                *self.first_ms.get_or_insert(turn.now_us / 1000 - rounds * span)
            }
            None => turn.now_us / 1000 - span,
        };
        let begin = (begin & !1).max(self.last_ms[patient as usize]);
        self.last_ms[patient as usize] = begin + span;
        let readings = (0..self.records as usize).map(|at| self.reading(at, begin, random)).collect();
        Batch { zone: self.zone.clone(), patient: patient + 1, readings }
    }

    fn correct(&mut self, batch: &mut Batch, _now_us: i64, random: &mut Pcg64Mcg) {
        for (at, reading) in batch.readings.iter_mut().enumerate() {
            if at == 0 || random.random_bool(0.3) {
                reading.value += random.random_range(1..=100);
            }
        }
    }
}

impl Ward {
    fn reading(&mut self, at: usize, begin: i64, random: &mut Pcg64Mcg) -> Reading {
        let sensor = at % SENSORS.len();
        let (_, _, least, most) = SENSORS[sensor];
        let bad = random.random_bool(self.bad_records).then(|| {
            self.bad += 1;
            BAD_READINGS[self.bad % BAD_READINGS.len()]
        });
        let round = i64::try_from(at / SENSORS.len()).unwrap_or(0);
        Reading { sensor, value: random.random_range(least..most), time_ms: begin + round * STEP_MS, bad }
    }
}

impl Batch {
    /// Records that must be stored, and those that must become dead letters.
    pub fn counts(&self) -> (u64, u64) {
        let bad = self.readings.iter().filter(|reading| reading.bad.is_some()).count();
        ((self.readings.len() - bad) as u64, bad as u64)
    }

    fn json(&self) -> String {
        let patient = Object::default().raw("id", self.patient).text("nome", &format!("Paciente {}", self.patient));
        let records: Vec<String> = self.readings.iter().map(|reading| reading.json(&self.zone)).collect();
        let file =
            Object::default().raw("paciente", patient.json()).raw("records", format!("[{}]", records.join(",\n")));
        file.json() + "\n"
    }
}

impl Reading {
    fn json(&self, zone: &TimeZone) -> String {
        let (name, unit, _, _) = SENSORS[self.sensor];
        let time = zone.to_datetime(Timestamp::from_millisecond(self.time_ms).unwrap_or_default());
        let object = Object::default()
            .text("sensor", name)
            .raw("valor", Hundredths(self.value))
            .text("unidade", unit)
            .text("timestamp", &time.strftime("%Y-%m-%dT%H:%M:%S%.3f").to_string());
        let object = match self.bad {
            None => object,
            Some(BadReading::NoValue) => object.raw("valor", "null"),
            Some(BadReading::TooPrecise) => object.raw("valor", format!("{}5", Hundredths(self.value))),
            Some(BadReading::ValueAsText) => object.text("valor", "alta"),
            Some(BadReading::NoTimestamp) => object.without("timestamp"),
            Some(BadReading::NoSuchDay) => object.text("timestamp", "2026-02-30T12:00:00.000"),
            Some(BadReading::UnknownSensor) => object.text("sensor", "sem_cadastro"),
            Some(BadReading::NoObject) => return "null".to_owned(),
        };
        object.json()
    }
}

impl Record for Batch {
    type Flaw = Flaw;
    const FLAWS: &'static [Flaw] = &[Flaw::CutOff, Flaw::Empty, Flaw::OtherFormat, Flaw::OtherEncoding];

    fn key(&self) -> Arc<str> {
        self.patient.to_string().into()
    }

    fn payload(&self) -> Vec<u8> {
        self.json().into_bytes()
    }

    fn flawed(&self, flaw: Flaw) -> Vec<u8> {
        let mut json = self.json().into_bytes();
        match flaw {
            Flaw::CutOff => json.truncate(json.len() / 2),
            Flaw::Empty => json.clear(),
            Flaw::OtherFormat => json = b"sensor;valor;unidade\ntemperatura;36,5;Cel\n".to_vec(),
            Flaw::OtherEncoding => json = b"{\"paciente\":{\"id\":1,\"nome\":\"Jo\xe3o\"},\"records\":[]}".to_vec(),
        }
        json
    }

    /// Columns in the order of the fields, the time in UTC; without what is bad.
    fn csv(&self) -> String {
        let good = self.readings.iter().filter(|reading| reading.bad.is_none());
        let line = |reading: &Reading| {
            let (name, unit, _, _) = SENSORS[reading.sensor];
            let time = Timestamp::from_millisecond(reading.time_ms).unwrap_or_default();
            let time = time.strftime("%Y-%m-%d %H:%M:%S%.3f");
            format!("{},{name},{},{unit},{time}+00\n", self.patient, Hundredths(reading.value))
        };
        good.map(line).collect()
    }

    fn make_late(&mut self) {
        for reading in &mut self.readings {
            reading.time_ms -= LATE_BY_MS - 1;
        }
    }
}

struct Hundredths(i32);

impl std::fmt::Display for Hundredths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A folder in which each message becomes a file. None is ever seen before it is whole: it is written under a name that
/// does not end in `.json`, and renamed.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    written: u64,
}

impl Folder {
    pub fn create(path: &Path) -> Result<Folder> {
        std::fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Folder { path: path.to_owned(), written: 0 })
    }
}

impl<R: Record> Outlet<R> for Folder {
    /// The modification time is the message's, and names are in its order too: a correction is newer than what it corrects.
    fn send(&mut self, message: &Message<R>) -> Result<()> {
        let (time, number, process) = (message.timestamp_ms, self.written, std::process::id());
        let name = format!("{time:013}-{number:06}-{process}-paciente-{}.json", message.key);
        let (whole, part) = (self.path.join(&name), self.path.join(format!(".{name}.part")));
        let write = || -> std::io::Result<()> {
            std::fs::write(&part, &message.payload)?;
            let since = Duration::from_millis(u64::try_from(time).unwrap_or(0));
            std::fs::File::options().append(true).open(&part)?.set_modified(UNIX_EPOCH + since)?;
            std::fs::rename(&part, &whole)
        };
        write().with_context(|| format!("writing {}", whole.display()))?;
        self.written += 1;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "ward_tests.rs"]
mod tests;
