//! What can be wrong with what is to be quantised.

use engraft_diagnostic::{Code, Diagnostic, Fault};

/// Why a matrix has no codes.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum CalibrateError {
    /// A matrix, or statistics, of another size than what goes with it.
    #[error("{what} has {has} elements where {wants} are needed")]
    Size {
        /// What of.
        what: &'static str,
        /// Its elements.
        has: usize,
        /// The elements that it should have.
        wants: usize,
    },
    /// A weight that is NaN or infinite.
    #[error("row {row} has {value} in column {column}")]
    Weight {
        /// The output that the row is of.
        row: usize,
        /// The input that the column is of.
        column: usize,
        /// What stands there.
        value: f32,
    },
    /// An activation that is NaN or infinite, or too large to be squared.
    #[error("input {channel} becomes {value} while the samples run")]
    Activation {
        /// The input.
        channel: usize,
        /// What it is.
        value: f32,
    },
    /// No sample was seen.
    #[error("no token has gone through it, so its inputs are not known")]
    NoTokens,
    /// Groups that do not divide a row.
    #[error("groups of {group} do not divide {columns} inputs")]
    Group {
        /// Inputs of a group.
        group: usize,
        /// Inputs of a row.
        columns: usize,
    },
    /// A setting outside of what makes sense.
    #[error("{what} of {value} makes no sense: it is {range}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// A Hessian that has no Cholesky factor however much is added to its diagonal.
    #[error("the inputs' Hessian is not positive definite, even with damping of {0}")]
    Hessian(f64),
}

impl Diagnostic for CalibrateError {
    fn code(&self) -> Code {
        Code(match self {
            CalibrateError::Size { .. } => 870,
            CalibrateError::Weight { .. } => 871,
            CalibrateError::Activation { .. } => 872,
            CalibrateError::NoTokens => 873,
            CalibrateError::Group { .. } => 874,
            CalibrateError::Setting { .. } => 876,
            CalibrateError::Hessian(_) => 877,
        })
    }

    fn fault(&self) -> Fault {
        match self {
            CalibrateError::Size { .. } => Fault::Bug,
            CalibrateError::Group { .. } | CalibrateError::Setting { .. } => Fault::Usage,
            _ => Fault::Input,
        }
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            CalibrateError::Size { .. } => "report this as a bug",
            CalibrateError::Weight { .. } => {
                "get the model again; if it is broken where it comes from, nothing can be done"
            }
            CalibrateError::Activation { .. } => {
                "check that the model works on this text before it is quantised"
            }
            CalibrateError::NoTokens => "calibrate on a text, or take a format that needs none",
            CalibrateError::Group { .. } => "take a smaller group that divides them",
            CalibrateError::Setting { .. } => "leave it out to have what is usual",
            CalibrateError::Hessian(_) => "calibrate on more text, or with more damping",
        };
        Some(text.to_owned())
    }
}
