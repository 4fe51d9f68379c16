//! Durations and sizes: strict, always with a unit, nothing guessed.

use std::time::Duration;

/// Unit and milliseconds, larger first.
const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Why a text is not a duration or size: what is wrong, and what was probably meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnitError {
    pub(crate) message: String,
    pub(crate) help: String,
}

/// `10s`, `1h30m`: whole numbers with a unit, the larger unit first.
pub(crate) fn duration(text: &str) -> Result<Duration, UnitError> {
    let fail = |message: &str, help: Option<String>| UnitError {
        message: message.to_owned(),
        help: help.unwrap_or_else(|| {
            "a duration is a number with a unit (ms, s, m, h, d): \"500ms\", \"10s\", \"1h30m\"".into()
        }),
    };
    if text.starts_with('-') {
        return Err(fail("a duration cannot be negative", None));
    }
    let mut rest = text;
    let mut total = 0_u64;
    let mut next_unit = 0;
    while !rest.is_empty() || next_unit == 0 {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(fail("this is not a duration", None));
        }
        if unit.is_empty() {
            return Err(fail("a duration needs a unit", Some(format!("did you mean \"{text}s\"?"))));
        }
        let Some(position) = TIME_UNITS.iter().position(|(name, _)| *name == unit) else {
            let meant = likely_time_unit(unit).filter(|_| text.len() == number.len() + unit.len());
            let help =
                meant.map(|meant| format!("did you mean \"{number}{meant}\"? Units are ms, s, m (minutes), h, d"));
            return Err(fail("this unit of time is not known", help));
        };
        if position < next_unit {
            return Err(fail("the larger unit comes first, each once", None));
        }
        next_unit = position + 1;
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(TIME_UNITS[position].1));
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(|| fail("this duration is too long", None))?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

fn likely_time_unit(unit: &str) -> Option<&'static str> {
    match unit.trim().to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        // Not "M": that could be a month.
        "m" if unit.trim() == "m" => Some("m"),
        "min" | "mins" | "minute" | "minutes" => Some("m"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "d" | "day" | "days" => Some("d"),
        "ms" | "msec" | "millis" | "millisecond" | "milliseconds" => Some("ms"),
        _ => None,
    }
}

/// `64KiB`, `1.5GiB`, `10MB`: a number with a unit that comes to whole bytes.
pub(crate) fn size(text: &str) -> Result<u64, UnitError> {
    let fail = |message: &str, help: Option<String>| UnitError {
        message: message.to_owned(),
        help: help.unwrap_or_else(|| {
            "a size is a number with a unit: B, KiB, MiB, GiB (1024) or kB, MB, GB (1000): \"64KiB\"".into()
        }),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() || number.starts_with('.') || number.ends_with('.') || number.matches('.').count() > 1 {
        return Err(fail("this is not a size", None));
    }
    if unit.is_empty() {
        return Err(fail("a size needs a unit", None));
    }
    let Some((_, bytes)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        let meant = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()));
        let help = meant.map(|(name, _)| format!("did you mean \"{number}{name}\"?"));
        return Err(fail("this unit of size is not known", help));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let too_large = || fail("this size is too large", None);
    if fraction.len() > 9 {
        return Err(fail("a size has at most nine digits behind the point", None));
    }
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| too_large())?);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| too_large())? };
    let scaled = whole
        .checked_mul(scale)
        .and_then(|whole| whole.checked_add(fraction))
        .and_then(|number| number.checked_mul(u128::from(*bytes)))
        .ok_or_else(too_large)?;
    if scaled % scale != 0 {
        return Err(fail("this size does not come to whole bytes", None));
    }
    u64::try_from(scaled / scale).map_err(|_| too_large())
}

/// As [`duration`] reads it, in the largest unit that fits.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let unit = TIME_UNITS.iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(u128::from(*unit)));
    match unit {
        Some((name, unit)) => format!("{}{name}", millis / u128::from(*unit)),
        None => "0s".to_owned(),
    }
}

/// As [`size`] reads it, in the largest binary unit that fits.
pub(crate) fn show_size(bytes: u64) -> String {
    let unit = SIZE_UNITS[..4].iter().rev().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}
