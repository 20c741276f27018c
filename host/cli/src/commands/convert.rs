//! `engraft convert`: a model to a TensorRT-LLM checkpoint.

use crate::args::{ModelArgs, OutputArgs};
use crate::{output, progress};
use anyhow::Result;
use clap::Args;
use engraft_convert::{Effort, Pipeline};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Converts a model into a TensorRT-LLM checkpoint (config.json, rank0.safetensors).
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Convert {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl Convert {
    pub fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        let out = self.output.begin(&self.model.model_dir)?;
        let pipeline = self.model.open()?;
        let bar = progress::Bytes::new("writing checkpoint");
        let progress = |done, total| bar.set(done, total);
        let effort = Effort { progress: &progress, ..Effort::default() };
        let bytes = pipeline.write_checkpoint(out.path(), &effort)?;
        drop(bar);
        out.commit()?;
        report(&pipeline, "checkpoint", &self.output.output_dir, bytes, start, self.json)
    }
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
