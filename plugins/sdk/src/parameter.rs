//! Describing one parameter: axes with meanings, tensors of the source, and how they are joined.

use crate::{Axis, Joint, Meaning, Origin, Parameter, Part, Precision, Range, Step};

fn axis(size: u32, meaning: Meaning) -> Axis {
    Axis { size: size.into(), meaning }
}

/// An axis that the host must not cut.
pub fn plain(size: u32) -> Axis {
    axis(size, Meaning::Plain)
}

/// Entries of the vocabulary.
pub fn vocabulary(size: u32) -> Axis {
    axis(size, Meaning::Vocabulary)
}

/// Query heads times their width.
pub fn query_heads(heads: u32, width: u32) -> Axis {
    Axis { size: u64::from(heads) * u64::from(width), meaning: Meaning::QueryHeads }
}

/// Key or value heads times their width.
pub fn key_heads(heads: u32, width: u32) -> Axis {
    Axis { size: u64::from(heads) * u64::from(width), meaning: Meaning::KeyHeads }
}

/// The inner width of a feed-forward layer.
pub fn feed_forward(size: u32) -> Axis {
    axis(size, Meaning::FeedForward)
}

/// A tensor of the source, as it is. Its axes are those after all steps.
pub fn tensor(name: impl Into<String>, axes: &[Axis]) -> Part {
    Part { tensor: name.into(), steps: Vec::new(), axes: axes.to_vec() }
}

/// Steps that a tensor goes through, from left to right.
pub trait PartExt {
    /// Only if it has this shape by now; one of another shape is refused. A reshape alone would
    /// take any of as many elements, also a matrix that was turned.
    fn shaped(self, shape: impl IntoIterator<Item = u64>) -> Part;
    /// The same elements in a new shape.
    fn reshape(self, shape: impl IntoIterator<Item = u64>) -> Part;
    /// Output axis `i` is input axis `order[i]`.
    fn permute(self, order: impl IntoIterator<Item = u32>) -> Part;
    /// A part of an axis.
    fn slice(self, axis: u32, start: u64, end: u64) -> Part;
    /// A constant more in every element.
    fn add(self, more: f32) -> Part;
    /// Every element multiplied by a constant.
    fn scale(self, factor: f32) -> Part;
    /// Rows of rotating heads, from neighbours that turn together to halves that do: GGUF keeps
    /// the former for `llama`, the graph has the latter.
    fn pairs_to_halves(self, head_width: u64) -> Part;
}

impl PartExt for Part {
    fn shaped(self, shape: impl IntoIterator<Item = u64>) -> Part {
        // All of an axis changes nothing, and no shorter one has it. What is longer is too long
        // for the steps behind.
        (0..).zip(shape).fold(self, |part, (axis, size)| part.slice(axis, 0, size))
    }

    fn reshape(mut self, shape: impl IntoIterator<Item = u64>) -> Part {
        self.steps.push(Step::Reshape(shape.into_iter().collect()));
        self
    }

    fn permute(mut self, order: impl IntoIterator<Item = u32>) -> Part {
        self.steps.push(Step::Permute(order.into_iter().collect()));
        self
    }

    fn slice(mut self, axis: u32, start: u64, end: u64) -> Part {
        self.steps.push(Step::Slice(Range { axis, start, end }));
        self
    }

    fn add(mut self, more: f32) -> Part {
        self.steps.push(Step::Add(more));
        self
    }

    fn scale(mut self, factor: f32) -> Part {
        self.steps.push(Step::Scale(factor));
        self
    }

    fn pairs_to_halves(self, head_width: u64) -> Part {
        let shape: Vec<u64> = self.axes.iter().map(|axis| axis.size).collect();
        let mut heads = vec![shape[0] / head_width, head_width / 2, 2];
        heads.extend_from_slice(&shape[1..]);
        let order = (0..heads.len() as u32)
            .map(|axis| [0, 2, 1].get(axis as usize).copied().unwrap_or(axis));
        let order: Vec<u32> = order.collect();
        self.shaped(shape.clone()).reshape(heads).permute(order).reshape(shape)
    }
}

/// Rounded to as many digits as bfloat16 has, to nearest even.
pub fn bfloat16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// Tensors side by side along an axis that they have.
pub fn concat(axis: u32, parts: impl IntoIterator<Item = Part>) -> Origin {
    Origin::Concat(Joint { axis, parts: parts.into_iter().collect() })
}

/// The same bytes as a parameter of the embedding, as a tied head is.
pub fn tied(name: &str) -> Origin {
    Origin::Tied(name.into())
}

impl From<Part> for Origin {
    fn from(part: Part) -> Origin {
        Origin::Tensor(part)
    }
}

/// A parameter by its name in the checkpoint, relative to its place.
pub fn parameter(name: impl Into<String>, origin: impl Into<Origin>) -> Parameter {
    Parameter { name: name.into(), origin: origin.into(), precision: Precision::Any }
}

/// What the host may do with a parameter.
pub trait ParameterExt {
    /// It is never quantised, as a norm.
    fn keep(self) -> Parameter;
}

impl ParameterExt for Parameter {
    fn keep(self) -> Parameter {
        Parameter { precision: Precision::Keep, ..self }
    }
}
