//! Vital signs in the form that `jobs/health-vitals.toml` reads.

use std::sync::Arc;

use jiff::Timestamp;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::devices::Devices;
use crate::stream::{FAR_FUTURE_MS, Mix, Record, Stream, Subject, Turn};

/// Bytes of `large_data`, its send time included.
const LARGE_DATA: usize = 100;
const NOISE: usize = 100_003;
#[derive(Debug, Clone, PartialEq)]
pub struct VitalsOptions {
    pub mix: Mix,
    pub patients: u32,
}

impl Default for VitalsOptions {
    fn default() -> VitalsOptions {
        VitalsOptions { mix: Mix::default(), patients: 1000 }
    }
}

/// Readings of all patients in turn.
pub type Vitals = Stream<Patients>;

/// Fails, in words for people, on options that make no sense.
pub fn vitals(options: VitalsOptions) -> Result<Vitals, String> {
    let VitalsOptions { mix, patients } = options;
    if patients == 0 {
        return Err("there must be at least one patient".to_owned());
    }
    Stream::new(mix, |random| Patients {
        noise: (0..NOISE).map(|_| char::from(random.sample(rand::distr::Alphanumeric))).collect(),
        devices: Devices::new(patients),
    })
}

#[derive(Debug)]
pub struct Patients {
    noise: String,
    devices: Devices,
}

/// Values in tenths, as a device would send them.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    patient: Arc<str>,
    time_ms: i64,
    heart: u32,
    temperature: u32,
    oxygen: u32,
    large_data: Arc<str>,
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

impl Subject for Patients {
    type Record = Reading;
    const CORRECTS: bool = true;

    fn record(&mut self, turn: &Turn, random: &mut Pcg64Mcg) -> Reading {
        let (patient, time_ms) = self.devices.next(turn, random);
        Reading {
            patient: format!("P{:04}", patient + 1).into(),
            time_ms,
            heart: random.random_range(500..1200),
            temperature: random.random_range(355..405),
            oxygen: random.random_range(900..1000),
            large_data: self.large_data(turn.now_us, random),
        }
    }

    fn correct(&mut self, reading: &mut Reading, now_us: i64, random: &mut Pcg64Mcg) {
        reading.heart += random.random_range(1..=50);
        reading.large_data = self.large_data(now_us, random);
    }
}

impl Patients {
    fn large_data(&self, now_us: i64, random: &mut Pcg64Mcg) -> Arc<str> {
        let mut text = format!("{now_us}:");
        let length = LARGE_DATA.saturating_sub(text.len());
        let at = random.random_range(0..NOISE - length);
        text.push_str(&self.noise[at..at + length]);
        text.into()
    }
}

impl Record for Reading {
    type Flaw = Flaw;
    const FLAWS: &'static [Flaw] = &[
        Flaw::OutOfRange,
        Flaw::NoPatient,
        Flaw::NoTimestamp,
        Flaw::Malformed,
        Flaw::WrongType,
        Flaw::NoVitalSign,
        Flaw::LostSignal,
        Flaw::FarFuture,
    ];

    fn key(&self) -> Arc<str> {
        self.patient.clone()
    }

    fn payload(&self) -> Vec<u8> {
        self.json().into_bytes()
    }

    fn flawed(&self, flaw: Flaw) -> Vec<u8> {
        self.flawed_json(flaw).into_bytes()
    }

    /// Columns in the order of the fields.
    fn csv(&self) -> String {
        let time = Timestamp::from_millisecond(self.time_ms).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S%.3f");
        let (heart, temperature, oxygen) = (tenth(self.heart), tenth(self.temperature), tenth(self.oxygen));
        format!("{},{time}+00,{heart},{temperature},{oxygen},{}\n", self.patient, self.large_data)
    }

    fn make_late(&mut self) {
        self.time_ms = Devices::late(self.time_ms);
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

    fn flawed_json(&self, flaw: Flaw) -> String {
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
}

fn tenth(tenths: u32) -> f64 {
    f64::from(tenths) / 10.0
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
