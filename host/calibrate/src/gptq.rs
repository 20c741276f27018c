//! GPTQ: rounding in which each input's error is made good by the inputs that follow.
//!
//! With the Hessian `H = Σ xᵀx` of the inputs, a weight's error `E` costs `tr(E·H·Eᵀ)` at the
//! output. Where `H = U·D·Uᵀ` with `U` upper triangular and ones on its diagonal, that is
//! `Σ_k D[k]·(Σ_{j≤k} E[j]·U[j, k])²`. So going from the first input to the last, a weight is best
//! rounded after `Σ_{j<k} E[j]·U[j, k]` was taken off it. (Frantar et al., "GPTQ", 2022, say the
//! same with a factor of the inverse; Chee et al., "QuIP", 2023, show that it is the same.) This
//! form needs no inverse, and its sums are products of matrices.
//!
//! Inputs are rounded in the order of how large they are, the largest first, while many can still
//! make good for them; groups are neighbours nevertheless, and their scales are chosen before. On
//! models with a few very large inputs this is far better than going from left to right.

use crate::codes::{Codes, Grid};
use crate::product::{self, LANES, Panel};
use crate::search::{self, Lanes, Scale};
use crate::{CalibrateError, Inputs, Matrix, cholesky, fp8};
use rayon::prelude::*;

/// Inputs of a block, within which errors are handed on one by one.
const BLOCK: usize = 64;
/// What is added to the diagonal where it is 0, in terms of its mean.
const LEAST_DAMPING: f64 = 1e-6;

/// What is usually added to the Hessian's diagonal, in terms of its mean.
pub const DAMPING: f64 = 0.01;

/// The factor of a Hessian, for all matrices that have the same inputs.
pub struct Factor {
    /// The input at each place of the order.
    order: Vec<usize>,
    /// `U` without its diagonal, columns in panels.
    feedback: Vec<Panel<f32>>,
    /// `D`, per token.
    pivots: Vec<f32>,
    /// The diagonal of the damped Hessian per token, by input.
    diagonal: Vec<f32>,
}

impl Factor {
    /// Factors the Hessian of these inputs, to whose diagonal `damping` times its mean is added.
    /// Inputs that were never seen are rounded for themselves, all of them if no token was seen.
    ///
    /// # Errors
    /// [`CalibrateError::Setting`] for a damping that is none; [`CalibrateError::Size`] for
    /// inputs without Hessian; [`CalibrateError::Hessian`] where there is no factor.
    pub fn new(inputs: &Inputs, damping: f64) -> Result<Factor, CalibrateError> {
        if !(0.0..=1.0).contains(&damping) {
            let range = "0 to 1";
            return Err(CalibrateError::Setting { what: "damping", value: damping, range });
        }
        let n = inputs.width();
        let Some(hessian) = inputs.hessian() else {
            return Err(CalibrateError::Size { what: "the Hessian", has: 0, wants: n * n });
        };
        let squares: Vec<f64> = (0..n).map(|i| hessian[i * n + i]).collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| squares[b].total_cmp(&squares[a]).then(a.cmp(&b)));
        let mean = squares.iter().sum::<f64>() / n as f64;
        // Of inputs that were never seen nothing is known: all count the same.
        let unit = if mean > 0.0 { mean } else { 1.0 };
        let mut damping = if mean > 0.0 { damping } else { 1.0 };
        let upper = loop {
            // A factor of the matrix from its end to its beginning is the one from the other side.
            let at = |i: usize, j: usize| hessian[i.min(j) * n + i.max(j)];
            let mut a = vec![0.0; n * n];
            a.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
                let from = order[n - 1 - i];
                for (j, a) in row.iter_mut().enumerate().skip(i) {
                    *a = at(from, order[n - 1 - j]) / unit;
                }
                let dead = squares[from] == 0.0;
                row[i] += if dead { damping.max(LEAST_DAMPING) } else { damping };
            });
            if cholesky::factor(&mut a, n).is_some() {
                break a;
            }
            if damping >= 1.0 {
                return Err(CalibrateError::Hessian(damping));
            }
            damping = (damping * 10.0).clamp(LEAST_DAMPING, 1.0);
        };
        // The lower triangle of `upper` reversed: R[j, k] = upper[n - 1 - k, n - 1 - j].
        let pivot = |k: usize| upper[(n - 1 - k) * (n + 1)];
        let panel = |p: usize| -> Panel<f32> {
            let mut panel = vec![[0.0; LANES]; n];
            for k in p * LANES..((p + 1) * LANES).min(n) {
                let row = &upper[(n - 1 - k) * n..][..n];
                for (j, to) in panel.iter_mut().enumerate().take(k) {
                    to[k % LANES] = (row[n - 1 - j] / pivot(k)) as f32;
                }
            }
            panel
        };
        let feedback = (0..n.div_ceil(LANES)).into_par_iter().map(panel).collect();
        let per_token = unit / inputs.tokens().max(1) as f64;
        let pivots = (0..n).map(|k| (pivot(k) * pivot(k) * per_token) as f32).collect();
        let diagonal = squares.iter().map(|x| ((x / unit + damping) * per_token) as f32).collect();
        Ok(Factor { order, feedback, pivots, diagonal })
    }

    /// A factor for inputs of which only the squares are looked at: weights are rounded for
    /// themselves, with the scales that are best for that. The same for all inputs where nothing
    /// is known of them.
    pub fn of_squares(inputs: &Inputs) -> Factor {
        let squares = inputs.mean_squares();
        let mean = squares.iter().sum::<f64>() / squares.len() as f64;
        // Inputs that were never seen count a little, so that their weights are rounded as well.
        let cost = |x: f64| if mean > 0.0 { x + mean * LEAST_DAMPING } else { 1.0 };
        let costs: Vec<f32> = squares.iter().map(|&x| cost(x) as f32).collect();
        let order = (0..inputs.width()).collect();
        let (pivots, diagonal) = (costs.clone(), costs);
        Factor { order, feedback: Vec::new(), pivots, diagonal }
    }

    /// Inputs.
    pub fn width(&self) -> usize {
        self.order.len()
    }
}

/// Codes, and what they cost.
pub struct Rounded {
    /// The codes.
    pub codes: Codes,
    /// The mean over tokens of the squared error of the output, over all outputs; with damping.
    pub loss: f64,
}

/// Rounds a matrix. `factors` (`[in]`) are what each input's weights are multiplied by before
/// they are rounded, if anything.
///
/// # Errors
/// [`CalibrateError::Size`] where widths differ, [`CalibrateError::Group`] where groups do not
/// divide a row.
pub fn round(
    matrix: Matrix,
    factor: &Factor,
    grid: &Grid,
    factors: Option<&[f32]>,
) -> Result<Rounded, CalibrateError> {
    let n = matrix.columns();
    if factor.width() != n {
        return Err(CalibrateError::Size { what: "the Hessian", has: factor.width(), wants: n });
    }
    if let Some(factors) = factors.filter(|factors| factors.len() != n) {
        return Err(CalibrateError::Size {
            what: "scales of inputs",
            has: factors.len(),
            wants: n,
        });
    }
    grid.check(n)?;
    let rounding = Rounding::new(factor, grid, factors);
    let parts: Vec<Part> = matrix
        .data()
        .par_chunks(LANES * n)
        .map(|rows| {
            product::fast(
                #[inline(always)]
                || rounding.rows(rows),
            )
        })
        .collect();
    let groups = n / grid.group;
    let mut codes = Codes {
        rows: matrix.rows(),
        columns: n,
        group: grid.group,
        codes: Vec::with_capacity(matrix.data().len()),
        scales: Vec::with_capacity(matrix.rows() * groups),
        zeros: grid.zeros.then(Vec::new),
        input_scales: factors.map(|factors| factors.iter().map(|f| 1.0 / f).collect()),
    };
    let mut loss = 0.0;
    for (part, rows) in parts.iter().zip(matrix.data().chunks(LANES * n)) {
        for lane in 0..rows.len() / n {
            loss += part.losses[lane];
            codes.codes.extend(part.codes.iter().map(|lanes| lanes[lane]));
            codes.scales.extend(part.scales.iter().map(|scale| scale.step[lane]));
            if let Some(zeros) = &mut codes.zeros {
                zeros.extend(part.scales.iter().map(|scale| scale.zero[lane] as i16));
            }
        }
    }
    Ok(Rounded { codes, loss })
}

/// What is the same for all rows; by place in the order, where nothing else is said.
struct Rounding<'a> {
    factor: &'a Factor,
    grid: &'a Grid,
    /// What weights are multiplied by before they are rounded, and what it takes to undo that.
    factors: Vec<f32>,
    inverses: Vec<f32>,
    /// What an error costs beyond what following inputs make good.
    costs: Vec<f32>,
    /// The factors, by input.
    by_input: Vec<f32>,
    /// What an error costs on the whole, by input.
    whole: Vec<f32>,
}

/// [`LANES`] rows as codes, by input.
struct Part {
    codes: Vec<[i8; LANES]>,
    scales: Vec<Scale>,
    losses: [f64; LANES],
}

impl<'a> Rounding<'a> {
    fn new(factor: &'a Factor, grid: &'a Grid, factors: Option<&[f32]>) -> Rounding<'a> {
        let by_input = factors.map_or_else(|| vec![1.0; factor.width()], <[f32]>::to_vec);
        let factors: Vec<f32> = factor.order.iter().map(|&input| by_input[input]).collect();
        let cost = |(d, f): (&f32, &f32)| d / (f * f);
        Rounding {
            factor,
            grid,
            inverses: factors.iter().map(|f| 1.0 / f).collect(),
            costs: factor.pivots.iter().zip(&factors).map(cost).collect(),
            whole: factor.diagonal.iter().zip(&by_input).map(cost).collect(),
            factors,
            by_input,
        }
    }

    /// Rounds rows, at most [`LANES`].
    #[inline(always)]
    fn rows(&self, rows: &[f32]) -> Part {
        let n = self.factor.width();
        let group = self.grid.group;
        let range = search::range(self.grid);
        let at = |input: usize| {
            let mut lanes = [0.0; LANES];
            for (lane, row) in lanes.iter_mut().zip(rows.chunks_exact(n)) {
                *lane = row[input];
            }
            lanes
        };
        let weights: Vec<Lanes> = self.factor.order.iter().map(|&input| at(input)).collect();
        let mut scales = Vec::with_capacity(n / group);
        if let Some(step) = self.grid.float_step() {
            scales.push(Scale { step: [step; LANES], zero: [0.0; LANES] });
        } else {
            for inputs in (0..n).step_by(group).map(|first| first..first + group) {
                let panel: Vec<Lanes> =
                    inputs.clone().map(|i| at(i).map(|w| w * self.by_input[i])).collect();
                scales.push(search::search(&panel, &self.whole[inputs], self.grid));
            }
        }
        let float = self.grid.float_step().is_some();
        let mut errors: Vec<Lanes> = vec![[0.0; LANES]; n];
        let mut part = Part { codes: vec![[0; LANES]; n], scales, losses: [0.0; LANES] };
        for first in (0..n).step_by(BLOCK) {
            let last = (first + BLOCK).min(n);
            let mut open = weights[first..last].to_vec();
            // None where nothing is known of how inputs go together.
            let panels = first / LANES..last.div_ceil(LANES);
            let panels = self.factor.feedback.get(panels).unwrap_or_default();
            for (open, feedback) in open.chunks_mut(LANES).zip(panels) {
                product::subtract(open, &feedback[..first], &errors[..first]);
            }
            for k in first..last {
                let input = self.factor.order[k];
                let scale = &part.scales[input / group];
                let inverses = scale.inverses();
                let mut error = [0.0; LANES];
                for l in 0..LANES {
                    let w = open[k - first][l] * self.factors[k];
                    let steps = match float {
                        true => fp8::nearest(w * inverses[l]),
                        false => scale.steps(l, inverses[l], w, range),
                    };
                    part.codes[input][l] = match float {
                        true => fp8::encode(steps) as i8,
                        false => (steps + scale.zero[l]) as i8,
                    };
                    let missed = steps * scale.step[l] - w;
                    part.losses[l] += f64::from(self.costs[k] * (missed * missed));
                    error[l] = steps * scale.step[l] * self.inverses[k] - weights[k][l];
                }
                errors[k] = error;
                for (p, feedback) in panels.iter().enumerate().skip((k - first) / LANES) {
                    let open = open[p * LANES..].iter_mut().take(LANES);
                    for (open, &factor) in open.zip(&feedback[k]) {
                        for l in 0..LANES {
                            open[l] -= error[l] * factor;
                        }
                    }
                }
            }
        }
        part
    }
}

#[cfg(test)]
mod tests;
