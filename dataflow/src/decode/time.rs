//! Timestamps, dates and UUIDs from text. Calendar and zones are jiff's, with the zones it ships: no machine's own.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::reason;

type Parsed<T> = Result<T, &'static str>;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400;
/// 0001-01-01T00:00:00 UTC in seconds.
const FIRST: i64 = -62_135_596_800;
/// 10000-01-01T00:00:00 UTC in seconds.
const END: i64 = 253_402_300_800;

/// Microseconds since 1970 UTC of a number of `per_second` units; below a microsecond is cut off.
pub(crate) fn epoch(units: i64, per_second: i64) -> Parsed<i64> {
    let micros = if per_second <= SECOND {
        units.checked_mul(SECOND / per_second).ok_or(reason::OUT_OF_RANGE)?
    } else {
        units.div_euclid(per_second / SECOND)
    };
    in_range(micros)
}

/// Microseconds since 1970 UTC of an RFC 3339 timestamp (`T`, `t` or a space between date and time; below a microsecond is
/// cut off; second 60 is the second after). Without zone it is read in `zone`: a time that clocks skipped is refused, one
/// that they showed twice is the earlier.
pub(crate) fn timestamp(text: &str, zone: Option<&TimeZone>) -> Parsed<i64> {
    let bytes = text.as_bytes();
    let (Some(date), Some(b'T' | b't' | b' '), Some(clock)) = (bytes.get(..10), bytes.get(10), bytes.get(11..19))
    else {
        return Err(reason::INVALID_FORMAT);
    };
    let (days, date) = calendar(date)?;
    let (hour, minute, second) = (number(&clock[..2])?, number(&clock[3..5])?, number(&clock[6..])?);
    if clock[2] != b':' || clock[5] != b':' || hour > 23 || minute > 59 || second > 60 {
        return Err(reason::INVALID_FORMAT);
    }
    let (micros, rest) = fraction(&bytes[19..])?;
    let local = days * DAY + hour * 3_600 + minute * 60 + second;
    let offset = match rest {
        [] => {
            let leap = i8::try_from(second - 59).unwrap_or(0).max(0);
            local_offset(date, hour, minute, second - i64::from(leap), zone.ok_or(reason::NO_ZONE)?)?
        }
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return Err(reason::INVALID_FORMAT);
            }
            let seconds = hours * 3_600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return Err(reason::INVALID_FORMAT),
    };
    in_range((local - offset) * SECOND + micros)
}

/// Days since 1970 of `YYYY-MM-DD`.
pub(crate) fn date(text: &str) -> Parsed<i32> {
    let (days, _) = calendar(text.as_bytes())?;
    let days = i32::try_from(days).map_err(|_| reason::OUT_OF_RANGE)?;
    if i64::from(days) * DAY < FIRST { Err(reason::OUT_OF_RANGE) } else { Ok(days) }
}

/// A UUID in its hyphenated form, in either case.
pub(crate) fn uuid(text: &str) -> Parsed<[u8; 16]> {
    if text.len() != 36 {
        return Err(reason::INVALID_FORMAT);
    }
    uuid::Uuid::try_parse(text).map(uuid::Uuid::into_bytes).map_err(|_| reason::INVALID_FORMAT)
}

fn in_range(micros: i64) -> Parsed<i64> {
    if (FIRST * SECOND..END * SECOND).contains(&micros) { Ok(micros) } else { Err(reason::OUT_OF_RANGE) }
}

fn calendar(text: &[u8]) -> Parsed<(i64, Date)> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return Err(reason::INVALID_FORMAT) };
    let (year, month, day) = (number(&[*y1, *y2, *y3, *y4])?, number(&[*m1, *m2])?, number(&[*d1, *d2])?);
    let small = |n: i64| i8::try_from(n).unwrap_or(i8::MAX);
    let date = Date::new(i16::try_from(year).unwrap_or(i16::MAX), small(month), small(day))
        .map_err(|_| reason::INVALID_FORMAT)?;
    Ok((days_since_1970(year, month, day), date))
}

/// Days of a date of the proleptic Gregorian calendar (`days_from_civil` of H. Hinnant's "chrono-compatible low-level date
/// algorithms"), years 0 to 9999.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Microseconds of `.digits`, and what follows.
fn fraction(bytes: &[u8]) -> Parsed<(i64, &[u8])> {
    let [b'.', rest @ ..] = bytes else { return Ok((0, bytes)) };
    let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    if length == 0 {
        return Err(reason::INVALID_FORMAT);
    }
    let micros = (0..6).fold(0, |micros, at| {
        let digit = if at < length { rest[at] - b'0' } else { 0 };
        micros * 10 + i64::from(digit)
    });
    Ok((micros, &rest[length..]))
}

fn number(digits: &[u8]) -> Parsed<i64> {
    digits.iter().try_fold(0, |number, digit| {
        if digit.is_ascii_digit() { Ok(number * 10 + i64::from(digit - b'0')) } else { Err(reason::INVALID_FORMAT) }
    })
}

fn local_offset(date: Date, hour: i64, minute: i64, second: i64, zone: &TimeZone) -> Parsed<i64> {
    let small = |n: i64| i8::try_from(n).unwrap_or(0);
    let local = DateTime::from_parts(date, jiff::civil::time(small(hour), small(minute), small(second), 0));
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => Ok(i64::from(offset.seconds())),
        // The offset before the change is the larger one: the earlier of the two instants.
        AmbiguousOffset::Fold { before, .. } => Ok(i64::from(before.seconds())),
        AmbiguousOffset::Gap { .. } => Err(reason::NO_SUCH_LOCAL_TIME),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Parsed<i64> {
        timestamp(text, None)
    }

    fn in_zone(text: &str, zone: &str) -> Parsed<i64> {
        timestamp(text, Some(&TimeZone::get(zone).unwrap()))
    }

    #[test]
    fn epochs_of_all_units() {
        assert_eq!(epoch(1_700_000_000, 1), Ok(1_700_000_000_000_000));
        assert_eq!(epoch(1_700_000_000_123, 1_000), Ok(1_700_000_000_123_000));
        assert_eq!(epoch(-1, 1_000_000), Ok(-1));
        assert_eq!(epoch(-1, 1_000_000_000), Ok(-1));
        assert_eq!(epoch(1_999, 1_000_000_000), Ok(1));
        assert_eq!(epoch(i64::MAX, 1), Err(reason::OUT_OF_RANGE));
        // Microseconds where milliseconds were meant: the year 55,000.
        assert_eq!(epoch(1_700_000_000_000_000, 1_000), Err(reason::OUT_OF_RANGE));
        assert_eq!(epoch(END, 1), Err(reason::OUT_OF_RANGE));
        assert_eq!(epoch(FIRST, 1), Ok(FIRST * SECOND));
        assert_eq!(epoch(FIRST - 1, 1), Err(reason::OUT_OF_RANGE));
    }

    #[test]
    fn texts_with_zone() {
        assert_eq!(at("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(at("2024-02-29t12:30:15.123456789+01:30"), Ok(1_709_204_415_123_456));
        assert_eq!(at("2024-02-29 11:00:15.5Z"), Ok(1_709_204_415_500_000));
        assert_eq!(at("2016-12-31T23:59:60Z"), at("2017-01-01T00:00:00Z"));
        assert_eq!(at("9999-12-31T23:59:59.999999Z"), Ok(END * SECOND - 1));
        assert_eq!(at("9999-12-31T23:59:59-01:00"), Err(reason::OUT_OF_RANGE));
        assert_eq!(at("0000-12-31T23:59:59Z"), Err(reason::OUT_OF_RANGE));
        assert_eq!(at("0001-01-01T00:00:00Z"), Ok(FIRST * SECOND));
    }

    #[test]
    fn texts_that_are_no_timestamp() {
        for text in [
            "",
            "2024",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-1-1T00:00:00Z",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00Z ",
            "2024-01-01T00:00:00[UTC]",
            "292277-01-01T00:00:00Z",
            "2024-01-01",
            "1700000000",
            "2024-01-01T00:00:0éZ",
            "+2024-01-01T00:00:00Z",
        ] {
            assert_eq!(at(text), Err(reason::INVALID_FORMAT), "{text}");
        }
    }

    #[test]
    fn texts_without_zone() {
        assert_eq!(at("2024-06-01T12:00:00"), Err(reason::NO_ZONE));
        assert_eq!(in_zone("2024-06-01T12:00:00", "America/Sao_Paulo"), at("2024-06-01T15:00:00Z"));
        // A zone in the text wins.
        assert_eq!(in_zone("2024-06-01T12:00:00Z", "America/Sao_Paulo"), at("2024-06-01T12:00:00Z"));
        // Clocks in Berlin went from 02:00 to 03:00, and half a year later from 03:00 back to 02:00.
        assert_eq!(in_zone("2024-03-31T02:30:00", "Europe/Berlin"), Err(reason::NO_SUCH_LOCAL_TIME));
        assert_eq!(in_zone("2024-03-31T03:00:00", "Europe/Berlin"), at("2024-03-31T01:00:00Z"));
        assert_eq!(in_zone("2024-10-27T02:30:00", "Europe/Berlin"), at("2024-10-27T00:30:00Z"));
        assert_eq!(in_zone("2024-10-27T02:30:00.25", "Europe/Berlin"), at("2024-10-27T00:30:00.25Z"));
        // In summer of 2018 midnight did not exist on one day in Brazil.
        assert_eq!(in_zone("2018-11-04T00:00:00", "America/Sao_Paulo"), Err(reason::NO_SUCH_LOCAL_TIME));
    }

    #[test]
    fn dates_and_uuids() {
        assert_eq!(date("1970-01-02"), Ok(1));
        assert_eq!(date("1969-12-31"), Ok(-1));
        assert_eq!(date("2024-02-30"), Err(reason::INVALID_FORMAT));
        assert_eq!(date("0000-01-01"), Err(reason::OUT_OF_RANGE));
        assert_eq!(date("2024-01-01T00:00:00Z"), Err(reason::INVALID_FORMAT));
        let bytes = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";
        assert_eq!(uuid("01234567-89ab-cdef-0123-456789ABCDEF"), Ok(bytes));
        assert_eq!(uuid("0123456789abcdef0123456789abcdef"), Err(reason::INVALID_FORMAT));
        assert_eq!(uuid("{1234567-89ab-cdef-0123-456789abcdef"), Err(reason::INVALID_FORMAT));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_jiff(micros in FIRST * SECOND..253_402_200_000 * SECOND, minutes in -1_439i32..1_440) {
            let time = jiff::Timestamp::from_microsecond(micros).unwrap();
            prop_assert_eq!(at(&time.to_string()), Ok(micros));
            let offset = jiff::tz::Offset::from_seconds(minutes * 60).unwrap();
            let shifted = time.display_with_offset(offset).to_string();
            if shifted.len() >= 19 && !shifted.starts_with('-') {
                prop_assert_eq!(at(&shifted), Ok(micros));
            }
            let day = jiff::tz::Offset::UTC.to_datetime(time).date();
            prop_assert_eq!(date(&day.to_string()), Ok(micros.div_euclid(DAY * SECOND) as i32));
        }
    }
}
