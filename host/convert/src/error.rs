//! What goes wrong between the rooms.

use engraft_calibrate::RunError;
use engraft_checkpoint::CheckpointError;
use engraft_compile::CompileError;
use engraft_diagnostic::{Code, Diagnostic, Fault};
use engraft_files::FileError;
use engraft_plugin::{FindError, PluginError, Refusal, SettingsError};
use engraft_quant::QuantError;
use engraft_source::SourceError;
use engraft_texts::TextsError;
use engraft_weights::WeightError;

/// Why a model could not be converted. Errors of a single room pass through as they are.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The plugin understands the model and turns it down.
    #[error("{refusal}")]
    Refused {
        /// What and why.
        refusal: Refusal,
        /// The config the refusal is about.
        config: String,
    },
    /// The plugin that was asked for is not one for this architecture.
    #[error("plugin {plugin} does not know the architecture {architecture}; it knows {accepts}")]
    NotItsOwn {
        /// The plugin's name and version.
        plugin: String,
        /// What the model says it is.
        architecture: String,
        /// What the plugin accepts.
        accepts: String,
    },
    /// The plugin has no names for this kind of source.
    #[error("plugin {plugin} reads {dialects}, but this source is {dialect}")]
    Dialect {
        /// The plugin's name and version.
        plugin: String,
        /// What it reads.
        dialects: String,
        /// What the source is.
        dialect: String,
    },
    /// The plugin configured a field that neither the base fields nor its own have.
    #[error("plugin {plugin} sets the field {field}, which it does not declare")]
    Undeclared {
        /// The plugin's name and version.
        plugin: String,
        /// The field.
        field: String,
    },
    /// The plugin's outline and the config that it made disagree.
    #[error("plugin {plugin} says {what} is {outline}, the config says {config}")]
    Outline {
        /// The plugin's name and version.
        plugin: String,
        /// Which number.
        what: &'static str,
        /// The plugin's.
        outline: u64,
        /// The config's.
        config: u64,
    },
    /// The source names no architecture.
    #[error("the model's config names no architecture")]
    NoArchitecture {
        /// The source.
        path: String,
    },
    /// There are no tokens to calibrate by.
    #[error("the model has no tokenizer.json, and texts are no tokens without one")]
    NoTokenizer,
    /// Of the calibrate room.
    #[error(transparent)]
    Calibrate(#[from] RunError),
    /// Texts that cannot be read.
    #[error(transparent)]
    Texts(#[from] TextsError),
    /// Of the source room.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// No plugin.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Of the plugin room.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A config that lacks what the plugin reads.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Of the quant room.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// Of the weights room.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// Of the checkpoint room.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Of the compile room.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ConvertError {
    /// The error of the room that it comes from.
    fn inner(&self) -> Option<&dyn Diagnostic> {
        Some(match self {
            ConvertError::Refused { refusal, .. } => refusal,
            ConvertError::Source(e) => e,
            ConvertError::Find(e) => e,
            ConvertError::Plugin(e) => e,
            ConvertError::Settings(e) => e,
            ConvertError::Weights(e) => e,
            ConvertError::Checkpoint(e) => e,
            ConvertError::Compile(e) => e,
            ConvertError::Quant(e) => e,
            ConvertError::Calibrate(e) => e,
            ConvertError::Texts(e) => e,
            ConvertError::File(e) => e,
            _ => return None,
        })
    }
}

impl Diagnostic for ConvertError {
    fn code(&self) -> Code {
        if let Some(inner) = self.inner() {
            return inner.code();
        }
        Code(match self {
            ConvertError::NotItsOwn { .. } => 751,
            ConvertError::Dialect { .. } => 752,
            ConvertError::Undeclared { .. } => 753,
            ConvertError::Outline { .. } => 754,
            ConvertError::NoTokenizer => 756,
            _ => 755,
        })
    }

    fn fault(&self) -> Fault {
        if let Some(inner) = self.inner() {
            return inner.fault();
        }
        match self {
            ConvertError::NotItsOwn { .. } | ConvertError::Dialect { .. } => Fault::Usage,
            ConvertError::Undeclared { .. } | ConvertError::Outline { .. } => Fault::Plugin,
            _ => Fault::Input,
        }
    }

    fn location(&self) -> Option<String> {
        match self {
            ConvertError::Refused { refusal, config } => {
                Some(format!("{config}: {}", refusal.subject))
            }
            ConvertError::NoArchitecture { path } => Some(path.clone()),
            _ => self.inner()?.location(),
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            ConvertError::NotItsOwn { .. } => {
                "leave --plugin out to let it be found by the architecture; `engraft plugin list` \
                 shows all"
                    .into()
            }
            ConvertError::Dialect { .. } => "take the model in a form that the plugin reads".into(),
            ConvertError::Undeclared { .. } | ConvertError::Outline { .. } => {
                "this is the plugin's mistake; tell its author, with the output of `engraft plugin \
                 check`"
                    .into()
            }
            ConvertError::NoArchitecture { .. } => {
                "name it in config.json (`architectures`), or say --plugin".into()
            }
            ConvertError::NoTokenizer => {
                "put the model's tokenizer.json beside its weights, or take a scheme that needs no \
                 calibration"
                    .into()
            }
            _ => return self.inner()?.help(),
        })
    }
}
