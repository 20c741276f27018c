//! SmoothQuant: eight bits for weights and for activations, the loud inputs made quieter.
//!
//! Activations of one scale lose the quiet inputs where a few are loud. So inputs are multiplied
//! by `w^(1−α) / x^α`, of the largest magnitudes of an input (`x`) and of its weights (`w`), and
//! weights are divided by it. (Xiao et al., "SmoothQuant", 2022.) A large `α` is good for
//! activations and bad for weights. Where none is given, the one with the least error at the
//! output is taken: what rounding weights costs, and what rounding a sample of activations does.

use crate::codes::{Codes, Grid, Precision};
use crate::gptq::{self, Factor};
use crate::matrix::{absmax, spread};
use crate::range::{self, INT8};
use crate::search::nearest;
use crate::{CalibrateError, Inputs, Matrix, product};
use rayon::prelude::*;

/// Scales of inputs are between one over this and this.
const MOST: f32 = 1e4;
/// Steps from 0 to 1 in which `α` is tried.
const STEPS: usize = 20;
/// Rows that are tried, if there are more.
const ROWS: usize = 256;

/// How activations get their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// One for all, beforehand.
    PerTensor,
    /// One for each token, when it comes.
    PerToken,
}

/// A linear of eight bits.
pub struct Smoothed {
    /// The `α` that it has.
    pub alpha: f64,
    /// The weights' codes, with a scale per output and the scales of inputs.
    pub codes: Codes,
    /// What a step of activations stands for after the scales of inputs: the largest of all has
    /// code 127.
    pub activation_scale: f32,
}

/// Rounds a matrix to eight bits, with the `α` that is given or the best one; scales of inputs are
/// stored as `precision` says.
///
/// # Errors
/// Those of [`gptq::round`]; [`CalibrateError::Setting`] for an `α` that is not 0 to 1;
/// [`CalibrateError::NoTokens`] without tokens, or without a sample where `α` is searched.
pub fn round(
    matrix: Matrix,
    inputs: &Inputs,
    factor: &Factor,
    alpha: Option<f64>,
    activations: Activations,
    precision: Precision,
) -> Result<Smoothed, CalibrateError> {
    let n = matrix.columns();
    if inputs.width() != n {
        return Err(CalibrateError::Size { what: "the inputs", has: inputs.width(), wants: n });
    }
    if inputs.tokens() == 0 || (alpha.is_none() && inputs.sample().is_empty()) {
        return Err(CalibrateError::NoTokens);
    }
    let weights = matrix.column_absmax();
    let scales = |alpha| input_scales(inputs.absmax(), &weights, alpha, precision);
    let grid = Grid::channel(8, n);
    let factors = |scales: &[f32]| scales.iter().map(|s| 1.0 / s).collect::<Vec<f32>>();
    let alpha = match alpha {
        Some(alpha) if (0.0..=1.0).contains(&alpha) => alpha,
        Some(value) => {
            return Err(CalibrateError::Setting { what: "alpha", value, range: "0 to 1" });
        }
        None => {
            let rows = spread(matrix, ROWS);
            let part = Matrix::new(rows.len() / n, n, &rows)?;
            let all = matrix.rows() as f64 / part.rows() as f64;
            let mut best = (f64::INFINITY, 0.0);
            for step in 0..=STEPS {
                let alpha = step as f64 / STEPS as f64;
                let scales = scales(alpha);
                let coarse = gptq::round(part, factor, &grid, Some(&factors(&scales)))?.loss;
                let loss = all * coarse + noise(matrix, inputs, &scales, activations);
                if loss < best.0 {
                    best = (loss, alpha);
                }
            }
            best.1
        }
    };
    let scales = scales(alpha);
    let mut codes = gptq::round(matrix, factor, &grid, Some(&factors(&scales)))?.codes;
    let activation_scale = activation_scale(inputs.absmax(), &scales);
    codes.input_scales = Some(scales);
    Ok(Smoothed { alpha, codes, activation_scale })
}

/// What inputs are multiplied by, `[in]`, by the largest magnitudes of inputs and of their
/// weights; 1 where an input is never anything but 0.
pub fn input_scales(x: &[f32], w: &[f32], alpha: f64, precision: Precision) -> Vec<f32> {
    let scale = |(&x, &w): (&f32, &f32)| {
        if x == 0.0 {
            return 1.0;
        }
        let scale = f64::from(w).powf(1.0 - alpha) / f64::from(x).powf(alpha);
        precision.round((scale as f32).clamp(1.0 / MOST, MOST))
    };
    x.iter().zip(w).map(scale).collect()
}

/// What a step of activations stands for if the largest of all, after the scales of inputs, has
/// code 127. `x` is the largest magnitude of each input.
pub fn activation_scale(x: &[f32], scales: &[f32]) -> f32 {
    let scaled: Vec<f32> = x.iter().zip(scales).map(|(x, s)| x * s).collect();
    range::scale(absmax(&scaled), INT8)
}

/// What rounding activations costs at the output, per token: the errors of a sample, as if those
/// of different inputs had nothing to do with each other.
fn noise(matrix: Matrix, inputs: &Inputs, scales: &[f32], activations: Activations) -> f64 {
    let n = matrix.columns();
    let whole = activation_scale(inputs.absmax(), scales);
    let mut power = vec![0.0f64; n];
    for row in matrix.data().chunks_exact(n) {
        for ((power, w), s) in power.iter_mut().zip(row).zip(scales) {
            *power += f64::from(w / s) * f64::from(w / s);
        }
    }
    let token = |x: &[f32]| {
        let scaled: Vec<f32> = x.iter().zip(scales).map(|(x, s)| x * s).collect();
        let step = match activations {
            Activations::PerTensor => whole,
            Activations::PerToken => range::scale(absmax(&scaled), INT8),
        };
        let missed = scaled.iter().map(|x| f64::from(nearest(x / step) * step - x));
        missed.zip(&power).map(|(error, power)| error * error * power).sum::<f64>()
    };
    let sample = inputs.sample().par_chunks_exact(n);
    let tokens = sample.len() as f64;
    // Summed in order, for any number of threads.
    let losses: Vec<f64> = sample
        .map(|x| {
            product::fast(
                #[inline(always)]
                || token(x),
            )
        })
        .collect();
    losses.iter().sum::<f64>() / tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gptq::DAMPING;
    use crate::testing::Noise;

    #[test]
    fn scales_by_hand() {
        let (x, w) = ([4.0, 0.0, 16.0, 1.0], [1.0, 1.0, 4.0, 0.0]);
        let scales = |alpha| input_scales(&x, &w, alpha, Precision::F32);
        assert_eq!(scales(0.5), [0.5, 1.0, 0.5, 1e-4]);
        assert_eq!(scales(1.0), [0.25, 1.0, 0.0625, 1.0]);
        assert_eq!(scales(0.0), [1.0, 1.0, 4.0, 1e-4]);
        assert_eq!(activation_scale(&x, &[0.5, 1.0, 0.5, 1.0]), 8.0 / 127.0);
        assert_eq!(activation_scale(&[0.0], &[1.0]), 1.0);
    }

    #[test]
    fn a_loud_input_wants_smoothing_the_more_where_all_tokens_have_one_scale() {
        let (rows, n, mut random) = (32, 48, Noise::new(5));
        let weights = random.normals(rows * n);
        let mut inputs = Inputs::new(n, true, 64);
        let mut x = random.normals(256 * n);
        x.iter_mut().skip(3).step_by(n).for_each(|x| *x *= 100.0);
        inputs.add(&x).unwrap();
        let matrix = Matrix::new(rows, n, &weights).unwrap();
        let factor = Factor::new(&inputs, DAMPING).unwrap();
        let round =
            |alpha, kind| round(matrix, &inputs, &factor, alpha, kind, Precision::F16).unwrap();
        let found = round(None, Activations::PerTensor);
        assert!(found.alpha > 0.3, "{}", found.alpha);
        let scales = found.codes.input_scales.clone().unwrap();
        assert!(scales[3] < scales[2] / 4.0);
        let cost = |scales: &[f32]| noise(matrix, &inputs, scales, Activations::PerTensor);
        assert!(cost(&scales) < 0.1 * cost(&[1.0; 48]));
        // A given one is taken as it is.
        assert_eq!(round(Some(0.25), Activations::PerToken).alpha, 0.25);
        let distance = crate::Distance::between(&weights, &found.codes.weights());
        assert!(distance.sqnr > 25.0, "{distance:?}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let matrix = Matrix::new(1, 1, &[1.0]).unwrap();
        let mut inputs = Inputs::new(1, false, 0);
        let factor = Factor::of_squares(&inputs);
        let try_on = |inputs: &Inputs, alpha| {
            round(matrix, inputs, &factor, alpha, Activations::PerToken, Precision::F16).err()
        };
        assert_eq!(try_on(&inputs, Some(0.5)), Some(CalibrateError::NoTokens));
        inputs.add(&[1.0]).unwrap();
        assert_eq!(try_on(&inputs, None), Some(CalibrateError::NoTokens));
        assert!(matches!(try_on(&inputs, Some(1.5)), Some(CalibrateError::Setting { .. })));
        assert_eq!(try_on(&inputs, Some(0.5)), None);
    }
}
