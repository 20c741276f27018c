//! What the commands' flags share.

use crate::error::Usage;
use anyhow::Result;
use engraft_convert::{Options, Pipeline};
use engraft_diagnostic::escape;
use engraft_files::OutputDir;
use engraft_ir::DType;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The command line with `-` inside the names of long flags made `_`, so that both spellings
/// are one: `--model-dir X` and `--model_dir=X`. What stands behind a lone `--` stays.
pub fn normalized(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    args.map(|arg| {
        literal |= arg == "--";
        match arg.to_str() {
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
    pub model_dir: PathBuf,
    /// Element type of the weights: auto (the model's own), float32, float16, bfloat16.
    #[arg(long, default_value = "auto")]
    dtype: String,
}

impl ModelArgs {
    /// Opens the pipeline and warns of config keys that nobody reads.
    pub fn open(&self) -> Result<Pipeline> {
        if self.model_dir.join(engraft_checkpoint::WEIGHTS_FILE).exists() {
            let at = self.model_dir.display();
            return Err(Usage::new(format!("{at} is a checkpoint, and not a model"))
                .help(format!("take `engraft build --checkpoint_dir {at}`"))
                .into());
        }
        let (model, plugin) = (self.model_dir.clone(), self.plugin.plugin.clone());
        let pipeline = Pipeline::open(&Options { model, plugin, dtype: dtype(&self.dtype)? })?;
        for key in pipeline.unread() {
            crate::error::to_stderr(&format!(
                "warning: config key `{}` is read by nobody",
                escape(key)
            ));
        }
        Ok(pipeline)
    }
}

/// Flags of whatever writes an output directory.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
pub struct OutputArgs {
    /// Where to write. It appears whole or not at all.
    #[arg(long, value_name = "DIR")]
    pub output_dir: PathBuf,
    /// Replace what is there.
    #[arg(long)]
    pub force: bool,
}

impl OutputArgs {
    /// Begins the output, which may not be what it is made of, nor hold that.
    pub fn begin(&self, input: &Path) -> Result<OutputDir> {
        let real = |path: &Path| path.canonicalize().ok();
        if let (Some(output), Some(input)) = (real(&self.output_dir), real(input))
            && input.starts_with(&output)
        {
            return Err(Usage::new(format!(
                "--output_dir {} would replace its own input",
                self.output_dir.display()
            ))
            .help("choose another directory")
            .into());
        }
        Ok(OutputDir::create(&self.output_dir, self.force)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_and_underscores_are_alike_in_flags_only() {
        let given = ["engraft", "--model-dir", "a-b", "--input-text=x-y", "-h", "--", "--c-d"];
        let wanted = ["engraft", "--model_dir", "a-b", "--input_text=x-y", "-h", "--", "--c-d"];
        let got = normalized(given.iter().map(OsString::from));
        assert_eq!(got, wanted.map(OsString::from));
    }
}
