//! Values as databases write them, read exactly: nothing is rounded, and what does not fit is told.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, FixedSizeBinaryBuilder, Float64Builder, Int32Builder,
    Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::DataType;
use jiff::civil::{Date, DateTime};
use uuid::Uuid;

use super::reading::Written;
use crate::database::{Failure, Zone};

/// The values of one column.
pub(super) enum Values {
    Text(StringBuilder, Written),
    Bool(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float64(Float64Builder, Written),
    Decimal {
        values: Decimal128Builder,
        precision: u8,
        scale: i8,
    },
    /// With the zone of times that name none, where they have to be in one.
    Timestamp(TimestampMicrosecondBuilder, Option<Zone>),
    Date(Date32Builder),
    Uuid(FixedSizeBinaryBuilder),
}

impl Values {
    pub(super) fn of(data_type: &DataType, written: Written, zone: &Zone) -> Result<Self, Failure> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a checked job has no columns of other types")]
        Ok(match data_type {
            DataType::Utf8 => Self::Text(StringBuilder::new(), written),
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Int32 => Self::Int32(Int32Builder::new()),
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::Float64 => Self::Float64(Float64Builder::new(), written),
            DataType::Decimal128(precision, scale) => {
                let values = Decimal128Builder::new().with_precision_and_scale(*precision, *scale);
                let values = values.map_err(|error| Failure::fatal(error.to_string()))?;
                Self::Decimal { values, precision: *precision, scale: *scale }
            }
            DataType::Timestamp(..) => {
                let values = TimestampMicrosecondBuilder::new().with_timezone("UTC");
                Self::Timestamp(values, (written == Written::Local).then(|| zone.clone()))
            }
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::FixedSizeBinary(16) => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
            other => return Err(Failure::fatal(format!("no column of a job has the type {other}"))),
        })
    }

    /// False: the text is not a value of this type. Null is there instead.
    pub(super) fn push(&mut self, text: Option<&str>) -> bool {
        /// Null stays null.
        fn read<T>(text: Option<&str>, read: impl Fn(&str) -> Option<T>) -> (Option<T>, bool) {
            let value = text.and_then(read);
            let fits = text.is_none() || value.is_some();
            (value, fits)
        }
        macro_rules! push {
            ($values:expr, $read:expr) => {{
                let (value, fits) = read(text, $read);
                $values.append_option(value);
                fits
            }};
        }
        match self {
            Self::Text(values, Written::Padded) => {
                values.append_option(text.map(|text| text.trim_end_matches(' ')));
                true
            }
            Self::Text(values, Written::Plain | Written::Single | Written::Local) => {
                values.append_option(text);
                true
            }
            Self::Bool(values) => push!(values, boolean),
            Self::Int32(values) => push!(values, |text| text.parse().ok()),
            Self::Int64(values) => push!(values, |text| text.parse().ok()),
            Self::Float64(values, Written::Single) => push!(values, |text| text.parse::<f32>().ok().map(f64::from)),
            Self::Float64(values, Written::Plain | Written::Padded | Written::Local) => {
                push!(values, |text| text.parse().ok())
            }
            Self::Decimal { values, precision, scale } => push!(values, |text| decimal(text, *precision, *scale)),
            Self::Timestamp(values, zone) => push!(values, |text| timestamp(text, zone.as_ref())),
            Self::Date(values) => push!(values, date),
            Self::Uuid(values) => {
                let (value, fits) = read(text, uuid);
                // A UUID has the 16 bytes that the column is made for.
                match value {
                    Some(uuid) => fits & values.append_value(uuid).is_ok(),
                    None => {
                        values.append_null();
                        fits
                    }
                }
            }
        }
    }

    pub(super) fn finish(self) -> ArrayRef {
        match self {
            Self::Text(mut values, _) => Arc::new(values.finish()),
            Self::Bool(mut values) => Arc::new(values.finish()),
            Self::Int32(mut values) => Arc::new(values.finish()),
            Self::Int64(mut values) => Arc::new(values.finish()),
            Self::Float64(mut values, _) => Arc::new(values.finish()),
            Self::Decimal { mut values, .. } => Arc::new(values.finish()),
            Self::Timestamp(mut values, _) => Arc::new(values.finish()),
            Self::Date(mut values) => Arc::new(values.finish()),
            Self::Uuid(mut values) => Arc::new(values.finish()),
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    }
}

/// The unscaled value of digits with at most one point; digits behind the scale must be zeros.
fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = usize::try_from(scale).ok()?;
    let kept = fraction.get(..scale.min(fraction.len()))?;
    let beyond = fraction.get(kept.len()..)?;
    if whole.is_empty() || beyond.bytes().any(|byte| byte != b'0') {
        return None;
    }
    let zeros = std::iter::repeat_n(b'0', scale - kept.len());
    let value = whole.bytes().chain(kept.bytes()).chain(zeros).try_fold(0i128, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| i128::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })?;
    let fits = value < 10i128.checked_pow(u32::from(precision))?;
    fits.then_some(if negative { -value } else { value })
}

/// Microseconds since 1970 UTC of a time of the years 1 to 9999.
fn timestamp(text: &str, zone: Option<&Zone>) -> Option<i64> {
    let text = if zone.is_some() { text } else { text.strip_suffix("+00")? };
    let local: DateTime = in_years(text)?.parse().ok()?;
    match zone {
        Some(zone) => zone.instant(local),
        None => Zone::utc().instant(local),
    }
}

/// Days since 1970.
fn date(text: &str) -> Option<i32> {
    const EPOCH: Date = Date::constant(1970, 1, 1);
    let date: Date = in_years(text)?.parse().ok()?;
    date.since(EPOCH).ok().map(|span| span.get_days())
}

/// Refuses what is written with more or less than four digits of a year, `infinity` and the year 0.
fn in_years(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_digit() || b"-: .".contains(&byte);
    let year = text.get(..5)?.strip_suffix('-')?;
    (year != "0000" && year.bytes().all(|byte| byte.is_ascii_digit()) && text.bytes().all(plain)).then_some(text)
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(Uuid::into_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_none() {
        for (text, expected) in [
            ("12.50", Some(1250)),
            ("-12.5", Some(-1250)),
            ("12.500", Some(1250)),
            ("12.505", None),
            ("0", Some(0)),
            ("999.99", Some(99_999)),
            ("1000", None),
            ("00999", Some(99_900)),
            ("NaN", None),
            ("", None),
            (".5", None),
            ("1e2", None),
            ("+1", None),
            ("1.2.3", None),
        ] {
            assert_eq!(decimal(text, 5, 2), expected, "{text}");
        }
        let greatest = "99999999999999999999999999999999999999";
        assert_eq!(decimal(greatest, 38, 0), Some(10i128.pow(38) - 1));
        assert_eq!(decimal(&format!("{greatest}9"), 38, 0), None);
        assert_eq!(decimal(&format!("-{greatest}"), 38, 38), None);
    }

    #[test]
    fn times_are_instants_or_none() {
        let berlin = Zone::named("Europe/Berlin").unwrap();
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        assert_eq!(timestamp("2024-02-29 11:00:15.5+00", None), Some(at("2024-02-29T11:00:15.5Z")));
        assert_eq!(timestamp("2024-07-01 12:00:00.000001", Some(&berlin)), Some(at("2024-07-01T10:00:00.000001Z")));
        // Skipped, and shown twice: the earlier.
        assert_eq!(timestamp("2024-03-31 02:30:00", Some(&berlin)), None);
        assert_eq!(timestamp("2024-10-27 02:30:00", Some(&berlin)), Some(at("2024-10-27T00:30:00Z")));
        let (last, second) = (timestamp("9999-12-31 23:59:59.999999+00", None), 1_000_000);
        assert_eq!(last, Some(253_402_300_800 * second - 1));
        for text in ["2024-02-29 11:00:15", "infinity", "-infinity", "12024-01-01 00:00:00+00", "", "é"] {
            assert_eq!(timestamp(text, None), None, "{text}");
        }
        for text in ["0044-03-15 00:00:00 BC", "0000-00-00 00:00:00", "0000-01-01 00:00:00", "2024-01-01 10:00:00+02"] {
            assert_eq!(timestamp(text, Some(&berlin)), None, "{text}");
        }
        assert_eq!(
            (date("1970-01-02"), date("0001-01-01"), date("9999-12-31")),
            (Some(1), Some(-719_162), Some(2_932_896))
        );
        assert_eq!(
            (date("0000-00-00"), date("infinity"), date("0044-03-15 BC"), date("2023-02-29")),
            (None, None, None, None)
        );
    }
}
