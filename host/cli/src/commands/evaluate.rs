//! `engraft evaluate`: logits, perplexity, and two models side by side.

mod compare;

use crate::commands::run::text_of;
use crate::error::Usage;
use crate::load::LoadArgs;
use crate::ranks::World;
use crate::{output, progress};
use anyhow::Result;
use clap::{Args, Subcommand};
use engraft_files::{OutputFile, header};
use engraft_ir::DType;
use engraft_runtime::{Tokenizer, evaluate};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures an engine.
#[derive(Subcommand)]
pub enum Evaluate {
    Logits(Logits),
    Perplexity(Perplexity),
    Compare(compare::Compare),
}

/// Writes the logits of every position of given prompts.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Logits {
    #[command(flatten)]
    load: LoadArgs,
    /// A safetensors file: each one-dimensional I32 or I64 tensor in it is a prompt's token ids.
    #[arg(long, value_name = "FILE.safetensors")]
    input: PathBuf,
    /// Gets, under each prompt's name, its logits: F32 [tokens, vocab_size].
    #[arg(long, value_name = "FILE.safetensors")]
    output: PathBuf,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// Computes the perplexity of a text, by HuggingFace's definition with a strided window.
///
/// Window k holds tokens [k*stride, k*stride + window); it scores the tokens that no earlier
/// window held, each given all before it in the window. The text's first token is never scored.
/// No special token is put before the text.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Perplexity {
    #[command(flatten)]
    load: LoadArgs,
    /// A text file.
    #[arg(long, value_name = "FILE")]
    input_file: PathBuf,
    /// Tokens that the model sees at a time.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    window: usize,
    /// Tokens between the beginnings of windows.
    #[arg(long, value_name = "N", default_value_t = 512)]
    stride: usize,
    /// Take only this many tokens from the text's beginning.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl Evaluate {
    pub fn run(self, world: &World) -> Result<ExitCode> {
        match self {
            Evaluate::Logits(command) => command.run(world),
            Evaluate::Perplexity(command) => command.run(world),
            Evaluate::Compare(command) => command.run(world),
        }
    }
}

impl Logits {
    fn run(self, world: &World) -> Result<ExitCode> {
        let out = match world.speaks() {
            true => Some(OutputFile::create(&self.output, self.force)?),
            false => None,
        };
        let prompts = self.prompts()?;
        let (_, mut model) = self.load.load(world)?;
        let ids: Vec<Vec<u32>> = prompts.values().cloned().collect();
        let logits = evaluate::logits(&mut model, &ids)?;
        let Some(out) = out else { return Ok(ExitCode::SUCCESS) };
        let width = model.vocabulary() as u64;
        let tensors = prompts
            .iter()
            .map(|(name, ids)| (name.clone(), DType::F32, vec![ids.len() as u64, width]));
        let writer = engraft_files::SafetensorsWriter::create(
            out.path(),
            BTreeMap::new(),
            tensors.collect(),
            1,
        )?;
        for (name, rows) in prompts.keys().zip(&logits) {
            let mut tensor = writer.tensor(name)?;
            for piece in rows.chunks(1 << 20) {
                let bytes: Vec<u8> = piece.iter().flat_map(|x| x.to_le_bytes()).collect();
                tensor.write(&bytes)?;
            }
            tensor.finish()?;
        }
        writer.finish()?;
        out.commit()?;
        let tokens: usize = ids.iter().map(Vec::len).sum();
        if self.json {
            output::json(&serde_json::json!({
                "output": self.output,
                "prompts": ids.len(),
                "positions": tokens,
                "vocab_size": width,
            }))?;
        } else {
            output::text(&format!(
                "wrote {}: logits of {} prompts, {tokens} positions of {width}\n",
                self.output.display(),
                ids.len(),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The prompts by name; every tensor of the file has to be one.
    fn prompts(&self) -> Result<BTreeMap<String, Vec<u32>>> {
        let (file, header) = header::read(&self.input)?;
        let mut prompts = BTreeMap::new();
        for (name, entry) in &header.tensors {
            let shown = engraft_diagnostic::escape(name);
            let width = match (entry.dtype, entry.shape.len()) {
                (DType::I32, 1) => 4,
                (DType::I64, 1) => 8,
                (dtype, _) => {
                    let (dtype, shape) = (dtype.safetensors_name(), &entry.shape);
                    return Err(Usage::new(format!(
                        "{}: tensor {shown} is {dtype} {shape:?}, no prompt",
                        self.input.display()
                    ))
                    .help("a prompt is a one-dimensional I32 or I64 tensor of token ids")
                    .into());
                }
            };
            // The header was checked against the file's length.
            let mut bytes = vec![0; (entry.end - entry.start) as usize];
            file.read_exact_at(&mut bytes, entry.start)
                .map_err(engraft_files::FileError::io("read", &self.input))?;
            let ids = bytes.chunks_exact(width).map(|id| {
                let mut wide = [if id[width - 1] >= 0x80 { 0xff } else { 0 }; 8];
                wide[..width].copy_from_slice(id);
                let id = i64::from_le_bytes(wide);
                u32::try_from(id).map_err(|_| {
                    Usage::new(format!("{}: tensor {shown} holds {id}", self.input.display()))
                        .help("token ids are whole numbers from 0")
                })
            });
            prompts.insert(name.clone(), ids.collect::<Result<Vec<u32>, Usage>>()?);
        }
        if prompts.is_empty() {
            return Err(Usage::new(format!("{}: no tensor in it", self.input.display()))
                .help("put each prompt's token ids into a one-dimensional I32 or I64 tensor")
                .into());
        }
        Ok(prompts)
    }
}

/// The longest text that is read.
const TEXT: u64 = 1 << 32;

impl Perplexity {
    fn run(self, world: &World) -> Result<ExitCode> {
        let text = text_of(&self.input_file, TEXT)?;
        let (engine, mut model) = self.load.load(world)?;
        let mut ids = Tokenizer::of(&engine)?.encode(&text, false)?;
        ids.truncate(self.max_tokens.unwrap_or(usize::MAX));
        let bar = progress::Count::new("scoring", "tokens");
        let found =
            evaluate::perplexity(&mut model, &ids, self.window, self.stride, |done, all| {
                bar.set(done as u64, all as u64);
            })?;
        drop(bar);
        if self.json {
            let mut json = serde_json::to_value(&found)?;
            json["input_file"] = serde_json::json!(self.input_file);
            output::json(&json)?;
        } else {
            output::text(&format!(
                "perplexity {:.4} (mean negative log-likelihood {:.6} nats)\n\
                 of {}: {} tokens, {} scored, window {}, stride {}, no special tokens\n",
                found.perplexity,
                found.mean_nll,
                self.input_file.display(),
                found.tokens,
                found.scored,
                found.window,
                found.stride,
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
