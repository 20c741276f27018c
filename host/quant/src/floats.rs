//! A quantised checkpoint as one of floats.
//!
//! Codes are multiplied by their scales, and by those of their inputs, in `f32`, and rounded once
//! to the type that is asked for. Of a weight all scales are held, and a piece of its codes.

use std::collections::BTreeMap;

use engraft_files::FileError;
use engraft_ir::{Axis, DType, Meaning};
use engraft_weights::{Listing, Provider, Supply, WeightError};
use half::{bf16, f16};

use crate::stored::{INPUT_SCALES, SCALES};
use crate::{QuantError, Stored, codes};

/// Provides the weights that another's tensors stand for.
pub struct Floats<'a> {
    inner: &'a dyn Provider,
    stored: &'a Stored,
    names: Vec<String>,
    weights: BTreeMap<String, Supply>,
}

impl<'a> Floats<'a> {
    /// The tensors of `inner`, which are `stored`, as elements of `dtype`.
    ///
    /// # Errors
    /// [`QuantError::Misfits`]: all tensors that are missing, have another shape or another type.
    pub fn new(
        inner: &'a dyn Provider,
        stored: &'a Stored,
        dtype: DType,
    ) -> Result<Floats<'a>, QuantError> {
        let mut misfits = Vec::new();
        for (name, shape) in &stored.tensors {
            let is_codes = stored.weight(name).is_some();
            match inner.get(name) {
                None => misfits.push(format!("`{name}` {shape:?} is missing")),
                Some(found) if found.shape() != *shape => {
                    misfits.push(format!("`{name}` is {:?}, not {shape:?}", found.shape()));
                }
                Some(found) if is_codes && !matches!(found.dtype, DType::I8 | DType::U8) => {
                    misfits.push(format!("`{name}` holds {}, and no codes", found.dtype));
                }
                Some(found) if !is_codes && !found.dtype.is_float() => {
                    misfits.push(format!("`{name}` holds {}, and no floats", found.dtype));
                }
                Some(_) => {}
            }
        }
        if !misfits.is_empty() {
            return Err(QuantError::Misfits(Listing(misfits)));
        }
        let is_scale = |name: &str| {
            [SCALES, INPUT_SCALES].iter().any(|suffix| {
                let weight = name.strip_suffix(suffix).map(|module| format!("{module}.weight"));
                weight.is_some_and(|weight| stored.weight(&weight).is_some())
            })
        };
        let names = inner.names().iter().filter(|name| !is_scale(name)).cloned().collect();
        let supply = |shape: &[u64]| Supply {
            dtype,
            axes: shape.iter().map(|&n| Axis::new(n, Meaning::Plain)).collect(),
            tied: None,
        };
        let weights = inner.names().iter().filter_map(|name| {
            let shape = stored.weight(name)?;
            Some((name.clone(), supply(shape)))
        });
        Ok(Floats { inner, stored, names, weights: weights.collect() })
    }

    /// All values of a tensor of scales.
    fn scales(&self, name: &str) -> Result<Vec<f32>, WeightError> {
        let dtype = self.inner.get(name).map_or(DType::F32, |supply| supply.dtype);
        let mut bytes = Vec::new();
        self.inner.stream(name, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(match dtype {
            DType::F64 => each(&bytes, |b| f64::from_le_bytes(b) as f32),
            DType::F16 => each(&bytes, |b| f16::from_le_bytes(b).to_f32()),
            DType::BF16 => each(&bytes, |b| bf16::from_le_bytes(b).to_f32()),
            _ => each(&bytes, f32::from_le_bytes),
        })
    }
}

fn each<const W: usize>(bytes: &[u8], of: impl Fn([u8; W]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<W>().0.iter().map(|&element| of(element)).collect()
}

impl Provider for Floats<'_> {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.weights.get(name).or_else(|| self.inner.get(name))
    }

    fn held(&self, name: &str) -> u64 {
        match self.weights.get(name) {
            // A piece of codes becomes up to eight times as many bytes; the scales are beside it.
            Some(supply) => supply.bytes().min(64 << 20).saturating_add(supply.bytes() / 8),
            None => self.inner.held(name),
        }
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let Some(supply) = self.weights.get(name) else { return self.inner.stream(name, sink) };
        let shape = supply.shape();
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let scheme = self.stored.scheme();
        let mut rows = Rows {
            outputs: shape[shape.len() - 2] as usize,
            inputs: shape[shape.len() - 1] as usize,
            group: scheme.group as usize,
            scales: self.scales(&format!("{module}{SCALES}"))?,
            input_scales: match scheme.input_scales {
                true => self.scales(&format!("{module}{INPUT_SCALES}"))?,
                false => Vec::new(),
            },
            dtype: supply.dtype,
            done: 0,
            too_large: None,
        };
        let mut rest: Vec<u8> = Vec::new();
        let mut out = Vec::new();
        let streamed = self.inner.stream(name, &mut |piece| {
            rest.extend_from_slice(piece);
            let whole = rest.len() - rest.len() % rows.inputs;
            out.clear();
            for pair in rest[..whole].chunks_exact(rows.inputs) {
                rows.append(pair, &mut out);
            }
            rest.drain(..whole);
            match rows.too_large {
                None => sink(&out),
                Some(_) => Err(FileError::Interrupted),
            }
        });
        if let Some((row, column, value)) = rows.too_large {
            let (tensor, parameter) = (name.to_owned(), name.to_owned());
            let mut index = vec![row as u64 % shape[shape.len() - 2], column as u64];
            if shape.len() > 2 {
                index.insert(0, row as u64 / shape[shape.len() - 2]);
            }
            let (value, dtype) = (f64::from(value), supply.dtype);
            return Err(WeightError::TooLarge { tensor, index, value, dtype, parameter });
        }
        streamed
    }
}

/// A weight that is being unpacked.
struct Rows {
    outputs: usize,
    inputs: usize,
    group: usize,
    /// `[experts, outputs, inputs / group]`
    scales: Vec<f32>,
    /// `[experts, inputs]`, or none.
    input_scales: Vec<f32>,
    dtype: DType,
    /// Rows that came out so far, of all experts.
    done: usize,
    /// The first number that the type cannot hold, with its row and column.
    too_large: Option<(usize, usize, f32)>,
}

impl Rows {
    /// Appends the two rows of a row of bytes.
    fn append(&mut self, pair: &[u8], out: &mut Vec<u8>) {
        for odd in [false, true] {
            let row = self.done;
            let groups = self.inputs / self.group;
            let scales = &self.scales[row * groups..(row + 1) * groups];
            let first = row / self.outputs * self.inputs;
            for (column, &byte) in pair.iter().enumerate() {
                let (even_code, odd_code) = codes::unpack(byte);
                let code = if odd { odd_code } else { even_code };
                let mut value = f32::from(code) * scales[column / self.group];
                if let Some(scale) = self.input_scales.get(first + column) {
                    value *= scale;
                }
                let is_finite = match self.dtype {
                    DType::F16 => {
                        let value = f16::from_f32(value);
                        out.extend(value.to_le_bytes());
                        value.is_finite()
                    }
                    DType::BF16 => {
                        let value = bf16::from_f32(value);
                        out.extend(value.to_le_bytes());
                        value.is_finite()
                    }
                    _ => {
                        out.extend(value.to_le_bytes());
                        value.is_finite()
                    }
                };
                if !is_finite && self.too_large.is_none() {
                    self.too_large = Some((row, column, value));
                }
            }
            self.done += 1;
        }
    }
}

#[cfg(test)]
mod tests;
