//! What can be wrong with what JAX's libraries write.

use engraft_diagnostic::{Code, escape};

/// Why a Flax or Orbax checkpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JaxError {
    /// A msgpack file is malformed.
    #[error("the file is malformed at byte {at}: {what}")]
    Msgpack {
        /// Where.
        at: u64,
        /// What was read there, and what is wrong with it.
        what: String,
    },
    /// An array's bytes do not fit its type and shape, or its shape cannot be.
    #[error("array `{}`: {what}", escape(name))]
    Array {
        /// The array.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// An array has elements of a type that we do not read.
    #[error("array `{}` has elements of the unknown type `{}`", escape(name), escape(kind))]
    Type {
        /// The array.
        name: String,
        /// The type as the file spells it.
        kind: String,
    },
    /// Two arrays have one name.
    #[error("there are two arrays of the name `{}`", escape(.0))]
    Twice(String),
    /// A directory holds several checkpoints.
    #[error("the directory holds {} checkpoints: {}", .0.len(), .0.join(", "))]
    Several(Vec<String>),
    /// A checkpoint holds nothing that we can see.
    #[error("the checkpoint holds no arrays{}", .0)]
    Empty(&'static str),
    /// A zarr array's metadata are malformed.
    #[error("array `{}`: its metadata are malformed: {what}", escape(name))]
    Metadata {
        /// The array.
        name: String,
        /// What is wrong with them.
        what: String,
    },
    /// A zarr array is stored in a way that we do not read.
    #[error("array `{}` is stored in a way that is not read: {what}", escape(name))]
    Unsupported {
        /// The array.
        name: String,
        /// Which way.
        what: String,
    },
    /// A chunk that must be there is not.
    #[error("array `{}` lacks its chunk `{}`", escape(name), escape(chunk))]
    MissingChunk {
        /// The array.
        name: String,
        /// The chunk's key.
        chunk: String,
    },
    /// A chunk that does not unpack to what it should be.
    #[error("a chunk is malformed: {what}")]
    Chunk {
        /// What is wrong with it.
        what: String,
    },
    /// An OCDBT database is malformed.
    #[error("the OCDBT database is malformed: {what}")]
    Database {
        /// What is wrong with it.
        what: String,
    },
    /// An OCDBT database of a kind that we do not read.
    #[error("the OCDBT database is of a kind that is not read: {what}")]
    DatabaseKind {
        /// Which.
        what: String,
    },
    /// Nothing says how large the model is.
    #[error("the checkpoint says nothing of its model: there is no config.json")]
    NoConfig,
}

impl JaxError {
    /// Its code in the catalogue.
    pub(crate) fn code(&self) -> Code {
        Code(match self {
            JaxError::Msgpack { .. } => 150,
            JaxError::Array { .. } => 151,
            JaxError::Type { .. } => 152,
            JaxError::Twice(_) => 153,
            JaxError::Several(_) => 154,
            JaxError::Empty(_) => 155,
            JaxError::Metadata { .. } => 156,
            JaxError::Unsupported { .. } => 157,
            JaxError::MissingChunk { .. } => 158,
            JaxError::Chunk { .. } => 159,
            JaxError::Database { .. } => 160,
            JaxError::DatabaseKind { .. } => 161,
            JaxError::NoConfig => 162,
        })
    }

    /// What to do about it.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            JaxError::Msgpack { .. } | JaxError::Array { .. } | JaxError::Chunk { .. } => {
                "get the file again: it is damaged, or was not copied whole"
            }
            JaxError::Type { .. } => {
                "save it as float32, float16 or bfloat16, and leave out what is no weight"
            }
            JaxError::Twice(_) => "save the parameters alone, each once",
            JaxError::Several(_) => "give the directory of one of them",
            JaxError::Empty(_) => {
                "give the directory of a finished checkpoint, or save it again with \
                 `PyTreeCheckpointHandler(use_ocdbt=False)`"
            }
            JaxError::Metadata { .. } | JaxError::MissingChunk { .. } => {
                "get the checkpoint again: it was not copied whole, or not finished"
            }
            JaxError::Unsupported { .. } => {
                "save it again with Orbax's defaults, which pack with zstd"
            }
            JaxError::Database { .. } => {
                "get the checkpoint again: it is damaged, or was not copied whole"
            }
            JaxError::DatabaseKind { .. } => {
                "save it again with `PyTreeCheckpointHandler(use_ocdbt=False)`"
            }
            JaxError::NoConfig => {
                "put the model's config.json, as HuggingFace has it, into the checkpoint's \
                 directory or the one above"
            }
        }
    }
}
