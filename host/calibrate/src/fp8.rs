//! Eight-bit floats of type E4M3 (without infinities), and weights in them.

use crate::Matrix;
use rayon::prelude::*;

pub use engraft_kernels_cpu::fp8::{MAX as MOST, decode, encode};

/// What rows of weights are cut to before they get their scales.
const CUT: f32 = 1200.0;

/// A weight in E4M3.
///
/// ```text
/// weight[o, i] ≈ decode(codes[o, i]) · scale[o]
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Floats {
    /// The bytes, `[out, in]`.
    pub codes: Vec<u8>,
    /// One per output.
    pub scales: Vec<f32>,
}

/// A weight with a scale per output: the largest magnitude of the row, of at most 1200, over 448;
/// no less than a 512th of 1 / 448.
pub fn per_channel(matrix: Matrix) -> Floats {
    let row = |row: &[f32]| {
        let most = row.iter().fold(0.0, |most: f32, w| most.max(w.abs().min(CUT)));
        let scale = (most / MOST).max(1.0 / (MOST * 512.0));
        (scale, row.iter().map(|w| encode(w.clamp(-CUT, CUT) / scale)).collect())
    };
    let rows: Vec<(f32, Vec<u8>)> = matrix.data().par_chunks(matrix.columns()).map(row).collect();
    let scales = rows.iter().map(|(scale, _)| *scale).collect();
    Floats { codes: rows.into_iter().flat_map(|(_, codes)| codes).collect(), scales }
}

/// The nearest number of E4M3, of two the even one, as an `f32`; the largest one for what is
/// larger. Of numbers alone.
#[inline(always)]
pub(crate) fn nearest(x: f32) -> f32 {
    let size = x.abs();
    let size = if size < MOST { size } else { MOST };
    let bits = size.to_bits();
    let normal = f32::from_bits(bits.wrapping_add(0x7_ffff + (bits >> 20 & 1)) & !0xf_ffff);
    // Below 2^-6 steps are 2^-9.
    let small = (size + 16_384.0) - 16_384.0;
    let size = if size < 0.015_625 { small } else { normal };
    if x < 0.0 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        for (x, code) in [(0.0, 0), (1.0, 0x38), (-1.5, 0xbc), (448.0, 0x7e), (0.001_953_125, 1)] {
            assert_eq!((encode(x), decode(code)), (code, x));
        }
        assert_eq!(encode(1e9), 0x7e);
        assert_eq!(encode(-470.0), 0xfe);
        assert!(decode(encode(f32::NAN)).is_nan());
    }

    #[test]
    fn the_nearest_number_is_what_its_byte_stands_for() {
        for i in 0..200_000u32 {
            let x = (i as f32 - 100_000.0) / 200.0;
            for x in [x, x / 1000.0, x / 30_000.0] {
                assert_eq!(nearest(x), decode(encode(x)), "{x}");
            }
        }
    }

    #[test]
    fn every_number_comes_back_and_halfway_goes_to_the_even_one() {
        for code in 0..0x7eu8 {
            let (here, next) = (decode(code), decode(code + 1));
            assert_eq!((encode(here), encode(-here)), (code, code | 0x80));
            let even = if code.is_multiple_of(2) { code } else { code + 1 };
            let middle = (here + next) / 2.0;
            assert_eq!(encode(middle), even, "{code}");
            assert_eq!(encode(middle - middle * 1e-6), code);
            assert_eq!(encode(middle + middle * 1e-6), code + 1);
        }
    }

    #[test]
    fn scales_of_rows_by_hand() {
        let matrix = Matrix::new(3, 2, &[4.48, 2.24, 0.0, 0.0, 2400.0, -600.0]).unwrap();
        let floats = per_channel(matrix);
        assert_eq!(floats.scales, [4.48 / 448.0, 1.0 / (448.0 * 512.0), 1200.0 / 448.0]);
        assert_eq!(floats.codes, [0x7e, 0x76, 0, 0, 0x7e, 0xf6]);
    }
}
