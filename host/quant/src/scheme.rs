//! How weights are quantised, as a value.

use crate::QuantError;

/// A weight `[out, in]` as codes of four bits in groups of neighbouring inputs.
///
/// ```text
/// weight[o, i] = code[o, i] · scale[o, i / group] · input_scale[i]
/// ```
/// A code is an integer from -8 to 7. The scales of inputs are what activations are multiplied by
/// before the product; whoever multiplies by the weight as it stands here need not do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Inputs of a group.
    pub group: u64,
    /// Whether inputs have scales of their own.
    pub input_scales: bool,
}

impl Scheme {
    /// What TensorRT-LLM's name and settings of a scheme say.
    ///
    /// # Errors
    /// [`QuantError::Unsupported`] for a scheme that is not read; groups of nothing.
    pub fn new(
        algorithm: &str,
        group_size: u64,
        has_zero_point: bool,
        pre_quant_scale: bool,
    ) -> Result<Scheme, QuantError> {
        let unsupported = |what: &str| Err(QuantError::Unsupported(what.to_owned()));
        match algorithm {
            "W4A16_AWQ" if has_zero_point => unsupported("W4A16_AWQ with zero points"),
            "W4A16_AWQ" if group_size == 0 => unsupported("groups of no inputs"),
            "W4A16_AWQ" => Ok(Scheme { group: group_size, input_scales: pre_quant_scale }),
            other => unsupported(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_read_by_its_name() {
        let scheme = Scheme::new("W4A16_AWQ", 64, false, true).unwrap();
        assert_eq!(scheme, Scheme { group: 64, input_scales: true });
        for (name, group, zero) in
            [("W4A16_AWQ", 64, true), ("W4A16_AWQ", 0, false), ("FP8", 64, false)]
        {
            assert!(Scheme::new(name, group, zero, true).is_err(), "{name}");
        }
    }
}
