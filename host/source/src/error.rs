//! What can be wrong with a model as it comes.

use std::path::PathBuf;

use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use engraft_files::{FileError, HeaderError};

use crate::{GgufError, JaxError, LoraError, PackedError, TorchError};

/// Why a source cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system refuses.
    #[error(transparent)]
    File(#[from] FileError),
    /// A safetensors file is broken.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A GGUF file is broken, or holds what we do not read.
    #[error("{fault}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: GgufError,
    },
    /// A file of PyTorch is broken, or holds what we do not read.
    #[error("{fault}")]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: TorchError,
    },
    /// A LoRA adapter cannot be merged.
    #[error("{fault}")]
    Lora {
        /// The adapter's directory or the file of it that is at fault.
        path: PathBuf,
        /// What is wrong with it.
        fault: LoraError,
    },
    /// Weights of few bits that cannot be read.
    #[error("{fault}")]
    Packed {
        /// The model, or its config.
        path: PathBuf,
        /// What is wrong with them.
        fault: PackedError,
    },
    /// What JAX's libraries wrote is broken, or holds what we do not read.
    #[error("{fault}")]
    Jax {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        fault: JaxError,
    },
    /// Nothing is at the path.
    #[error("there is no model at {}", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// A file of a form that we do not read.
    #[error("{} is no form of model that can be read", path.display())]
    UnknownForm {
        /// The file.
        path: PathBuf,
    },
    /// A directory without a `config.json`.
    #[error("{} holds no config.json", path.display())]
    NoConfig {
        /// The directory.
        path: PathBuf,
        /// A GGUF file in it, which may be what was meant.
        gguf: Option<String>,
    },
    /// A JSON file that does not parse.
    #[error("{} does not parse: {reason}", path.file_name().unwrap_or_default().display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line at fault, from one.
        line: usize,
        /// The column at fault, from one.
        column: usize,
        /// What the parser says, without the place.
        reason: String,
    },
    /// A JSON value of another kind than it has to be.
    #[error("`{key}` should be {expected}")]
    Kind {
        /// The file.
        path: PathBuf,
        /// The key, dotted.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A directory without weights.
    #[error("{} holds no safetensors files", path.display())]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// A directory whose weights are only in files of PyTorch that are called as no model's are.
    #[error("{} holds its weights only as pickled files, such as {found}", path.display())]
    OnlyPickled {
        /// The directory.
        path: PathBuf,
        /// One of them.
        found: String,
    },
    /// Files of weights that must be there are not.
    #[error("{} of {all} shards are missing: {}", missing.len(), missing.join(", "))]
    MissingShards {
        /// The directory.
        path: PathBuf,
        /// The names of the missing files.
        missing: Vec<String>,
        /// How many there should be.
        all: usize,
    },
    /// The index puts a tensor into a file that does not hold it.
    #[error("tensor `{}` is not in {shard}, where the index puts it", escape(tensor))]
    NotInShard {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file that should hold it.
        shard: String,
    },
    /// Two files hold a tensor of the same name.
    #[error("tensor `{}` is in {first} and in {second}", escape(tensor))]
    TwoShards {
        /// The directory.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first file that holds it.
        first: String,
        /// The second.
        second: String,
    },
    /// Files that are parts of one model do not go together.
    #[error("tensor `{tensor}` {what}")]
    Apart {
        /// The file at fault.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },
    /// What a training run wrote cannot be put together.
    #[error("the run's state {what}")]
    Training {
        /// The folder of states.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A model of NeMo's that cannot be read.
    #[error("the model {what}")]
    Nemo {
        /// The archive or directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A caller asked for a tensor that is not there, or for more rows than it has.
    #[error("{what}")]
    NoSuchRows {
        /// The source.
        path: PathBuf,
        /// What was asked for.
        what: String,
    },
}

impl SourceError {
    /// The error of a JSON file that does not parse.
    pub(crate) fn json(path: &std::path::Path, error: &serde_json::Error) -> SourceError {
        let text = error.to_string();
        // The parser appends the place, which has fields of its own here.
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        SourceError::Json {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
            reason: escape(reason),
        }
    }
}

impl Diagnostic for SourceError {
    fn code(&self) -> Code {
        Code(match self {
            SourceError::File(error) => return error.code(),
            SourceError::Header(error) => return error.code(),
            SourceError::Gguf { fault, .. } => fault.code().0,
            SourceError::Torch { fault, .. } => fault.code().0,
            SourceError::Lora { fault, .. } => fault.code().0,
            SourceError::Packed { fault, .. } => fault.code().0,
            SourceError::Jax { fault, .. } => fault.code().0,
            SourceError::Missing { .. } => 101,
            SourceError::UnknownForm { .. } => 102,
            SourceError::NoConfig { .. } => 103,
            SourceError::Json { .. } => 104,
            SourceError::Kind { .. } => 105,
            SourceError::NoWeights { .. } => 106,
            SourceError::OnlyPickled { .. } => 107,
            SourceError::MissingShards { .. } => 108,
            SourceError::NotInShard { .. } => 109,
            SourceError::TwoShards { .. } => 110,
            SourceError::NoSuchRows { .. } => 111,
            SourceError::Apart { .. } => 139,
            SourceError::Training { .. } => 140,
            SourceError::Nemo { .. } => 141,
        })
    }

    fn fault(&self) -> Fault {
        match self {
            SourceError::File(error) => error.fault(),
            SourceError::Header(error) => error.fault(),
            SourceError::NoSuchRows { .. } => Fault::Bug,
            _ => Fault::Input,
        }
    }

    fn location(&self) -> Option<String> {
        Some(match self {
            SourceError::File(error) => return error.location(),
            SourceError::Header(error) => return error.location(),
            SourceError::Json { path, line, column, .. } => {
                format!("{}:{line}:{column}", path.display())
            }
            SourceError::Kind { path, key, .. } => format!("{}, key `{key}`", path.display()),
            SourceError::Gguf { path, .. }
            | SourceError::Torch { path, .. }
            | SourceError::Lora { path, .. }
            | SourceError::Packed { path, .. }
            | SourceError::Jax { path, .. }
            | SourceError::Missing { path }
            | SourceError::UnknownForm { path }
            | SourceError::NoConfig { path, .. }
            | SourceError::NoWeights { path }
            | SourceError::OnlyPickled { path, .. }
            | SourceError::MissingShards { path, .. }
            | SourceError::NotInShard { path, .. }
            | SourceError::TwoShards { path, .. }
            | SourceError::Apart { path, .. }
            | SourceError::Training { path, .. }
            | SourceError::Nemo { path, .. }
            | SourceError::NoSuchRows { path, .. } => path.display().to_string(),
        })
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            SourceError::File(error) => return error.help(),
            SourceError::Header(error) => return error.help(),
            SourceError::Gguf { fault, .. } => fault.help(),
            SourceError::Torch { fault, .. } => fault.help(),
            SourceError::Lora { fault, .. } => fault.help(),
            SourceError::Packed { fault, .. } => fault.help(),
            SourceError::Jax { fault, .. } => fault.help(),
            SourceError::Missing { .. } => {
                "give the path of a model's directory, or of a GGUF or .nemo file"
            }
            SourceError::UnknownForm { .. } => {
                "give a model's directory (config.json with its weights), or a GGUF or .nemo file"
            }
            SourceError::NoConfig { gguf: Some(name), .. } => {
                return Some(format!("give the file {} itself", escape(name)));
            }
            SourceError::NoConfig { .. } => {
                "give the directory that holds config.json and the weights"
            }
            SourceError::Json { .. } | SourceError::Kind { .. } => {
                "correct the file, or get it again"
            }
            SourceError::NoWeights { .. } => {
                "get the model's *.safetensors or pytorch_model*.bin files as well"
            }
            SourceError::OnlyPickled { .. } => {
                "get the model as safetensors; of PyTorch's files, those called pytorch_model*.bin \
                 are read"
            }
            SourceError::MissingShards { .. } => "get the missing files",
            SourceError::NotInShard { .. } => "get the index and that file again",
            SourceError::TwoShards { .. } => {
                "keep one set of files: those that the index names, or those of one download"
            }
            SourceError::Apart { .. } => "get all files of one download, and none of another",
            SourceError::Training { .. } => {
                "save the model as safetensors with the program that trained it; DeepSpeed has \
                 zero_to_fp32.py for that"
            }
            SourceError::Nemo { .. } => {
                "give a .nemo archive of one device, or export the model to HuggingFace's form with \
                 NeMo"
            }
            SourceError::NoSuchRows { .. } => "report this: it is a mistake in engraft",
        };
        Some(text.to_owned())
    }
}
