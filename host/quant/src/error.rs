//! What can be wrong with quantised weights.

use engraft_diagnostic::{Code, Diagnostic, Fault};
use engraft_weights::Listing;

use crate::Scheme;

/// Why quantised weights cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum QuantError {
    /// A scheme that is not read.
    #[error("weights quantised by {0} are not read")]
    Unsupported(String),
    /// Tensors of quantised weights that are missing or have another shape: all of them.
    #[error("{} of the tensors of quantised weights do not fit:\n{}", .0.0.len(), .0)]
    Misfits(Listing),
    /// Ranks that cut through what only makes sense whole.
    #[error("`{weight}` is cut within {what}")]
    Cut {
        /// The weight.
        weight: String,
        /// Within what.
        what: String,
    },
    /// A pattern of modules that is none.
    #[error("`{pattern}` is no pattern of modules")]
    Pattern {
        /// As it was given.
        pattern: String,
    },
    /// Weights that were laid out for one kind of GPU.
    #[error("the weights of {algorithm} in this checkpoint are laid out for one kind of GPU")]
    Preprocessed {
        /// The scheme.
        algorithm: String,
    },
    /// Scales of groups of another size than the config says.
    #[error("`{weight}` has scales for groups of {found} inputs, and the config says {said}")]
    GroupSize {
        /// The weight.
        weight: String,
        /// What its scales are for.
        found: u64,
        /// What the config says.
        said: u64,
    },
    /// A scheme that asks for more than the weights tell.
    #[error("`{weight}` cannot be quantised so without calibration")]
    Uncalibrated {
        /// The weight.
        weight: String,
    },
}

impl Diagnostic for QuantError {
    fn code(&self) -> Code {
        Code(match self {
            QuantError::Unsupported(_) => 850,
            QuantError::Misfits(_) => 851,
            QuantError::Cut { .. } => 852,
            QuantError::Uncalibrated { .. } => 853,
            QuantError::Pattern { .. } => 854,
            QuantError::Preprocessed { .. } => 855,
            QuantError::GroupSize { .. } => 856,
        })
    }

    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn location(&self) -> Option<String> {
        None
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            QuantError::Unsupported(_) => {
                return Some(format!("what is read are floats, and {}", Scheme::names()));
            }
            QuantError::Misfits(_) | QuantError::GroupSize { .. } => {
                "get the checkpoint again, or export it anew"
            }
            QuantError::Cut { .. } => {
                "export the checkpoint for fewer ranks, or with smaller groups"
            }
            QuantError::Uncalibrated { .. } => "give texts by --calib_dataset",
            QuantError::Pattern { .. } => "give names of modules in which * stands for anything",
            QuantError::Preprocessed { .. } => {
                "convert the model anew: what is written then suits every machine"
            }
        };
        Some(text.to_owned())
    }
}
