//! PostgreSQL's binary form of `numeric`: base-10000 digits around the decimal point (`numeric_send` in its sources).

use bytes::{BufMut, BytesMut};

const NEGATIVE: u16 = 0x4000;
const POSITIVE: u16 = 0;
/// Digits of base 10000 in the longest `Decimal128`, with a partial one on either side of the point.
const LONGEST: usize = 12;

/// Appends the length and the value of `unscaled / 10^scale`; `scale` is 0 to 38.
pub(crate) fn put(unscaled: i128, scale: u8, out: &mut BytesMut) {
    let mut digits = [0u16; LONGEST];
    let mut rest = unscaled.unsigned_abs();
    let mut count = 0;
    // The last digit after the point may be partial: 1.5 is (1)(5000).
    let partial = u32::from(scale % 4);
    if partial > 0 {
        let unit = 10u128.pow(partial);
        digits[0] = ((rest % unit) as u16) * 10u16.pow(4 - partial);
        rest /= unit;
        count = 1;
    }
    while rest > u128::from(u64::MAX) {
        digits[count] = (rest % 10_000) as u16;
        rest /= 10_000;
        count += 1;
    }
    let mut rest = rest as u64;
    while rest > 0 {
        digits[count] = (rest % 10_000) as u16;
        rest /= 10_000;
        count += 1;
    }
    while count > 0 && digits[count - 1] == 0 {
        count -= 1;
    }
    let first = digits[..count].iter().position(|digit| *digit != 0).unwrap_or(count);
    let after_point = i16::from(scale.div_ceil(4));
    let weight = if count == 0 { 0 } else { count as i16 - after_point - 1 };

    let length = count - first;
    out.put_i32(8 + 2 * length as i32);
    out.put_i16(length as i16);
    out.put_i16(weight);
    out.put_u16(if unscaled < 0 { NEGATIVE } else { POSITIVE });
    out.put_u16(u16::from(scale));
    for digit in digits[first..count].iter().rev() {
        out.put_u16(*digit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ndigits, weight, sign, dscale, digits
    fn parts(unscaled: i128, scale: u8) -> (i16, u16, u16, Vec<u16>) {
        let mut out = BytesMut::new();
        put(unscaled, scale, &mut out);
        let word = |i: usize| u16::from_be_bytes([out[4 + 2 * i], out[5 + 2 * i]]);
        let count = usize::from(word(0));
        assert_eq!(out.len(), 12 + 2 * count);
        assert_eq!(i32::from_be_bytes([out[0], out[1], out[2], out[3]]), 8 + 2 * count as i32);
        (word(1) as i16, word(2), word(3), (0..count).map(|i| word(4 + i)).collect())
    }

    #[test]
    fn digits_stand_around_the_point() {
        assert_eq!(parts(0, 2), (0, 0, 2, vec![]));
        assert_eq!(parts(15, 1), (0, 0, 1, vec![1, 5000]));
        assert_eq!(parts(-1_234_567, 2), (1, NEGATIVE, 2, vec![1, 2345, 6700]));
        assert_eq!(parts(1, 4), (-1, 0, 4, vec![1]));
        assert_eq!(parts(1, 6), (-2, 0, 6, vec![100]));
        assert_eq!(parts(100_000_000, 0), (2, 0, 0, vec![1]));
        assert_eq!(parts(10i128.pow(38) - 1, 38).3, [vec![9999; 9], vec![9900]].concat());
        assert_eq!(parts(-(10i128.pow(38) - 1), 1).3.len(), 11);
    }
}
