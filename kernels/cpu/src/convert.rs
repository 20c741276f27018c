//! Weights as `f32`.

use crate::Weights;
use half::{bf16, f16};

/// What weights are: halves widened exactly, codes by their scales.
///
/// # Panics
/// If the lengths differ.
pub fn to_f32(weights: Weights<'_>, output: &mut [f32]) {
    assert_eq!(weights.len(), output.len(), "as many floats as weights");
    match weights {
        Weights::F32(floats) => output.copy_from_slice(floats),
        Weights::F16(bits) => {
            for (float, &bits) in output.iter_mut().zip(bits) {
                *float = f16::from_bits(bits).to_f32();
            }
        }
        Weights::BF16(bits) => {
            for (float, &bits) in output.iter_mut().zip(bits) {
                *float = bf16::from_bits(bits).to_f32();
            }
        }
        Weights::Coded(coded) => {
            for (row, floats) in output.chunks_exact_mut(coded.columns()).enumerate() {
                for (input, float) in floats.iter_mut().enumerate() {
                    *float = coded.weight(row, input);
                }
            }
        }
    }
}

/// Weights as floats of their own: what gains and biases become when an engine is loaded.
pub fn to_vec(weights: Weights<'_>) -> Vec<f32> {
    let mut output = vec![0.0; weights.len()];
    to_f32(weights, &mut output);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_to_what_it_means() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let same = |a: f32, b: f64| (a.is_nan() && b.is_nan()) || f64::from(a) == b;
        for (&bits, float) in all.iter().zip(to_vec(Weights::F16(&all))) {
            assert!(same(float, f16::from_bits(bits).to_f64()));
        }
        for (&bits, float) in all.iter().zip(to_vec(Weights::BF16(&all))) {
            assert!(same(float, f64::from(f32::from_bits(u32::from(bits) << 16))));
        }
        assert_eq!(to_vec(Weights::F32(&[1.5, -0.0])), [1.5, -0.0]);
    }
}
