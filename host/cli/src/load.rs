//! Loading an engine, with the flags that every command shares that loads one.

use crate::error::Usage;
use crate::ranks::World;
use anyhow::Result;
use engraft_engine::Engine;
use engraft_runtime::{Isa, LoadOptions, Model, RuntimeError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Flags of whatever loads one engine.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
pub struct LoadArgs {
    /// An engine's directory.
    #[arg(long, value_name = "DIR")]
    pub engine_dir: PathBuf,
    #[command(flatten)]
    run: RunArgs,
}

/// Flags of how engines run. Limits left out are an engine's own.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
pub struct RunArgs {
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
        let options = self.run.options()?;
        match world.line() {
            Some(_) if self.run.ranks_in_process => Err(Usage::new(format!(
                "--ranks_in_process is for one process, and {} were started",
                world.size()
            ))
            .help("leave it out, or run it without mpirun")
            .into()),
            Some(line) => {
                let engine = Arc::new(self.open_rank(line.rank(), line.size())?);
                Ok((engine.clone(), Model::load_rank(engine, line, &options)?))
            }
            None => {
                let engines = self.run.open(&self.engine_dir)?;
                let model = load(&engines, &options)?;
                Ok((engines[0].clone(), model))
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

impl RunArgs {
    /// As the library takes them.
    pub fn options(&self) -> Result<LoadOptions> {
        let isa = match &self.isa {
            None => None,
            Some(name) => Some(name.parse::<Isa>().map_err(|_| {
                Usage::new(format!("--isa {name}: no such kernels"))
                    .help("take plain, avx2 or avx512")
            })?),
        };
        Ok(LoadOptions {
            threads: self.threads,
            max_batch_size: self.max_batch_size,
            max_num_tokens: self.max_num_tokens,
            max_input_len: self.max_input_len,
            max_seq_len: self.max_seq_len,
            tokens_per_block: self.tokens_per_block,
            kv_cache_tokens: self.kv_cache_tokens,
            isa,
            ..LoadOptions::default()
        })
    }

    /// What one process runs of an engine: all ranks, or the first.
    pub fn open(&self, directory: &Path) -> Result<Vec<Arc<Engine>>> {
        let engines = match self.ranks_in_process {
            true => Engine::open_all(directory)?,
            false => vec![Engine::open(directory)?],
        };
        Ok(engines.into_iter().map(Arc::new).collect())
    }
}

/// Plans the run of what one process has of an engine.
pub fn load(engines: &[Arc<Engine>], options: &LoadOptions) -> Result<Model, RuntimeError> {
    match engines {
        [engine] => Model::load(engine.clone(), options),
        _ => Model::load_in_process(engines.to_vec(), options),
    }
}
