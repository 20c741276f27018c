//! How weights are quantised, as a value.

use crate::QuantError;
use engraft_ir::CodeKind;

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// All of a matrix.
    Tensor,
    /// A row: all inputs of an output.
    Row,
    /// So many neighbouring inputs of an output; or, where inputs say of which group they are, so
    /// many as there are inputs for each group.
    Group(u64),
}

/// The numbers that activations are rounded to before a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activations {
    /// Whole numbers or floats, of eight bits.
    pub kind: CodeKind,
    /// Whether one scale for all is stored; else each token has its own.
    pub is_static: bool,
}

/// A weight `[out, in]` as codes.
///
/// ```text
/// weight[o, i] = (code[o, i] − zero[o, g]) · scale[o, g] · input_scale[i]
/// ```
/// The scales of inputs are what activations are multiplied by before the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// What a code is.
    pub kind: CodeKind,
    /// What shares a scale.
    pub grouping: Grouping,
    /// Whether groups have zero points.
    pub zeros: bool,
    /// Whether each input says of which group it is.
    pub group_index: bool,
    /// Whether inputs have scales of their own.
    pub input_scales: bool,
    /// How activations are rounded, where they are.
    pub activations: Option<Activations>,
}

/// The schemes whose checkpoints hold floats: whoever builds makes codes of them.
pub const BY_BUILDER: [&str; 2] = ["W8A16", "W4A16"];

/// Every scheme by TensorRT-LLM's name, as it is where nothing optional is there. Groups are of
/// the size that the config or the scales say.
const NAMES: [(&str, Scheme); 8] = [
    ("W8A16", Scheme::weights(CodeKind::Int8, Grouping::Row)),
    ("W4A16", Scheme::weights(CodeKind::Int4, Grouping::Row)),
    ("W4A16_AWQ", Scheme::weights(CodeKind::Int4, Grouping::Group(128))),
    ("W4A16_GPTQ", Scheme::weights(CodeKind::Int4, Grouping::Group(128))),
    ("W8A16_GPTQ", Scheme::weights(CodeKind::Int8, Grouping::Group(128))),
    ("FP8", Scheme::rounding(CodeKind::Fp8, Grouping::Tensor, true)),
    ("FP8_PER_CHANNEL_PER_TOKEN", Scheme::rounding(CodeKind::Fp8, Grouping::Row, false)),
    ("W8A8_SQ_PER_CHANNEL", Scheme::rounding(CodeKind::Int8, Grouping::Row, true)),
];

impl Scheme {
    /// Only weights have codes.
    const fn weights(kind: CodeKind, grouping: Grouping) -> Scheme {
        let (zeros, group_index, input_scales) = (false, false, false);
        Scheme { kind, grouping, zeros, group_index, input_scales, activations: None }
    }

    /// Activations are rounded to the like.
    const fn rounding(kind: CodeKind, grouping: Grouping, is_static: bool) -> Scheme {
        let activations = Some(Activations { kind, is_static });
        Scheme { activations, ..Scheme::weights(kind, grouping) }
    }

    /// What TensorRT-LLM's name of a scheme says.
    ///
    /// # Errors
    /// [`QuantError::Unsupported`] for a scheme that is not known.
    pub fn from_name(name: &str) -> Result<Scheme, QuantError> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, scheme)| *scheme).ok_or_else(|| QuantError::Unsupported(name.to_owned()))
    }

    /// The names of all schemes.
    pub fn names() -> String {
        NAMES.map(|(name, _)| name).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_read_by_its_name() {
        let awq = Scheme::from_name("W4A16_AWQ").unwrap();
        assert_eq!((awq.kind, awq.grouping), (CodeKind::Int4, Grouping::Group(128)));
        assert_eq!(awq.activations, None);
        let fp8 = Scheme::from_name("FP8").unwrap();
        let activations = Some(Activations { kind: CodeKind::Fp8, is_static: true });
        assert_eq!((fp8.grouping, fp8.activations), (Grouping::Tensor, activations));
        let error = Scheme::from_name("W4A8_QSERVE_PER_GROUP").unwrap_err().to_string();
        assert!(error.contains("W4A8_QSERVE_PER_GROUP"), "{error}");
    }
}
