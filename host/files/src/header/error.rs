//! What can be wrong with a safetensors file, each with its own words.

use std::path::PathBuf;

use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use engraft_ir::DType;

use crate::FileError;

/// Why a safetensors file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The file cannot be read at all.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is too short to have a header.
    #[error("the file has {size} bytes, too few for a safetensors header")]
    NoHeader {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The header claims a length that the file, or the format, has no room for.
    #[error("the header claims to be {length} bytes long, where there is room for {room}")]
    LengthLies {
        /// The file.
        path: PathBuf,
        /// The length as claimed, in bytes.
        length: u64,
        /// The bytes that follow the length.
        room: u64,
    },
    /// The header is not the JSON that it should be.
    #[error("the header does not parse: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// One tensor's entry does not fit its file.
    #[error("tensor `{}` {fault}", escape(name))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong with it.
        fault: TensorFault,
    },
    /// The file is longer than its tensors.
    #[error("{bytes} bytes follow the last tensor and belong to none")]
    LeftOver {
        /// The file.
        path: PathBuf,
        /// How many bytes are left over.
        bytes: u64,
    },
}

/// What is wrong with the entry of one tensor. It continues a sentence that begins with the
/// tensor's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorFault {
    /// Its element type is none that we know.
    #[error("has the unknown type `{}`", escape(.0))]
    Dtype(String),
    /// It ends before it starts.
    #[error("ends at byte {end}, before it starts at byte {start}")]
    Backwards {
        /// Where it starts, counted from the first byte of data.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// Its shape has more elements than can be counted.
    #[error("has the impossible shape {0:?}")]
    TooLarge(Vec<u64>),
    /// Its type and shape ask for another number of bytes than it has.
    #[error("has {given} bytes, but {dtype} of shape {shape:?} takes {needed}")]
    Length {
        /// Its element type.
        dtype: DType,
        /// Its extents.
        shape: Vec<u64>,
        /// The bytes that these take.
        needed: u64,
        /// The bytes that it has.
        given: u64,
    },
    /// It runs past the end of the file.
    #[error("ends at byte {end} of the data, but the file ends at byte {data}")]
    PastTheEnd {
        /// Where it ends, counted from the first byte of data.
        end: u64,
        /// The bytes of data that there are.
        data: u64,
    },
    /// It shares bytes with another tensor.
    #[error("overlaps tensor `{}`", escape(.0))]
    Overlap(String),
    /// There are bytes before it that belong to no tensor.
    #[error("follows a gap of {0} bytes that belong to no tensor")]
    Gap(u64),
    /// Another tensor has its name.
    #[error("is in the header twice")]
    Twice,
}

impl Diagnostic for HeaderError {
    fn code(&self) -> Code {
        Code(match self {
            HeaderError::File(error) => return error.code(),
            HeaderError::NoHeader { .. } => 30,
            HeaderError::LengthLies { .. } => 31,
            HeaderError::Malformed { .. } => 32,
            HeaderError::LeftOver { .. } => 33,
            HeaderError::Tensor { fault, .. } => match fault {
                TensorFault::Dtype(_) => 34,
                TensorFault::Length { .. } | TensorFault::TooLarge(_) => 35,
                TensorFault::PastTheEnd { .. } => 36,
                TensorFault::Overlap(_) | TensorFault::Gap(_) | TensorFault::Backwards { .. } => 37,
                TensorFault::Twice => 38,
            },
        })
    }

    fn fault(&self) -> Fault {
        match self {
            HeaderError::File(error) => error.fault(),
            _ => Fault::Input,
        }
    }

    fn location(&self) -> Option<String> {
        let path = match self {
            HeaderError::File(error) => return error.location(),
            HeaderError::NoHeader { path, .. }
            | HeaderError::LengthLies { path, .. }
            | HeaderError::Malformed { path, .. }
            | HeaderError::Tensor { path, .. }
            | HeaderError::LeftOver { path, .. } => path,
        };
        Some(path.display().to_string())
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            HeaderError::File(error) => return error.help(),
            HeaderError::NoHeader { .. } | HeaderError::LengthLies { .. } => {
                "check that this is a safetensors file and not a pointer to one (git lfs pull), \
                 and that its download was complete"
            }
            HeaderError::Tensor { fault: TensorFault::PastTheEnd { .. }, .. } => {
                "get the file again: its download was cut short"
            }
            HeaderError::Tensor { fault: TensorFault::Dtype(_), .. } => {
                "save the model with float32, float16 or bfloat16 weights"
            }
            _ => "get the file again, or save it again with the safetensors library",
        };
        Some(text.to_owned())
    }
}
