//! Products of matrices, `C ± Aᵀ·B`, which is the shape that all sums here have: Gram matrices,
//! the inside of a Cholesky factor, the errors that rounding hands on.
//!
//! An element is one sum from the first term to the last, and a term is multiplied and then
//! added (not fused), so neither threads nor instruction sets change a bit. Speed comes of
//! tiles whose sums stay in registers, and of compiling them for each instruction set.

use rayon::prelude::*;
use std::ops::{AddAssign, Mul, SubAssign};

/// Columns of a panel: what a tile is wide.
pub(crate) const LANES: usize = 16;
/// Rows of a tile.
const ROWS: usize = 8;
/// Terms of a sum in `f32` before it goes into one in `f64`.
const DEPTH: usize = 256;

/// A floating-point number.
pub(crate) trait Real:
    Copy + Default + Send + Sync + SubAssign + Mul<Output = Self> + AddAssign
{
}

impl Real for f32 {}
impl Real for f64 {}

/// Runs a loop as compiled for the best instruction set that this machine has.
#[inline(always)]
pub(crate) fn fast<R>(work: impl FnOnce() -> R) -> R {
    struct Work<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Work<F> {
        type Output = R;

        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Work(work))
}

/// Columns of a matrix, `[depth, LANES]`.
pub(crate) type Panel<T> = Vec<[T; LANES]>;

/// Sums of a tile, `Σ_d a[d, first + i] · b[d, j]`.
#[inline(always)]
pub(crate) fn tile<T: Real>(
    a: &[[T; LANES]],
    first: usize,
    b: &[[T; LANES]],
) -> [[T; LANES]; ROWS] {
    let mut sums = [[T::default(); LANES]; ROWS];
    for (a, b) in a.iter().zip(b) {
        for i in 0..ROWS {
            let factor = a[first + i];
            for j in 0..LANES {
                sums[i][j] += factor * b[j];
            }
        }
    }
    sums
}

/// The rows `[depth, width]` as panels, the last one filled up with zeros. Rows are `stride`
/// apart.
pub(crate) fn panels<T: Real>(rows: &[T], stride: usize, width: usize) -> Vec<Panel<T>> {
    let panel = |first: usize| {
        let columns = LANES.min(width - first);
        let mut panel = vec![[T::default(); LANES]; rows.len().div_ceil(stride)];
        for (to, row) in panel.iter_mut().zip(rows.chunks(stride)) {
            to[..columns].copy_from_slice(&row[first..first + columns]);
        }
        panel
    };
    (0..width.div_ceil(LANES)).into_par_iter().map(|p| panel(p * LANES)).collect()
}

/// Adds `XᵀX` of rows `x` (`[tokens, width]`) to the upper half of `sums` (`[width, width]`).
pub(crate) fn add_gram(sums: &mut [f64], x: &[f32], width: usize) {
    for piece in x.chunks(DEPTH * width) {
        let panels = panels(piece, width, width);
        sums.par_chunks_mut(LANES * width).enumerate().for_each(|(i, rows)| {
            fast(
                #[inline(always)]
                || {
                    for (j, b) in panels.iter().enumerate().skip(i) {
                        add_block(rows, width, &panels[i], b, j * LANES, |sum, term| {
                            *sum += f64::from(term)
                        });
                    }
                },
            )
        });
    }
}

/// Puts the product of two panels into the `rows` (`[≤ LANES, width]`) from column `first` on.
#[inline(always)]
pub(crate) fn add_block<S, T: Real>(
    rows: &mut [S],
    width: usize,
    a: &[[T; LANES]],
    b: &[[T; LANES]],
    first: usize,
    put: impl Fn(&mut S, T),
) {
    let last = (first + LANES).min(width);
    for (i, rows) in rows.chunks_mut(ROWS * width).enumerate() {
        let sums = tile(a, i * ROWS, b);
        for (row, sums) in rows.chunks_exact_mut(width).zip(&sums) {
            for (sum, &term) in row[first..last].iter_mut().zip(sums) {
                put(sum, term);
            }
        }
    }
}

/// Takes `aᵀ·b` off `rows` (`[≤ LANES, LANES]`).
#[inline(always)]
pub(crate) fn subtract<T: Real>(rows: &mut [[T; LANES]], a: &[[T; LANES]], b: &[[T; LANES]]) {
    for (i, rows) in rows.chunks_mut(ROWS).enumerate() {
        let sums = tile(a, i * ROWS, b);
        for (row, sums) in rows.iter_mut().zip(&sums) {
            for j in 0..LANES {
                row[j] -= sums[j];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Noise;

    #[test]
    fn a_gram_matrix_is_its_sums() {
        let (tokens, width) = (300, 37);
        let x = Noise::new(1).normals(tokens * width);
        let mut sums = vec![1.0; width * width];
        add_gram(&mut sums, &x, width);
        for i in 0..width {
            for j in i..width {
                let product = |t: usize| f64::from(x[t * width + i]) * f64::from(x[t * width + j]);
                let want = 1.0 + (0..tokens).map(product).sum::<f64>();
                assert!((sums[i * width + j] - want).abs() < 1e-3, "{i} {j}");
            }
        }
    }
}
