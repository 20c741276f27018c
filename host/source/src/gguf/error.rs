//! What can be wrong with a GGUF file.

use engraft_diagnostic::{Code, escape};

/// Why a GGUF file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// A version of the format that we do not read.
    #[error("GGUF version {0} is not read; versions 2 and 3 are")]
    Version(u32),
    /// The numbers are big-endian.
    #[error("the file is big-endian; only little-endian GGUF is read")]
    BigEndian,
    /// One file of several.
    #[error("the file is one of {0} that make up the model")]
    Split(u64),
    /// The file ends inside of its header.
    #[error(
        "the file ends at byte {size}, inside of its header: {reading} needs {needed} more bytes"
    )]
    Truncated {
        /// What was being read: a key, a tensor's entry.
        reading: String,
        /// How many bytes it claims to take.
        needed: u64,
        /// The size of the file in bytes.
        size: u64,
    },
    /// A number in the header is beyond anything sensible.
    #[error("{what} is {value}, more than the {limit} that are allowed")]
    TooMany {
        /// What it counts.
        what: String,
        /// The number.
        value: u64,
        /// The bound.
        limit: u64,
    },
    /// A key or a tensor's name is no UTF-8.
    #[error("{0} is not UTF-8 text")]
    NotText(String),
    /// A metadata value of a type that the format does not have, or a list of lists.
    #[error("metadata `{}` has the unreadable type {kind}", escape(key))]
    ValueType {
        /// The metadata's key.
        key: String,
        /// The type's number in the file.
        kind: u32,
    },
    /// A metadata key or a tensor's name occurs twice.
    #[error("{0} is in the file twice")]
    Twice(String),
    /// Metadata that the model cannot do without.
    #[error("metadata `{0}` is missing")]
    MissingKey(String),
    /// Metadata of another kind or value than it has to be.
    #[error("metadata `{key}` should be {expected}")]
    Value {
        /// The metadata's key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A tensor of a type that we do not read.
    #[error("tensor `{}` has {}", escape(tensor), type_name(*number))]
    TensorType {
        /// The tensor.
        tensor: String,
        /// ggml's number for the type.
        number: u32,
    },
    /// A tensor's shape is impossible, or no whole number of blocks.
    #[error("tensor `{}` of shape {shape:?} {reason}", escape(tensor))]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its extents, outermost first.
        shape: Vec<u64>,
        /// What is wrong with them.
        reason: &'static str,
    },
    /// A tensor runs past the end of the file.
    #[error("tensor `{}` ends at byte {end}, but the file ends at byte {size}", escape(tensor))]
    PastTheEnd {
        /// The tensor.
        tensor: String,
        /// Where it ends.
        end: u64,
        /// The size of the file in bytes.
        size: u64,
    },
    /// A tensor does not begin where one may.
    #[error("tensor `{}` begins at {offset}, which is no multiple of {alignment}", escape(tensor))]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Where it begins, counted from the first byte of data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Two tensors share bytes.
    #[error("tensor `{}` overlaps tensor `{}`", escape(tensor), escape(other))]
    Overlap {
        /// The tensor.
        tensor: String,
        /// The tensor before it.
        other: String,
    },
    /// A kind of tokenizer that we cannot rebuild.
    #[error("its tokenizer is of the kind `{}`, which is not read", escape(.0))]
    TokenizerModel(String),
    /// A way of splitting text that we do not know.
    #[error("its tokenizer splits text the way `{}`, which is not known", escape(.0))]
    PreTokenizer(String),
}

/// The number of a tensor type, with its name where ggml has had one.
fn type_name(number: u32) -> String {
    let name = match number {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("the unknown type {number}"),
    };
    format!("the type {number} ({name}), which is not read")
}

impl GgufError {
    pub(crate) fn code(&self) -> Code {
        Code(match self {
            GgufError::Version(_) | GgufError::BigEndian => 120,
            GgufError::Split(_) => 121,
            GgufError::Truncated { .. } => 122,
            GgufError::TooMany { .. } => 123,
            GgufError::NotText(_) | GgufError::ValueType { .. } | GgufError::Twice(_) => 124,
            GgufError::MissingKey(_) => 125,
            GgufError::Value { .. } => 126,
            GgufError::TensorType { .. } => 127,
            GgufError::Shape { .. } => 128,
            GgufError::PastTheEnd { .. } => 129,
            GgufError::Misaligned { .. } | GgufError::Overlap { .. } => 130,
            GgufError::TokenizerModel(_) => 131,
            GgufError::PreTokenizer(_) => 132,
        })
    }

    pub(crate) fn help(&self) -> &'static str {
        match self {
            GgufError::Version(_) | GgufError::BigEndian => {
                "make the file anew with a current llama.cpp, on a little-endian machine"
            }
            GgufError::Split(_) => "join the files with llama.cpp's `llama-gguf-split --merge`",
            GgufError::Truncated { .. } | GgufError::PastTheEnd { .. } => {
                "get the file again: its download was cut short"
            }
            GgufError::TensorType { .. } => {
                "use a file of one of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K"
            }
            GgufError::TokenizerModel(_) | GgufError::PreTokenizer(_) => {
                "use the model's HuggingFace directory, which brings its tokenizer along"
            }
            _ => "get the file again, or make it anew with a current llama.cpp",
        }
    }
}
