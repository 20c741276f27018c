//! What can be wrong with a checkpoint.

use engraft_diagnostic::{Code, Diagnostic, Fault};
use engraft_files::{FileError, HeaderError};
use engraft_quant::Scheme;
use engraft_weights::{Listing, WeightError};
use std::path::PathBuf;

/// What can be wrong with the value of a config.json.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A field without which there is no checkpoint.
    #[error("the config lacks `{key}`")]
    Missing {
        /// Its dotted path.
        key: String,
    },
    /// A field of the wrong type.
    #[error("the config's `{key}` is {found}, but must be {expected}")]
    Type {
        /// Its dotted path; empty for the whole config.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A word that is none of the accepted ones.
    #[error("the config's `{key}` is `{found}`, which is unknown")]
    Word {
        /// Its dotted path.
        key: String,
        /// What is there.
        found: String,
        /// The accepted words.
        accepted: String,
    },
    /// A key of `mapping` or `quantization` that TensorRT-LLM would refuse.
    #[error("the config's `{key}` is no known field")]
    UnknownKey {
        /// Its dotted path.
        key: String,
    },
    /// A mapping that contradicts itself.
    #[error(
        "the config's `mapping.world_size` is {world_size}, but tp_size {tp_size} times pp_size \
         {pp_size} times cp_size {cp_size} is not"
    )]
    #[allow(missing_docs, reason = "the keys of `mapping`")]
    WorldSize { world_size: u64, tp_size: u64, pp_size: u64, cp_size: u64 },
    /// A quantised checkpoint.
    #[error("the checkpoint is quantised with {algorithm}, which this version does not read")]
    Quantised {
        /// The key that says so.
        key: &'static str,
        /// The scheme.
        algorithm: String,
    },
    /// A mapping that is not supported, or makes no sense.
    #[error("the config's `mapping` cannot be: {reason}")]
    Split {
        /// Why not.
        reason: String,
    },
    /// An old name of a field that says something else than the new one.
    #[error("the config's `{old}` says {says}, but its `{new}` says {found}")]
    OldName {
        /// The dotted path of the old name.
        old: String,
        /// What it comes to.
        says: String,
        /// The dotted path of the new name.
        new: &'static str,
        /// What that is.
        found: String,
    },
}

impl Diagnostic for ConfigError {
    fn code(&self) -> Code {
        Code(match self {
            ConfigError::Missing { .. } => 401,
            ConfigError::Type { .. } => 402,
            ConfigError::Word { .. } => 403,
            ConfigError::UnknownKey { .. } => 404,
            ConfigError::WorldSize { .. } => 405,
            ConfigError::Quantised { .. } => 406,
            ConfigError::Split { .. } => 407,
            ConfigError::OldName { .. } => 408,
        })
    }

    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn location(&self) -> Option<String> {
        match self {
            ConfigError::Missing { key }
            | ConfigError::Type { key, .. }
            | ConfigError::Word { key, .. }
            | ConfigError::UnknownKey { key } => Some(key.clone()),
            ConfigError::WorldSize { .. } => Some("mapping.world_size".to_owned()),
            ConfigError::Split { .. } => Some("mapping".to_owned()),
            ConfigError::OldName { old, .. } => Some(old.clone()),
            ConfigError::Quantised { key, .. } => Some((*key).to_owned()),
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            ConfigError::Missing { key } => format!("add `{key}`, or convert the model again"),
            ConfigError::Type { key, expected, .. } => format!("make `{key}` {expected}"),
            ConfigError::Word { accepted, .. } => format!("use one of {accepted}"),
            ConfigError::UnknownKey { .. } => {
                "remove it: TensorRT-LLM refuses unknown fields there".to_owned()
            }
            ConfigError::WorldSize { .. } => {
                "make `world_size` the product of the three".to_owned()
            }
            ConfigError::Quantised { key: "quantization.quant_algo", .. } => {
                format!("convert the model by a scheme that is read: {}", Scheme::names())
            }
            ConfigError::Quantised { .. } => "convert the model with a cache of floats".to_owned(),
            ConfigError::Split { .. } => {
                "convert the model again with a `--tp_size` and `--pp_size` that fit it, and \
                 without context parallelism"
                    .to_owned()
            }
            ConfigError::OldName { old, .. } => {
                format!("remove `{old}`, or correct whichever of the two is wrong")
            }
        })
    }
}

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A config.json or engraft.json that is not JSON, or not the right one.
    #[error("{} is malformed: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A config that says something wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A config that says something wrong, in a file.
    #[error("{error}")]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: ConfigError,
    },
    /// A weight file that is no safetensors file.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Tensors that are missing, superfluous or of the wrong shape or type: all of them.
    #[error(
        "the checkpoint's tensors are not the model's: {} missing, {} superfluous, {} of another shape or type",
        .missing.0.len(), .extra.0.len(), .shapes.0.len()
    )]
    Tensors {
        /// The weight file.
        path: PathBuf,
        /// What is not there, `NAME [SHAPE]`.
        missing: Listing,
        /// What nobody needs, `NAME [SHAPE]`.
        extra: Listing,
        /// `NAME [SHAPE], not [SHAPE]`, or that it holds no floating-point numbers.
        shapes: Listing,
    },
    /// A tied head that is not the embedding.
    #[error("`{head}` differs from `{embedding}`, to which `tie_word_embeddings` ties it: {how}")]
    TiedDiffers {
        /// The weight file.
        path: PathBuf,
        /// The head.
        head: &'static str,
        /// The embedding.
        embedding: &'static str,
        /// In what.
        how: String,
    },
    /// Weight files of ranks that are not there: all of them.
    #[error("{} of the checkpoint's {world_size} weight files are missing", .missing.0.len())]
    MissingRanks {
        /// The directory.
        path: PathBuf,
        /// How many there should be.
        world_size: u32,
        /// Their names.
        missing: Listing,
    },
    /// A file of a stage with more blocks than the stage has.
    #[error("`{name}` is beyond the {share} blocks of its stage, which are counted from 0")]
    StageBlocks {
        /// The weight file.
        path: PathBuf,
        /// One of its tensors.
        name: String,
        /// How many blocks the stage has.
        share: u32,
        /// The number of the first of them in the whole model.
        first: u32,
    },
    /// A checkpoint of which every layer may have a scheme of its own.
    #[error(
        "the checkpoint is quantised with MIXED_PRECISION ({schemes}), which this version does \
         not read"
    )]
    Mixed {
        /// The file that says which layer has which.
        path: PathBuf,
        /// How many layers have which scheme.
        schemes: String,
    },
    /// Tensors, files and settings that are not those that were written.
    #[error(
        "not as written any more: {} of the checkpoint's tensors, files and settings",
        .tensors.0.len()
    )]
    Changed {
        /// The weight file.
        path: PathBuf,
        /// What they are.
        tensors: Listing,
    },
    /// A checkpoint without digests.
    #[error("the checkpoint has no engraft.json, so there are no digests to compare with")]
    NoDigests {
        /// The directory.
        path: PathBuf,
    },
    /// A parameter could not be made or read.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A file could not be read or written, or the run was interrupted.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Diagnostic for CheckpointError {
    fn code(&self) -> Code {
        Code(match self {
            CheckpointError::Malformed { .. } => 410,
            CheckpointError::Tensors { .. } => 411,
            CheckpointError::TiedDiffers { .. } => 412,
            CheckpointError::Changed { .. } => 413,
            CheckpointError::NoDigests { .. } => 414,
            CheckpointError::MissingRanks { .. } => 415,
            CheckpointError::StageBlocks { .. } => 416,
            CheckpointError::Mixed { .. } => 418,
            CheckpointError::Config(e) | CheckpointError::ConfigFile { error: e, .. } => {
                return e.code();
            }
            CheckpointError::Header(e) => return e.code(),
            CheckpointError::Weights(e) => return e.code(),
            CheckpointError::File(e) => return e.code(),
        })
    }

    fn fault(&self) -> Fault {
        match self {
            CheckpointError::Malformed { .. }
            | CheckpointError::Tensors { .. }
            | CheckpointError::MissingRanks { .. }
            | CheckpointError::StageBlocks { .. }
            | CheckpointError::Mixed { .. }
            | CheckpointError::TiedDiffers { .. } => Fault::Input,
            CheckpointError::Changed { .. } | CheckpointError::NoDigests { .. } => Fault::Check,
            CheckpointError::Config(e) | CheckpointError::ConfigFile { error: e, .. } => e.fault(),
            CheckpointError::Header(e) => e.fault(),
            CheckpointError::Weights(e) => e.fault(),
            CheckpointError::File(e) => e.fault(),
        }
    }

    fn location(&self) -> Option<String> {
        match self {
            CheckpointError::Malformed { path, .. }
            | CheckpointError::TiedDiffers { path, .. }
            | CheckpointError::StageBlocks { path, .. }
            | CheckpointError::Mixed { path, .. }
            | CheckpointError::NoDigests { path } => Some(path.display().to_string()),
            CheckpointError::MissingRanks { path, missing, .. } => {
                Some(format!("{}\n{missing}", path.display()))
            }
            CheckpointError::Tensors { path, missing, extra, shapes } => {
                let mut text = path.display().to_string();
                for (title, list) in [
                    ("missing", missing),
                    ("superfluous", extra),
                    ("of another shape or type", shapes),
                ] {
                    if !list.0.is_empty() {
                        text.push_str(&format!("\n{title}:\n{list}"));
                    }
                }
                Some(text)
            }
            CheckpointError::Changed { path, tensors } => {
                Some(format!("{}\n{tensors}", path.display()))
            }
            CheckpointError::Config(e) => e.location(),
            CheckpointError::ConfigFile { path, error } => Some(match error.location() {
                Some(key) if !key.is_empty() => format!("{}, `{key}`", path.display()),
                _ => path.display().to_string(),
            }),
            CheckpointError::Header(e) => e.location(),
            CheckpointError::Weights(e) => e.location(),
            CheckpointError::File(e) => e.location(),
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            CheckpointError::Malformed { .. } => {
                "check that the directory is a checkpoint, or convert the model again".to_owned()
            }
            CheckpointError::Tensors { .. } => {
                "check that config.json and the weight file belong together, and to this plugin"
                    .to_owned()
            }
            CheckpointError::TiedDiffers { .. } => {
                "set `tie_word_embeddings` to false in config.json if the head is a matrix of its \
                 own"
                .to_owned()
            }
            CheckpointError::MissingRanks { .. } => {
                "copy the files of all ranks into the directory; config.json's `mapping` says how \
                 many there are"
                    .to_owned()
            }
            CheckpointError::StageBlocks { share, first, .. } => format!(
                "check that config.json is this file's: in it, blocks {first}..{} of the model are \
                 called 0..{share}",
                first + share
            ),
            CheckpointError::Mixed { .. } => "convert the model without quantisation".to_owned(),
            CheckpointError::Changed { .. } => {
                "copy the checkpoint again, or convert the model again".to_owned()
            }
            CheckpointError::NoDigests { .. } => {
                "verify checkpoints that `engraft convert` wrote".to_owned()
            }
            CheckpointError::Config(e) | CheckpointError::ConfigFile { error: e, .. } => {
                return e.help();
            }
            CheckpointError::Header(e) => return e.help(),
            CheckpointError::Weights(e) => return e.help(),
            CheckpointError::File(e) => return e.help(),
        })
    }
}
