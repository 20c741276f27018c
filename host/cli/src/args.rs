//! What the commands' flags share.

use crate::error::Usage;
use crate::legacy;
use crate::mapping::MappingArgs;
use crate::quant::QuantArgs;
use anyhow::Result;
use engraft_convert::{Effort, Options, Pipeline, Resume};
use engraft_diagnostic::escape;
use engraft_files::OutputDir;
use engraft_ir::DType;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The command line with `-` inside the names of long flags made `_`, so that both spellings
/// are one: `--model-dir X` and `--model_dir=X`. `-sq`, the one long flag of TensorRT-LLM's
/// scripts that begins with a single dash, gets its second. What stands behind a lone `--` stays.
pub fn normalized(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    args.map(|arg| {
        literal |= arg == "--";
        match arg.to_str() {
            Some(text) if !literal && (text == "-sq" || text.starts_with("-sq=")) => {
                format!("-{text}").into()
            }
            Some(text) if !literal && text.starts_with("--") => {
                let (name, value) = match text.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (text, None),
                };
                let name = format!("--{}", name[2..].replace('-', "_"));
                match value {
                    Some(value) => format!("{name}={value}").into(),
                    None => name.into(),
                }
            }
            _ => arg,
        }
    })
    .collect()
}

/// `--dtype`: `None` is `auto`, the source's own.
fn dtype(name: &str) -> std::result::Result<Option<DType>, Usage> {
    match name {
        "auto" => Ok(None),
        name => match DType::from_config_name(name) {
            Some(dtype @ (DType::F32 | DType::F16 | DType::BF16)) => Ok(Some(dtype)),
            _ => Err(Usage::new(format!("--dtype {name}: no such type"))
                .help("take auto, float32, float16 or bfloat16")),
        },
    }
}

/// Flags of whatever takes a plugin.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
pub struct PluginArgs {
    /// The architecture's plugin: a path, or the name of one beside the executable or in
    /// $ENGRAFT_PLUGINS. Without it, found by the model's `architectures`.
    #[arg(long, value_name = "NAME|FILE")]
    pub plugin: Option<String>,
}

/// Flags of whatever converts a model.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
pub struct ModelArgs {
    #[command(flatten)]
    pub plugin: PluginArgs,
    /// A HuggingFace model's directory, or a GGUF file.
    #[arg(long, value_name = "DIR|FILE.gguf")]
    model_dir: Option<PathBuf>,
    /// The same as --model_dir.
    #[arg(long, value_name = "DIR", hide = true, conflicts_with = "model_dir")]
    meta_ckpt_dir: Option<PathBuf>,
    /// Element type of the weights: auto (the model's own), float32, float16, bfloat16.
    #[arg(long, default_value = "auto")]
    dtype: String,
    /// A LoRA adapter's directory, as PEFT writes it, to merge into the weights.
    #[arg(long, value_name = "DIR")]
    lora_dir: Option<PathBuf>,
    #[command(flatten)]
    pub ranks: MappingArgs,
    #[command(flatten)]
    quant: QuantArgs,
}

impl ModelArgs {
    /// The model, if one was given.
    pub fn given(&self) -> Option<&Path> {
        self.model_dir.as_deref().or(self.meta_ckpt_dir.as_deref())
    }

    /// The model.
    ///
    /// # Errors
    /// None was given.
    pub fn model(&self) -> Result<&Path, Usage> {
        self.given().ok_or_else(|| {
            Usage::new("there is no --model_dir")
                .help("give a HuggingFace model's directory, or a GGUF file")
        })
    }

    /// The type asked for; `None` is the source's own.
    pub fn dtype(&self) -> Result<Option<DType>, Usage> {
        dtype(&self.dtype)
    }

    /// Opens the pipeline and warns of config keys that nobody reads.
    pub fn open(&self) -> Result<Pipeline> {
        let model = self.model()?;
        let mapping = self.ranks.mapping()?;
        if model.join(engraft_checkpoint::WEIGHTS_FILE).exists() {
            let at = model.display();
            return Err(Usage::new(format!("{at} is a checkpoint, and not a model"))
                .help(format!("take `engraft build --checkpoint_dir {at}`"))
                .into());
        }
        let pipeline = Pipeline::open(&Options {
            model: model.to_owned(),
            plugin: self.plugin.plugin.clone(),
            dtype: self.dtype()?,
            mapping,
            parallel_embedding: self.ranks.parallel_embedding(),
            lora: self.lora_dir.clone(),
            quantise: self.quant.request()?,
        })?;
        crate::output::notes(pipeline.source().notes().iter().map(String::as_str));
        crate::output::notes(pipeline.quantisation_notes().iter().map(String::as_str));
        for key in pipeline.unread() {
            legacy::say(&format!("warning: config key `{}` is read by nobody", escape(key)));
        }
        Ok(pipeline)
    }
}

/// What an interrupted run has done is not done again, and that is said.
pub const RESUME: Resume<'static> = Resume { inputs: "", say: &|text| legacy::say(text) };

/// What TensorRT-LLM's scripts may be told to say.
const LEVELS: [&str; 7] =
    ["internal_error", "error", "warning", "info", "verbose", "debug", "trace"];

/// Flags of whatever writes an output directory.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
pub struct OutputArgs {
    /// Where to write: by default tllm_checkpoint or engine_outputs, as TensorRT-LLM has it. It
    /// appears whole or not at all.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
    /// Say what would be written, with exact sizes, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// `error` silences notes and warnings.
    #[arg(long, value_name = "LEVEL", hide = true, value_parser = LEVELS)]
    log_level: Option<String>,
}

/// Where a checkpoint goes that is not told where.
pub const CHECKPOINT_DIR: &str = "tllm_checkpoint";
/// Where an engine goes that is not told where.
pub const ENGINE_DIR: &str = "engine_outputs";

impl OutputArgs {
    /// Silences notes and warnings where --log_level asks for it.
    pub fn listen(&self) {
        if self.log_level.as_deref().is_some_and(|level| level.ends_with("error")) {
            legacy::quiet();
        }
    }

    /// The directory, and that one where none was given.
    pub fn directory<'a>(&'a self, otherwise: &'a str) -> &'a Path {
        self.output_dir.as_deref().unwrap_or(Path::new(otherwise))
    }

    /// Begins the output, which may not be what it is made of, nor hold that.
    pub fn begin(&self, input: &Path, otherwise: &str) -> Result<OutputDir> {
        let output_dir = self.directory(otherwise);
        let real = |path: &Path| path.canonicalize().ok();
        if let (Some(output), Some(input)) = (real(output_dir), real(input))
            && input.starts_with(&output)
        {
            return Err(Usage::new(format!(
                "--output_dir {} would replace its own input",
                output_dir.display()
            ))
            .help("choose another directory")
            .into());
        }
        Ok(OutputDir::resume(output_dir, self.force)?)
    }
}

/// Flags of whatever streams weights.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
pub struct WorkArgs {
    /// Parameters that are worked on at a time; by default as many as there are cores.
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// The most memory to take, such as 500MB or 4GiB; by default what twice the largest tensor
    /// takes, and a little.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_ram: Option<u64>,
}

impl WorkArgs {
    /// As the library takes them.
    pub fn effort<'a>(&self, progress: &'a (dyn Fn(u64, u64) + Sync)) -> Effort<'a> {
        Effort { workers: self.workers, max_ram: self.max_ram, progress, resume: Some(RESUME) }
    }
}

/// `500MB`, `4GiB`, `1.5g`, or bytes.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || "give bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB or TiB".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_lowercase();
    let (letter, binary) = match unit.strip_suffix("ib") {
        Some(letter) => (letter, true),
        None => (unit.strip_suffix('b').unwrap_or(&unit), false),
    };
    let power = match letter {
        "" if !binary => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    let bytes = number * f64::powi(if binary { 1024.0 } else { 1000.0 }, power);
    match (1.0..1e18).contains(&bytes) {
        true => Ok(bytes as u64),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("500MB"), Ok(500_000_000));
        assert_eq!(size("1.5g"), Ok(1_500_000_000));
        assert_eq!(size("4GiB"), Ok(4 << 30));
        for wrong in ["", "0", "lots", "4 cats", "-1", "1e30", "4ib", "99999999TB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dashes_and_underscores_are_alike_in_flags_only() {
        let given = ["engraft", "--model-dir", "a-b", "--in-text=x-y", "-sq", "0.5", "--", "--c-d"];
        let wanted =
            ["engraft", "--model_dir", "a-b", "--in_text=x-y", "--sq", "0.5", "--", "--c-d"];
        let got = normalized(given.iter().map(OsString::from));
        assert_eq!(got, wanted.map(OsString::from));
    }
}
