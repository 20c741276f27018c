//! What is known of a linear's inputs after samples have run.

use crate::{CalibrateError, product};

/// Statistics of a linear's inputs, gathered piece by piece.
///
/// They do not depend on how tokens are cut into pieces but for the last bits of the Hessian.
#[derive(Clone, Debug)]
pub struct Inputs {
    width: usize,
    tokens: u64,
    absmax: Vec<f32>,
    magnitudes: Vec<f64>,
    squares: Vec<f64>,
    hessian: Option<Vec<f64>>,
    sample: Sample,
}

/// Every n-th token, of which there are at most `most`: when there are more, n doubles.
#[derive(Clone, Debug)]
struct Sample {
    most: usize,
    every: u64,
    rows: Vec<f32>,
}

impl Inputs {
    /// Statistics of inputs of this width, of which none have been seen. A Hessian costs
    /// `8·width²` bytes and `width²` operations per token; `sample` is how many tokens to keep.
    pub fn new(width: usize, hessian: bool, sample: usize) -> Inputs {
        Inputs {
            width,
            tokens: 0,
            absmax: vec![0.0; width],
            magnitudes: vec![0.0; width],
            squares: vec![0.0; width],
            hessian: hessian.then(|| vec![0.0; width * width]),
            sample: Sample { most: sample, every: 1, rows: Vec::new() },
        }
    }

    /// Adds tokens, `[tokens, in]`.
    ///
    /// # Errors
    /// [`CalibrateError::Size`] for a part of a token; [`CalibrateError::Activation`] for what is
    /// NaN or infinite, or so when squared. The statistics are of no use then.
    pub fn add(&mut self, x: &[f32]) -> Result<(), CalibrateError> {
        let width = self.width;
        if width == 0 || !x.len().is_multiple_of(width) {
            let wants = x.len().next_multiple_of(width.max(1));
            return Err(CalibrateError::Size {
                what: "a piece of activations",
                has: x.len(),
                wants,
            });
        }
        for row in x.chunks_exact(width) {
            if self.sample.most > 0 && self.tokens.is_multiple_of(self.sample.every) {
                self.sample.add(row, width);
            }
            self.tokens += 1;
            for (i, &x) in row.iter().enumerate() {
                self.absmax[i] = self.absmax[i].max(x.abs());
                self.magnitudes[i] += f64::from(x.abs());
                self.squares[i] += f64::from(x * x);
            }
        }
        if let Some(channel) = self.squares.iter().position(|x| !x.is_finite()) {
            let column = x.iter().skip(channel).step_by(width);
            let largest = |most: f32, x: &f32| if x.abs() <= most { most } else { x.abs() };
            return Err(CalibrateError::Activation { channel, value: column.fold(0.0, largest) });
        }
        if let Some(hessian) = &mut self.hessian {
            product::add_gram(hessian, x, width);
        }
        Ok(())
    }

    /// Elements of a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many tokens were seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The largest magnitude of each input, `[in]`.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// The mean magnitude of each input, `[in]`; 0 where no token was seen.
    pub fn mean_magnitudes(&self) -> Vec<f64> {
        let tokens = self.tokens.max(1) as f64;
        self.magnitudes.iter().map(|sum| sum / tokens).collect()
    }

    /// The mean square of each input, `[in]`: the diagonal of the Hessian, per token.
    pub fn mean_squares(&self) -> Vec<f64> {
        let tokens = self.tokens.max(1) as f64;
        self.squares.iter().map(|sum| sum / tokens).collect()
    }

    /// The sum of `xᵀx` over all tokens, `[in, in]`, of which the upper half is filled; if it is
    /// gathered.
    pub fn hessian(&self) -> Option<&[f64]> {
        self.hessian.as_deref()
    }

    /// Some of the tokens, `[≤ sample, in]`, spread evenly.
    pub fn sample(&self) -> &[f32] {
        &self.sample.rows
    }
}

impl Sample {
    fn add(&mut self, row: &[f32], width: usize) {
        if self.rows.len() == self.most * width {
            let kept = self.rows.chunks_exact(width).step_by(2).flatten().copied().collect();
            self.rows = kept;
            self.every *= 2;
            // Of an odd number the last was kept, and this one is its neighbour.
            if !self.most.is_multiple_of(2) {
                return;
            }
        }
        self.rows.extend_from_slice(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_by_hand() {
        let mut inputs = Inputs::new(2, true, 0);
        inputs.add(&[1.0, -2.0]).unwrap();
        inputs.add(&[-3.0, 0.0, 2.0, 2.0]).unwrap();
        assert_eq!(inputs.tokens(), 3);
        assert_eq!(inputs.absmax(), [3.0, 2.0]);
        assert_eq!(inputs.mean_magnitudes(), [2.0, 4.0 / 3.0]);
        assert_eq!(inputs.mean_squares(), [14.0 / 3.0, 8.0 / 3.0]);
        let hessian = inputs.hessian().unwrap();
        assert_eq!([hessian[0], hessian[1], hessian[3]], [14.0, 2.0, 8.0]);
        assert!(inputs.sample().is_empty());
    }

    #[test]
    fn a_sample_is_spread_evenly_however_tokens_come() {
        for most in [3, 4, 8] {
            let tokens: Vec<f32> = (0..23).map(|t| t as f32).collect();
            let (mut whole, mut single) =
                (Inputs::new(1, false, most), Inputs::new(1, false, most));
            whole.add(&tokens).unwrap();
            tokens.chunks(1).for_each(|token| single.add(token).unwrap());
            assert_eq!(whole.sample(), single.sample());
            assert!(whole.sample().len() <= most && whole.sample().len() >= most / 2);
            let step = whole.sample()[1];
            let even = (0..whole.sample().len()).map(|i| i as f32 * step);
            assert!(whole.sample().iter().copied().eq(even), "{:?}", whole.sample());
        }
    }

    #[test]
    fn an_activation_that_is_no_number_is_named() {
        let mut inputs = Inputs::new(2, false, 0);
        let refused = inputs.add(&[1.0, 1.0, 1.0, f32::NAN]).unwrap_err();
        assert!(
            matches!(refused, CalibrateError::Activation { channel: 1, value } if value.is_nan())
        );
        let refused = Inputs::new(2, false, 0).add(&[1e30, 1.0]).unwrap_err();
        assert_eq!(refused, CalibrateError::Activation { channel: 0, value: 1e30 });
        assert!(Inputs::new(2, false, 0).add(&[1.0; 3]).is_err());
    }
}
