//! `cargo xtask bench quality`: what each format that engraft converts to costs.
//!
//! A row a format, on SmolLM2-135M-Instruct and on the same with noise on its linears, since its
//! own come from 4 bits, and whatever holds that grid looks better than it is. Each row converts
//! the f32 model, builds an engine and compares it with an f32 engine. The text is
//! `tests/fixtures/alice.txt`: its first 16384 tokens are for calibration, the next 6144 for
//! measuring: windows of 512, side by side, no special tokens.

mod peers;

use super::process::{remove, watched};
use super::{busy, processor};
use crate::cache::Cache;
use crate::command::{self, output};
use crate::{fixtures, host, model, paths, plugins, python};
use anyhow::{Context, Result, bail};
use peers::Peer;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is measured.
struct Format {
    name: &'static str,
    /// What `engraft convert` is told, as it is typed.
    flags: &'static str,
    /// Whether it is told of the text for calibration as well.
    calibrated: bool,
}

/// All formats: one line each.
const FORMATS: &[Format] = &[
    Format { name: "float32", flags: "--dtype float32", calibrated: false },
    Format { name: "bfloat16", flags: "--dtype bfloat16", calibrated: false },
    Format { name: "float16", flags: "--dtype float16", calibrated: false },
    Format { name: "W8A16", flags: "--dtype bfloat16 --qformat int8_wo", calibrated: false },
    Format {
        name: "W4A16-g64",
        flags: "--dtype bfloat16 --qformat int4_wo --group_size 64",
        calibrated: false,
    },
    Format {
        name: "AWQ-g64",
        flags: "--dtype bfloat16 --qformat int4_awq --group_size 64",
        calibrated: true,
    },
    Format {
        name: "GPTQ-g128-zero",
        flags: "--dtype bfloat16 --qformat int4_gptq --zero_points",
        calibrated: true,
    },
    Format { name: "FP8", flags: "--dtype bfloat16 --qformat fp8", calibrated: true },
    Format {
        name: "FP8-per-token",
        flags: "--dtype bfloat16 --qformat fp8_pc_pt",
        calibrated: true,
    },
    Format { name: "SmoothQuant", flags: "--dtype bfloat16 --qformat int8_sq", calibrated: true },
    Format {
        name: "SmoothQuant-per-token",
        flags: "--dtype bfloat16 --qformat int8_sq --per_token",
        calibrated: true,
    },
];

/// How much is calibrated on: 32 × 512 tokens.
const SAMPLES: [&str; 4] = ["--calib_size", "32", "--calib_max_seq_length", "512"];
/// As many bytes of the text are the first 16384 tokens, and no others: a test of SmolLM2's
/// tokenizer (`tests/tests/smollm2.rs`) holds it to that.
const CALIBRATION_BYTES: usize = 62_403;
/// What is measured on.
const MEASURED: [&str; 8] =
    ["--skip_tokens", "16384", "--max_tokens", "6144", "--window", "512", "--stride", "512"];
/// SHA-256 of the noisy weights.
const PERTURBED: &str = "df1e768c00afb62b8890663e949a3a4badaadbbb2cb937ed6877edc0e8f34da3";

/// Tensors of a linear that are about what it takes or adds, and not about its weight.
const BESIDE_WEIGHTS: [&str; 4] =
    ["bias", "prequant_scaling_factor", "activation_scaling_factor", "cache_scaling_factor"];

/// A model that formats are measured on.
struct Subject {
    name: &'static str,
    about: &'static str,
    peers: &'static [Peer],
    find: fn(&Cache) -> Result<PathBuf>,
}

const SUBJECTS: [Subject; 2] = [
    Subject {
        name: "base",
        about: "SmolLM2-135M-Instruct; its weights come from 4 bits (Q4_1), whose grid some formats hold",
        peers: peers::BASE,
        find: base,
    },
    Subject {
        name: "perturbed",
        about: "the same with noise on its linears, which lie on no grid any more",
        peers: peers::PERTURBED,
        find: perturbed,
    },
];

/// Flags of `bench quality`.
#[derive(clap::Args)]
pub struct Args {
    /// One of the models; by default both.
    #[arg(long, value_parser = SUBJECTS.map(|subject| subject.name))]
    model: Option<String>,
    /// Formats, with commas between; by default all.
    #[arg(long, value_delimiter = ',', value_parser = FORMATS.iter().map(|f| f.name).collect::<Vec<_>>())]
    formats: Vec<String>,
    /// Leave out the table of what others reach.
    #[arg(long = "no_peers", alias = "no-peers")]
    no_peers: bool,
    /// Also write our rows into a file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One format, measured.
struct Row {
    format: &'static str,
    bits: f64,
    bytes: u64,
    seconds: f64,
    /// The most memory that converting had, in bytes.
    peak: u64,
    /// What `engraft evaluate compare` says.
    found: Value,
}

/// Measures, and prints a table a model.
pub fn run(args: &Args) -> Result<()> {
    let plugins_dir = plugins::build(&paths::plugins())?;
    host::build("engraft")?;
    let folder = paths::target().join("bench/quality");
    remove(&folder)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let done = subjects(args, &folder, &plugins_dir);
    remove(&folder)?;
    let tables = done?;
    if let Some(path) = &args.json {
        let text = format!("{}\n", serde_json::to_string_pretty(&tables)?);
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn subjects(args: &Args, folder: &Path, plugins: &Path) -> Result<Value> {
    let others = busy();
    if others > 0.2 {
        println!("the machine is busy ({others:.1} cores): do not trust the seconds that follow");
    }
    let text = paths::root().join("tests/fixtures/alice.txt");
    let calibration = folder.join("calibration.txt");
    let whole = fs::read(&text).with_context(|| format!("cannot read {}", text.display()))?;
    let part = whole.get(..CALIBRATION_BYTES).context("the text is too short")?;
    fs::write(&calibration, part).context("cannot write the text for calibration")?;
    let mut all = Vec::new();
    for subject in &SUBJECTS {
        if args.model.as_ref().is_some_and(|name| name != subject.name) {
            continue;
        }
        let model = (subject.find)(&Cache::open()?)?;
        let bench = Bench { model, folder, plugins, text: &text, calibration: &calibration };
        let chosen = |format: &&Format| {
            args.formats.is_empty() || args.formats.iter().any(|name| name == format.name)
        };
        let rows = bench.rows(FORMATS.iter().filter(chosen))?;
        print(subject, &rows, args.no_peers);
        all.push(json!({ "model": subject.name, "formats": rows.iter().map(Row::json).collect::<Value>() }));
    }
    Ok(json!({ "processor": processor(), "models": all }))
}

/// SmolLM2 in f32.
fn base(cache: &Cache) -> Result<PathBuf> {
    fixtures::smollm2(cache, &model::smollm2(cache)?, "f32")
}

/// The same with noise, made at the first call.
fn perturbed(cache: &Cache) -> Result<PathBuf> {
    let name = "SmolLM2-135M-Instruct-perturbed-f32";
    let dir = cache.entry(name);
    let weights = dir.join("model.safetensors");
    if weights.exists() && model::sha256(&weights)? == PERTURBED {
        return Ok(dir);
    }
    let from = base(cache)?;
    let python = python::environment(cache, "tests", &[python::NUMPY])?;
    println!("making {} once, from {}", dir.display(), from.display());
    let tool = paths::root().join("bench/perturb.py");
    cache.place(name, |path| {
        command::quietly(Command::new(&python).arg(&tool).arg(&from).arg(path).arg(PERTURBED))
    })
}

/// What all rows of a model have in common.
struct Bench<'a> {
    model: PathBuf,
    folder: &'a Path,
    plugins: &'a Path,
    text: &'a Path,
    calibration: &'a Path,
}

impl Bench<'_> {
    fn engraft(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(paths::engraft());
        command.args(arguments).env("ENGRAFT_PLUGINS", self.plugins);
        command
    }

    fn rows<'f>(&self, formats: impl Iterator<Item = &'f Format>) -> Result<Vec<Row>> {
        let reference = self.folder.join("reference");
        remove(&reference)?;
        let mut compile = self.engraft(&["compile", "--dtype", "float32", "--model_dir"]);
        watched(compile.arg(&self.model).arg("--output_dir").arg(&reference))?;
        let linears = linears(&self.model)?;
        println!();
        formats.map(|format| self.row(format, &reference, linears)).collect()
    }

    fn row(&self, format: &Format, reference: &Path, linears: u64) -> Result<Row> {
        let [checkpoint, engine] = ["checkpoint", "engine"].map(|name| self.folder.join(name));
        remove(&checkpoint)?;
        remove(&engine)?;
        let mut convert = self.engraft(&["convert", "--model_dir"]);
        convert.arg(&self.model).arg("--output_dir").arg(&checkpoint);
        convert.args(format.flags.split(' '));
        if format.calibrated {
            convert.arg("--calib_dataset").arg(self.calibration).args(SAMPLES);
        }
        let ran = watched(&mut convert)?;
        let mut build = self.engraft(&["build", "--checkpoint_dir"]);
        watched(build.arg(&checkpoint).arg("--output_dir").arg(&engine))?;
        let mut compare = self.engraft(&["evaluate", "compare", "--json"]);
        compare.arg(&engine).arg(reference).arg("--input_file").arg(self.text).args(MEASURED);
        let said = output(&mut compare)?.context("engraft is gone")?;
        if !said.status.success() {
            let why = python::indented(&said.stderr);
            bail!("`{}` failed:\n{why}", command::line(&compare));
        }
        let found = serde_json::from_slice(&said.stdout).context("engraft printed no JSON")?;
        let (bytes, kept) = rank_files(&checkpoint)?;
        let bits = 8.0 * kept as f64 / linears as f64;
        let (format, seconds, peak) = (format.name, ran.seconds, ran.peak);
        let row = Row { format, bits, bytes, seconds, peak, found };
        println!("{format}: mean KL {:.4}, converted in {seconds:.1} s", row.number("mean_kl"));
        Ok(row)
    }
}

impl Row {
    fn number(&self, key: &str) -> f64 {
        self.found[key].as_f64().unwrap_or(f64::NAN)
    }

    fn json(&self) -> Value {
        json!({
            "format": self.format,
            "bits_per_weight": self.bits,
            "bytes": self.bytes,
            "convert_seconds": self.seconds,
            "convert_peak_bytes": self.peak,
            "compared": self.found,
        })
    }
}

fn print(subject: &Subject, rows: &[Row], no_peers: bool) {
    println!("\n{}: {}; {}\n", subject.name, subject.about, processor());
    println!(
        "{:<38}{:>6}{:>13}{:>9}{:>8}{:>9}{:>9}{:>8}{:>9}{:>10}",
        "format",
        "bits",
        "bytes",
        "perpl.",
        "Δ %",
        "mean KL",
        "± s.e.",
        "top-1",
        "seconds",
        "peak MiB"
    );
    for row in rows {
        println!(
            "{:<38}{:>6.2}{:>13}{:>9.2}{:>+8.2}{:>9.5}{:>9.5}{:>8.2}{:>9.1}{:>10}",
            format!("engraft {}", row.format),
            row.bits,
            row.bytes,
            row.number("perplexity"),
            row.number("perplexity_change"),
            row.number("mean_kl"),
            row.number("kl_standard_error"),
            100.0 * row.number("top1"),
            row.seconds,
            row.peak >> 20,
        );
    }
    if no_peers {
        return;
    }
    println!(
        "\nothers, once, on another machine of two cores (see xtask/src/bench/quality/peers.rs)\n"
    );
    let float = rows.first().map_or(f64::NAN, |row| row.number("reference_perplexity"));
    for peer in subject.peers {
        println!(
            "{:<38}{:>6.2}{:>13}{:>9.2}{:>+8.2}{:>9.4}{:>9}{:>8.2}{:>9}{:>10}",
            format!("{} {}", peer.tool, peer.format),
            peer.bits,
            peer.bytes,
            peer.perplexity,
            100.0 * (peer.perplexity / float - 1.0),
            peer.kl,
            "",
            peer.top1,
            peer.seconds.map_or_else(|| "-".into(), |seconds| format!("{seconds:.1}")),
            "-",
        );
    }
}

/// How many weights the linears of a model have: its matrices, but for those of tokens.
fn linears(model: &Path) -> Result<u64> {
    let header = header(&model.join("model.safetensors"))?;
    let shapes = header.iter().filter(|(name, _)| name.contains(".layers."));
    let shapes = shapes.filter_map(|(_, entry)| entry["shape"].as_array());
    let sizes = shapes.filter(|shape| shape.len() == 2);
    Ok(sizes.map(|shape| shape.iter().filter_map(Value::as_u64).product::<u64>()).sum())
}

/// Of a checkpoint's rank files: their bytes, and those that hold its linears' weights.
fn rank_files(checkpoint: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut kept) = (0, 0);
    for entry in fs::read_dir(checkpoint).context("the checkpoint is gone")? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        bytes += fs::metadata(&path)?.len();
        for (name, entry) in header(&path)? {
            if name.starts_with("transformer.layers.") && is_of_weights(&name) {
                let ends = &entry["data_offsets"];
                kept += ends[1].as_u64().unwrap_or(0) - ends[0].as_u64().unwrap_or(0);
            }
        }
    }
    Ok((bytes, kept))
}

/// Whether a block's tensor holds weights of a linear, or what turns codes into them.
fn is_of_weights(name: &str) -> bool {
    !name.contains("norm.") && !BESIDE_WEIGHTS.iter().any(|suffix| name.ends_with(suffix))
}

/// The header of a safetensors file.
fn header(path: &Path) -> Result<serde_json::Map<String, Value>> {
    let read = || -> Result<serde_json::Map<String, Value>> {
        let mut file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut text = Vec::new();
        file.take(u64::from_le_bytes(length)).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    };
    read().with_context(|| format!("{} is no safetensors file", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_codes_scales_and_zeros() {
        let of = |name: &str| is_of_weights(&format!("transformer.layers.0.{name}"));
        for kept in ["attention.qkv.weight", "mlp.fc.weights_scaling_factor", "mlp.proj.zero"] {
            assert!(of(kept), "{kept}");
        }
        for beside in [
            "input_layernorm.weight",
            "attention.dense.bias",
            "attention.kv_cache_scaling_factor",
            "mlp.fc.prequant_scaling_factor",
            "mlp.fc.activation_scaling_factor",
        ] {
            assert!(!of(beside), "{beside}");
        }
    }

    #[test]
    fn formats_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = FORMATS.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), FORMATS.len());
    }
}
