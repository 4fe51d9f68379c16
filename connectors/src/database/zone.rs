//! The zone of columns that hold a time of day without one.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};

/// Where a column without zone has its time of day.
#[derive(Debug, Clone)]
pub(crate) struct Zone(TimeZone);

impl Zone {
    /// `name` is one of IANA's.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        TimeZone::get(name).map(Self).map_err(|_| format!("there is no time zone {name}"))
    }

    pub(crate) fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// Microseconds since 1970 UTC of a time on the zone's clock: of two the earlier, and none where the clock skips it.
    pub(crate) fn instant(&self, local: DateTime) -> Option<i64> {
        const EPOCH: Date = Date::constant(1970, 1, 1);
        let offset = match self.0.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Gap { .. } => return None,
            AmbiguousOffset::Unambiguous { offset } => offset,
            // The greater offset makes the earlier instant.
            AmbiguousOffset::Fold { before, .. } => before,
        };
        // jiff has no instants of the last day of 9999.
        let days = local.date().since(EPOCH).ok()?.get_days();
        let hours = i64::from(days) * 24 + i64::from(local.hour());
        let seconds = (hours * 60 + i64::from(local.minute())) * 60 + i64::from(local.second());
        let micros = i64::from(local.subsec_nanosecond()) / 1_000;
        Some((seconds - i64::from(offset.seconds())) * 1_000_000 + micros)
    }

    /// Microseconds from 1970-01-01T00:00 on the zone's clock, of an instant in microseconds since 1970 UTC.
    ///
    /// Where the clock is set back, two instants have one time of day. Beyond the years that zones are known for, their
    /// last offset holds.
    pub(crate) fn local(&self, micros: i64) -> i64 {
        let (least, greatest) = (Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_microsecond());
        let offset = Timestamp::from_microsecond(micros.clamp(least, greatest))
            .map_or(0, |instant| self.0.to_offset(instant).seconds());
        micros.saturating_add(i64::from(offset) * 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_the_instant_counts() {
        let hour = 3_600_000_000;
        let zone = Zone::named("America/Sao_Paulo").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_microsecond();
        let summer = at("2019-02-16T23:30:00.000001Z");
        assert_eq!(zone.local(summer), summer - 2 * hour);
        let winter = at("2024-02-16T23:30:00Z");
        assert_eq!(zone.local(winter), winter - 3 * hour);
        assert_eq!(Zone::named("UTC").unwrap().local(winter), winter);
        for far in [i64::MIN, i64::MAX] {
            assert!(zone.local(far).abs_diff(far) <= 4 * hour.unsigned_abs(), "{far}");
        }
        assert!(Zone::named("Mars/Olympus").is_err());
    }
}
