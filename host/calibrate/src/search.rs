//! The scale of a group: the one with which rounding costs least.
//!
//! The largest weight of a group need not get the largest code: if that weight is cut off a
//! little, all others have finer steps. How much an error costs is weighted by how large the
//! weight's input is on average. Groups of [`LANES`] rows are searched at once.

use crate::codes::Grid;
use crate::product::LANES;

/// A number for each row of a panel.
pub(crate) type Lanes = [f32; LANES];

/// How a group is rounded, for each row of a panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// What a step stands for. Not 0.
    pub(crate) step: Lanes,
    /// The code for zero, a whole number.
    pub(crate) zero: Lanes,
}

/// Steps are tried from `.0` to `.1` times the one that just holds all weights, `.2` of them.
/// Few codes are worth more clipping than many.
const FEW: (f32, f32, usize) = (0.5, 1.15, 27);
const MANY: (f32, f32, usize) = (0.8, 1.01, 22);
/// How often a step is fitted anew to the codes that it led to.
const FITS: usize = 3;

/// The nearest whole number, of two the even one; for magnitudes below 2²².
#[inline(always)]
pub(crate) fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

impl Scale {
    /// The code of a lane's weight, minus the code for zero.
    #[inline(always)]
    pub(crate) fn steps(&self, lane: usize, inverse: f32, w: f32, range: (f32, f32)) -> f32 {
        let (low, high) = (range.0 - self.zero[lane], range.1 - self.zero[lane]);
        let x = w * inverse;
        let x = if x > low { x } else { low };
        nearest(if x < high { x } else { high })
    }

    #[inline(always)]
    pub(crate) fn inverses(&self) -> Lanes {
        self.step.map(|step| 1.0 / step)
    }

    /// The weighted error of rounding a panel, and the step that fits the codes best.
    #[inline(always)]
    fn try_on(&self, panel: &[Lanes], weights: &[f32], range: (f32, f32)) -> (Lanes, Lanes) {
        let inverses = self.inverses();
        let (mut errors, mut along, mut square) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (w, &h) in panel.iter().zip(weights) {
            for l in 0..LANES {
                let steps = self.steps(l, inverses[l], w[l], range);
                let error = steps * self.step[l] - w[l];
                errors[l] += h * (error * error);
                along[l] += h * (steps * w[l]);
                square[l] += h * (steps * steps);
            }
        }
        let mut fitted = self.step;
        for l in 0..LANES {
            if square[l] > 0.0 {
                fitted[l] = along[l] / square[l];
            }
        }
        (errors, fitted)
    }
}

/// Keeps, lane by lane, what had the least error.
struct Best {
    errors: Lanes,
    scale: Scale,
    fitted: Lanes,
}

impl Best {
    /// Tries steps (before they are rounded as they are stored) with codes for zero.
    #[inline(always)]
    fn try_on(&mut self, step: Lanes, zero: Lanes, panel: &[Lanes], weights: &[f32], grid: &Grid) {
        let range = range(grid);
        let step = step.map(|step| {
            let step = grid.precision.round(step);
            if step == 0.0 || !step.is_finite() { 1.0 } else { step }
        });
        let scale = Scale { step, zero };
        let (errors, fitted) = scale.try_on(panel, weights, range);
        for l in 0..LANES {
            if errors[l] < self.errors[l] {
                self.errors[l] = errors[l];
                self.scale.step[l] = step[l];
                self.scale.zero[l] = zero[l];
                self.fitted[l] = fitted[l];
            }
        }
    }
}

/// The least and the largest code.
#[inline(always)]
pub(crate) fn range(grid: &Grid) -> (f32, f32) {
    let (low, high) = grid.range();
    (low as f32, high as f32)
}

/// How to round a panel, the weights of one group of each of [`LANES`] rows, `[group, LANES]`, of
/// which an error squared costs `weights` (`[group]`).
#[inline(always)]
pub(crate) fn search(panel: &[Lanes], weights: &[f32], grid: &Grid) -> Scale {
    let (mut least, mut most) = ([0.0f32; LANES], [0.0f32; LANES]);
    for w in panel {
        for l in 0..LANES {
            least[l] = if w[l] < least[l] { w[l] } else { least[l] };
            most[l] = if w[l] > most[l] { w[l] } else { most[l] };
        }
    }
    let ones = [1.0; LANES];
    let mut best = Best {
        errors: [f32::INFINITY; LANES],
        scale: Scale { step: ones, zero: [0.0; LANES] },
        fitted: ones,
    };
    let (low, high) = range(grid);
    let (first, last, count) = if grid.bits < 6 { FEW } else { MANY };
    for i in 0..count {
        let part = last - (last - first) * i as f32 / (count - 1) as f32;
        let (mut step, mut zero) = ([0.0; LANES], [0.0; LANES]);
        if grid.zeros {
            for l in 0..LANES {
                step[l] = part * (most[l] - least[l]) / (high - low);
                let at = if step[l] > 0.0 { low - part * least[l] / step[l] } else { 0.0 };
                zero[l] = nearest(if at < high { at } else { high });
            }
            best.try_on(step, zero, panel, weights, grid);
        } else {
            for l in 0..LANES {
                let absmax = if -least[l] > most[l] { -least[l] } else { most[l] };
                step[l] = part * absmax / -low;
            }
            best.try_on(step, zero, panel, weights, grid);
            // There is one code more on one side: either may be of use.
            best.try_on(step.map(|step| -step), zero, panel, weights, grid);
        }
    }
    for _ in 0..FITS {
        let (step, zero) = (best.fitted, best.scale.zero);
        best.try_on(step, zero, panel, weights, grid);
    }
    best.scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::Precision;
    use crate::testing::Noise;

    fn panel(weights: &[f32]) -> Vec<Lanes> {
        weights.iter().map(|&w| [w; LANES]).collect()
    }

    fn cost(weights: &[f32], costs: &[f32], grid: &Grid) -> f32 {
        let scale = search(&panel(weights), costs, grid);
        scale.try_on(&panel(weights), costs, range(grid)).0[0]
    }

    #[test]
    fn whole_numbers_are_as_far_as_sixteen_bits_go() {
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5, 7.4].map(nearest), [0.0, 2.0, 2.0, 0.0, -2.0, 7.0]);
    }

    #[test]
    fn the_eighth_code_is_used_on_either_side() {
        let grid = Grid::symmetric(4);
        for weights in [[-8.0, 7.0, 1.0, -3.0], [8.0, -7.0, -1.0, 3.0]] {
            let scale = search(&panel(&weights), &[1.0; 4], &grid);
            assert_eq!(scale.step[0], if weights[0] < 0.0 { 1.0 } else { -1.0 });
            assert_eq!(cost(&weights, &[1.0; 4], &grid), 0.0);
        }
    }

    #[test]
    fn one_outlier_is_cut_off_unless_its_input_is_loud() {
        let mut weights = Noise::new(4).normals(64);
        weights[9] = 12.0;
        let step = |cost: f32| {
            let mut costs = [1.0; 64];
            costs[9] = cost;
            search(&panel(&weights), &costs, &Grid::symmetric(64)).step[0].abs()
        };
        assert!(step(0.01) < 0.75 * step(1000.0), "{} {}", step(0.01), step(1000.0));
        assert!((step(1000.0) * 7.6 - 12.0).abs() < 0.9);
    }

    #[test]
    fn zeros_are_found_and_steps_are_as_they_are_stored() {
        let weights = [-2.0, 13.0, 3.0, 4.0];
        let grid = Grid::zero_points(4);
        let scale = search(&panel(&weights), &[1.0; 4], &grid);
        assert_eq!((scale.step[0], scale.zero[0]), (1.0, -6.0));
        let normals = Noise::new(6).normals(32);
        let step = search(&panel(&normals), &[1.0; 32], &grid).step[0];
        assert_eq!(Precision::Significant(7).round(step), step);
    }

    #[test]
    fn zeros_and_tiny_weights_have_a_scale() {
        for weights in [[0.0; 8], [1e-12; 8]] {
            for grid in [Grid::symmetric(8), Grid::zero_points(8)] {
                let scale = search(&panel(&weights), &[1.0; 8], &grid);
                assert_eq!(scale.step, [1.0; LANES]);
                assert_eq!(scale.steps(0, 1.0, weights[0], range(&grid)), 0.0);
            }
        }
    }
}
