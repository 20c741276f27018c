//! AWQ: loud inputs get finer weights.
//!
//! The weights of an input are multiplied by a factor before they are rounded, and the input is
//! divided by it when the model runs, so that errors of weights that matter more are smaller. The
//! factors come of how loud an input is on average (`x`) and of how large its weights are within
//! their groups (`w`): `x^α / w^(1−α)`, divided by the root of the product of the largest and the
//! least one. (Lin et al., "AWQ", 2023.) The `α` that is best is found by trying. Here each is
//! judged by what rounding with GPTQ then costs, so factors that only do what GPTQ does anyway win
//! nothing; and having no factors is one of the choices.

use crate::codes::{Grid, Precision};
use crate::gptq::{self, Factor, Rounded};
use crate::matrix::{absmax, spread};
use crate::{CalibrateError, Inputs, Matrix};

/// Factors are between one over this and this, before they are balanced.
const MOST: f64 = 1e4;
/// Weights of 0 are as good as this.
const LEAST: f64 = 1e-8;
/// Rows that are tried, if there are more.
const ROWS: usize = 256;

/// Steps from 0 to 1 in which `α` is tried; half a step on either side of the best follows.
const STEPS: usize = 10;

/// What was found.
pub struct Found {
    /// The `α` that was best; none where it is best not to scale inputs.
    pub alpha: Option<f64>,
    /// The codes, with scales of inputs if there is an `α`, and what they cost.
    pub rounded: Rounded,
}

/// Searches factors, and rounds with the best ones. One over each is stored, as exactly as
/// `precision` says.
///
/// # Errors
/// Those of [`gptq::round`]; [`CalibrateError::NoTokens`] where no input was seen.
pub fn round(
    matrix: Matrix,
    inputs: &Inputs,
    factor: &Factor,
    grid: &Grid,
    precision: Precision,
) -> Result<Found, CalibrateError> {
    if inputs.tokens() == 0 {
        return Err(CalibrateError::NoTokens);
    }
    let rows = spread(matrix, ROWS);
    let part = Matrix::new(rows.len() / matrix.columns(), matrix.columns(), &rows)?;
    let mut best = Best { loss: gptq::round(part, factor, grid, None)?.loss, found: None };
    let loud = inputs.mean_magnitudes();
    let large = relative_magnitudes(matrix, grid.group);
    let attempt = |best: &mut Best, alpha: f64| -> Result<(), CalibrateError> {
        let factors = factors(&loud, &large, alpha, precision);
        let loss = gptq::round(part, factor, grid, Some(&factors))?.loss;
        if loss < best.loss {
            *best = Best { loss, found: Some((alpha, factors)) };
        }
        Ok(())
    };
    for step in 0..=STEPS {
        attempt(&mut best, step as f64 / STEPS as f64)?;
    }
    let half = 0.5 / STEPS as f64;
    if let Some((middle, _)) = best.found {
        for alpha in [middle - half, middle + half].into_iter().filter(|a| (0.0..=1.0).contains(a))
        {
            attempt(&mut best, alpha)?;
        }
    }
    let factors = best.found.as_ref().map(|(_, factors)| factors.as_slice());
    let rounded = gptq::round(matrix, factor, grid, factors)?;
    Ok(Found { alpha: best.found.map(|(alpha, _)| alpha), rounded })
}

/// The best so far, and what it costs.
struct Best {
    loss: f64,
    found: Option<(f64, Vec<f32>)>,
}

/// The mean over rows of what an input's weight is of the largest of its group, `[in]`.
fn relative_magnitudes(matrix: Matrix, group: usize) -> Vec<f64> {
    let mut sums = vec![0.0; matrix.columns()];
    for row in matrix.data().chunks_exact(matrix.columns()) {
        for (weights, sums) in row.chunks(group).zip(sums.chunks_mut(group)) {
            let most = absmax(weights);
            if most > 0.0 {
                for (sum, w) in sums.iter_mut().zip(weights) {
                    *sum += f64::from(w.abs() / most);
                }
            }
        }
    }
    sums.iter().map(|sum| sum / matrix.rows() as f64).collect()
}

/// Factors of inputs, `[in]`, one over which is rounded as `precision` says.
fn factors(loud: &[f64], large: &[f64], alpha: f64, precision: Precision) -> Vec<f32> {
    let raw = |(x, w): (&f64, &f64)| {
        (x.powf(alpha) / w.max(LEAST).powf(1.0 - alpha)).clamp(1.0 / MOST, MOST)
    };
    let raw: Vec<f64> = loud.iter().zip(large).map(raw).collect();
    let (least, most) = raw.iter().fold((MOST, 1.0 / MOST), |(a, b), &x| (x.min(a), x.max(b)));
    let middle = (least * most).sqrt();
    raw.iter().map(|f| 1.0 / precision.round((middle / f) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gptq::DAMPING;
    use crate::testing::Noise;

    #[test]
    fn factors_by_hand() {
        let of = |alpha| factors(&[4.0, 1.0, 0.25], &[0.25, 1.0, 0.25], alpha, Precision::F32);
        // Raw factors of 4, 1 and 1/4.
        assert_eq!(of(1.0), [4.0, 1.0, 0.25]);
        // 4, 1 and 1, of which the middle is 2.
        assert_eq!(of(0.5), [2.0, 0.5, 0.5]);
        // Inputs that are always 0 are held apart from the others, but not more than so.
        let dead = factors(&[1.0, 0.0], &[1.0, 0.0], 0.5, Precision::F32);
        assert!((dead[0] - 100.0).abs() < 1e-3 && (dead[1] - 0.01).abs() < 1e-6, "{dead:?}");
    }

    #[test]
    fn magnitudes_are_those_within_groups() {
        let matrix = Matrix::new(2, 4, &[1.0, -2.0, 0.0, 0.0, 4.0, 4.0, 1.0, 8.0]).unwrap();
        assert_eq!(relative_magnitudes(matrix, 2), [0.75, 1.0, 0.0625, 0.5]);
    }

    /// A weight, and inputs of which one is loud.
    fn loud(factor: f32) -> (Vec<f32>, Inputs) {
        let (rows, n, mut random) = (32, 64, Noise::new(3));
        let mut inputs = Inputs::new(n, true, 0);
        let mut x = random.normals(512 * n);
        x.iter_mut().skip(5).step_by(n).for_each(|x| *x *= factor);
        inputs.add(&x).unwrap();
        (random.normals(rows * n), inputs)
    }

    #[test]
    fn a_loud_input_deserves_finer_weights() {
        let (weights, inputs) = loud(30.0);
        let matrix = Matrix::new(32, 64, &weights).unwrap();
        let grid = Grid::symmetric(32);
        let factor = Factor::new(&inputs, DAMPING).unwrap();
        let plain = gptq::round(matrix, &factor, &grid, None).unwrap();
        let found = round(matrix, &inputs, &factor, &grid, Precision::F16).unwrap();
        assert!(found.rounded.loss < 0.8 * plain.loss, "{} {}", found.rounded.loss, plain.loss);
        let scales = found.rounded.codes.input_scales.unwrap();
        assert!((0..64).all(|i| i == 5 || scales[5] < scales[i]), "{scales:?}");
    }

    #[test]
    fn inputs_without_tokens_are_refused() {
        let matrix = Matrix::new(1, 8, &[1.0; 8]).unwrap();
        let inputs = Inputs::new(8, false, 0);
        let factor = Factor::of_squares(&inputs);
        let refused = round(matrix, &inputs, &factor, &Grid::symmetric(8), Precision::F16).err();
        assert_eq!(refused, Some(CalibrateError::NoTokens));
    }
}
