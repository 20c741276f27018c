//! Activations rounded to the grid of an eight-bit code: floats that lie where codes times a
//! scale do, so that what follows computes what hardware for eight bits would be given.

#![allow(unsafe_code, reason = "threads write disjoint rows of one arena")]

use crate::{
    Isa, Team, fp8,
    isa::Kernel,
    lanes::{LANES, Lanes, ROUNDER},
    rows::View,
};

/// A grid: whole numbers or floats of eight bits, times a scale. Where no scale is given, each
/// row has its own, by which its greatest is the greatest of the grid; a row all of whose
/// elements are zero stays that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grid {
    /// `scale · clamp(round(x / scale), -128, 127)`, ties to even.
    Int8 {
        /// For all rows; else `max |row| / 127`.
        scale: Option<f32>,
    },
    /// `scale · e4m3(clamp(x / scale, -448, 448))`, ties to even; see [`fp8`].
    Fp8 {
        /// For all rows; else `max |row| / 448`.
        scale: Option<f32>,
    },
}

impl Grid {
    /// The scale for all rows, if one is given.
    pub(crate) fn scale(self) -> Option<f32> {
        match self {
            Grid::Int8 { scale } | Grid::Fp8 { scale } => scale,
        }
    }
}

/// `output = round(input · scales)`; threads share the rows.
///
/// # Safety
/// Shapes as checked; the output is the input or apart from it.
pub(crate) unsafe fn round(
    isa: Isa,
    input: View,
    scales: Option<&[f32]>,
    grid: Option<Grid>,
    output: View,
    team: &Team<'_>,
) {
    for row in team.part(input.rows, 1) {
        // SAFETY: as promised by the caller; the row is this thread's.
        unsafe {
            let (from, to) = (input.row(row).cast_const(), output.row(row));
            isa.run(Round { from, scales, grid, to, n: input.width });
        }
    }
}

/// One row of `n` elements.
struct Round<'a> {
    from: *const f32,
    scales: Option<&'a [f32]>,
    grid: Option<Grid>,
    to: *mut f32,
    n: usize,
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Round { from, scales, grid, to, n } = self;
        // SAFETY: there are `n` elements of each.
        unsafe {
            let mut greatest = L::splat(0.0);
            for i in (0..n).step_by(LANES) {
                let part = LANES.min(n - i);
                let mut x = L::load_part(from.add(i), part);
                if let Some(scales) = scales {
                    x = x.mul(L::load_part(scales.as_ptr().add(i), part));
                }
                // Not a number is passed over.
                greatest = x.abs().max(greatest);
                x.store_part(to.add(i), part);
            }
            let Some(grid) = grid else { return };
            let most = match grid {
                Grid::Int8 { .. } => 127.0,
                Grid::Fp8 { .. } => fp8::MAX,
            };
            let scale = grid.scale().unwrap_or_else(|| greatest.greatest() / most);
            for i in (0..n).step_by(LANES) {
                let part = LANES.min(n - i);
                let x = L::load_part(to.add(i), part);
                let x = if scale == 0.0 {
                    x.mul(L::splat(0.0))
                } else {
                    let x = x.div(L::splat(scale));
                    let code = match grid {
                        Grid::Int8 { .. } => whole(x),
                        Grid::Fp8 { .. } => eight_bits(x),
                    };
                    code.mul(L::splat(scale))
                };
                x.store_part(to.add(i), part);
            }
        }
    }
}

/// The nearest whole number from -128 to 127; NaN stays.
#[inline(always)]
unsafe fn whole<L: Lanes>(x: L) -> L {
    // SAFETY: the machine has the instructions, says the caller.
    unsafe {
        let x = L::splat(127.0).min(L::splat(-128.0).max(x));
        x.add(L::splat(ROUNDER)).sub(L::splat(ROUNDER))
    }
}

/// The nearest float of eight bits; NaN stays.
#[inline(always)]
unsafe fn eight_bits<L: Lanes>(x: L) -> L {
    // SAFETY: the machine has the instructions, says the caller.
    unsafe {
        let x = L::splat(fp8::MAX).min(L::splat(-fp8::MAX).max(x));
        let power = x.power().max(L::splat(fp8::SMALLEST_NORMAL));
        // In its binade floats are an eighth of the power apart.
        let rounder = power.mul(L::splat(ROUNDER / 8.0));
        x.add(rounder).sub(rounder)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{bits, noise, run};
    use crate::{Grid, Isa, Rows, Step, fp8};

    /// One row rounded, the same on every instruction set.
    fn rounded(row: &[f32], scales: Option<&[f32]>, grid: Grid) -> Vec<f32> {
        let input = Rows::dense(0, 1, row.len());
        let step = Step::RoundInputs { input, scales, grid: Some(grid), output: input };
        let all: Vec<_> = Isa::available().map(|isa| run(isa, 1, row, &mut [], &[step])).collect();
        assert!(all.iter().all(|one| bits(one) == bits(&all[0])));
        all[0].clone()
    }

    const WHOLE: Grid = Grid::Int8 { scale: Some(0.5) };

    #[test]
    fn whole_numbers_are_the_nearest_and_end_at_127() {
        let row = [0.25, 0.75, 0.7, -0.25, -0.8, 63.5, 64.0, 1e30, -64.0, -64.3, f32::NEG_INFINITY];
        let expected = [0.0, 1.0, 0.5, 0.0, -1.0, 63.5, 63.5, 63.5, -64.0, -64.0, -64.0];
        assert_eq!(rounded(&row, None, WHOLE), expected);
        assert!(rounded(&[f32::NAN, 1.0], None, WHOLE)[0].is_nan());
    }

    #[test]
    fn a_row_s_own_scale_takes_its_greatest_to_the_greatest_code() {
        let grid = Grid::Int8 { scale: None };
        // 254 / 127 is 2: quotients 127, 0.5 and 1.5, which go to the even one, and -126.8.
        assert_eq!(rounded(&[254.0, 1.0, 3.0, -253.6], None, grid), [254.0, 0.0, 4.0, -254.0]);
        // Scaled first: 8, -127 and 3.2.
        let scales = Some([2.0, -1.0, 0.1].as_slice());
        assert_eq!(rounded(&[4.0, 127.0, 32.0], scales, grid), [8.0, -127.0, 3.0]);
        let grid = Grid::Fp8 { scale: None };
        // 896 / 448 is 2: quotients 448, 17 (between 16 and 18) and 19 (between 18 and 20).
        assert_eq!(rounded(&[-896.0, 34.0, 38.0], None, grid), [-896.0, 32.0, 40.0]);
    }

    #[test]
    fn a_row_of_zeros_and_one_too_small_for_a_scale_become_zeros() {
        for grid in [Grid::Int8 { scale: None }, Grid::Fp8 { scale: None }] {
            assert_eq!(rounded(&[0.0; 20], None, grid), [0.0; 20]);
            assert_eq!(rounded(&[0.0, 1e-45, 0.0], None, grid), [0.0; 3]);
        }
    }

    #[test]
    fn floats_of_eight_bits_are_those_that_encoding_gives() {
        let mut row: Vec<f32> = noise(3000, 5);
        for (i, x) in row.iter_mut().enumerate() {
            *x *= 2f32.powi(i as i32 % 24 - 12);
        }
        // All ties between neighbours, and what is beyond.
        row.extend((0..0x7e).map(|code| (fp8::decode(code) + fp8::decode(code + 1)) / 2.0));
        row.extend([448.0, 449.0, -1e30, f32::INFINITY]);
        let expected: Vec<f32> = row.iter().map(|&x| fp8::decode(fp8::encode(x)) * 4.0).collect();
        let times_four: Vec<f32> = row.iter().map(|&x| x * 4.0).collect();
        assert_eq!(rounded(&times_four, None, Grid::Fp8 { scale: Some(4.0) }), expected);
    }

    #[test]
    fn rows_are_rounded_alone_beside_nothing_on_any_threads() {
        let (rows, width) = (7, 37);
        let arena = noise(2 * rows * (width + 3), 9);
        let scales = noise(width, 10);
        let input = Rows { start: 1, rows, width, stride: width + 2 };
        let output = Rows { start: rows * (width + 3), ..input };
        for grid in [None, Some(Grid::Int8 { scale: None }), Some(Grid::Fp8 { scale: None })] {
            for scales in [None, Some(scales.as_slice())] {
                let mut expected = arena.clone();
                for row in 0..rows {
                    let from = &arena[1 + row * (width + 2)..][..width];
                    let factor = |i: usize| scales.map_or(1.0, |scales| scales[i]);
                    let scaled: Vec<f32> = (0..width).map(|i| from[i] * factor(i)).collect();
                    let most = scaled.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    for (i, &x) in scaled.iter().enumerate() {
                        let (a, b) = (most / 127.0, most / 448.0);
                        let x = match grid {
                            None => x,
                            Some(Grid::Int8 { .. }) => (x / a).round_ties_even() * a,
                            Some(Grid::Fp8 { .. }) => fp8::decode(fp8::encode(x / b)) * b,
                        };
                        expected[output.start + row * (width + 2) + i] = x;
                    }
                }
                for isa in Isa::available() {
                    for threads in [1, 3] {
                        let step = Step::RoundInputs { input, scales, grid, output };
                        // Zeros may differ in their sign.
                        assert_eq!(run(isa, threads, &arena, &mut [], &[step]), expected);
                    }
                }
            }
        }
    }
}
