//! Weights whose elements are codes of few bits.
//!
//! ```text
//! weight[…, o, i] = (code[…, o, i] − zero[…, o, g]) · scale[…, o, g] · input_scale[…, i]
//! ```
//! where `g` is the group of input `i`: `i / (in / groups)`, or what `group_index` says. Scales
//! are a weight of their own, whose shape says what shares one: `[…, out, groups]` for groups of
//! inputs, `[…, out]` for whole rows, `[…, 1]` for all of a matrix.

use crate::DType;
use crate::entities::Weight;
use crate::graph::{Graph, WeightData};
use std::fmt;
use std::str::FromStr;

/// What a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CodeKind {
    /// -8 to 7, two rows to a byte: the tensor is `[…, out / 2, in]`, the even row in the lower
    /// half of each byte.
    Int4,
    /// -128 to 127.
    Int8,
    /// A floating-point number of eight bits (E4M3).
    Fp8,
}

/// Every kind with its spelling.
const NAMES: [(CodeKind, &str); 3] =
    [(CodeKind::Int4, "int4"), (CodeKind::Int8, "int8"), (CodeKind::Fp8, "fp8")];

impl CodeKind {
    /// Bits of a code.
    pub fn bits(self) -> u32 {
        match self {
            CodeKind::Int4 => 4,
            CodeKind::Int8 | CodeKind::Fp8 => 8,
        }
    }

    /// The elements of the tensor that has the codes.
    pub fn dtype(self) -> DType {
        match self {
            CodeKind::Int4 | CodeKind::Int8 => DType::I8,
            CodeKind::Fp8 => DType::F8E4M3,
        }
    }

    /// Makes the lengths of a weight those of the tensor that has its codes.
    pub fn pack(self, shape: &mut [u64]) {
        if let (CodeKind::Int4, [.., out, _]) = (self, shape) {
            *out = out.div_ceil(2);
        }
    }
}

impl fmt::Display for CodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES[*self as usize].1)
    }
}

impl FromStr for CodeKind {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        NAMES.iter().find(|(_, name)| *name == s).map(|(kind, _)| *kind).ok_or(())
    }
}

/// What a weight's codes stand for. The weights that it names are declared by the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// What a code is.
    pub kind: CodeKind,
    /// Floats.
    pub scales: Weight,
    /// Integers, of the shape of the scales; 0 where there are none.
    pub zeros: Option<Weight>,
    /// The group of each input, `[in]` or `[…, in]`, where groups are not neighbours.
    pub group_index: Option<Weight>,
    /// Floats, `[in]` or `[…, in]`; 1 where there are none.
    pub input_scales: Option<Weight>,
}

impl Coding {
    /// The weights that it names.
    pub fn weights(&self) -> impl Iterator<Item = Weight> {
        let Coding { scales, zeros, group_index, input_scales, .. } = *self;
        [Some(scales), zeros, group_index, input_scales].into_iter().flatten()
    }

    /// Calls `f` on each of them; `f` may replace it.
    pub fn map_weights(&mut self, f: impl FnMut(&mut Weight)) {
        let Coding { scales, zeros, group_index, input_scales, .. } = self;
        let others = [zeros, group_index, input_scales].into_iter().flatten();
        std::iter::once(scales).chain(others).for_each(f);
    }
}

/// What a weight's coding must be like.
///
/// # Errors
/// A clause that says what is not so.
pub(crate) fn check(graph: &Graph, weight: Weight, data: &WeightData) -> Result<(), String> {
    let Some(coding) = &data.coding else { return Ok(()) };
    let find =
        |other: Weight| {
            let home = |weight| graph.homes[weight];
            graph.weights.get(other).filter(|_| home(other) == home(weight)).ok_or_else(|| {
                format!("its place declares no {other}, which its codes are told by")
            })
        };
    let shape = data.shape();
    let ([.., rows, columns], 2..=3) = (shape.as_slice(), shape.len()) else {
        return Err("what has codes must have two axes, or three".to_owned());
    };
    if data.dtype != coding.kind.dtype() {
        return Err(format!("codes of {} must be {}", coding.kind, coding.kind.dtype()));
    }
    if coding.kind == CodeKind::Int4 && !rows.is_multiple_of(2) {
        return Err(format!("it has {rows} rows: codes of four bits lie in pairs of rows"));
    }
    let matrices = &shape[..shape.len() - 2];
    let is_plain = |data: &WeightData| data.coding.is_none() && data.tied.is_none();
    let scales = find(coding.scales)?;
    let scale_shape = scales.shape();
    let groups = match scale_shape.strip_prefix(&shape[..shape.len() - 1]) {
        Some([groups]) if columns.is_multiple_of(*groups) => Some(*groups),
        Some([]) => None,
        _ if scale_shape == [matrices, &[1]].concat() => None,
        _ => return Err(format!("scales {scale_shape:?} are none of {shape:?}")),
    };
    if !scales.dtype.is_float() || !is_plain(scales) {
        return Err(format!("its scales, {}, must be floats", coding.scales));
    }
    if let Some(zeros) = coding.zeros {
        let found = find(zeros)?;
        let is_split = scale_shape.starts_with(&shape[..shape.len() - 1]);
        if found.dtype != DType::I16 || found.shape() != scale_shape || !is_plain(found) {
            return Err(format!("its zeros, {zeros}, must be i16 {scale_shape:?}"));
        }
        if !is_split {
            return Err("zeros are told by row or by group".to_owned());
        }
    }
    let of_inputs = |found: &WeightData| {
        let lengths = found.shape();
        is_plain(found) && (lengths == [*columns] || lengths == [matrices, &[*columns]].concat())
    };
    if let Some(index) = coding.group_index {
        let found = find(index)?;
        if found.dtype != DType::I32 || !of_inputs(found) || groups.is_none() {
            return Err(format!("groups, {index}, must be i32 [{columns}], and scales by group"));
        }
    }
    if let Some(inputs) = coding.input_scales {
        let found = find(inputs)?;
        if !found.dtype.is_float() || !of_inputs(found) {
            return Err(format!("inputs, {inputs}, must be floats [{columns}]"));
        }
    }
    Ok(())
}

/// `int4 scales w3 zeros w4`
impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} scales {}", self.kind, self.scales)?;
        for (word, weight) in
            [("zeros", self.zeros), ("groups", self.group_index), ("inputs", self.input_scales)]
        {
            if let Some(weight) = weight {
                write!(f, " {word} {weight}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_four_bits_share_bytes_by_pairs_of_rows() {
        let mut shape = [3, 6, 8];
        CodeKind::Int4.pack(&mut shape);
        assert_eq!(shape, [3, 3, 8]);
        CodeKind::Fp8.pack(&mut shape);
        assert_eq!(shape, [3, 3, 8]);
        for (kind, name) in NAMES {
            assert_eq!((kind.to_string().as_str(), name.parse()), (name, Ok(kind)));
        }
    }
}
