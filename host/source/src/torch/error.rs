//! What can be wrong with a file that PyTorch wrote.

use engraft_diagnostic::{Code, escape};

/// Why a PyTorch file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TorchError {
    /// The pickle names something else than what tensors are made of.
    #[error("it is not plain tensors: its pickle names `{}`, and engraft runs no code of a checkpoint", escape(.0))]
    Names(String),
    /// The pickle does with its names what tensors need not.
    #[error("it is not plain tensors: its pickle {0}, and engraft runs no code of a checkpoint")]
    Does(String),
    /// The pickle is malformed.
    #[error("byte {at} of its pickle: {what}")]
    Malformed {
        /// Where, counted from the pickle's first byte.
        at: usize,
        /// What is wrong there.
        what: String,
    },
    /// The pickle, or what it describes, is beyond anything sensible.
    #[error("{what} is more than the {limit} that are allowed")]
    TooMuch {
        /// What there is so much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The file is of a form of PyTorch's that holds no plain tensors.
    #[error("it is {0}")]
    Form(&'static str),
    /// The archive around the pickle is broken.
    #[error("its archive {0}")]
    Archive(String),
    /// A tensor that cannot be read.
    #[error("tensor `{}` {what}", escape(tensor))]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },
}

impl TorchError {
    pub(crate) fn code(&self) -> Code {
        Code(match self {
            TorchError::Names(_) | TorchError::Does(_) => 133,
            TorchError::Malformed { .. } => 134,
            TorchError::TooMuch { .. } => 135,
            TorchError::Form(_) => 136,
            TorchError::Archive(_) => 137,
            TorchError::Tensor { .. } => 138,
        })
    }

    pub(crate) fn help(&self) -> &'static str {
        match self {
            TorchError::Names(_) | TorchError::Does(_) => {
                "get the model as safetensors; if you trust the file, convert it with the program \
                 that wrote it"
            }
            TorchError::Form(_) => "save the model's state_dict, best as safetensors",
            TorchError::Malformed { .. } | TorchError::Archive(_) => {
                "get the file again: it is broken, or its download was cut short"
            }
            TorchError::TooMuch { .. } => "get the model as safetensors",
            TorchError::Tensor { .. } => "get the file again, or get the model as safetensors",
        }
    }
}
