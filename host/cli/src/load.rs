//! Loading an engine, with the flags that every command shares that loads one.

use crate::error::Usage;
use anyhow::Result;
use engraft_engine::Engine;
use engraft_runtime::{Isa, LoadOptions, Model};
use std::path::PathBuf;
use std::sync::Arc;

/// Flags of whatever loads an engine. Limits left out are the engine's own.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
pub struct LoadArgs {
    /// An engine's directory.
    #[arg(long, value_name = "DIR")]
    pub engine_dir: PathBuf,
    /// Threads; by default one a core.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Requests that run at a time.
    #[arg(long, value_name = "N")]
    max_batch_size: Option<usize>,
    /// Tokens of one prompt that is to be answered.
    #[arg(long, value_name = "N")]
    max_input_len: Option<usize>,
    /// Tokens of one request, prompt and answer.
    #[arg(long, value_name = "N")]
    max_seq_len: Option<usize>,
    /// Tokens of all requests in one step; longer prompts go in chunks.
    #[arg(long, value_name = "N")]
    max_num_tokens: Option<usize>,
    /// Tokens of one page of the cache.
    #[arg(long, value_name = "N")]
    tokens_per_block: Option<usize>,
    /// Tokens that the whole cache holds.
    #[arg(long, value_name = "N")]
    kv_cache_tokens: Option<usize>,
    /// Which kernels: plain, avx2 or avx512; by default the fastest that this machine has.
    #[arg(long, value_name = "ISA")]
    isa: Option<String>,
}

impl LoadArgs {
    /// Maps the engine and plans its run.
    pub fn load(&self) -> Result<(Arc<Engine>, Model)> {
        let isa = match &self.isa {
            None => None,
            Some(name) => Some(name.parse::<Isa>().map_err(|_| {
                Usage::new(format!("--isa {name}: no such kernels"))
                    .help("take plain, avx2 or avx512")
            })?),
        };
        let engine = Arc::new(Engine::open(&self.engine_dir)?);
        let options = LoadOptions {
            threads: self.threads,
            max_batch_size: self.max_batch_size,
            max_num_tokens: self.max_num_tokens,
            max_input_len: self.max_input_len,
            max_seq_len: self.max_seq_len,
            tokens_per_block: self.tokens_per_block,
            kv_cache_tokens: self.kv_cache_tokens,
            isa,
            ..LoadOptions::default()
        };
        let model = Model::load(engine.clone(), &options)?;
        Ok((engine, model))
    }
}
