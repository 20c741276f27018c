//! Floats of eight bits, as the Open Compute Project's *8-bit Floating Point Specification* has
//! them under E4M3: a sign, four bits of exponent with bias 7, three of fraction.
//!
//! The smallest is 2⁻⁹, the greatest 448. There are no infinities; `0x7f` and `0xff` are NaN.

/// The greatest.
pub const MAX: f32 = 448.0;

/// The smallest that has all bits of its fraction.
pub(crate) const SMALLEST_NORMAL: f32 = 1.0 / 64.0;

/// The nearest, of two the even one. What is beyond [`MAX`] becomes that, NaN becomes `0x7f`.
pub fn encode(value: f32) -> u8 {
    if value.is_nan() {
        return 0x7f;
    }
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    let size = value.abs().min(MAX);
    let power = f32::from_bits(size.to_bits() & 0x7F80_0000).max(SMALLEST_NORMAL);
    // Below 8 they are the fraction of a subnormal; from there on the 8 counts the exponent up,
    // and so does a 16 that came of rounding.
    let eighths = (size / power * 8.0).round_ties_even() as u8;
    let exponent = (power.to_bits() >> 23) - (SMALLEST_NORMAL.to_bits() >> 23);
    sign | (8 * exponent as u8 + eighths)
}

/// What a code means, exactly.
pub fn decode(code: u8) -> f32 {
    let size = match code & 0x7f {
        0x7f => f32::NAN,
        // As `f32` it would have bias 127.
        size => f32::from_bits(u32::from(size) << 20) * f32::from_bits((127 + 120) << 23),
    };
    if code < 0x80 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_means_what_the_format_says_and_comes_back() {
        for code in 0..=255u8 {
            let value = decode(code);
            let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7));
            if code & 0x7f == 0x7f {
                assert!(value.is_nan() && encode(value) == 0x7f);
                continue;
            }
            let size = match exponent {
                0 => fraction / 8.0 * 2f64.powi(-6),
                _ => (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7),
            };
            assert_eq!(f64::from(value.abs()), size);
            assert_eq!(value.is_sign_negative(), code >= 0x80);
            assert_eq!(encode(value), code);
        }
        assert_eq!([decode(0x7e), decode(1), decode(0x38)], [448.0, 1.0 / 512.0, 1.0]);
    }

    #[test]
    fn floats_between_two_codes_go_to_the_nearer_and_ties_to_the_even_one() {
        for code in 0..0x7e {
            let (low, high) = (decode(code), decode(code + 1));
            // Exact: neighbours differ by one in the fourth bit.
            let middle = (low + high) / 2.0;
            assert_eq!(encode(middle), code + code % 2);
            assert_eq!(encode(middle.next_down()), code);
            assert_eq!(encode(middle.next_up()), code + 1);
            assert_eq!(encode(-middle), 0x80 | (code + code % 2));
        }
        for (value, code) in [
            // Between 1 and 1.125, and between 1.125 and 1.25.
            (1.0625, 0x38),
            (1.1875, 0x3a),
            // 1.9375 is between 1.875 and 2.
            (1.9375, 0x40),
            // Half of the smallest, and one and a half of it.
            (1.0 / 1024.0, 0x00),
            (3.0 / 1024.0, 0x02),
            (449.0, 0x7e),
            (1e30, 0x7e),
            (f32::INFINITY, 0x7e),
            (f32::NEG_INFINITY, 0xfe),
            (-f32::NAN, 0x7f),
            (0.0, 0x00),
            (-0.0, 0x80),
            (-1e-40, 0x80),
        ] {
            assert_eq!(encode(value), code, "{value}");
        }
    }
}
