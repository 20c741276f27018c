//! `cargo xtask bench`: figures of speed, memory and quality.
//!
//! `bench cpu`: our tokens a second beside llama.cpp's, in alternating runs.
//!
//! Each round is one process of ours (`engraft-bench`) and one of the peer's, so that a machine
//! that slows down meets both; medians are compared. The peer is the Python package
//! llama-cpp-python, built from its source for this processor into the cache (about ten minutes,
//! once). Where it cannot be had, our figures stand alone, and the output says why.

mod convert;
mod plugin;
mod process;
mod quality;
mod synthetic;

use crate::cache::Cache;
use crate::command::{self, output};
use crate::{demo, host, model, paths, plugins, python};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PEER: &str = "llama-cpp-python==0.3.36";
/// What the peer's build leaves out has no part in what is timed.
const PEER_BUILD: &str = "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF \
                          -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TOOLS=OFF \
                          -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF";

/// What to measure.
#[derive(clap::Subcommand)]
pub enum Bench {
    /// Prefill (512 tokens) and decode (128 tokens) on the CPU, SmolLM2 in float16, beside
    /// llama.cpp and what the memory gives.
    Cpu(Args),
    /// What each plugin costs: its size, compiling it, starting it, describing a model of 80
    /// layers. Fails where that is over 150 ms in all and nothing else keeps the machine busy.
    Plugin(plugin::Args),
    /// Converting a model of random weights beside copying it: time, the ratio, peak memory. Fails
    /// over 1.3 times `cp`, or over twice the largest tensor and 200 MiB.
    Convert(convert::Args),
    /// What each format costs: perplexity, divergence and agreement beside the float model, bits,
    /// bytes, time and memory to convert, on SmolLM2 and on it with noise on its weights, beside
    /// what others reach.
    Quality(quality::Args),
}

/// Flags of `bench cpu`.
#[derive(clap::Args)]
pub struct Args {
    /// Another engine than SmolLM2's in float16; the peer then runs only with --peer_model.
    #[arg(long = "engine_dir", alias = "engine-dir", value_name = "DIR")]
    engine_dir: Option<PathBuf>,
    /// The GGUF file that the peer runs.
    #[arg(long = "peer_model", alias = "peer-model", value_name = "FILE.gguf")]
    peer_model: Option<PathBuf>,
    /// Leave the peer out.
    #[arg(long = "no_peer", alias = "no-peer")]
    no_peer: bool,
    /// Rounds; medians are over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads, for both; by default all cores.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
}

/// Runs the benchmark and prints a table.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Cpu(args) => cpu(args),
        Bench::Plugin(args) => plugin::run(args),
        Bench::Convert(args) => convert::run(args),
        Bench::Quality(args) => quality::run(args),
    }
}

fn cpu(args: &Args) -> Result<()> {
    host::build("engraft")?;
    host::build("engraft-bench")?;
    let (engine, peer_model) = match &args.engine_dir {
        Some(dir) => (dir.clone(), args.peer_model.clone()),
        None => smollm2(args)?,
    };
    let peer = match peer_model {
        Some(model) if !args.no_peer => match peer(&Cache::open()?) {
            Ok(python) => Some((python, model)),
            Err(e) => {
                println!("without the peer, which cannot be installed: {e:#}");
                None
            }
        },
        _ => None,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or_else(|| cores.to_string(), |n| n.to_string());
    let others = busy();
    if others > 0.2 {
        println!("the machine is busy ({others:.1} cores): do not trust what follows");
    }
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for round in 1..=args.rounds {
        let mut command = Command::new(paths::target().join("release/engraft-bench"));
        command.arg("--engine_dir").arg(&engine).args(["--threads", &threads]);
        ours.push(measured(round, "engraft", &mut command)?);
        if let Some((python, model)) = &peer {
            let mut command = Command::new(python);
            command.arg(paths::root().join("bench/llama_cpp_peer.py")).arg(model);
            command.args(["--threads", &threads]);
            theirs.push(measured(round, "llama.cpp", &mut command)?);
        }
    }
    print(&engine, args.rounds, &ours, &theirs)
}

/// SmolLM2's engine in float16, compiled if need be, and the same weights for the peer.
fn smollm2(args: &Args) -> Result<(PathBuf, Option<PathBuf>)> {
    let plugins_dir = plugins::build(&paths::plugins())?;
    let cache = Cache::open()?;
    let gguf = model::smollm2(&cache)?;
    let plugin = plugins_dir.join("llama.wasm");
    let dtype = "float16";
    let engine = demo::engine_dir("bench", &gguf, dtype);
    let job = demo::Job {
        model: &gguf,
        plugin: Some(&plugin),
        plugins: &plugins_dir,
        dtype,
        engine: &engine,
    };
    demo::compile(&job, false)?;
    let peer_model = match &args.peer_model {
        _ if args.no_peer => None,
        Some(file) => Some(file.clone()),
        None => Some(float16(&cache, &gguf)?),
    };
    Ok((engine, peer_model))
}

/// The model's GGUF file with its matrices in F16, in the cache.
fn float16(cache: &Cache, gguf: &Path) -> Result<PathBuf> {
    let name = "SmolLM2-135M-Instruct.F16.gguf";
    let file = cache.entry(name);
    if file.exists() {
        return Ok(file);
    }
    let python = python::environment(cache, "gguf", python::GGUF_TOOLS)?;
    let tool = paths::root().join("bench/gguf_f16.py");
    cache.place(name, |path| command::quietly(Command::new(python).arg(tool).arg(gguf).arg(path)))
}

/// A Python with the peer, built for this processor at the first call.
fn peer(cache: &Cache) -> Result<PathBuf> {
    let wheels = cache.entry("wheels");
    let find = || -> Option<PathBuf> {
        let mut files = fs::read_dir(&wheels).ok()?.flatten().map(|entry| entry.path());
        files.find(|path| path.to_string_lossy().contains("llama_cpp_python-0.3.36-"))
    };
    let wheel = match find() {
        Some(wheel) => wheel,
        None => {
            println!("building {PEER} for this processor, once (about ten minutes)");
            let mut pip = Command::new(python::find()?);
            pip.args(["-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]);
            pip.args(["--no-binary", "llama-cpp-python", "--wheel-dir"]).arg(&wheels).arg(PEER);
            let out = output(pip.env("CMAKE_ARGS", PEER_BUILD))?.context("python3 is gone")?;
            if !out.status.success() {
                bail!("pip cannot build {PEER}:\n{}", python::indented(&out.stderr));
            }
            find().with_context(|| format!("pip left no wheel in {}", wheels.display()))?
        }
    };
    python::environment(cache, "llama-cpp", &[&wheel.to_string_lossy()])
}

/// Runs one process that prints a JSON line, and says what it measured.
fn measured(round: u32, name: &str, command: &mut Command) -> Result<Value> {
    let out = output(command)?.with_context(|| format!("{name} is not there"))?;
    if !out.status.success() {
        bail!("`{}` failed:\n{}", command::line(command), python::indented(&out.stderr));
    }
    let value: Value = serde_json::from_slice(&out.stdout)
        .with_context(|| format!("`{}` printed no JSON", command::line(command)))?;
    let rate = |key: &str| value[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "round {round}  {name:<9}  prefill {:8.1}  decode {:7.1} tokens/s",
        rate("prefill"),
        rate("decode")
    );
    Ok(value)
}

fn print(engine: &Path, rounds: u32, ours: &[Value], theirs: &[Value]) -> Result<()> {
    let text = |values: &[Value], key: &str| -> String {
        values.first().and_then(|v| v[key].as_str()).unwrap_or_default().to_owned()
    };
    println!("\n{}: {}", paths::shown(engine), text(ours, "device"));
    if !theirs.is_empty() {
        println!("peer: {}; {}", text(theirs, "device"), text(theirs, "system"));
    }
    println!("processor: {}; medians of {rounds} alternating rounds\n", processor());
    println!("{:<24} {:>10} {:>10} {:>7}", "tokens/s", "engraft", "llama.cpp", "ratio");
    for (title, key) in [("prefill (512 tokens)", "prefill"), ("decode (128 tokens)", "decode")] {
        let (us, them) = (median(ours, key), median(theirs, key));
        let ratio = us / them;
        let cell = |x: f64, digits| {
            if x.is_nan() { "-".into() } else { format!("{x:.digits$}") }
        };
        println!("{title:<24} {:>10} {:>10} {:>7}", cell(us, 1), cell(them, 1), cell(ratio, 2));
    }
    let bandwidth = median(ours, "read_bandwidth") / 1e9;
    let bytes = fs::metadata(engine.join("rank0.engine")).context("the engine is gone")?.len();
    let used = bytes as f64 * median(ours, "decode") / 1e9;
    println!(
        "\nmemory reads {bandwidth:.1} GB/s; decode goes through the engine's {:.0} MB at {used:.1} \
         GB/s, {:.0} % of it\nloading: {:.1} ms",
        bytes as f64 / 1e6,
        100.0 * used / bandwidth,
        median(ours, "load_ms"),
    );
    Ok(())
}

/// How many cores work just now; nobody but others can be it, since we wait meanwhile.
fn busy() -> f64 {
    let ticks = || -> f64 {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let columns: Vec<f64> =
            text.lines().next().unwrap_or("").split(' ').filter_map(|n| n.parse().ok()).collect();
        // user, nice, system; a tick is 10 ms wherever Linux runs today
        columns.iter().take(3).sum::<f64>() / 100.0
    };
    let (before, started) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    (ticks() - before) / started.elapsed().as_secs_f64()
}

/// The median of a figure; NaN where there is none.
fn median(values: &[Value], key: &str) -> f64 {
    middle(values.iter().filter_map(|v| v[key].as_f64()).collect())
}

/// The median of a list of figures; NaN where there is none.
fn figures_median(values: &Value) -> f64 {
    middle(values.as_array().into_iter().flatten().filter_map(Value::as_f64).collect())
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => figures[n / 2],
        n => f64::midpoint(figures[n / 2 - 1], figures[n / 2]),
    }
}

/// The processor's name, as the system tells it.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let values = [json!({"x": 4}), json!({"x": 1}), json!({"x": 2}), json!({"x": 9})];
        assert_eq!(median(&values, "x"), 3.0);
        assert_eq!(median(&values[..3], "x"), 2.0);
        assert!(median(&[], "x").is_nan());
    }
}
