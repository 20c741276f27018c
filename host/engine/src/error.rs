//! Why an engine cannot be used.

use crate::format;
use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use engraft_files::{FileError, HeaderError};
use engraft_ir::Rank;
use std::path::PathBuf;

/// How many names a message lists.
const NAMES_SHOWN: usize = 8;

/// Why an engine cannot be opened, is not whole, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The disk said no.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not a whole safetensors file: cut short, overlong, garbage.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Nothing is there, or a directory without an engine.
    #[error("there is no engine at this path")]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// A pipe, a device, a directory.
    #[error("the engine is not a regular file")]
    NotAFile {
        /// What is there instead.
        path: PathBuf,
    },
    /// A safetensors file of somebody else.
    #[error("the file is not an engine: its header has no `{}`", format::KEY_FORMAT)]
    NotAnEngine {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer engraft.
    #[error(
        "the engine has format version {found:?}, and this build of engraft reads version {}",
        format::VERSION
    )]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version, cut to a few characters.
        found: String,
    },
    /// The header does not have the digest that it names.
    #[error("the header of the engine was changed after it was written: its digest differs")]
    HeaderDamaged {
        /// The file.
        path: PathBuf,
    },
    /// A metadata key is missing or holds nonsense.
    #[error("`{key}` in the engine's header {}", escape(problem))]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong with it, as a predicate.
        problem: String,
    },
    /// The graph's text does not parse.
    #[error("the graph of the engine does not parse: {}", escape(problem))]
    GraphText {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        problem: String,
    },
    /// The graph breaks a rule.
    #[error("the graph of the engine is not valid: {}", escape(problem))]
    GraphInvalid {
        /// The file.
        path: PathBuf,
        /// The verifier's words.
        problem: String,
    },
    /// The graph declares a weight that has no tensor.
    #[error("the engine lacks the tensor `{}` that its graph declares", escape(name))]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The weight.
        name: String,
    },
    /// A tensor is not what the graph declares.
    #[error("the tensor `{}` is {found}, but the graph declares {declared}", escape(name))]
    TensorMismatch {
        /// The file.
        path: PathBuf,
        /// The weight.
        name: String,
        /// What the graph says.
        declared: String,
        /// What the header says.
        found: String,
    },
    /// A tensor begins in the middle of a page.
    #[error(
        "the tensor `{}` begins at byte {start}, which is not a multiple of {}",
        escape(name),
        format::ALIGNMENT
    )]
    Unaligned {
        /// The file.
        path: PathBuf,
        /// The weight.
        name: String,
        /// Where it begins in the file.
        start: u64,
    },
    /// A rank's engine is missing among those of the others.
    #[error("the engine of rank {rank} is missing")]
    MissingRank {
        /// Where it should be.
        path: PathBuf,
        /// Whose.
        rank: u32,
    },
    /// An engine of another rank than it should be of.
    #[error("the engine is of {found}, and should be of {expected}")]
    OtherRank {
        /// The file.
        path: PathBuf,
        /// What its name, its config or the other ranks' engines say.
        expected: String,
        /// What its graph says.
        found: Rank,
    },
    /// `config.json` does not agree with the engine beside it.
    #[error("{} {}", format::CONFIG_FILE, escape(problem))]
    ConfigDiffers {
        /// The config.
        path: PathBuf,
        /// As a predicate.
        problem: String,
    },
    /// Bytes are not those that were written.
    #[error("{} damaged: {}", if names.len() == 1 { "one part is" } else { "several parts are" }, list(names))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Names of tensors and text files.
        names: Vec<String>,
    },
    /// A text file cannot be written under the name that it was given.
    #[error("a text file cannot have the name {name:?} in an engine's directory")]
    FileName {
        /// The name.
        name: String,
    },
}

fn list(names: &[String]) -> String {
    let mut text =
        names.iter().take(NAMES_SHOWN).map(|name| escape(name)).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_SHOWN {
        text.push_str(&format!(" and {} more", names.len() - NAMES_SHOWN));
    }
    text
}

impl Diagnostic for EngineError {
    fn code(&self) -> Code {
        Code(match self {
            EngineError::File(e) => return e.code(),
            EngineError::Header(e) => return e.code(),
            EngineError::Missing { .. } => 501,
            EngineError::NotAFile { .. } => 502,
            EngineError::NotAnEngine { .. } => 503,
            EngineError::UnknownVersion { .. } => 504,
            EngineError::HeaderDamaged { .. } => 505,
            EngineError::Metadata { .. } => 506,
            EngineError::GraphText { .. } => 507,
            EngineError::GraphInvalid { .. } => 508,
            EngineError::MissingTensor { .. } => 509,
            EngineError::TensorMismatch { .. } => 510,
            EngineError::Unaligned { .. } => 511,
            EngineError::ConfigDiffers { .. } => 512,
            EngineError::Damaged { .. } => 513,
            EngineError::FileName { .. } => 514,
            EngineError::MissingRank { .. } => 515,
            EngineError::OtherRank { .. } => 516,
        })
    }

    fn fault(&self) -> Fault {
        match self {
            EngineError::File(e) => e.fault(),
            EngineError::Header(e) => e.fault(),
            // Asked for by `verify`; the engine could be opened.
            EngineError::Damaged { .. } => Fault::Check,
            _ => Fault::Input,
        }
    }

    fn location(&self) -> Option<String> {
        match self {
            EngineError::File(e) => e.location(),
            EngineError::Header(e) => e.location(),
            EngineError::Missing { path }
            | EngineError::NotAFile { path }
            | EngineError::NotAnEngine { path }
            | EngineError::UnknownVersion { path, .. }
            | EngineError::HeaderDamaged { path }
            | EngineError::Metadata { path, .. }
            | EngineError::GraphText { path, .. }
            | EngineError::GraphInvalid { path, .. }
            | EngineError::MissingTensor { path, .. }
            | EngineError::TensorMismatch { path, .. }
            | EngineError::Unaligned { path, .. }
            | EngineError::ConfigDiffers { path, .. }
            | EngineError::MissingRank { path, .. }
            | EngineError::OtherRank { path, .. }
            | EngineError::Damaged { path, .. } => Some(path.display().to_string()),
            EngineError::FileName { .. } => None,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            EngineError::File(e) => return e.help(),
            EngineError::Header(e) => return e.help(),
            EngineError::Missing { .. } => format!(
                "give the directory that `engraft build` or `engraft compile` wrote, with {} in it",
                format::ENGINE_FILE
            ),
            EngineError::NotAFile { .. } => "give an engine as a file on a disk".to_owned(),
            EngineError::NotAnEngine { .. } => {
                "make an engine of a model with `engraft compile`".to_owned()
            }
            EngineError::UnknownVersion { .. } => {
                "update engraft, or build the engine again with this one".to_owned()
            }
            EngineError::ConfigDiffers { .. } => format!(
                "put {} back as it was, or remove it; limits are set by flags when an engine is \
                 loaded, or by building again",
                format::CONFIG_FILE
            ),
            EngineError::MissingRank { .. } | EngineError::OtherRank { .. } => {
                "each rank has an engine of its own: copy them all again from where one build \
                 wrote them, or build again"
                    .to_owned()
            }
            EngineError::FileName { .. } => "rename or remove the model's file".to_owned(),
            EngineError::HeaderDamaged { .. }
            | EngineError::Metadata { .. }
            | EngineError::GraphText { .. }
            | EngineError::GraphInvalid { .. }
            | EngineError::MissingTensor { .. }
            | EngineError::TensorMismatch { .. }
            | EngineError::Unaligned { .. }
            | EngineError::Damaged { .. } => {
                "copy the engine again from where it is whole, or build it again".to_owned()
            }
        })
    }
}
