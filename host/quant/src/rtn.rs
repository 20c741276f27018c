//! Rounding to nearest: codes of a row of weights, and nothing asked of what it is multiplied by.
//!
//! | codes | shared by | scale | code |
//! | --- | --- | --- | --- |
//! | int8, int4 | a row | max│w│ / 128, / 8 | halves away from zero (TensorRT-LLM's W8A16 and W4A16) |
//! | int8, int4 | a group | max│w│ / 127, / 7 | halves to even (ModelOpt's INT4 blocks) |
//! | int8, int4, with zero points | a group | (max w − min w) / 255, / 15, 0 among them | halves to even |
//!
//! A scale is taken as it is stored before codes are made of it, but for TensorRT-LLM's rows,
//! whose codes are made by the scale in `f32`.

use crate::{Grouping, Scheme};
use engraft_ir::{CodeKind, DType};
use half::{bf16, f16};

/// A row as codes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// One an input.
    pub codes: Vec<i8>,
    /// One for the row, or for each group.
    pub scales: Vec<f32>,
    /// One a group, where the scheme has zero points.
    pub zeros: Vec<i16>,
}

/// The nearest number that `dtype` can hold.
pub fn stored(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

impl Row {
    /// Makes it the codes of `row`, whose scales are stored as `dtype`. Codes are integers, and
    /// scales are of rows or groups.
    pub fn round(&mut self, scheme: &Scheme, row: &[f32], dtype: DType) {
        let group = match scheme.grouping {
            Grouping::Group(size) => size as usize,
            Grouping::Tensor | Grouping::Row => row.len(),
        };
        let most = match scheme.kind {
            CodeKind::Int4 => 7.0,
            CodeKind::Int8 | CodeKind::Fp8 => 127.0,
        };
        self.codes.clear();
        self.scales.clear();
        self.zeros.clear();
        for weights in row.chunks(group.max(1)) {
            match scheme.grouping {
                Grouping::Tensor | Grouping::Row => self.whole(weights, most, dtype),
                Grouping::Group(_) if scheme.zeros => self.between(weights, most),
                Grouping::Group(_) => self.around_zero(weights, most),
            }
        }
    }

    fn whole(&mut self, weights: &[f32], most: f32, dtype: DType) {
        let scale = largest(weights) / (most + 1.0);
        let code = |&weight: &f32| match scale > 0.0 {
            true => (weight / scale).round().clamp(-most - 1.0, most) as i8,
            false => 0,
        };
        self.codes.extend(weights.iter().map(code));
        self.scales.push(stored(scale, dtype));
    }

    fn around_zero(&mut self, weights: &[f32], most: f32) {
        let scale = largest(weights) / most;
        let scale = if scale > 0.0 { scale } else { 1.0 };
        let code = |weight: &f32| (weight / scale).round_ties_even().clamp(-most - 1.0, most) as i8;
        self.codes.extend(weights.iter().map(code));
        self.scales.push(scale);
    }

    fn between(&mut self, weights: &[f32], most: f32) {
        let low = weights.iter().fold(0.0f32, |low, &weight| low.min(weight));
        let high = weights.iter().fold(0.0f32, |high, &weight| high.max(weight));
        let (least, steps) = (-most - 1.0, 2.0 * most + 1.0);
        let scale = (high - low) / steps;
        let scale = if scale > 0.0 { scale } else { 1.0 };
        let zero = (least - low / scale).round_ties_even().clamp(least, most);
        let code =
            |weight: &f32| (weight / scale + zero).round_ties_even().clamp(least, most) as i8;
        self.codes.extend(weights.iter().map(code));
        self.scales.push(scale);
        self.zeros.push(zero as i16);
    }
}

fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |largest, weight| largest.max(weight.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(name: &str, group: Option<u64>, zeros: bool, row: &[f32]) -> Row {
        let mut scheme = Scheme { zeros, ..Scheme::from_name(name).unwrap() };
        if let Some(size) = group {
            scheme.grouping = Grouping::Group(size);
        }
        let mut all = Row::default();
        all.round(&scheme, row, DType::F16);
        all
    }

    #[test]
    fn rows_by_hand() {
        // 8 / 8: scale 1; 2.5 and -2.5 go away from zero, 8 saturates.
        let row = rounded("W4A16", None, false, &[8.0, 2.5, -2.5, 0.4]);
        assert_eq!((row.codes, row.scales), (vec![7, 3, -3, 0], vec![1.0]));
        // 0.3 / 128 in f16 is stored; the code is made by the scale in f32.
        let row = rounded("W8A16", None, false, &[0.3, -0.3]);
        assert_eq!(row.codes, [127, -128]);
        assert_eq!(row.scales, [f16::from_f32(0.3 / 128.0).to_f32()]);
        let row = rounded("W8A16", None, false, &[0.0, 0.0]);
        assert_eq!((row.codes, row.scales), (vec![0, 0], vec![0.0]));
    }

    #[test]
    fn groups_by_hand() {
        // 3.5 / 7: scale 0.5; 1.25 / 0.5 is 2.5, which goes to 2.
        let row = rounded("W4A16_AWQ", Some(2), false, &[3.5, 1.25, 0.0, 0.0]);
        assert_eq!((row.codes, row.scales), (vec![7, 2, 0, 0], vec![0.5, 1.0]));
        // From 0 to 15: scale 1, and -8 stands for 0.
        let row = rounded("W4A16_GPTQ", Some(2), true, &[15.0, 4.0]);
        assert_eq!((row.codes, row.scales, row.zeros), (vec![7, -4], vec![1.0], vec![-8]));
        // All below zero: 0 is still among them.
        let row = rounded("W4A16_GPTQ", Some(2), true, &[-15.0, -4.0]);
        assert_eq!((row.codes, row.scales, row.zeros), (vec![-8, 3], vec![1.0], vec![7]));
        let row = rounded("W8A16_GPTQ", Some(2), false, &[127.0, -1.5]);
        assert_eq!((row.codes, row.scales), (vec![127, -2], vec![1.0]));
    }
}
