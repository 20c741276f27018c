//! Loading an engine, with the flags that every command shares that loads one.

use crate::error::Usage;
use crate::ranks::World;
use anyhow::Result;
use engraft_engine::Engine;
use engraft_runtime::{Isa, LoadOptions, Model, RuntimeError};
use std::path::PathBuf;
use std::sync::Arc;

/// Flags of whatever loads an engine. Limits left out are the engine's own.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
pub struct LoadArgs {
    /// An engine's directory.
    #[arg(long, value_name = "DIR")]
    pub engine_dir: PathBuf,
    /// Run all ranks of an engine in this process, as threads, and not one a process under mpirun.
    #[arg(long)]
    ranks_in_process: bool,
    /// Threads of this process; by default one a core, or a share of them where there are more
    /// processes.
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
    /// Maps the engine, or what this process has of it, and plans its run.
    pub fn load(&self, world: &World) -> Result<(Arc<Engine>, Model)> {
        let isa = match &self.isa {
            None => None,
            Some(name) => Some(name.parse::<Isa>().map_err(|_| {
                Usage::new(format!("--isa {name}: no such kernels"))
                    .help("take plain, avx2 or avx512")
            })?),
        };
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
        match world.line() {
            Some(_) if self.ranks_in_process => Err(Usage::new(format!(
                "--ranks_in_process is for one process, and {} were started",
                world.size()
            ))
            .help("leave it out, or run it without mpirun")
            .into()),
            Some(line) => {
                let engine = Arc::new(self.open_rank(line.rank(), line.size())?);
                Ok((engine.clone(), Model::load_rank(engine, line, &options)?))
            }
            None if self.ranks_in_process => {
                let engines = Engine::open_all(&self.engine_dir)?.into_iter().map(Arc::new);
                let engines: Vec<Arc<Engine>> = engines.collect();
                let first = engines[0].clone();
                let model = match engines.len() {
                    1 => Model::load(first.clone(), &options)?,
                    _ => Model::load_in_process(engines, &options)?,
                };
                Ok((first, model))
            }
            None => {
                let engine = Arc::new(Engine::open(&self.engine_dir)?);
                Ok((engine.clone(), Model::load(engine, &options)?))
            }
        }
    }

    /// The engine of one rank. It is missing where the model has fewer, which is worth saying.
    fn open_rank(&self, rank: u32, running: u32) -> Result<Engine> {
        let missing = match Engine::open_rank(&self.engine_dir, rank) {
            Ok(engine) => return Ok(engine),
            Err(missing) => missing,
        };
        match Engine::open(&self.engine_dir).map(|first| first.rank().mapping.world_size()) {
            Ok(engine) if engine <= rank => Err(RuntimeError::RankCount { engine, running }.into()),
            _ => Err(missing.into()),
        }
    }
}
