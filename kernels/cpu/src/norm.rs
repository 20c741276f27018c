//! Normalisation by the root mean square or by mean and variance, of rows or of heads.

#![allow(unsafe_code, reason = "threads write disjoint rows of one arena")]

use crate::{
    Isa, Team,
    isa::Kernel,
    lanes::{LANES, Lanes},
    rows::View,
};

/// How elements that are normalised together are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// `x / sqrt(mean(x²) + epsilon)`
    Rms,
    /// `(x - mean) / sqrt(mean((x - mean)²) + epsilon)`
    Layer,
}

/// `output = input / sqrt(mean(input²) + epsilon) · gain`; threads share the rows.
///
/// # Safety
/// Shapes as checked; `output` is the input or apart from it.
pub(crate) unsafe fn rms_norm(
    isa: Isa,
    input: View,
    gain: &[f32],
    epsilon: f32,
    output: View,
    team: &Team<'_>,
) {
    for row in team.part(input.rows, 1) {
        // SAFETY: as promised by the caller; the row is this thread's.
        unsafe {
            let (input, output) = (input.row(row), output.row(row));
            isa.run(RmsNorm { input, gain, epsilon, output });
        }
    }
}

/// `sum = left + right`, then the norm of that; threads share the rows.
///
/// # Safety
/// Shapes as checked; `sum` and `output` are apart, and each is a summand or apart from it.
pub(crate) unsafe fn add_rms_norm(
    isa: Isa,
    [left, right]: [View; 2],
    gain: &[f32],
    epsilon: f32,
    sum: View,
    output: View,
    team: &Team<'_>,
) {
    for row in team.part(left.rows, 1) {
        // SAFETY: as promised by the caller; the row is this thread's.
        unsafe {
            let (left, right) = (left.row(row), right.row(row));
            let (sum, output) = (sum.row(row), output.row(row));
            isa.run(Add { left, right, sum, n: gain.len() });
            isa.run(RmsNorm { input: sum, gain, epsilon, output });
        }
    }
}

/// `output = (input - mean) / sqrt(variance + epsilon) · gain + bias`; threads share the rows.
///
/// # Safety
/// Shapes as checked; `output` is the input or apart from it.
pub(crate) unsafe fn layer_norm(
    isa: Isa,
    input: View,
    gain: Option<&[f32]>,
    bias: Option<&[f32]>,
    epsilon: f32,
    output: View,
    team: &Team<'_>,
) {
    for row in team.part(input.rows, 1) {
        // SAFETY: as promised by the caller; the row is this thread's.
        unsafe {
            let (width, input, output) = (input.width, input.row(row), output.row(row));
            isa.run(LayerNorm { input, width, gain, bias, epsilon, output });
        }
    }
}

/// How each head is normalised.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    pub(crate) norm: Norm,
    pub(crate) gain: &'a [f32],
    pub(crate) head_width: usize,
    pub(crate) epsilon: f32,
}

/// The norm of each head of each row; threads share the heads of all rows.
///
/// # Safety
/// Shapes as checked; `output` is the input or apart from it.
pub(crate) unsafe fn head_norm(
    isa: Isa,
    input: View,
    heads: Heads<'_>,
    output: View,
    team: &Team<'_>,
) {
    let Heads { norm, gain, head_width: width, epsilon } = heads;
    let count = input.width / width;
    for head in team.part(input.rows * count, 1) {
        let (row, from) = (head / count, head % count * width);
        let gain = if gain.len() == width { gain } else { &gain[from..from + width] };
        // SAFETY: as promised by the caller; the head is this thread's.
        unsafe {
            let (input, output) = (input.row(row).add(from), output.row(row).add(from));
            match norm {
                Norm::Rms => isa.run(RmsNorm { input, gain, epsilon, output }),
                Norm::Layer => {
                    let gain = Some(gain);
                    isa.run(LayerNorm { input, width, gain, bias: None, epsilon, output });
                }
            }
        }
    }
}

/// One row.
struct RmsNorm<'a> {
    input: *const f32,
    gain: &'a [f32],
    epsilon: f32,
    output: *mut f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let RmsNorm { input, gain, epsilon, output } = self;
        let width = gain.len();
        let whole = width - width % LANES;
        // SAFETY: the rows are as wide as the gain.
        unsafe {
            let mut squares = L::splat(0.0);
            for i in (0..whole).step_by(LANES) {
                let x = L::load(input.add(i));
                squares = x.mul_add(x, squares);
            }
            if whole < width {
                let x = L::load_part(input.add(whole), width - whole);
                squares = x.mul_add(x, squares);
            }
            let mean = squares.sum() / width as f32;
            let factor = L::splat(1.0 / (mean + epsilon).sqrt());
            for i in (0..whole).step_by(LANES) {
                let scaled = L::load(input.add(i)).mul(factor);
                scaled.mul(L::load(gain.as_ptr().add(i))).store(output.add(i));
            }
            if whole < width {
                let n = width - whole;
                let scaled = L::load_part(input.add(whole), n).mul(factor);
                let gain = L::load_part(gain.as_ptr().add(whole), n);
                scaled.mul(gain).store_part(output.add(whole), n);
            }
        }
    }
}

/// One row.
struct LayerNorm<'a> {
    input: *const f32,
    width: usize,
    gain: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    epsilon: f32,
    output: *mut f32,
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let LayerNorm { input, width, gain, bias, epsilon, output } = self;
        // SAFETY: the rows are `width` long, and so are gain and bias.
        unsafe {
            let mut sum = L::splat(0.0);
            for i in (0..width).step_by(LANES) {
                sum = sum.add(L::load_part(input.add(i), (width - i).min(LANES)));
            }
            let mean = [sum.sum() / width as f32; LANES];
            let mut squares = L::splat(0.0);
            for i in (0..width).step_by(LANES) {
                let n = (width - i).min(LANES);
                // Lanes behind the row's end are zero, and so is the mean there.
                let x = L::load_part(input.add(i), n).sub(L::load_part(mean.as_ptr(), n));
                squares = x.mul_add(x, squares);
            }
            let variance = squares.sum() / width as f32;
            let (mean, factor) = (L::load(mean.as_ptr()), 1.0 / (variance + epsilon).sqrt());
            for i in (0..width).step_by(LANES) {
                let n = (width - i).min(LANES);
                let mut x = L::load_part(input.add(i), n).sub(mean).mul(L::splat(factor));
                if let Some(gain) = gain {
                    x = x.mul(L::load_part(gain.as_ptr().add(i), n));
                }
                if let Some(bias) = bias {
                    x = x.add(L::load_part(bias.as_ptr().add(i), n));
                }
                x.store_part(output.add(i), n);
            }
        }
    }
}

/// One row's sum.
struct Add {
    left: *const f32,
    right: *const f32,
    sum: *mut f32,
    n: usize,
}

impl Kernel for Add {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for i in (0..self.n).step_by(LANES) {
            let n = (self.n - i).min(LANES);
            // SAFETY: all rows are `n` wide.
            unsafe {
                let left = L::load_part(self.left.add(i), n);
                let right = L::load_part(self.right.add(i), n);
                left.add(right).store_part(self.sum.add(i), n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{bits, noise, run};
    use crate::{Isa, Norm, Rows, Step};

    #[test]
    fn norms_are_near_exact_ones_and_have_the_same_bits_everywhere() {
        for (rows, width) in [(1, 1), (3, 16), (5, 100), (4, 577)] {
            let gain = noise(width, 9);
            let stride = width + 3;
            let mut arena = noise(rows * stride, 8);
            arena.resize(2 * rows * stride, 7.0);
            let input = Rows { start: 0, rows, width, stride };
            let output = Rows { start: rows * stride, ..input };
            let step = Step::RmsNorm { input, gain: &gain, epsilon: 1e-5, output };
            let plain = run(Isa::Plain, 1, &arena, &mut [], &[step]);
            for row in 0..rows {
                let x = &arena[row * stride..][..width];
                let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
                let root = (squares / width as f64 + 1e-5).sqrt();
                for i in 0..width {
                    let exact = f64::from(x[i]) / root * f64::from(gain[i]);
                    let value = f64::from(plain[(rows + row) * stride + i]);
                    assert!((value - exact).abs() <= 5e-7 * exact.abs().max(1e-3));
                }
            }
            for isa in Isa::available() {
                for threads in [1, 2, 3] {
                    let other = run(isa, threads, &arena, &mut [], &[step]);
                    assert_eq!(bits(&other), bits(&plain));
                }
                let in_place = Step::RmsNorm { input, gain: &gain, epsilon: 1e-5, output: input };
                let other = run(isa, 2, &arena, &mut [], &[in_place]);
                assert_eq!(other[..width], plain[rows * stride..][..width]);
            }
        }
    }

    #[test]
    fn add_and_norm_in_one_step_are_the_two_steps_even_in_place() {
        let (rows, width) = (5, 71);
        let gain = noise(width, 9);
        let arena = noise(4 * rows * width, 8);
        let place = |i: usize| Rows::dense(i * rows * width, rows, width);
        let (left, right, epsilon) = (place(0), place(1), 1e-6);
        let steps = [
            Step::Add { left, right, output: place(2) },
            Step::RmsNorm { input: place(2), gain: &gain, epsilon, output: place(3) },
        ];
        let two = run(Isa::Plain, 1, &arena, &mut [], &steps);
        let gain = gain.as_slice();
        for isa in Isa::available() {
            let (sum, output) = (place(2), place(3));
            let step = Step::AddRmsNorm { left, right, gain, epsilon, sum, output };
            assert_eq!(bits(&run(isa, 2, &arena, &mut [], &[step])), bits(&two));
            let step = Step::AddRmsNorm { left, right, gain, epsilon, sum: left, output: right };
            let one = run(isa, 2, &arena, &mut [], &[step]);
            assert_eq!(bits(&one[..2 * rows * width]), bits(&two[2 * rows * width..]));
        }
    }

    #[test]
    fn layer_norms_are_near_exact_ones_and_have_the_same_bits_everywhere() {
        for (rows, width) in [(1, 1), (3, 16), (5, 100), (4, 577)] {
            let (gains, biases) = (noise(width, 9), noise(width, 10));
            let stride = width + 3;
            let mut arena: Vec<f32> = noise(rows * stride, 8).iter().map(|x| x + 3.0).collect();
            arena.resize(2 * rows * stride, 7.0);
            let input = Rows { start: 0, rows, width, stride };
            let apart = Rows { start: rows * stride, ..input };
            for (gain, bias) in [
                (None, None),
                (Some(&gains[..]), None),
                (None, Some(&biases[..])),
                (Some(&gains[..]), Some(&biases[..])),
            ] {
                let step = |output| Step::LayerNorm { input, gain, bias, epsilon: 1e-5, output };
                let plain = run(Isa::Plain, 1, &arena, &mut [], &[step(apart)]);
                for row in 0..rows {
                    let x = arena[row * stride..][..width].iter().map(|&x| f64::from(x));
                    let mean = x.clone().sum::<f64>() / width as f64;
                    let squares: f64 = x.clone().map(|x| (x - mean).powi(2)).sum();
                    let root = (squares / width as f64 + 1e-5).sqrt();
                    for (i, x) in x.enumerate() {
                        let gain = gain.map_or(1.0, |gain| f64::from(gain[i]));
                        let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
                        let exact = (x - mean) / root * gain + bias;
                        let value = f64::from(plain[(rows + row) * stride + i]);
                        assert!((value - exact).abs() <= 3e-6, "{value} is not {exact}");
                    }
                }
                for isa in Isa::available() {
                    for threads in [1, 2, 3] {
                        let other = run(isa, threads, &arena, &mut [], &[step(apart)]);
                        assert_eq!(bits(&other), bits(&plain));
                    }
                    let other = run(isa, 2, &arena, &mut [], &[step(input)]);
                    let n = (rows - 1) * stride + width;
                    assert_eq!(bits(&other[..width]), bits(&plain[rows * stride..][..width]));
                    assert_eq!(
                        bits(&other[n - width..n]),
                        bits(&plain[rows * stride..][n - width..n])
                    );
                }
            }
        }
    }

    #[test]
    fn norms_of_heads_are_those_of_rows_of_a_heads_width() {
        let (rows, heads, head_width, epsilon) = (5, 3, 20, 1e-6);
        let width = heads * head_width;
        let arena = noise(2 * rows * width, 14);
        let gains = noise(width, 15);
        let input = Rows::dense(0, rows, width);
        let output = Rows::dense(rows * width, rows, width);
        for norm in [Norm::Rms, Norm::Layer] {
            for shared in [true, false] {
                let gain = if shared { &gains[..head_width] } else { &gains[..] };
                let steps: Vec<Step<'_>> = (0..heads)
                    .map(|head| {
                        let first = head * head_width;
                        let gain = if shared { gain } else { &gain[first..first + head_width] };
                        let input = input.columns(first, head_width);
                        let output = output.columns(first, head_width);
                        match norm {
                            Norm::Rms => Step::RmsNorm { input, gain, epsilon, output },
                            Norm::Layer => {
                                let gain = Some(gain);
                                Step::LayerNorm { input, gain, bias: None, epsilon, output }
                            }
                        }
                    })
                    .collect();
                let expected = run(Isa::Plain, 1, &arena, &mut [], &steps);
                let step =
                    |output| Step::HeadNorm { input, norm, gain, head_width, epsilon, output };
                for isa in Isa::available() {
                    for threads in [1, 2, 4] {
                        let after = run(isa, threads, &arena, &mut [], &[step(output)]);
                        assert_eq!(bits(&after), bits(&expected));
                    }
                    let after = run(isa, 2, &arena, &mut [], &[step(input)]);
                    assert_eq!(bits(&after[..rows * width]), bits(&expected[rows * width..]));
                }
            }
        }
    }
}
