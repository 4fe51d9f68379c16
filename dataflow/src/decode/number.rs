//! Numbers from their JSON text. Integers and decimals never pass through a float.

use super::reason;

type Parsed<T> = Result<T, &'static str>;

/// Any JSON number, correctly rounded; too large is refused, negative zero is zero.
pub(crate) fn float(text: &str) -> Parsed<f64> {
    let value: f64 = text.parse().map_err(|_| reason::WRONG_TYPE)?;
    if value.is_infinite() {
        return Err(reason::OUT_OF_RANGE);
    }
    Ok(if value == 0.0 { 0.0 } else { value })
}

/// A number without fraction and exponent: `5.0` is no integer, since whoever writes it means something else.
pub(crate) fn integer(text: &str, integral: bool) -> Parsed<i64> {
    if !integral {
        return Err(reason::WRONG_TYPE);
    }
    text.parse().map_err(|_| reason::OUT_OF_RANGE)
}

/// The unscaled value at `scale`. Nothing is rounded: decimals beyond the scale must be zeros.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Parsed<i128> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>()),
        None => (text, Ok(0)),
    };
    let negative = mantissa.starts_with('-');
    let (whole, fraction) =
        mantissa.trim_start_matches('-').split_once('.').unwrap_or((mantissa.trim_start_matches('-'), ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    let Some(last) = digits().rposition_nonzero() else { return Ok(0) };
    // An exponent beyond 64 bits with a digit that is not zero is beyond every decimal, in its direction.
    let Ok(exponent) = exponent else {
        return Err(if text.contains("e-") || text.contains("E-") {
            reason::TOO_PRECISE
        } else {
            reason::OUT_OF_RANGE
        });
    };
    let length = i64::try_from(last + 1).unwrap_or(i64::MAX);
    let after_point = length - i64::try_from(whole.len()).unwrap_or(i64::MAX);
    let shift = exponent.saturating_sub(after_point).saturating_add(i64::from(scale));
    if shift < 0 {
        return Err(reason::TOO_PRECISE);
    }
    let mut value: i128 = 0;
    for digit in digits().take(last + 1) {
        value = times_ten(value)?.checked_add(i128::from(digit - b'0')).ok_or(reason::OUT_OF_RANGE)?;
    }
    for _ in 0..shift {
        value = times_ten(value)?;
    }
    if value >= 10i128.pow(u32::from(precision)) {
        return Err(reason::OUT_OF_RANGE);
    }
    Ok(if negative { -value } else { value })
}

fn times_ten(value: i128) -> Parsed<i128> {
    value.checked_mul(10).ok_or(reason::OUT_OF_RANGE)
}

trait LastNonZero {
    /// Index of the last digit that is not zero.
    fn rposition_nonzero(self) -> Option<usize>;
}

impl<I: Iterator<Item = u8>> LastNonZero for I {
    fn rposition_nonzero(self) -> Option<usize> {
        self.enumerate().filter(|(_, digit)| *digit != b'0').map(|(at, _)| at).last()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn floats_are_rounded_once_and_bounded() {
        assert_eq!(float("9007199254740993").unwrap(), 9_007_199_254_740_992.0);
        assert_eq!(float("0.1").unwrap(), 0.1);
        assert_eq!(float("5e-324").unwrap(), f64::from_bits(1));
        assert_eq!(float("1e-400").unwrap(), 0.0);
        assert_eq!(float("-0").unwrap().to_bits(), 0);
        assert_eq!(float("1.7976931348623157e308").unwrap(), f64::MAX);
        assert_eq!(float("1e400"), Err(reason::OUT_OF_RANGE));
        assert_eq!(float("-1e400"), Err(reason::OUT_OF_RANGE));
    }

    #[test]
    fn integers_are_integers() {
        assert_eq!(integer("9007199254740993", true), Ok(9_007_199_254_740_993));
        assert_eq!(integer("-9223372036854775808", true), Ok(i64::MIN));
        assert_eq!(integer("9223372036854775808", true), Err(reason::OUT_OF_RANGE));
        assert_eq!(integer("-0", true), Ok(0));
        assert_eq!(integer("5.0", false), Err(reason::WRONG_TYPE));
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let money = |text| decimal(text, 10, 2);
        assert_eq!(money("12.34"), Ok(1234));
        assert_eq!(money("-12.3"), Ok(-1230));
        assert_eq!(money("12.3400"), Ok(1234));
        assert_eq!(money("1e2"), Ok(10_000));
        assert_eq!(money("1200e-3"), Ok(120));
        assert_eq!(money("-0.00"), Ok(0));
        assert_eq!(money("0e99999999999999999999"), Ok(0));
        assert_eq!(money("12.345"), Err(reason::TOO_PRECISE));
        assert_eq!(money("1e-3"), Err(reason::TOO_PRECISE));
        assert_eq!(money("1e-99999999999999999999"), Err(reason::TOO_PRECISE));
        assert_eq!(money("99999999.99"), Ok(9_999_999_999));
        assert_eq!(money("100000000"), Err(reason::OUT_OF_RANGE));
        assert_eq!(money("1e9223372036854775807"), Err(reason::OUT_OF_RANGE));
        assert_eq!(money("1e99999999999999999999"), Err(reason::OUT_OF_RANGE));
        assert_eq!(money(&format!("1{}", "0".repeat(500))), Err(reason::OUT_OF_RANGE));
        assert_eq!(decimal(&"9".repeat(38), 38, 0), Ok(10i128.pow(38) - 1));
        assert_eq!(decimal(&"9".repeat(39), 38, 0), Err(reason::OUT_OF_RANGE));
        assert_eq!(decimal("1200", 3, -2), Ok(12));
        assert_eq!(decimal("1250", 3, -2), Err(reason::TOO_PRECISE));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn decimals_read_back(unscaled in -9_999_999_999i64..10_000_000_000) {
            let sign = if unscaled < 0 { "-" } else { "" };
            let text = format!("{sign}{}.{:02}", unscaled.abs() / 100, unscaled.abs() % 100);
            prop_assert_eq!(decimal(&text, 10, 2), Ok(i128::from(unscaled)));
        }

        #[test]
        fn floats_read_back(value in any::<f64>().prop_filter("finite", |v| v.is_finite() && *v != 0.0)) {
            prop_assert_eq!(float(&serde_json::to_string(&value).unwrap()).unwrap().to_bits(), value.to_bits());
        }
    }
}
