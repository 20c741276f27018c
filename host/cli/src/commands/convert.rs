//! `engraft convert`: a model to a TensorRT-LLM checkpoint.

use crate::args::{OutputArgs, PluginArgs, dtype};
use crate::{output, progress};
use anyhow::Result;
use clap::Args;
use engraft_convert::{Options, Pipeline};
use engraft_ir::DType;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Converts a model into a TensorRT-LLM checkpoint (config.json, rank0.safetensors).
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Convert {
    #[command(flatten)]
    plugin: PluginArgs,
    /// A HuggingFace model's directory, or a GGUF file.
    #[arg(long, value_name = "DIR|FILE.gguf")]
    model_dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
    /// Element type of the weights: auto (the model's own), float32, float16, bfloat16.
    #[arg(long, default_value = "auto")]
    dtype: String,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl Convert {
    pub fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        let out = self.output.begin(&self.model_dir)?;
        let pipeline = open(&self.plugin, &self.model_dir, dtype(&self.dtype)?)?;
        let bar = progress::Bytes::new("writing checkpoint");
        let bytes = pipeline.write_checkpoint(out.path(), &|done, total| bar.set(done, total))?;
        drop(bar);
        out.commit()?;
        report(&pipeline, "checkpoint", &self.output.output_dir, bytes, start, self.json)
    }
}

/// Opens the pipeline and warns of config keys that nobody reads.
pub fn open(plugin: &PluginArgs, model: &Path, dtype: Option<DType>) -> Result<Pipeline> {
    let options = Options { model: model.to_path_buf(), plugin: plugin.plugin.clone(), dtype };
    let pipeline = Pipeline::open(&options)?;
    for key in pipeline.unread() {
        let key = engraft_diagnostic::escape(key);
        eprintln!("warning: config key `{key}` is read by nobody");
    }
    Ok(pipeline)
}

/// What was made of what.
pub fn report(
    pipeline: &Pipeline,
    what: &str,
    directory: &Path,
    bytes: u64,
    start: Instant,
    json: bool,
) -> Result<ExitCode> {
    let seconds = start.elapsed().as_secs_f64();
    if json {
        output::json(&serde_json::json!({
            "kind": what,
            "output_dir": directory,
            "architecture": pipeline.config().architecture,
            "plugin": pipeline.plugin(),
            "dtype": pipeline.config().dtype.config_name(),
            "parameters": pipeline.parameters(),
            "bytes": bytes,
            "unread_config_keys": pipeline.unread(),
            "unused_tensors": pipeline.unused_tensors().iter()
                .map(|(name, reason)| serde_json::json!({ "tensor": name, "reason": reason }))
                .collect::<Vec<_>>(),
            "seconds": seconds,
        }))?;
    } else {
        let mut text = format!(
            "{} ({}) by {}: {:.1} M parameters in {}\n",
            pipeline.config().architecture,
            pipeline.source().dialect(),
            pipeline.plugin(),
            pipeline.parameters() as f64 / 1e6,
            pipeline.config().dtype.config_name(),
        );
        for (name, reason) in pipeline.unused_tensors() {
            text += &format!("left out: {}: {}\n", name, engraft_diagnostic::escape(reason));
        }
        let (at, size) = (directory.display(), output::bytes(bytes));
        text += &format!("wrote {what} {at}: {size} in {seconds:.2} s\n");
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
