//! The checkpoint on disk, in TensorRT-LLM's unified form: `config.json` beside
//! `rank0.safetensors`, `rank1.safetensors` and so on, both directions.
//!
//! What is promised: every base field is written, whether or not it has its default; what a
//! config says beyond the base fields is kept word for word and in order; `lm_head.weight` is
//! always in the file, also where it is tied; the same model gives the same bytes. Beside these
//! files lies `engraft.json` (where the checkpoint comes from, a digest of each tensor), which
//! no other reader needs.

mod base;
mod config;
mod engraft_json;
mod error;
mod extras;
mod join;
mod mixed;
mod old;
mod parse;
mod rank_file;
mod read;
mod verify;
mod write;

pub use base::{BASE, Fallback, Field, Kind};
pub use config::{Config, Mapping, PositionEmbedding, Quantization};
pub use error::{CheckpointError, ConfigError};
pub use join::Joined;
pub use rank_file::{RankTensors, weights_file};
pub use read::Reader;
pub use verify::Verified;
pub use write::{predict, write};

/// The name of the config.
pub const CONFIG_FILE: &str = "config.json";
/// The name of the weights of rank 0.
pub const WEIGHTS_FILE: &str = "rank0.safetensors";

/// The name of the record of provenance and digests.
pub const RECORD_FILE: &str = "engraft.json";
/// The tokenizer's files and their like, which travel with a model where it has them.
pub const TEXT_FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];
/// The token embedding, to which a tied head is tied.
pub const EMBEDDING: &str = "transformer.vocab_embedding.weight";
/// The head.
pub const HEAD: &str = "lm_head.weight";
