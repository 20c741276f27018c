//! The sum itself: rows of a weight and of its update, in `f32`.
//!
//! ```text
//! weight [out, in]:  W[o, i] += scale · Σ_k B[o, k] · A[k, i]
//! weight [in, out]:  W[i, o] += scale · Σ_k B[o, k] · A[k, i]     (Conv1D, embeddings)
//! DoRA, [out, in]:   W[o, :] = m[o] · W[o, :] / ‖W[o, :]‖          after the sum
//! ```
//! A row is summed by itself, over `k` in order, so the result does not depend on how many rows
//! are asked for at a time nor on the number of threads. Of `A` and `B` only what these rows
//! need is read.

use std::ops::Range;

use engraft_ir::DType;
use half::{bf16, f16};
use rayon::prelude::*;

use super::LoraError;
use crate::SourceError;
use crate::source::{TensorInfo, Weights, encoding};

/// A tensor of the adapter.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub(super) name: String,
    pub(super) info: TensorInfo,
}

/// What is added to one tensor of the source.
#[derive(Debug)]
pub(super) struct Update {
    /// `[rank, in]`
    pub(super) a: Matrix,
    /// `[out, rank]`
    pub(super) b: Matrix,
    pub(super) scale: f32,
    /// The weight is stored as `[in, out]`.
    pub(super) transposed: bool,
    /// DoRA's lengths of rows, `[out]`.
    pub(super) magnitude: Option<Matrix>,
}

/// The file that an adapter's matrices are in.
pub(super) struct Store<'a>(pub(super) &'a Weights);

impl Store<'_> {
    /// A range of the elements of a matrix, as they lie.
    fn elements(&self, matrix: &Matrix, range: Range<u64>) -> Result<Vec<f32>, SourceError> {
        let mut bytes = Vec::new();
        encoding::read(self.0, &matrix.info, range, &mut bytes)?;
        let values = floats(&bytes, matrix.info.dtype);
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        let fault = LoraError::NotFinite(matrix.name.clone());
        Err(SourceError::Lora { path: self.0[matrix.info.file].0.clone(), fault })
    }

    /// Some columns of a matrix `[rows, width]`, as `[rows, columns]`.
    fn columns(&self, matrix: &Matrix, columns: Range<u64>) -> Result<Vec<f32>, SourceError> {
        let (rows, width) = (matrix.info.shape[0], matrix.info.shape[1]);
        let mut all = Vec::new();
        for row in 0..rows {
            let first = row * width;
            all.extend(self.elements(matrix, first + columns.start..first + columns.end)?);
        }
        Ok(all)
    }

    /// Adds an update to `rows` of a weight, which are in `weight`.
    pub(super) fn add(
        &self,
        update: &Update,
        rows: Range<u64>,
        weight: &mut [f32],
    ) -> Result<(), SourceError> {
        let rank = update.a.info.shape[0] as usize;
        // `left[row, k]` and `right[k, column]`, whose product is the update of these rows.
        let (left, right) = if update.transposed {
            let a = self.columns(&update.a, rows.clone())?;
            let b = self.elements(&update.b, 0..update.b.info.shape.iter().product())?;
            (turned(&a, rank), turned(&b, update.b.info.shape[0] as usize))
        } else {
            let rank = rank as u64;
            let b = self.elements(&update.b, rows.start * rank..rows.end * rank)?;
            (b, self.elements(&update.a, 0..update.a.info.shape.iter().product())?)
        };
        let magnitudes = match &update.magnitude {
            Some(matrix) => Some(self.elements(matrix, rows.clone())?),
            None => None,
        };
        let width = right.len() / rank;
        let add = |(row, weight): (usize, &mut [f32])| {
            let mut sum = vec![0.0f32; width];
            for (k, factor) in left[row * rank..(row + 1) * rank].iter().enumerate() {
                let right = &right[k * width..(k + 1) * width];
                sum.iter_mut().zip(right).for_each(|(sum, right)| *sum += factor * right);
            }
            weight.iter_mut().zip(&sum).for_each(|(weight, sum)| *weight += update.scale * sum);
            if let Some(magnitudes) = &magnitudes {
                let squares: f64 = weight.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
                // A row of zeros has no direction, and stays.
                if squares > 0.0 {
                    let length = (f64::from(magnitudes[row]) / squares.sqrt()) as f32;
                    weight.iter_mut().for_each(|weight| *weight *= length);
                }
            }
        };
        weight.par_chunks_mut(width).enumerate().for_each(add);
        Ok(())
    }
}

/// A matrix `[rows, columns]` as `[columns, rows]`.
fn turned(matrix: &[f32], rows: usize) -> Vec<f32> {
    let columns = matrix.len() / rows;
    (0..columns).flat_map(|c| (0..rows).map(move |r| matrix[r * columns + c])).collect()
}

/// Elements of a floating-point type as `f32`; nothing of another type.
pub(crate) fn floats(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        DType::F32 => each(bytes, f32::from_le_bytes),
        DType::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        _ => Vec::new(),
    }
}

fn each<const W: usize>(bytes: &[u8], of: impl Fn([u8; W]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<W>().0.iter().map(|&element| of(element)).collect()
}
