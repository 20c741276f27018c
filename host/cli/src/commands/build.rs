//! `engraft build`: a checkpoint to an engine.

use crate::args::{ENGINE_DIR, OutputArgs, PluginArgs, WorkArgs};
use crate::commands::convert::OLD_FLAGS;
use crate::error::Usage;
use crate::legacy::{self, Legacy, build_config};
use crate::{forecast, output, progress};
use anyhow::Result;
use clap::Args;
use engraft_checkpoint::WEIGHTS_FILE;
use engraft_compile::BuildOptions;
use engraft_convert::build::Checkpoint;
use engraft_engine::KvCacheType;
use engraft_engine::format::ENGINE_FILE;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Builds an engine from a TensorRT-LLM checkpoint, whoever wrote it.
#[derive(Args)]
#[command(rename_all = "snake_case", args_override_self = true, after_help = OLD_FLAGS)]
pub struct Build {
    #[command(flatten)]
    plugin: PluginArgs,
    /// A checkpoint's directory: config.json, rankN.safetensors.
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    build: BuildArgs,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    legacy: Legacy<legacy::Build>,
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
    #[arg(long, value_name = "N", alias = "max_decoder_seq_len")]
    max_seq_len: Option<u32>,
    /// Tokens of all requests in one step; longer prompts go in chunks.
    #[arg(long, value_name = "N")]
    max_num_tokens: Option<u32>,
    /// Tokens of one page of the cache.
    #[arg(long, value_name = "N")]
    tokens_per_block: Option<u32>,
    /// A build_config as TensorRT-LLM writes it, for the limits that the command line leaves out.
    #[arg(long, value_name = "FILE.json")]
    build_config: Option<PathBuf>,
}

impl BuildArgs {
    /// As the compiler takes them.
    ///
    /// # Errors
    /// A --build_config that cannot be read, or asks for what we would have to disobey.
    pub fn options(&self) -> Result<BuildOptions> {
        let given = BuildOptions {
            target: Some(self.target.clone()),
            max_batch_size: self.max_batch_size,
            max_input_len: self.max_input_len,
            max_seq_len: self.max_seq_len,
            max_num_tokens: self.max_num_tokens,
            tokens_per_block: self.tokens_per_block,
            kv_cache_type: KvCacheType::Paged,
        };
        match &self.build_config {
            None => Ok(given),
            Some(file) => build_config::fill(given, file),
        }
    }
}

impl Build {
    pub fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        self.output.listen();
        self.legacy.settle()?;
        let Some(checkpoint_dir) = &self.checkpoint_dir else {
            return Err(Usage::new("there is no --checkpoint_dir")
                .help("give the directory that `engraft convert` wrote")
                .into());
        };
        let options = self.build.options()?;
        let holds = |name| checkpoint_dir.join(name).exists();
        let at = checkpoint_dir.display();
        if holds(ENGINE_FILE) {
            return Err(Usage::new(format!("{at} is an engine, and not a checkpoint"))
                .help("give the directory that `engraft convert` wrote; an engine runs as it is")
                .into());
        }
        if !holds(WEIGHTS_FILE) && (holds("model.safetensors") || checkpoint_dir.is_file()) {
            return Err(Usage::new(format!("{at} is a model, and not a checkpoint"))
                .help(format!("take `engraft compile --model_dir {at}`"))
                .into());
        }
        let plugin = self.plugin.plugin.as_deref();
        if self.output.dry_run {
            let checkpoint = Checkpoint::open(checkpoint_dir, plugin)?;
            output::notes(checkpoint.warnings());
            let expected = checkpoint.forecast_engine(options, &self.work.effort(&|_, _| {}))?;
            let ranks = checkpoint.mapping().to_string();
            let directory = self.output.directory(ENGINE_DIR);
            let about = forecast::About::checkpoint(&checkpoint, "engine", ranks, directory);
            return forecast::report(&about, &expected, self.json);
        }
        let out = self.output.begin(checkpoint_dir, ENGINE_DIR)?;
        let checkpoint = Checkpoint::open(checkpoint_dir, plugin)?;
        output::notes(checkpoint.warnings());
        let bar = progress::Bytes::new("writing engine");
        let progress = |done, total| bar.set(done, total);
        let effort = self.work.effort(&progress);
        let built = checkpoint.build(options, out.path(), &effort)?;
        drop(bar);
        out.commit()?;
        let directory = self.output.directory(ENGINE_DIR);
        let seconds = start.elapsed().as_secs_f64();
        if self.json {
            output::json(&serde_json::json!({
                "kind": "engine",
                "output_dir": directory,
                "architecture": checkpoint.config().architecture,
                "plugin": checkpoint.plugin(),
                "quantised": checkpoint.quantised(),
                "bytes": built.bytes,
                "seconds": seconds,
            }))?;
        } else {
            let quantised = checkpoint.quantised().map(|weights| format!("quantised: {weights}\n"));
            output::text(&format!(
                "{} by {}\n{}wrote engine {}: {} in {seconds:.2} s\n",
                checkpoint.config().architecture,
                checkpoint.plugin(),
                quantised.unwrap_or_default(),
                directory.display(),
                output::bytes(built.bytes),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
