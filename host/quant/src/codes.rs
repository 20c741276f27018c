//! Codes of four bits, two outputs to a byte: `[out, in]` codes are `[out / 2, in]` bytes, of
//! which the lower half is the even output's code, and both are in two's complement.
//!
//! ```text
//! byte[o, i] = (code[2·o, i] & 15) | (code[2·o + 1, i] & 15) << 4
//! ```

/// The smallest and the largest code.
pub const RANGE: (i8, i8) = (-8, 7);

/// The bytes of two rows of codes, an even output's and the next one's.
pub fn pack(even: &[i8], odd: &[i8]) -> Vec<u8> {
    let byte = |(even, odd): (&i8, &i8)| (even & 15) as u8 | ((odd & 15) as u8) << 4;
    even.iter().zip(odd).map(byte).collect()
}

/// The codes of a byte: the even output's, and the odd one's.
pub fn unpack(byte: u8) -> (i8, i8) {
    let byte = byte as i8;
    ((byte << 4) >> 4, byte >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        assert_eq!(pack(&[1, -1, 7], &[0, 2, -8]), [0x01, 0x2f, 0x87]);
        assert_eq!(unpack(0x2f), (-1, 2));
        assert_eq!(unpack(0x87), (7, -8));
    }

    #[test]
    fn every_pair_comes_back() {
        for even in RANGE.0..=RANGE.1 {
            for odd in RANGE.0..=RANGE.1 {
                assert_eq!(unpack(pack(&[even], &[odd])[0]), (even, odd));
            }
        }
    }
}
