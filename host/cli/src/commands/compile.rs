//! `engraft compile`: a model to an engine in one pass.

use crate::args::{ModelArgs, OutputArgs};
use crate::commands::build::BuildArgs;
use crate::commands::convert::report;
use crate::progress;
use anyhow::Result;
use clap::Args;
use engraft_convert::Effort;
use std::process::ExitCode;
use std::time::Instant;

/// Compiles a model into an engine, in one pass.
///
/// The same as `convert` and then `build`, without the checkpoint on disk; the engine's bytes
/// are the same either way.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Compile {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    build: BuildArgs,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl Compile {
    pub fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        let out = self.output.begin(&self.model.model_dir)?;
        let pipeline = self.model.open()?;
        let bar = progress::Bytes::new("writing engine");
        let progress = |done, total| bar.set(done, total);
        let effort = Effort { progress: &progress, ..Effort::default() };
        let built = pipeline.compile(self.build.options(), out.path(), &effort)?;
        drop(bar);
        out.commit()?;
        report(&pipeline, "engine", &self.output.output_dir, built.bytes, start, self.json)
    }
}
