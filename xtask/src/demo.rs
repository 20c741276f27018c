//! `cargo xtask demo`: from a fresh machine to a model that answers, with the commands shown.
//!
//! Every step is skipped where its result stands and its inputs did not change, so a second run
//! starts at once. What the engine was compiled from is written beside it (`NAME.inputs`): the
//! `engraft` command, the plugins, the model's files with their sizes and times, the flags.

use crate::cache::Cache;
use crate::{command, host, model, paths, plugins};
use anyhow::{Context, Result, anyhow, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

/// From nothing to a model that answers: builds engraft and its plugins, fetches
/// SmolLM2-135M-Instruct, compiles it and runs it.
#[derive(clap::Args)]
pub struct Args {
    /// Your own model instead: a HuggingFace directory or a .gguf file.
    #[arg(long = "model_dir", alias = "model-dir", value_name = "DIR|FILE.gguf")]
    model_dir: Option<PathBuf>,
    /// What to ask.
    #[arg(long, default_value = "Why is the sky blue? Answer in three sentences.")]
    prompt: String,
    /// Precision of the engine's weights; `auto` is the model's own.
    #[arg(long, default_value = "auto", value_parser = ["auto", "float32", "float16", "bfloat16"])]
    dtype: String,
    /// The most tokens to answer with.
    #[arg(long = "max_output_len", alias = "max-output-len", default_value_t = 200)]
    max_output_len: u32,
    /// Compile again even if nothing changed.
    #[arg(long)]
    force: bool,
}

/// Runs the demo.
pub fn run(args: &Args) -> Result<()> {
    if let Some(dir) = args.model_dir.as_deref().filter(|dir| !dir.exists()) {
        bail!(
            "there is no {}\n  help: --model_dir takes a HuggingFace directory or a .gguf file",
            dir.display()
        );
    }
    // What can be missing comes first: nobody waits for a build to be told so.
    let model = match &args.model_dir {
        Some(dir) => dir.clone(),
        None => model::smollm2(&Cache::open()?).map_err(|e| {
            anyhow!("{e:#}\n        or pass --model_dir DIR|FILE.gguf to take a model of your own")
        })?,
    };
    let plugins_dir = plugins::build(&paths::plugins())?;
    host::build("engraft")?;
    // The bundled model's plugin is known; for others engraft finds it by the architecture.
    let plugin = args.model_dir.is_none().then(|| plugins_dir.join("llama.wasm"));

    let engine = engine_dir("demo", &model, &args.dtype);
    compile(
        &Job {
            model: &model,
            plugin: plugin.as_deref(),
            plugins: &plugins_dir,
            dtype: &args.dtype,
            engine: &engine,
        },
        args.force,
    )?;

    let mut run = Command::new(paths::engraft());
    run.arg("run").arg("--engine_dir").arg(paths::shown(&engine)).args(["--chat", "--streaming"]);
    run.args(["--max_output_len", &args.max_output_len.to_string()]);
    run.args(["--input_text", &args.prompt]);
    command::run(&mut run)
}

/// Where the engine of `model` goes below the target folder: named after the model and the dtype.
pub fn engine_dir(purpose: &str, model: &Path, dtype: &str) -> PathBuf {
    let absolute = fs::canonicalize(model).unwrap_or_else(|_| model.to_path_buf());
    let name = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    let name = name.unwrap_or_default().to_string_lossy();
    paths::target().join(purpose).join(format!("{name}-{dtype}"))
}

/// One model to compile.
pub struct Job<'a> {
    /// A HuggingFace directory or a GGUF file.
    pub model: &'a Path,
    /// The plugin to name, or none to have it found by the model's architecture.
    pub plugin: Option<&'a Path>,
    /// Where the plugins are.
    pub plugins: &'a Path,
    /// `auto` or a name that `--dtype` takes.
    pub dtype: &'a str,
    /// The engine's folder.
    pub engine: &'a Path,
}

/// Shows and runs `engraft compile`, unless the engine stands and was made from the same inputs.
pub fn compile(job: &Job<'_>, force: bool) -> Result<()> {
    let inputs = inputs(job)?;
    let stamp = job.engine.with_file_name(format!(
        "{}.inputs",
        job.engine.file_name().unwrap_or_default().to_string_lossy()
    ));
    let stands = job.engine.join("config.json").exists();
    if stands && !force && fs::read_to_string(&stamp).is_ok_and(|have| have == inputs) {
        println!(
            "{} is up to date: nothing to compile (--force does it again)",
            paths::shown(job.engine)
        );
        return Ok(());
    }
    if let Some(parent) = stamp.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let mut compile = Command::new(paths::engraft());
    compile.arg("compile");
    match job.plugin {
        Some(plugin) => compile.arg("--plugin").arg(paths::shown(plugin)),
        None => compile.env("ENGRAFT_PLUGINS", paths::shown(job.plugins)),
    };
    compile.arg("--model_dir").arg(job.model);
    compile.arg("--output_dir").arg(paths::shown(job.engine));
    if job.dtype != "auto" {
        compile.args(["--dtype", job.dtype]);
    }
    if job.engine.exists() {
        compile.arg("--force");
    }
    command::run(&mut compile)?;
    fs::write(&stamp, inputs).with_context(|| format!("cannot write {}", stamp.display()))
}

/// All that the engine depends on, as text: equal text, equal engine.
fn inputs(job: &Job<'_>) -> Result<String> {
    let mut text = format!("dtype {}\nmodel {}\n", job.dtype, job.model.display());
    let mut files = vec![paths::engraft()];
    match job.plugin {
        Some(plugin) => files.push(plugin.to_path_buf()),
        None => files.extend(files_in(job.plugins)?),
    }
    if job.model.is_dir() {
        files.extend(files_in(job.model)?);
    } else {
        files.push(job.model.to_path_buf());
    }
    for file in files {
        let about =
            fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let changed = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        writeln!(text, "{} {} {}", file.display(), about.len(), changed.as_nanos())?;
    }
    Ok(text)
}

/// The files in a folder itself, sorted.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
