//! Weights of floats, provided as codes that are rounded to the nearest on the way.
//!
//! A weight is gone through once for each of its tensors, two rows at a time; nothing of it is
//! kept from one to the next.

use engraft_files::FileError;
use engraft_ir::{CodeKind, DType};
use engraft_weights::{Provider, Supply, WeightError};
use half::{bf16, f16};

use crate::made::{Made, Tensors};
use crate::rtn::Row;
use crate::{QuantError, Role, Stored, codes};

/// Provides the tensors of quantised weights.
pub struct Rounded<'a> {
    inner: &'a dyn Provider,
    tensors: Tensors<'a>,
}

impl<'a> Rounded<'a> {
    /// The weights of `inner`, of which some are `stored` as codes; scales of rows as `dtype`.
    ///
    /// # Errors
    /// [`QuantError::Uncalibrated`] for a scheme of which a weight does not tell all.
    pub fn new(
        inner: &'a dyn Provider,
        stored: &'a Stored,
        dtype: DType,
    ) -> Result<Rounded<'a>, QuantError> {
        let tensors = Tensors::new(inner, stored, dtype)?;
        let is_told = |role| matches!(role, Role::Codes | Role::Scales | Role::Zeros);
        match tensors.made.values().find(|made| !is_told(made.role)) {
            Some(made) => Err(QuantError::Uncalibrated { weight: made.weight.to_owned() }),
            None => Ok(Rounded { inner, tensors }),
        }
    }
}

impl Provider for Rounded<'_> {
    fn names(&self) -> &[String] {
        &self.tensors.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        match self.tensors.made.get(name) {
            Some(made) => Some(&made.supply),
            None => self.inner.get(name),
        }
    }

    fn held(&self, name: &str) -> u64 {
        match self.tensors.made.get(name) {
            Some(made) => self.inner.held(made.weight).saturating_mul(3),
            None => self.inner.held(name),
        }
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let Some(Made { weight, coded, role, supply }) = self.tensors.made.get(name) else {
            return self.inner.stream(name, sink);
        };
        let dtype = self.inner.get(weight).map_or(DType::F32, |supply| supply.dtype);
        let columns = coded.shape[coded.shape.len() - 1] as usize;
        let pair = 2 * columns * dtype.size();
        let (mut rest, mut out, mut floats) = (Vec::new(), Vec::new(), Vec::new());
        let (mut even, mut row) = (Row::default(), Row::default());
        let mut rows = |bytes: &[u8], out: &mut Vec<u8>| {
            floats.clear();
            widen(bytes, dtype, &mut floats);
            for (at, weights) in floats.chunks_exact(columns).enumerate() {
                row.round(&coded.scheme, weights, supply.dtype);
                match (role, coded.scheme.kind) {
                    (Role::Codes, CodeKind::Int4) if at % 2 == 0 => {
                        std::mem::swap(&mut even, &mut row);
                    }
                    (Role::Codes, CodeKind::Int4) => {
                        out.extend(codes::pack(&even.codes, &row.codes));
                    }
                    (Role::Codes, _) => out.extend(row.codes.iter().map(|&code| code as u8)),
                    (Role::Zeros, _) => out.extend(row.zeros.iter().flat_map(|z| z.to_le_bytes())),
                    _ => row.scales.iter().for_each(|&scale| put(scale, supply.dtype, out)),
                }
            }
        };
        self.inner.stream(weight, &mut |piece| {
            rest.extend_from_slice(piece);
            let whole = rest.len() - rest.len() % pair.max(1);
            out.clear();
            rows(&rest[..whole], &mut out);
            rest.drain(..whole);
            sink(&out)
        })?;
        // A last row that has no partner is one of codes that need none.
        out.clear();
        rows(&rest, &mut out);
        Ok(sink(&out)?)
    }
}

/// Appends the elements of a float type to `floats`; of what is no float type, as if of `f32`.
pub fn widen(bytes: &[u8], dtype: DType, floats: &mut Vec<f32>) {
    fn each<const W: usize>(bytes: &[u8], to: &mut Vec<f32>, of: impl Fn([u8; W]) -> f32) {
        to.extend(bytes.as_chunks::<W>().0.iter().map(|&element| of(element)));
    }
    match dtype {
        DType::F64 => each(bytes, floats, |b| f64::from_le_bytes(b) as f32),
        DType::F16 => each(bytes, floats, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => each(bytes, floats, |b| bf16::from_le_bytes(b).to_f32()),
        _ => each(bytes, floats, f32::from_le_bytes),
    }
}

fn put(value: f32, dtype: DType, out: &mut Vec<u8>) {
    match dtype {
        DType::F16 => out.extend(f16::from_f32(value).to_le_bytes()),
        DType::BF16 => out.extend(bf16::from_f32(value).to_le_bytes()),
        _ => out.extend(value.to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Lone, of};
    use crate::{Grouping, Scheme};

    fn stored(shape: &[u64], scheme: Scheme) -> Stored {
        Stored::new(&[("x.weight".to_owned(), shape.to_vec())], &|_, _| Some(scheme)).unwrap()
    }

    #[test]
    fn a_weight_comes_as_its_tensors_in_pieces_of_any_size() {
        let inner = Lone::new(&[2, 4], &[3.5, 1.25, 7.0, 0.0, -7.0, 1.0, 0.0, 0.0]);
        let awq = Scheme::from_name("W4A16_AWQ").unwrap();
        let stored = stored(&[2, 4], Scheme { grouping: Grouping::Group(2), ..awq });
        let rounded = Rounded::new(&inner, &stored, DType::F16).unwrap();
        assert_eq!(rounded.names(), ["x.weight", "x.weights_scaling_factor"]);
        assert_eq!(of(&rounded, "x.weight"), codes::pack(&[7, 2, 7, 0], &[-7, 1, 0, 0]));
        let scales: Vec<u8> =
            [0.5f32, 1.0, 1.0, 1.0].iter().flat_map(|s| s.to_le_bytes()).collect();
        assert_eq!(of(&rounded, "x.weights_scaling_factor"), scales);
    }

    #[test]
    fn an_odd_row_is_no_trouble_to_codes_of_a_byte() {
        let inner = Lone::new(&[3, 1], &[1.0, -2.0, 0.0]);
        let stored = stored(&[3, 1], Scheme::from_name("W8A16").unwrap());
        let rounded = Rounded::new(&inner, &stored, DType::F16).unwrap();
        assert_eq!(of(&rounded, "x.weight"), [127, 0x80, 0]);
        let scales = [1.0f32 / 128.0, 1.0 / 64.0, 0.0];
        let scales: Vec<u8> =
            scales.iter().flat_map(|&scale| f16::from_f32(scale).to_le_bytes()).collect();
        assert_eq!(of(&rounded, "x.per_channel_scale"), scales);
    }

    #[test]
    fn what_needs_activations_is_not_made_of_weights_alone() {
        let inner = Lone::new(&[2, 1], &[1.0, 2.0]);
        let stored = stored(&[2, 1], Scheme::from_name("W8A8_SQ_PER_CHANNEL").unwrap());
        assert!(matches!(
            Rounded::new(&inner, &stored, DType::F16),
            Err(QuantError::Uncalibrated { .. })
        ));
    }
}
