//! `engraft convert`: a model to a TensorRT-LLM checkpoint, or one such checkpoint to another
//! that is spread over other ranks.

use crate::args::{CHECKPOINT_DIR, ModelArgs, OutputArgs, WorkArgs};
use crate::error::Usage;
use crate::legacy::{self, Legacy};
use crate::{forecast, output, progress};
use anyhow::Result;
use clap::Args;
use engraft_convert::build::Checkpoint;
use engraft_convert::{Calibrated, Pipeline, Progress};
use engraft_source::Merged;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// What stands below the help of a command that takes old command lines.
pub const OLD_FLAGS: &str = "Every flag of TensorRT-LLM's scripts is taken as well: one without a \
     meaning here says so,\none that cannot be obeyed is an error. docs/trtllm-flags.md lists them \
     all.";

/// Converts a model into a TensorRT-LLM checkpoint (config.json, rankN.safetensors), or spreads
/// such a checkpoint over other ranks.
#[derive(Args)]
#[command(rename_all = "snake_case", args_override_self = true, after_help = OLD_FLAGS)]
pub struct Convert {
    #[command(flatten)]
    model: ModelArgs,
    /// Instead of a model: a checkpoint to be spread over other ranks.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model_dir", "meta_ckpt_dir"])]
    checkpoint_dir: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    work: WorkArgs,
    /// Write config.json alone, without weights.
    #[arg(long, conflicts_with_all = ["checkpoint_dir", "dry_run"])]
    save_config_only: bool,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    legacy: Legacy<legacy::Convert>,
}

impl Convert {
    pub fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        self.output.listen();
        self.legacy.settle()?;
        if let Some(checkpoint) = &self.checkpoint_dir {
            return self.reshard(checkpoint, start);
        }
        if let (None, Some(shape)) =
            (self.model.given(), self.legacy.first_of(legacy::convert::SHAPES))
        {
            return Err(Usage::new(format!(
                "--{shape} without --model_dir asks for random weights"
            ))
            .help("give a model's --model_dir: what is not there is not made up")
            .into());
        }
        if self.output.dry_run {
            let pipeline = self.model.open()?;
            if pipeline.is_calibrated() {
                output::notes([forecast::REPORTS]);
            }
            let expected = pipeline.forecast_checkpoint(&self.work.effort(&|_, _| {}))?;
            let directory = self.output.directory(CHECKPOINT_DIR);
            let about = forecast::About::pipeline(&pipeline, "checkpoint", directory);
            return forecast::report(&about, &expected, self.json);
        }
        let out = self.output.begin(self.model.model()?, CHECKPOINT_DIR)?;
        let pipeline = self.model.open()?;
        let mut calibrated = None;
        let (what, bytes) = if self.save_config_only {
            out.clear()?;
            ("config", pipeline.write_config(out.path())?)
        } else {
            calibrated = calibrate(&pipeline, out.path())?;
            let bar = progress::Bytes::new("writing checkpoint");
            let progress = |done, total| bar.set(done, total);
            let effort = self.work.effort(&progress);
            let bytes = pipeline.write_checkpoint(out.path(), &effort, calibrated.as_ref())?;
            ("checkpoint", bytes)
        };
        let errors = calibrated.as_ref().map(Errors::of);
        if let Some(calibrated) = calibrated {
            calibrated.remove()?;
        }
        out.commit()?;
        let directory = self.output.directory(CHECKPOINT_DIR);
        report(&pipeline, what, directory, bytes, errors.as_ref(), start, self.json)
    }

    /// From ranks to other ranks.
    fn reshard(&self, from: &Path, start: Instant) -> Result<ExitCode> {
        let mapping = self.model.ranks.mapping()?;
        if self.model.dtype()?.is_some() {
            return Err(Usage::new("--dtype goes with --model_dir, not with --checkpoint_dir")
                .help("leave it out: the weights stay as they are; only the ranks change")
                .into());
        }
        let parallel = self.model.ranks.parallel_embedding();
        let plugin = self.model.plugin.plugin.as_deref();
        if self.output.dry_run {
            let checkpoint = Checkpoint::open(from, plugin)?;
            output::notes(checkpoint.warnings());
            let effort = self.work.effort(&|_, _| {});
            let expected = checkpoint.forecast_reshard(mapping, parallel, &effort)?;
            let directory = self.output.directory(CHECKPOINT_DIR);
            let ranks = mapping.to_string();
            let about = forecast::About::checkpoint(&checkpoint, "checkpoint", ranks, directory);
            return forecast::report(&about, &expected, self.json);
        }
        let out = self.output.begin(from, CHECKPOINT_DIR)?;
        let checkpoint = Checkpoint::open(from, plugin)?;
        output::notes(checkpoint.warnings());
        let bar = progress::Bytes::new("writing checkpoint");
        let progress = |done, total| bar.set(done, total);
        let effort = self.work.effort(&progress);
        let bytes = checkpoint.reshard(mapping, parallel, out.path(), &effort)?;
        drop(bar);
        out.commit()?;
        let (directory, seconds) =
            (self.output.directory(CHECKPOINT_DIR), start.elapsed().as_secs_f64());
        if self.json {
            output::json(&serde_json::json!({
                "kind": "checkpoint",
                "output_dir": directory,
                "architecture": checkpoint.config().architecture,
                "plugin": checkpoint.plugin(),
                "ranks": mapping.world_size(),
                "bytes": bytes,
                "seconds": seconds,
            }))?;
        } else {
            output::text(&format!(
                "{} by {}: {mapping}\nwrote checkpoint {}: {} in {seconds:.2} s\n",
                checkpoint.config().architecture,
                checkpoint.plugin(),
                directory.display(),
                output::bytes(bytes),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs the model over texts, where its scheme asks for that, with a bar.
pub fn calibrate(pipeline: &Pipeline, directory: &Path) -> Result<Option<Calibrated>> {
    let bar = progress::Count::new("calibrating", "weights");
    let progress = |progress: Progress| bar.set(progress.done as u64, progress.of as u64);
    Ok(pipeline.calibrate(directory, &progress)?)
}

/// What quantising did to the weights, for people and for machines.
pub struct Errors {
    text: String,
    json: serde_json::Value,
}

/// How many of the worst weights a person is shown.
const WORST_SHOWN: usize = 5;

impl Errors {
    /// What calibrating found.
    pub fn of(calibrated: &Calibrated) -> Errors {
        let (samples, tokens) = calibrated.samples;
        let mut text =
            format!("calibrated on {samples} samples, {tokens} tokens; the worst weights:\n");
        let rows = calibrated.worst();
        let rows = rows.iter().take(WORST_SHOWN).map(|(name, report)| {
            let sqnr = report.sqnr.map_or("exact".to_owned(), |sqnr| format!("{sqnr:.1} dB"));
            let (max, cosine) = (report.max_error, report.cosine);
            ((*name).to_owned(), format!("{sqnr}, largest error {max:.3}, cosine {cosine:.5}"))
        });
        text += &output::table(&rows.collect::<Vec<_>>());
        let json = serde_json::json!({
            "samples": samples,
            "tokens": tokens,
            "weights": calibrated.reports,
        });
        Errors { text, json }
    }
}

/// What was merged, as JSON.
fn lora(merged: &Merged) -> serde_json::Value {
    serde_json::json!({
        "modules": merged.modules,
        "replaced": merged.replaced,
        "ranks": [merged.ranks.0, merged.ranks.1],
        "scales": [merged.scales.0, merged.scales.1],
        "base_model": merged.base,
    })
}

/// How many names of tensors that are all zeros a person is shown.
const ZEROS_SHOWN: usize = 8;

/// What was made of what.
pub fn report(
    pipeline: &Pipeline,
    what: &str,
    directory: &Path,
    bytes: u64,
    errors: Option<&Errors>,
    start: Instant,
    json: bool,
) -> Result<ExitCode> {
    let zeros = pipeline.zero_tensors()?;
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
            "quantised": pipeline.quantised(),
            "not_quantised": pipeline.left()
                .map(|(name, reason)| serde_json::json!({ "weight": name, "reason": reason }))
                .collect::<Vec<_>>(),
            "calibration": errors.map(|errors| &errors.json),
            "lora": pipeline.source().merged().map(lora),
            "unread_config_keys": pipeline.unread(),
            "zero_tensors": zeros,
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
        match (pipeline.quantised(), pipeline.source().packed()) {
            (Some(now), Some(before)) => text += &format!("quantised: {now}, from {before}\n"),
            (Some(now), None) => text += &format!("quantised: {now}\n"),
            (None, Some(before)) => text += &format!("de-quantised: {before}\n"),
            (None, None) => {}
        }
        for (name, reason) in pipeline.left() {
            text += &format!("not quantised: {name}: {reason}\n");
        }
        if let Some(errors) = errors {
            text += &errors.text;
        }
        if let Some(merged) = pipeline.source().merged() {
            text += &format!("merged LoRA: {merged}\n");
        }
        for (name, reason) in pipeline.unused_tensors() {
            text += &format!("left out: {}: {}\n", name, engraft_diagnostic::escape(reason));
        }
        if !zeros.is_empty() {
            let shown: Vec<String> = zeros
                .iter()
                .take(ZEROS_SHOWN)
                .map(|name| engraft_diagnostic::escape(name))
                .collect();
            let more = match zeros.len().saturating_sub(ZEROS_SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more (--json lists all)"),
            };
            text += &format!("nothing but zeros: {}{more}\n", shown.join(", "));
        }
        let (at, size) = (directory.display(), output::bytes(bytes));
        text += &format!("wrote {what} {at}: {size} in {seconds:.2} s\n");
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
