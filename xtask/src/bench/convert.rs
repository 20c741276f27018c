//! `cargo xtask bench convert`: converting a model beside copying it.
//!
//! The model is made up: Llama's shapes with random weights, bfloat16. Each round converts it to
//! bfloat16 and to float16, and copies the weights with `cp` after each, so that a machine that
//! slows down meets all alike; `cp` is followed by `sync` of what it wrote, as converting ends
//! with that too. Outputs are removed at once, and the model at the end unless it is to be kept.

use super::process::{self, Ran, free, remove};
use super::synthetic::{self, SHAPES, Shape};
use super::{busy, middle, processor};
use crate::{host, paths, plugins};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What converting may take, in copies.
const BOUND: f64 = 1.3;
/// What converting may hold beside twice the largest tensor, in bytes.
const BESIDE: u64 = 200 << 20;

/// Flags of `bench convert`.
#[derive(clap::Args)]
pub struct Args {
    /// The model's shapes.
    #[arg(long, default_value = "tinyllama-1.1b", value_parser = SHAPES.map(|shape| shape.name))]
    shape: String,
    /// All weights are zeros that take no room on the disk, but in outputs.
    #[arg(long)]
    sparse: bool,
    /// Rounds; medians are over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// What to convert to; by default bfloat16 and float16 in turn.
    #[arg(long, value_parser = ["bfloat16", "float16", "float32"])]
    dtype: Option<String>,
    /// Leave `cp` out: for time there is then no measure, but for memory.
    #[arg(long = "no_copy", alias = "no-copy")]
    no_copy: bool,
    /// Passed on to `engraft convert`.
    #[arg(long = "max_ram", alias = "max-ram", value_name = "SIZE")]
    max_ram: Option<String>,
    /// Passed on to `engraft convert`.
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Keep the model for the next time.
    #[arg(long)]
    keep: bool,
}

/// Measures, and fails where a bound is broken.
pub fn run(args: &Args) -> Result<()> {
    let shape = SHAPES.iter().find(|shape| shape.name == args.shape).context("no such shape")?;
    let plugins_dir = plugins::build(&paths::plugins())?;
    host::build("engraft")?;
    let folder = paths::target().join("bench");
    let suffix = if args.sparse { "-sparse" } else { "" };
    let model = folder.join(format!("{}{suffix}", shape.name));
    let out = folder.join("out");
    remove(&out)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let bytes = shape.bytes();
    let needed = if args.sparse || model.exists() { bytes } else { 2 * bytes } + (1 << 30);
    let free = free(&folder)?;
    if free < needed {
        bail!(
            "{} has {:.1} GB free, and {:.1} are needed",
            folder.display(),
            free as f64 / 1e9,
            needed as f64 / 1e9
        );
    }
    synthetic::make(shape, &model, args.sparse)?;
    let others = busy();
    if others > 0.2 {
        println!("the machine is busy ({others:.1} cores): do not trust what follows");
    }
    let done = rounds(args, shape, &model, &out, &plugins_dir);
    remove(&out)?;
    if !args.keep {
        remove(&model)?;
    }
    done
}

fn rounds(args: &Args, shape: &Shape, model: &Path, out: &Path, plugins: &Path) -> Result<()> {
    let dtypes = match &args.dtype {
        Some(dtype) => vec![dtype.as_str()],
        None => vec!["bfloat16", "float16"],
    };
    let mut converted: Vec<Vec<Ran>> = dtypes.iter().map(|_| Vec::new()).collect();
    let mut copied = Vec::new();
    for round in 1..=args.rounds {
        for (dtype, ran) in dtypes.iter().zip(&mut converted) {
            let mut command = Command::new(paths::engraft());
            command.env("ENGRAFT_PLUGINS", plugins);
            command.args(["convert", "--model_dir"]).arg(model);
            command.args(["--dtype", dtype, "--output_dir"]).arg(out);
            if let Some(max_ram) = &args.max_ram {
                command.args(["--max_ram", max_ram]);
            }
            if let Some(workers) = args.workers {
                command.args(["--workers", &workers.to_string()]);
            }
            ran.push(measured(round, &format!("to {dtype}"), &mut command)?);
            remove(out)?;
            if !args.no_copy {
                let mut command = Command::new("sh");
                command.args(["-c", "cp \"$1\"/*.safetensors \"$2\" && sync \"$2\"/*", "cp"]);
                command.arg(model).arg(out);
                fs::create_dir_all(out).context("cannot make the output's folder")?;
                copied.push(measured(round, "cp", &mut command)?);
                remove(out)?;
            }
        }
    }
    let gigabytes = shape.bytes() as f64 / 1e9;
    println!(
        "\n{} ({gigabytes:.2} GB of bfloat16), {}; medians of {} alternating rounds\n",
        shape.name,
        processor(),
        args.rounds
    );
    println!("{:<14}{:>10}{:>8}{:>12}{:>12}", "", "seconds", "GB/s", "of cp", "peak RSS");
    let copy = middle(copied.iter().map(|ran| ran.seconds).collect());
    let mut broken = Vec::new();
    let row = |name: &str, ran: &[Ran]| {
        let seconds = middle(ran.iter().map(|ran| ran.seconds).collect());
        let peak = ran.iter().map(|ran| ran.peak).max().unwrap_or(0);
        let ratio = seconds / copy;
        let shown = if ratio.is_nan() { "-".to_owned() } else { format!("{ratio:.2}") };
        println!(
            "{name:<14}{seconds:>10.2}{:>8.2}{shown:>12}{:>8} MiB",
            gigabytes / seconds,
            peak >> 20
        );
        (ratio, peak)
    };
    for (dtype, ran) in dtypes.iter().zip(&converted) {
        let (ratio, peak) = row(dtype, ran);
        let largest = shape.largest() * if *dtype == "float32" { 2 } else { 1 };
        let most = 2 * largest + BESIDE;
        if ratio > BOUND {
            broken.push(format!("converting to {dtype} takes {ratio:.2} times cp, not {BOUND}"));
        }
        if peak > most {
            let (peak, most) = (peak >> 20, most >> 20);
            broken.push(format!("converting to {dtype} takes {peak} MiB of memory, not {most}"));
        }
    }
    if !copied.is_empty() {
        row("cp", &copied);
    }
    println!(
        "\nbounds: {BOUND} of cp; {} MiB, twice the largest tensor and {} MiB",
        (2 * shape.largest() + BESIDE) >> 20,
        BESIDE >> 20
    );
    if broken.is_empty() { Ok(()) } else { bail!("{}", broken.join("; ")) }
}

/// Runs a command and says what it took.
fn measured(round: u32, name: &str, command: &mut Command) -> Result<Ran> {
    let ran = process::watched(command)?;
    println!("round {round}  {name:<12} {:6.2} s  {:>5} MiB", ran.seconds, ran.peak >> 20);
    Ok(ran)
}
