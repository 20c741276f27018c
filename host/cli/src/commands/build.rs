//! `engraft build`: a checkpoint to an engine.

use crate::args::{OutputArgs, PluginArgs};
use crate::error::Usage;
use crate::{output, progress};
use anyhow::Result;
use clap::Args;
use engraft_checkpoint::WEIGHTS_FILE;
use engraft_compile::BuildOptions;
use engraft_convert::Effort;
use engraft_convert::build::Checkpoint;
use engraft_engine::KvCacheType;
use engraft_engine::format::ENGINE_FILE;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Builds an engine from a TensorRT-LLM checkpoint, whoever wrote it.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Build {
    #[command(flatten)]
    plugin: PluginArgs,
    /// A checkpoint's directory: config.json, rank0.safetensors.
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    build: BuildArgs,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// What an engine is built for. The limits are defaults: `run` and `evaluate` may choose others.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct BuildArgs {
    /// The device whose kernels the weights are laid out for.
    #[arg(long, value_name = "TARGET", default_value = "cpu", value_parser = ["cpu"])]
    target: String,
    /// Requests that run at a time.
    #[arg(long, value_name = "N")]
    max_batch_size: Option<u32>,
    /// Tokens of one prompt that is to be answered; by default as many as a request may have.
    #[arg(long, value_name = "N")]
    max_input_len: Option<u32>,
    /// Tokens of one request, prompt and answer; by default the model's context.
    #[arg(long, value_name = "N")]
    max_seq_len: Option<u32>,
    /// Tokens of all requests in one step; longer prompts go in chunks.
    #[arg(long, value_name = "N")]
    max_num_tokens: Option<u32>,
    /// Tokens of one page of the cache.
    #[arg(long, value_name = "N")]
    tokens_per_block: Option<u32>,
    /// How past keys and values are kept.
    #[arg(long, value_name = "TYPE", default_value = "paged", value_parser = ["paged"])]
    kv_cache_type: String,
}

impl BuildArgs {
    /// As the compiler takes them.
    pub fn options(&self) -> BuildOptions {
        BuildOptions {
            target: Some(self.target.clone()),
            max_batch_size: self.max_batch_size,
            max_input_len: self.max_input_len,
            max_seq_len: self.max_seq_len,
            max_num_tokens: self.max_num_tokens,
            tokens_per_block: self.tokens_per_block,
            kv_cache_type: KvCacheType::Paged,
        }
    }
}

impl Build {
    pub fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        let out = self.output.begin(&self.checkpoint_dir)?;
        let holds = |name| self.checkpoint_dir.join(name).exists();
        let at = self.checkpoint_dir.display();
        if holds(ENGINE_FILE) {
            return Err(Usage::new(format!("{at} is an engine, and not a checkpoint"))
                .help("give the directory that `engraft convert` wrote; an engine runs as it is")
                .into());
        }
        if !holds(WEIGHTS_FILE) && (holds("model.safetensors") || self.checkpoint_dir.is_file()) {
            return Err(Usage::new(format!("{at} is a model, and not a checkpoint"))
                .help(format!("take `engraft compile --model_dir {at}`"))
                .into());
        }
        let checkpoint = Checkpoint::open(&self.checkpoint_dir, self.plugin.plugin.as_deref())?;
        let bar = progress::Bytes::new("writing engine");
        let progress = |done, total| bar.set(done, total);
        let effort = Effort { progress: &progress, ..Effort::default() };
        let built = checkpoint.build(self.build.options(), out.path(), &effort)?;
        drop(bar);
        out.commit()?;
        let seconds = start.elapsed().as_secs_f64();
        if self.json {
            output::json(&serde_json::json!({
                "kind": "engine",
                "output_dir": self.output.output_dir,
                "architecture": checkpoint.config().architecture,
                "plugin": checkpoint.plugin(),
                "bytes": built.bytes,
                "seconds": seconds,
            }))?;
        } else {
            output::text(&format!(
                "{} by {}\nwrote engine {}: {} in {seconds:.2} s\n",
                checkpoint.config().architecture,
                checkpoint.plugin(),
                self.output.output_dir.display(),
                output::bytes(built.bytes),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
