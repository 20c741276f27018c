//! One packed layer: its four tensors held against each other, and its rows.

use std::ops::Range;

use engraft_ir::DType;
use rayon::prelude::*;

use crate::SourceError;
use crate::lora::floats;
use crate::source::TensorInfo;

/// What a layer's tensors are called.
pub(super) const PARTS: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];

/// Which nibble of its word each of eight neighbouring outputs has in AWQ's.
const AWQ_ORDER: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// What is shown in place of a packed weight's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// What they stand for.
    Weights,
    /// What the code of each is multiplied by.
    Scales,
    /// What is subtracted from the code of each, if codes count from -8, or -128.
    Zeros,
    /// The number of the group of each.
    Groups,
}

/// Who packed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Words along the outputs, in a shuffled order.
    Awq,
    /// Words along the inputs.
    Gptq {
        /// What is added to a stored zero point.
        offset: i32,
    },
}

impl Layout {
    pub(super) fn name(self) -> &'static str {
        match self {
            Layout::Awq => "AWQ",
            Layout::Gptq { .. } => "GPTQ",
        }
    }
}

/// A layer's tensors, which fit each other.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) codes: TensorInfo,
    zeros: TensorInfo,
    scales: TensorInfo,
    /// The group of each input, where that is said.
    order: Option<TensorInfo>,
    pub(super) inputs: u64,
    pub(super) outputs: u64,
    pub(super) groups: u64,
    /// Inputs of a group, where no group is said.
    pub(super) group: u64,
}

/// Why a layer cannot be loaded.
pub(super) enum LoadError {
    Source(SourceError),
    Group { input: usize, group: i64 },
}

impl From<SourceError> for LoadError {
    fn from(error: SourceError) -> LoadError {
        LoadError::Source(error)
    }
}

impl Stored {
    /// A layer out of what `get` finds under the names of its parts; else what does not fit.
    pub(super) fn new<'a>(
        layout: Layout,
        bits: u32,
        group: Option<u64>,
        get: &dyn Fn(&str) -> Option<&'a TensorInfo>,
    ) -> Result<Stored, String> {
        let part = |name: &str, kind: &str, is: fn(DType) -> bool| {
            let info = get(name).ok_or_else(|| format!("it has no {name}"))?;
            match info.shape.as_slice() {
                &[rows, columns] if is(info.dtype) => Ok((info, rows, columns)),
                shape => Err(format!(
                    "{name} is {shape:?} {}, and should be a matrix of {kind}",
                    info.stored
                )),
            }
        };
        let is_word = |dtype| dtype == DType::I32;
        let (codes, rows, columns) = part("qweight", "I32", is_word)?;
        let (zeros, zero_groups, zero_columns) = part("qzeros", "I32", is_word)?;
        let (scales, groups, scale_columns) = part("scales", "floats", DType::is_float)?;
        let per = u64::from(32 / bits);
        let too_large = || "it is too large".to_owned();
        let (inputs, outputs) = match layout {
            Layout::Awq => (Some(rows), columns.checked_mul(per)),
            Layout::Gptq { .. } => (rows.checked_mul(per), Some(columns)),
        };
        let (inputs, outputs) = (inputs.ok_or_else(too_large)?, outputs.ok_or_else(too_large)?);
        if inputs == 0 || outputs == 0 || inputs.checked_mul(outputs).is_none_or(|n| n > 1 << 48) {
            return Err(format!("qweight is [{rows}, {columns}], which is no layer's"));
        }
        let group = group.unwrap_or(inputs).min(inputs);
        let expected = inputs.div_ceil(group);
        if (groups, scale_columns) != (expected, outputs) {
            return Err(format!(
                "scales are [{groups}, {scale_columns}], and should be [{expected}, {outputs}]"
            ));
        }
        if (zero_groups, zero_columns) != (groups, outputs.div_ceil(per)) {
            return Err(format!(
                "qzeros are [{zero_groups}, {zero_columns}], and should be [{groups}, {}]",
                outputs.div_ceil(per)
            ));
        }
        let order = match get("g_idx") {
            Some(info)
                if info.shape != [inputs] || !matches!(info.dtype, DType::I32 | DType::I64) =>
            {
                return Err(format!(
                    "g_idx is {:?} {}, and should be [{inputs}] I32",
                    info.shape, info.stored
                ));
            }
            order => order.cloned(),
        };
        let (codes, zeros, scales) = (codes.clone(), zeros.clone(), scales.clone());
        Ok(Stored { codes, zeros, scales, order, inputs, outputs, groups, group })
    }

    /// About how many bytes the layer takes in memory: scales widened, and a group for each input.
    pub(super) fn held(&self) -> u64 {
        let words = self.codes.stored_bytes().saturating_add(self.zeros.stored_bytes());
        let scales = self.groups.saturating_mul(self.outputs).saturating_mul(4);
        words.saturating_add(scales).saturating_add(self.inputs.saturating_mul(4))
    }

    /// The layer with its bytes.
    pub(super) fn load(
        &self,
        layout: Layout,
        bits: u32,
        read: &dyn Fn(&TensorInfo) -> Result<Vec<u8>, SourceError>,
    ) -> Result<Layer, LoadError> {
        Ok(Layer {
            layout,
            bits,
            inputs: self.inputs as usize,
            outputs: self.outputs as usize,
            codes: words(&read(&self.codes)?),
            zeros: words(&read(&self.zeros)?),
            scales: floats(&read(&self.scales)?, self.scales.dtype),
            order: self.order(read)?,
        })
    }

    /// The group of each input.
    fn order(
        &self,
        read: &dyn Fn(&TensorInfo) -> Result<Vec<u8>, SourceError>,
    ) -> Result<Vec<u32>, LoadError> {
        let Some(info) = &self.order else { return Ok(self.neighbours().collect()) };
        let check = |(input, group): (usize, i64)| match u32::try_from(group) {
            Ok(known) if u64::from(known) < self.groups => Ok(known),
            _ => Err(LoadError::Group { input, group }),
        };
        integers(&read(info)?, info.dtype).into_iter().enumerate().map(check).collect()
    }

    /// The group of each input where those of a group are neighbours.
    fn neighbours(&self) -> impl Iterator<Item = u32> {
        (0..self.inputs).map(|input| (input / self.group) as u32)
    }

    /// Whether groups are anything but neighbours.
    pub(super) fn is_ordered(
        &self,
        read: &dyn Fn(&TensorInfo) -> Result<Vec<u8>, SourceError>,
    ) -> Result<bool, LoadError> {
        Ok(self.order.is_some() && !self.order(read)?.into_iter().eq(self.neighbours()))
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

fn integers(bytes: &[u8], dtype: DType) -> Vec<i64> {
    match dtype {
        DType::I64 => bytes.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect(),
    }
}

/// A layer in memory.
pub(super) struct Layer {
    layout: Layout,
    bits: u32,
    inputs: usize,
    outputs: usize,
    codes: Vec<u32>,
    zeros: Vec<u32>,
    /// `[groups, outputs]`
    scales: Vec<f32>,
    /// The group of each input.
    order: Vec<u32>,
}

impl Layer {
    /// Appends rows of what is shown of it, as `F32`.
    pub(super) fn append(&self, view: View, rows: Range<u64>, out: &mut Vec<u8>) {
        let at = out.len();
        let first = rows.start as usize;
        out.resize(at + (rows.end as usize - first) * self.inputs * 4, 0);
        let row = |(row, out): (usize, &mut [u8])| self.row(view, first + row, out);
        out[at..].par_chunks_exact_mut(self.inputs * 4).enumerate().for_each(row);
    }

    fn row(&self, view: View, output: usize, out: &mut [u8]) {
        let mask = u32::MAX >> (32 - self.bits);
        let per = (32 / self.bits) as usize;
        // Where an output's field is in a word of neighbouring outputs.
        let field = match self.layout {
            Layout::Awq => AWQ_ORDER[output % per] * self.bits,
            Layout::Gptq { .. } => (output % per) as u32 * self.bits,
        };
        let offset = match self.layout {
            Layout::Awq => 0,
            Layout::Gptq { offset } => offset,
        };
        let columns = self.outputs.div_ceil(per);
        let groups: Vec<(f32, i32)> = (0..self.scales.len() / self.outputs)
            .map(|group| {
                let zero = self.zeros[group * columns + output / per] >> field & mask;
                (self.scales[group * self.outputs + output], zero as i32 + offset)
            })
            .collect();
        let half = 1 << (self.bits - 1);
        let value = |code: u32, group: u32| {
            let (scale, zero) = groups[group as usize];
            let shown = match view {
                View::Weights => scale * ((code & mask) as i32 - zero) as f32,
                View::Scales => scale,
                View::Zeros => (zero - half) as f32,
                View::Groups => group as f32,
            };
            shown.to_le_bytes()
        };
        let (out, _) = out.as_chunks_mut::<4>();
        match self.layout {
            Layout::Awq => {
                let column = self.codes.iter().skip(output / per).step_by(columns);
                for ((out, code), &group) in out.iter_mut().zip(column).zip(&self.order) {
                    *out = value(code >> field, group);
                }
            }
            Layout::Gptq { .. } => {
                let column = self.codes.iter().skip(output).step_by(self.outputs);
                let blocks = out.chunks_mut(per).zip(self.order.chunks(per)).zip(column);
                for ((out, groups), code) in blocks {
                    for (i, (out, &group)) in out.iter_mut().zip(groups).enumerate() {
                        *out = value(code >> (i as u32 * self.bits), group);
                    }
                }
            }
        }
    }
}
