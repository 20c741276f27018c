//! What goes wrong while a model runs over samples.

use crate::CalibrateError;
use engraft_diagnostic::{Code, Diagnostic, Fault};
use engraft_files::FileError;
use engraft_ir::TypeError;
use engraft_quant::QuantError;
use engraft_runtime::RuntimeError;
use engraft_weights::WeightError;

/// Why a model was not calibrated.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A weight, or its inputs.
    #[error("`{weight}`: {source}")]
    Weight {
        /// Its name.
        weight: String,
        /// What is wrong with it.
        source: CalibrateError,
    },
    /// A graph that cannot be taken apart.
    #[error("the graph cannot be cut into pieces: {0}")]
    Graph(#[from] TypeError),
    /// No samples.
    #[error("there is no text to calibrate by")]
    NoSamples,
    /// A scheme that cannot be.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// The CPU cannot run it.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A weight cannot be read.
    #[error(transparent)]
    Read(#[from] WeightError),
    /// What was found out cannot be written, or an interrupt.
    #[error(transparent)]
    File(#[from] FileError),
}

impl RunError {
    fn inner(&self) -> Option<&dyn Diagnostic> {
        match self {
            RunError::Weight { source, .. } => Some(source),
            RunError::Graph(_) | RunError::NoSamples => None,
            RunError::Quant(e) => Some(e),
            RunError::Runtime(e) => Some(e),
            RunError::Read(e) => Some(e),
            RunError::File(e) => Some(e),
        }
    }
}

impl Diagnostic for RunError {
    fn code(&self) -> Code {
        match self {
            RunError::Graph(_) => Code(880),
            RunError::NoSamples => Code(881),
            _ => self.inner().map_or(Code(880), Diagnostic::code),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            RunError::Graph(_) => Fault::Bug,
            RunError::NoSamples => Fault::Usage,
            _ => self.inner().map_or(Fault::Bug, Diagnostic::fault),
        }
    }

    fn location(&self) -> Option<String> {
        self.inner().and_then(Diagnostic::location)
    }

    fn help(&self) -> Option<String> {
        match self {
            RunError::Graph(_) => Some("report this as a bug, with the command".to_owned()),
            RunError::NoSamples => Some("give texts by --calib_dataset".to_owned()),
            _ => self.inner().and_then(Diagnostic::help),
        }
    }
}
