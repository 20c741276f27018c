//! `engraft verify`: reads every byte and compares it with its digest.

use crate::{output, progress};
use anyhow::Result;
use clap::Args;
use engraft_weights::Provider;
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks every byte of an engine or a checkpoint against its digests.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Verify {
    /// An engine's directory, its rank0.engine, or a checkpoint's directory.
    path: PathBuf,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(self) -> Result<ExitCode> {
        let bar = progress::Bytes::new("verifying");
        let is_checkpoint =
            self.path.is_dir() && !self.path.join(engraft_engine::format::ENGINE_FILE).exists();
        let (what, tensors, bytes) = if is_checkpoint {
            let reader = engraft_checkpoint::Reader::open(&self.path)?;
            let tensors = reader.verify()?;
            let bytes = reader.names().iter().filter_map(|name| reader.get(name));
            ("checkpoint", tensors, bytes.map(|supply| supply.bytes()).sum())
        } else {
            let engine = engraft_engine::Engine::open(&self.path)?;
            let verified = engine.verify(&|done, total| bar.set(done, total))?;
            ("engine", verified.tensors, engine.bytes())
        };
        drop(bar);
        if self.json {
            output::json(&serde_json::json!({
                "path": self.path, "kind": what, "tensors": tensors, "bytes": bytes, "ok": true,
            }))?;
        } else {
            let size = output::bytes(bytes);
            output::text(&format!(
                "{}: {what} is whole: {tensors} tensors, {size}, every digest agrees\n",
                self.path.display()
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
