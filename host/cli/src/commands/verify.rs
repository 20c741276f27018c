//! `engraft verify`: reads every byte and compares it with its digest.

use crate::{error, output, progress};
use anyhow::Result;
use clap::Args;
use engraft_engine::{Engine, format::ENGINE_FILE};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Checks every byte of an engine or a checkpoint, of all its ranks, against its digests.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Verify {
    /// An engine's directory, one rank's engine file, or a checkpoint's directory.
    path: PathBuf,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// What of one rank's file was compared.
struct Rank {
    file: PathBuf,
    tensors: usize,
    bytes: u64,
}

impl Verify {
    pub fn run(self) -> Result<ExitCode> {
        let is_checkpoint = self.path.is_dir() && !self.path.join(ENGINE_FILE).exists();
        let (what, ranks) = match is_checkpoint {
            true => ("checkpoint", self.checkpoint()?),
            false => ("engine", self.engine()?),
        };
        if self.json {
            let (tensors, bytes) = sum(&ranks);
            let ranks: Vec<_> = ranks
                .iter()
                .map(
                    |rank| json!({"file": rank.file, "tensors": rank.tensors, "bytes": rank.bytes}),
                )
                .collect();
            output::json(&json!({
                "path": self.path, "kind": what, "tensors": tensors, "bytes": bytes, "ok": true,
                "ranks": ranks,
            }))?;
        } else {
            self.show(what, &ranks)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn checkpoint(&self) -> Result<Vec<Rank>> {
        let bar = progress::Bytes::new("verifying");
        let reader = engraft_checkpoint::Reader::open(&self.path)?;
        let verified = reader.verify(&|done, total| bar.set(done, total))?;
        let rank = |found: engraft_checkpoint::Verified| Rank {
            file: found.path,
            tensors: found.tensors,
            bytes: found.bytes,
        };
        Ok(verified.into_iter().map(rank).collect())
    }

    /// All ranks are read to the end, whatever is wrong with one.
    fn engine(&self) -> Result<Vec<Rank>> {
        let mut ranks = Vec::new();
        let mut wrong: Option<anyhow::Error> = None;
        for path in engines(&self.path)? {
            match verify_engine(&path) {
                Ok(rank) => ranks.push(rank),
                Err(e) => {
                    if let Some(before) = wrong.replace(e) {
                        error::to_stderr(&error::explained(&before).0);
                    }
                }
            }
        }
        match wrong {
            Some(e) => Err(e),
            None => Ok(ranks),
        }
    }

    fn show(&self, what: &str, ranks: &[Rank]) -> Result<()> {
        let mut text = String::new();
        if ranks.len() > 1 {
            for rank in ranks {
                let file = rank.file.file_name().unwrap_or_default().to_string_lossy();
                let size = output::bytes(rank.bytes);
                text += &format!("{file}: {} tensors, {size}\n", rank.tensors);
            }
        }
        let (tensors, bytes) = sum(ranks);
        let of = match ranks.len() {
            1 => String::new(),
            n => format!(" of {n} ranks"),
        };
        text += &format!(
            "{}: {what}{of} is whole: {tensors} tensors, {}, every digest agrees\n",
            self.path.display(),
            output::bytes(bytes)
        );
        output::text(&text)
    }
}

fn sum(ranks: &[Rank]) -> (usize, u64) {
    (ranks.iter().map(|rank| rank.tensors).sum(), ranks.iter().map(|rank| rank.bytes).sum())
}

fn verify_engine(path: &Path) -> Result<Rank> {
    let bar = progress::Bytes::new("verifying");
    let engine = Engine::open(path)?;
    let verified = engine.verify(&|done, total| bar.set(done, total))?;
    Ok(Rank { file: engine.path().to_owned(), tensors: verified.tensors, bytes: engine.bytes() })
}

/// The engine files of all ranks of an engine's directory, as the first one says; a file is
/// itself.
pub(super) fn engines(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let first = Engine::open(path)?;
    let config = &first.config().pretrained_config;
    let ranks = config["mapping"]["world_size"].as_u64().unwrap_or(1).max(1);
    Ok((0..ranks).map(|rank| path.join(format!("rank{rank}.engine"))).collect())
}
