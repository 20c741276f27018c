//! How a parameter is made out of the tensors of a source: the contract's words as host types.
//!
//! All of it is description. Nothing here has been compared with a source yet; [`crate::Plan`]
//! does that.

use engraft_ir::{Axis, DType, Meaning, PlaceKind, Segment};
use std::fmt;

/// One change to a tensor. Steps compose left to right.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The same elements in a new shape, outermost axis first.
    Reshape(Vec<u64>),
    /// Output axis `i` is input axis `order[i]`.
    Permute(Vec<u32>),
    /// A half-open range of one axis.
    Slice {
        /// The axis that is cut.
        axis: u32,
        /// The first index kept.
        start: u64,
        /// One past the last index kept.
        end: u64,
    },
    /// Add a constant to every element, in `f32`.
    Add(f32),
    /// Multiply every element by a constant, in `f32`.
    Scale(f32),
    /// Divide each row (the last axis) by its Euclidean length, in `f32`.
    UnitRows,
    /// Multiply from the right by a source tensor `[last axis, new last axis]`, in `f32`.
    Times(String),
    /// The same with a source tensor `[new last axis, last axis]`, transposed.
    TimesTransposed(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Reshape(shape) => write!(f, "reshape {shape:?}"),
            Step::Permute(order) => write!(f, "permute {order:?}"),
            Step::Slice { axis, start, end } => write!(f, "slice axis {axis}, {start}..{end}"),
            Step::Add(x) => write!(f, "add {x}"),
            Step::Scale(x) => write!(f, "scale {x}"),
            Step::UnitRows => f.write_str("unit-rows"),
            Step::Times(name) => write!(f, "times `{name}`"),
            Step::TimesTransposed(name) => write!(f, "times-transposed `{name}`"),
        }
    }
}

/// One tensor of the source and what it is after its steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The tensor's name in the source.
    pub tensor: String,
    /// From left to right.
    pub steps: Vec<Step>,
    /// What each axis is after the steps, outermost first.
    pub axes: Vec<Segment>,
}

/// Parts side by side along an axis that they have.
#[derive(Clone, Debug, PartialEq)]
pub struct Joint {
    /// The axis along which they lie.
    pub axis: u32,
    /// At least one; all other axes are the same in each.
    pub parts: Vec<Part>,
}

/// Joints along a new outermost axis, as the experts of a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Pile {
    /// What the new axis counts.
    pub meaning: Meaning,
    /// At least one; all have the same axes.
    pub parts: Vec<Joint>,
}

/// Where a parameter comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// One tensor.
    Tensor(Part),
    /// Tensors side by side.
    Concat(Joint),
    /// Tensors one behind the other on a new axis.
    Stack(Pile),
    /// The same bytes as a parameter of the embedding, named relative to it.
    Tied(String),
}

/// How many bits a parameter is stored in: those of the checkpoint's element type, fewer or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// The quantisation scheme decides.
    Any,
    /// Never quantised, as a norm.
    Keep,
    /// Never quantised, and of 32-bit floating point whatever the checkpoint's type, as a
    /// mixture's router.
    Single,
}

impl Precision {
    /// What elements are of in a checkpoint of a type.
    pub fn dtype(self, checkpoint: DType) -> DType {
        match self {
            Precision::Any | Precision::Keep => checkpoint,
            Precision::Single => DType::F32,
        }
    }
}

/// One parameter of one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in the checkpoint, relative to its place ([`full_name`] makes it whole).
    pub name: String,
    /// How it is made.
    pub origin: Origin,
    /// Whether it may be quantised.
    pub precision: Precision,
}

/// The name of a place's parameter in the checkpoint: `transformer.layers.N.` before those of a
/// block, `transformer.` before the others, save `lm_head.…`, which stands by itself.
pub fn full_name(place: PlaceKind, name: &str) -> String {
    match place {
        PlaceKind::Block(i) => format!("transformer.layers.{i}.{name}"),
        _ if name.starts_with("lm_head.") => name.to_owned(),
        PlaceKind::Embed | PlaceKind::Head => format!("transformer.{name}"),
    }
}

/// The number of a block and what its parameter is called within it, of a [`full_name`].
pub fn block_of(name: &str) -> Option<(u32, &str)> {
    let (number, rest) = name.strip_prefix("transformer.layers.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// An origin that contradicts itself, whatever the source holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// A concatenation or a stack of nothing.
    #[error("it joins no parts")]
    Empty,
    /// A part, or a parameter, without axes.
    #[error("`{tensor}` has no axes")]
    NoAxes {
        /// The source tensor of the part.
        tensor: String,
    },
    /// Parts that cannot lie side by side.
    #[error("`{tensor}` has axes {found}, which do not lie beside {expected} along axis {axis}")]
    Mismatch {
        /// The source tensor of the part that does not fit.
        tensor: String,
        /// Its axes.
        found: String,
        /// The axes of the first part.
        expected: String,
        /// The axis along which they are joined.
        axis: u32,
    },
    /// Joints of a stack that differ.
    #[error("part {index} of the stack has axes {found}, the first has {expected}")]
    Uneven {
        /// Which joint, from zero.
        index: usize,
        /// Its axes.
        found: String,
        /// Those of the first.
        expected: String,
    },
}

impl Part {
    /// The lengths of its axes, outermost first.
    pub fn shape(&self) -> Vec<u64> {
        self.axes.iter().map(|s| s.size).collect()
    }

    /// The source tensors that it reads: its own and those of its products.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        let factors = self.steps.iter().filter_map(|step| match step {
            Step::Times(name) | Step::TimesTransposed(name) => Some(name.as_str()),
            _ => None,
        });
        std::iter::once(self.tensor.as_str()).chain(factors)
    }
}

impl Joint {
    /// The axes of the whole: segments of the parts side by side on the joint's axis.
    pub fn axes(&self) -> Result<Vec<Axis>, OriginError> {
        let (first, rest) = self.parts.split_first().ok_or(OriginError::Empty)?;
        if first.axes.is_empty() {
            return Err(OriginError::NoAxes { tensor: first.tensor.clone() });
        }
        let at = self.axis as usize;
        let mut axes: Vec<Axis> = first.axes.iter().map(|s| Axis::new(s.size, s.meaning)).collect();
        for part in rest.iter().chain((at >= axes.len()).then_some(first)) {
            let fits = at < first.axes.len()
                && part.axes.len() == first.axes.len()
                && (0..first.axes.len()).all(|i| i == at || part.axes[i] == first.axes[i]);
            if !fits {
                return Err(OriginError::Mismatch {
                    tensor: part.tensor.clone(),
                    found: display_segments(&part.axes),
                    expected: display_segments(&first.axes),
                    axis: self.axis,
                });
            }
            axes[at].segments.push(part.axes[at]);
        }
        Ok(axes)
    }
}

fn display_segments(segments: &[Segment]) -> String {
    let axes: Vec<Axis> = segments.iter().map(|s| Axis::new(s.size, s.meaning)).collect();
    engraft_ir::display_axes(&axes)
}

impl Origin {
    /// The axes of the parameter, outermost first; none where it is tied, and then they are
    /// those of the parameter that it is tied to.
    pub fn axes(&self) -> Result<Option<Vec<Axis>>, OriginError> {
        match self {
            Origin::Tensor(part) if part.axes.is_empty() => {
                Err(OriginError::NoAxes { tensor: part.tensor.clone() })
            }
            Origin::Tensor(part) => {
                Ok(Some(part.axes.iter().map(|s| Axis::new(s.size, s.meaning)).collect()))
            }
            Origin::Concat(joint) => joint.axes().map(Some),
            Origin::Stack(pile) => {
                let (first, rest) = pile.parts.split_first().ok_or(OriginError::Empty)?;
                let mut axes = first.axes()?;
                for (i, joint) in rest.iter().enumerate() {
                    let found = joint.axes()?;
                    if found != axes {
                        return Err(OriginError::Uneven {
                            index: i + 1,
                            found: engraft_ir::display_axes(&found),
                            expected: engraft_ir::display_axes(&axes),
                        });
                    }
                }
                axes.insert(0, Axis::new(pile.parts.len() as u64, pile.meaning));
                Ok(Some(axes))
            }
            Origin::Tied(_) => Ok(None),
        }
    }

    /// Its parts in the order in which they are stored, as lists that lie one behind the other,
    /// each with the axis along which its own parts lie side by side.
    /// The source tensors that it reads; none where it is tied.
    pub fn tensors(&self) -> Vec<&str> {
        self.joints().into_iter().flat_map(|(_, parts)| parts).flat_map(Part::tensors).collect()
    }

    pub(crate) fn joints(&self) -> Vec<(usize, &[Part])> {
        match self {
            Origin::Tensor(part) => vec![(0, std::slice::from_ref(part))],
            Origin::Concat(joint) => vec![(joint.axis as usize, &joint.parts)],
            Origin::Stack(pile) => {
                pile.parts.iter().map(|j| (j.axis as usize, j.parts.as_slice())).collect()
            }
            Origin::Tied(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(tensor: &str, axes: &[(u64, Meaning)]) -> Part {
        let axes = axes.iter().map(|&(size, meaning)| Segment { size, meaning }).collect();
        Part { tensor: tensor.to_owned(), steps: Vec::new(), axes }
    }

    #[test]
    fn a_fused_projection_keeps_the_meaning_of_each_part() {
        let joint = Joint {
            axis: 0,
            parts: vec![
                part("q", &[(576, Meaning::QueryHeads), (576, Meaning::Plain)]),
                part("k", &[(192, Meaning::KeyHeads), (576, Meaning::Plain)]),
            ],
        };
        let axes = Origin::Concat(joint).axes().unwrap().unwrap();
        assert_eq!(engraft_ir::display_axes(&axes), "[576 query_heads + 192 key_heads, 576]");
    }

    #[test]
    fn a_stack_has_a_new_outermost_axis() {
        let joint = |t: &str| Joint { axis: 0, parts: vec![part(t, &[(4, Meaning::Plain)])] };
        let pile = Pile { meaning: Meaning::Experts, parts: vec![joint("a"), joint("b")] };
        let axes = Origin::Stack(pile).axes().unwrap().unwrap();
        assert_eq!(engraft_ir::display_axes(&axes), "[2 experts, 4]");
    }

    #[test]
    fn parts_that_do_not_lie_side_by_side_are_turned_down() {
        let parts = vec![
            part("a", &[(4, Meaning::Plain), (8, Meaning::Plain)]),
            part("b", &[(4, Meaning::Plain), (9, Meaning::Plain)]),
        ];
        let joint = |axis, parts: &[Part]| Joint { axis, parts: parts.to_vec() };
        assert!(matches!(joint(0, &parts).axes(), Err(OriginError::Mismatch { axis: 0, .. })));
        assert!(joint(1, &parts).axes().is_ok());
        assert!(matches!(joint(2, &parts).axes(), Err(OriginError::Mismatch { .. })));
        assert!(matches!(joint(2, &parts[..1]).axes(), Err(OriginError::Mismatch { .. })));
        assert_eq!(joint(0, &[]).axes(), Err(OriginError::Empty));
        let pile = Pile {
            meaning: Meaning::Experts,
            parts: vec![joint(1, &parts), joint(1, &parts[..1])],
        };
        assert!(matches!(Origin::Stack(pile).axes(), Err(OriginError::Uneven { index: 1, .. })));
    }

    #[test]
    fn names_are_whole_in_every_place() {
        assert_eq!(
            full_name(PlaceKind::Block(3), "mlp.fc.weight"),
            "transformer.layers.3.mlp.fc.weight"
        );
        assert_eq!(block_of("transformer.layers.3.mlp.fc.weight"), Some((3, "mlp.fc.weight")));
        assert_eq!(block_of("transformer.ln_f.weight"), None);
        assert_eq!(full_name(PlaceKind::Head, "ln_f.weight"), "transformer.ln_f.weight");
        assert_eq!(full_name(PlaceKind::Head, "lm_head.weight"), "lm_head.weight");
        assert_eq!(
            full_name(PlaceKind::Embed, "vocab_embedding.weight"),
            "transformer.vocab_embedding.weight"
        );
    }
}
