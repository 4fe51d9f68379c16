//! Sensors of temperature and humidity in Brazilian cities, in the form that `jobs/iot-sensors.toml` reads.

use std::f64::consts::TAU;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::devices::Devices;
use crate::object::Object;
use crate::stream::{FAR_FUTURE_MS, Mix, Record, Stream, Subject, Turn};

/// Of the job's `assume_zone`.
const ZONE: &str = "America/Sao_Paulo";
/// Share of readings taken in a sensor's bad moments (sun on the housing, a closed room), which reach every status.
const SPIKES: f64 = 0.04;
/// From here on, in tenths of a degree, and below these in tenths of a percent.
const ALERT: (i32, i32) = (330, 300);
const CRITICAL: (i32, i32) = (380, 150);

/// Name, mean temperature and half of its daily swing in °C, mean humidity in percent.
const CITIES: [(&str, f64, f64, f64); 10] = [
    ("São Paulo", 20.5, 5.0, 72.0),
    ("Rio de Janeiro", 25.0, 4.0, 77.0),
    ("Brasília", 21.5, 6.5, 58.0),
    ("Cuiabá", 27.5, 7.0, 62.0),
    ("Curitiba", 17.5, 5.5, 80.0),
    ("Fortaleza", 27.0, 2.5, 76.0),
    ("Manaus", 27.5, 4.0, 83.0),
    ("Porto Alegre", 19.5, 5.5, 76.0),
    ("Recife", 26.0, 3.0, 78.0),
    ("Salvador", 25.5, 2.5, 80.0),
];

#[derive(Debug, Clone, PartialEq)]
pub struct SensorsOptions {
    pub mix: Mix,
    /// Spread over ten cities.
    pub sensors: u32,
}

/// Fails, in words for people, on options that make no sense.
pub fn sensors(options: SensorsOptions) -> Result<Stream<Sensors>, String> {
    let SensorsOptions { mix, sensors } = options;
    if sensors == 0 || i32::try_from(sensors).is_err() {
        return Err("there must be at least one sensor, and their numbers must fit into int32".to_owned());
    }
    let zone = TimeZone::get(ZONE).map_err(|error| format!("zone {ZONE}: {error}"))?;
    Stream::new(mix, |random| Sensors {
        zone,
        devices: Devices::new(sensors),
        offsets: (0..sensors).map(|_| random.random_range(-15..=15)).collect(),
    })
}

/// Readings of all sensors in turn.
#[derive(Debug)]
pub struct Sensors {
    zone: TimeZone,
    devices: Devices,
    /// By sensor, in tenths of a degree: no two hang in the same place.
    offsets: Vec<i32>,
}

/// Values in tenths, as a device would send them.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    zone: TimeZone,
    sensor: u64,
    temperature: i32,
    humidity: i32,
    time_ms: i64,
    city: &'static str,
}

/// Why a record must become a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    Malformed,
    NoTemperature,
    OutOfRange,
    DecimalComma,
    UnknownStatus,
    NoSensor,
    NoSuchDay,
    FarFuture,
}

impl Subject for Sensors {
    type Record = Reading;

    fn record(&mut self, turn: &Turn, random: &mut Pcg64Mcg) -> Reading {
        let (device, time_ms) = self.devices.next(turn, random);
        let (city, mean, swing, humidity) = CITIES[device as usize % CITIES.len()];
        let local = self.zone.to_datetime(Timestamp::from_millisecond(time_ms).unwrap_or_default());
        let hour = f64::from(local.hour()) + f64::from(local.minute()) / 60.0;
        // Warmest at 15:00, coldest at 03:00.
        let sun = ((hour - 15.0) / 24.0 * TAU).cos();
        let spike = if random.random_bool(SPIKES) { random.random_range(60..=220) } else { 0 };
        let temperature =
            tenths(mean + swing * sun) + self.offsets[device as usize] + random.random_range(-8..=8) + spike;
        // The same water in warmer air is less relative humidity.
        let humidity = tenths(humidity - 2.2 * swing * sun) - 3 * spike + random.random_range(-20..=20);
        Reading {
            zone: self.zone.clone(),
            sensor: device + 1,
            temperature,
            humidity: humidity.clamp(0, 1000),
            time_ms,
            city,
        }
    }
}

fn tenths(value: f64) -> i32 {
    (value * 10.0).round() as i32
}

impl Reading {
    fn status(&self) -> &'static str {
        let beyond = |(warm, dry): (i32, i32)| self.temperature >= warm || self.humidity <= dry;
        match (beyond(CRITICAL), beyond(ALERT)) {
            (true, _) => "CRITICO",
            (false, true) => "ALERTA",
            (false, false) => "OK",
        }
    }

    /// As the sensors' clocks show it, without a zone.
    fn local_time(&self) -> String {
        let time = self.zone.to_datetime(Timestamp::from_millisecond(self.time_ms).unwrap_or_default());
        time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
    }

    fn object(&self) -> Object {
        Object::default()
            .raw("sensor_id", self.sensor)
            .raw("temperatura", Tenths(self.temperature))
            .raw("umidade", Tenths(self.humidity))
            .text("data_hora", &self.local_time())
            .text("cidade", self.city)
            .text("status", self.status())
    }
}

impl Record for Reading {
    type Flaw = Flaw;
    const FLAWS: &'static [Flaw] = &[
        Flaw::Malformed,
        Flaw::NoTemperature,
        Flaw::OutOfRange,
        Flaw::DecimalComma,
        Flaw::UnknownStatus,
        Flaw::NoSensor,
        Flaw::NoSuchDay,
        Flaw::FarFuture,
    ];

    fn key(&self) -> Arc<str> {
        self.sensor.to_string().into()
    }

    fn payload(&self) -> Vec<u8> {
        self.object().json().into_bytes()
    }

    fn flawed(&self, flaw: Flaw) -> Vec<u8> {
        let object = self.object();
        let flawed = match flaw {
            Flaw::Malformed => return object.cut().into_bytes(),
            Flaw::NoTemperature => object.raw("temperatura", "null"),
            Flaw::OutOfRange => object.raw("temperatura", "999.9"),
            Flaw::DecimalComma => object.text("temperatura", "23,5"),
            Flaw::UnknownStatus => object.text("status", "NORMAL"),
            Flaw::NoSensor => object.without("sensor_id"),
            Flaw::NoSuchDay => object.text("data_hora", "2026-02-30 12:00:00.000"),
            Flaw::FarFuture => {
                let time = Reading { time_ms: FAR_FUTURE_MS, ..self.clone() }.local_time();
                object.text("data_hora", &time)
            }
        };
        flawed.json().into_bytes()
    }

    /// Columns in the order of the fields, the time in UTC.
    fn csv(&self) -> String {
        let time = Timestamp::from_millisecond(self.time_ms).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S%.3f");
        let (temperature, humidity) = (Tenths(self.temperature), Tenths(self.humidity));
        format!("{},{temperature},{humidity},{time}+00,{},{}\n", self.sensor, self.city, self.status())
    }

    fn make_late(&mut self) {
        self.time_ms = Devices::late(self.time_ms);
    }
}

struct Tenths(i32);

impl std::fmt::Display for Tenths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{}", self.0.abs() / 10, self.0.abs() % 10)
    }
}

#[cfg(test)]
#[path = "sensors_tests.rs"]
mod tests;
