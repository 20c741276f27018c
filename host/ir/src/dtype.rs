//! Element types.

use std::fmt;
use std::str::FromStr;

/// What one element of a tensor is. [`fmt::Display`] is its spelling in the text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 double precision.
    F64,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single-precision number.
    BF16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// A code of eight bits, a floating-point number of its own (OCP's E4M3 without infinities):
    /// what it stands for is told by a scale.
    F8E4M3,
    /// One byte, zero or one.
    Bool,
}

/// Every element type with its three spellings: text form, safetensors, checkpoint config.
const NAMES: [(DType, &str, &str, &str); 11] = [
    (DType::F64, "f64", "F64", "float64"),
    (DType::F32, "f32", "F32", "float32"),
    (DType::F16, "f16", "F16", "float16"),
    (DType::BF16, "bf16", "BF16", "bfloat16"),
    (DType::I64, "i64", "I64", "int64"),
    (DType::I32, "i32", "I32", "int32"),
    (DType::I16, "i16", "I16", "int16"),
    (DType::I8, "i8", "I8", "int8"),
    (DType::U8, "u8", "U8", "uint8"),
    (DType::F8E4M3, "f8e4m3", "F8_E4M3", "float8_e4m3fn"),
    (DType::Bool, "bool", "BOOL", "bool"),
];

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::F8E4M3 | DType::Bool => 1,
        }
    }

    /// Whether it is a floating-point type whose elements are numbers by themselves.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    fn names(self) -> (DType, &'static str, &'static str, &'static str) {
        NAMES[self as usize]
    }

    /// The spelling in a safetensors header: `BF16`.
    pub fn safetensors_name(self) -> &'static str {
        self.names().2
    }

    /// The inverse of [`DType::safetensors_name`].
    pub fn from_safetensors_name(name: &str) -> Option<DType> {
        NAMES.iter().find(|n| n.2 == name).map(|n| n.0)
    }

    /// The spelling in a model's or a checkpoint's config: `bfloat16`.
    pub fn config_name(self) -> &'static str {
        self.names().3
    }

    /// The inverse of [`DType::config_name`].
    pub fn from_config_name(name: &str) -> Option<DType> {
        NAMES.iter().find(|n| n.3 == name).map(|n| n.0)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().1)
    }
}

impl FromStr for DType {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        NAMES.iter().find(|n| n.1 == s).map(|n| n.0).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_reads_back() {
        for (dtype, text, tensors, config) in NAMES {
            assert_eq!(dtype.to_string(), text);
            assert_eq!(text.parse(), Ok(dtype));
            assert_eq!(DType::from_safetensors_name(tensors), Some(dtype));
            assert_eq!(DType::from_config_name(config), Some(dtype));
        }
    }
}
