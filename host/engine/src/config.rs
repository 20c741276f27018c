//! What an engine says of itself: `config.json`, in TensorRT-LLM's layout.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `config.json`, and the metadata key `engraft.config`: the same, so that an engine file alone
/// is enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineConfig {
    /// The version of engraft that wrote it. For people: [`crate::format::VERSION`] decides
    /// who can read it.
    pub version: String,
    /// The checkpoint's `config.json`.
    pub pretrained_config: Value,
    /// What it was built for.
    pub build_config: BuildConfig,
}

/// What an engine was built for. The limits bind nobody: they are what a runtime takes where
/// its caller says nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildConfig {
    /// The device whose kernels the weights are laid out for: `cpu`.
    pub target: String,
    /// Requests in flight.
    pub max_batch_size: u32,
    /// Tokens of one prompt.
    pub max_input_len: u32,
    /// Tokens of one request, prompt and answer together.
    pub max_seq_len: u32,
    /// Tokens of all requests in one step; a longer prompt goes in chunks.
    pub max_num_tokens: u32,
    /// Tokens of one page of the cache.
    pub tokens_per_block: u32,
    /// How past keys and values are kept.
    pub kv_cache_type: KvCacheType,
}

/// How past keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheType {
    /// In pages of `tokens_per_block` tokens, found through block tables.
    #[default]
    Paged,
}
