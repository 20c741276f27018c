//! `engraft compile`: a model to an engine in one pass.

use crate::args::{ENGINE_DIR, ModelArgs, OutputArgs, WorkArgs};
use crate::commands::build::BuildArgs;
use crate::commands::convert::{Errors, OLD_FLAGS, calibrate, report};
use crate::legacy::{self, Legacy};
use crate::{forecast, output, progress};
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::time::Instant;

/// Compiles a model into an engine, in one pass.
///
/// The same as `convert` and then `build`, without the checkpoint on disk; the engine's bytes
/// are the same either way.
#[derive(Args)]
#[command(rename_all = "snake_case", args_override_self = true, after_help = OLD_FLAGS)]
pub struct Compile {
    #[command(flatten)]
    model: ModelArgs,
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
    legacy: Legacy<legacy::Compile>,
}

impl Compile {
    pub fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        self.output.listen();
        self.legacy.settle()?;
        let options = self.build.options()?;
        if self.output.dry_run {
            let pipeline = self.model.open()?;
            if pipeline.is_calibrated() {
                output::notes([forecast::REPORTS]);
            }
            let expected = pipeline.forecast_engine(options, &self.work.effort(&|_, _| {}))?;
            let directory = self.output.directory(ENGINE_DIR);
            let about = forecast::About::pipeline(&pipeline, "engine", directory);
            return forecast::report(&about, &expected, self.json);
        }
        let out = self.output.begin(self.model.model()?, ENGINE_DIR)?;
        let pipeline = self.model.open()?;
        let calibrated = calibrate(&pipeline, out.path())?;
        let bar = progress::Bytes::new("writing engine");
        let progress = |done, total| bar.set(done, total);
        let effort = self.work.effort(&progress);
        let built = pipeline.compile(options, out.path(), &effort, calibrated.as_ref())?;
        drop(bar);
        let errors = calibrated.as_ref().map(Errors::of);
        if let Some(calibrated) = calibrated {
            calibrated.remove()?;
        }
        out.commit()?;
        report(
            &pipeline,
            "engine",
            self.output.directory(ENGINE_DIR),
            built.bytes,
            errors.as_ref(),
            start,
            self.json,
        )
    }
}
