//! What can be wrong with quantised weights.

use engraft_diagnostic::{Code, Diagnostic, Fault};
use engraft_weights::Listing;

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
}

impl Diagnostic for QuantError {
    fn code(&self) -> Code {
        Code(match self {
            QuantError::Unsupported(_) => 850,
            QuantError::Misfits(_) => 851,
            QuantError::Cut { .. } => 852,
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
                "take a checkpoint of float weights, or one of W4A16_AWQ without zero points"
            }
            QuantError::Misfits(_) => "get the checkpoint again, or export it anew",
            QuantError::Cut { .. } => {
                "export the checkpoint for fewer ranks, or with smaller groups"
            }
        };
        Some(text.to_owned())
    }
}
