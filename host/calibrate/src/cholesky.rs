//! The Cholesky factor of a Hessian.

use crate::product::{self, LANES};
use rayon::prelude::*;

/// Rows of a block, which is factored at once.
const BLOCK: usize = 64;

/// Turns the upper half of a positive definite `a` (`[n, n]`) into the upper triangular `U` with
/// `UᵀU = a`. What lies below the diagonal is left as it was.
///
/// None where `a` is not positive definite, or not finite.
pub(crate) fn factor(a: &mut [f64], n: usize) -> Option<()> {
    for first in (0..n).step_by(BLOCK) {
        let rows = BLOCK.min(n - first);
        let last = first + rows;
        let (block, below) = a[first * n..].split_at_mut(rows * n);
        diagonal(block, n, first, rows)?;
        if last == n {
            return Some(());
        }
        // The rows right of the block, in panels: solved, written back, and taken off what follows.
        let corner: Vec<f64> =
            block.chunks_exact(n).flat_map(|row| &row[first..last]).copied().collect();
        let mut panels = product::panels(&block[last..], n, n - last);
        panels.par_iter_mut().for_each(|panel| {
            product::fast(
                #[inline(always)]
                || solve(&corner, rows, panel),
            )
        });
        for (p, panel) in panels.iter().enumerate() {
            let columns = last + p * LANES..(last + (p + 1) * LANES).min(n);
            for (row, from) in block.chunks_exact_mut(n).zip(panel) {
                row[columns.clone()].copy_from_slice(&from[..columns.len()]);
            }
        }
        below.par_chunks_mut(LANES * n).enumerate().for_each(|(i, rows)| {
            product::fast(
                #[inline(always)]
                || {
                    for (j, b) in panels.iter().enumerate().skip(i) {
                        let column = last + j * LANES;
                        product::add_block(rows, n, &panels[i], b, column, |sum, term| {
                            *sum -= term
                        });
                    }
                },
            )
        });
    }
    Some(())
}

/// Factors the square on the diagonal of `block` (`[rows, n]`), whose columns begin at `first`.
fn diagonal(block: &mut [f64], n: usize, first: usize, rows: usize) -> Option<()> {
    for i in 0..rows {
        let (above, row) = block.split_at_mut(i * n);
        let row = &mut row[first..first + rows];
        for above in above.chunks_exact(n) {
            let above = &above[first..first + rows];
            let factor = above[i];
            for (x, y) in row[i..].iter_mut().zip(&above[i..]) {
                *x -= factor * y;
            }
        }
        let pivot = row[i].sqrt();
        // Also false for NaN.
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        row[i..].iter_mut().for_each(|x| *x /= pivot);
    }
    Some(())
}

/// Solves `cornerᵀ · x = panel` in place; `corner` is `[rows, rows]` and upper triangular.
#[inline(always)]
fn solve(corner: &[f64], rows: usize, panel: &mut [[f64; LANES]]) {
    for i in 0..rows {
        let (above, row) = panel.split_at_mut(i);
        let mut sums = [0.0; LANES];
        for (d, above) in above.iter().enumerate() {
            let factor = corner[d * rows + i];
            for j in 0..LANES {
                sums[j] += factor * above[j];
            }
        }
        let pivot = corner[i * rows + i];
        for j in 0..LANES {
            row[0][j] = (row[0][j] - sums[j]) / pivot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Noise;

    #[test]
    fn a_factor_by_hand() {
        let mut a = [4.0, 2.0, -99.0, 10.0];
        factor(&mut a, 2).unwrap();
        assert_eq!(a, [2.0, 1.0, -99.0, 3.0]);
    }

    #[test]
    fn a_factor_over_several_blocks_gives_the_matrix_again() {
        let n = 2 * BLOCK + 13;
        let x = Noise::new(2).normals(3 * n * n);
        let mut a = vec![0.0; n * n];
        product::add_gram(&mut a, &x, n);
        let whole = a.clone();
        factor(&mut a, n).unwrap();
        for i in 0..n {
            for j in i..n {
                let sum: f64 = (0..=i).map(|d| a[d * n + i] * a[d * n + j]).sum();
                assert!((sum - whole[i * n + j]).abs() < 1e-8 * whole[i * n + i], "{i} {j}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_none() {
        assert!(factor(&mut [1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(factor(&mut [f64::NAN], 1).is_none());
    }
}
