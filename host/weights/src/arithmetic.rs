//! The steps that compute: rows in, rows out, in `f32`, each row by itself and from left to
//! right, so that neither piece sizes nor threads change a bit. No row and no matrix is empty.

use crate::origin::Step;
use rayon::prelude::*;

/// The smallest length that a row is divided by, so that a row of zeros stays one.
const SHORTEST: f64 = 1e-12;

/// An arithmetic step with what it needs at hand.
pub(crate) enum Kernel {
    Add(f32),
    Scale(f32),
    UnitRows,
    /// A matrix `[in, out]`, row-major.
    Times {
        matrix: Vec<f32>,
        out: usize,
    },
}

impl Kernel {
    /// The kernel of a step whose matrix, if it has one, is `[in, out]` (or `[out, in]` where
    /// the step transposes it); none for a step that only moves.
    pub(crate) fn new(step: &Step, matrix: Vec<f32>, width: usize) -> Option<Kernel> {
        match step {
            Step::Add(x) => Some(Kernel::Add(*x)),
            Step::Scale(x) => Some(Kernel::Scale(*x)),
            Step::UnitRows => Some(Kernel::UnitRows),
            Step::Times(_) | Step::TimesTransposed(_) => {
                let out = matrix.len() / width;
                let matrix = match step {
                    Step::Times(_) => matrix,
                    _ => transposed(&matrix, width),
                };
                Some(Kernel::Times { matrix, out })
            }
            Step::Reshape(_) | Step::Permute(_) | Step::Slice { .. } => None,
        }
    }

    /// Elements of a row that comes of one with `width` elements.
    pub(crate) fn width_after(&self, width: usize) -> usize {
        match self {
            Kernel::Times { out, .. } => *out,
            _ => width,
        }
    }

    /// Computes all `rows`, of `width` elements each.
    pub(crate) fn run(&self, mut rows: Vec<f32>, width: usize) -> Vec<f32> {
        match self {
            Kernel::Add(x) => rows.iter_mut().for_each(|v| *v += x),
            Kernel::Scale(x) => rows.iter_mut().for_each(|v| *v *= x),
            Kernel::UnitRows => rows.par_chunks_mut(width).for_each(unit),
            Kernel::Times { matrix, out } => return product(&rows, width, matrix, *out),
        }
        rows
    }
}

/// The length is summed in doubles, so no row overflows on the way.
fn unit(row: &mut [f32]) {
    let square: f64 = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let length = square.sqrt().max(SHORTEST) as f32;
    row.iter_mut().for_each(|v| *v /= length);
}

fn product(rows: &[f32], width: usize, matrix: &[f32], out: usize) -> Vec<f32> {
    let mut result = vec![0.0; rows.len() / width * out];
    let pairs = result.par_chunks_mut(out).zip(rows.par_chunks(width));
    pairs.for_each(|(result, row)| {
        for (&x, line) in row.iter().zip(matrix.chunks_exact(out)) {
            for (sum, &m) in result.iter_mut().zip(line) {
                *sum += x * m;
            }
        }
    });
    result
}

/// `[rows, width]` as `[width, rows]`.
fn transposed(matrix: &[f32], width: usize) -> Vec<f32> {
    let rows = matrix.len() / width;
    let mut result = vec![0.0; matrix.len()];
    for (i, row) in matrix.chunks_exact(width).enumerate() {
        for (j, &v) in row.iter().enumerate() {
            result[j * rows + i] = v;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_zeros_stays_one_and_others_get_length_one() {
        let rows = Kernel::UnitRows.run(vec![0.0, 0.0, 3.0, -4.0, 3e38, 0.0], 2);
        assert_eq!(rows, [0.0, 0.0, 0.6, -0.8, 1.0, 0.0]);
    }

    #[test]
    fn products_agree_with_the_definition_both_ways() {
        let (n, k, m) = (5, 3, 4);
        let a: Vec<f32> = (0..n * k).map(|i| i as f32 - 4.0).collect();
        let b: Vec<f32> = (0..k * m).map(|i| 0.5 * i as f32).collect();
        let mut expected = vec![0.0; n * m];
        for i in 0..n {
            for j in 0..m {
                expected[i * m + j] = (0..k).map(|l| a[i * k + l] * b[l * m + j]).sum();
            }
        }
        let kernel = Kernel::new(&Step::Times(String::new()), b.clone(), k).unwrap();
        assert_eq!(kernel.width_after(k), m);
        assert_eq!(kernel.run(a.clone(), k), expected);
        let turned = transposed(&b, m);
        let kernel = Kernel::new(&Step::TimesTransposed(String::new()), turned, k).unwrap();
        assert_eq!(kernel.run(a, k), expected);
    }

    #[test]
    fn constants_are_added_and_multiplied() {
        assert_eq!(Kernel::Add(1.0).run(vec![0.5, -1.0], 1), [1.5, 0.0]);
        assert_eq!(Kernel::Scale(2.0).run(vec![0.5, -1.0], 1), [1.0, -2.0]);
    }
}
