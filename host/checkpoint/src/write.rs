//! A checkpoint's files, written into a directory that is there.

use crate::engraft_json::Record;
use crate::rank_file::weights_file;
use crate::{CONFIG_FILE, CheckpointError, Config, RECORD_FILE};
use engraft_files::{FileError, Layout, SafetensorsWriter};
use engraft_weights::{Effort, Provider, Share, execute, jobs, layout, total};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes `config.json`, `rank0.safetensors` and those of the further ranks, `engraft.json` and
/// `text_files` into `directory`, which should be one that only appears under its final name once
/// all is written. Returns the bytes of the rank files.
///
/// `ranks` has the shares of each rank, in the order of its file; all of them are written, a tied
/// one as a copy, since a reader need not know of ties. Each parameter is read once.
///
/// # Errors
/// Whatever the provider finds wrong, a full disk, an interrupt; and a config that says that the
/// checkpoint is quantised, which none is that is written here. A config of another number of
/// ranks is [`FileError::Misuse`].
pub fn write(
    directory: &Path,
    config: &Config,
    provider: &dyn Provider,
    ranks: &[Vec<Share>],
    text_files: &BTreeMap<String, Vec<u8>>,
    provenance: &Value,
    effort: &Effort<'_>,
) -> Result<u64, CheckpointError> {
    check_ranks(config, ranks)?;
    let shares: Vec<&[Share]> = ranks.iter().map(Vec::as_slice).collect();
    let jobs = jobs(provider, &shares)?;
    let facts = [config.to_json().to_string(), provenance.to_string(), format!("{ranks:?}")];
    let facts = facts.each_ref().map(String::as_str);
    let journal = effort.journal(directory, &facts, total(provider, &jobs))?;
    let open =
        if journal.is_some() { SafetensorsWriter::reopen } else { SafetensorsWriter::create };
    let mut files = Vec::new();
    for (rank, shares) in ranks.iter().enumerate() {
        let path = directory.join(weights_file(rank as u32));
        let tensors = layout(provider, shares)?;
        files.push(open(&path, metadata(), tensors, ALIGN)?);
    }
    execute(provider, &jobs, &files, effort, journal.as_ref())?;

    let mut digests = Vec::new();
    let mut bytes = 0;
    for file in files {
        digests.push(file.digests()?.clone());
        bytes += file.bytes();
        file.finish()?;
    }
    for (name, bytes) in small_files(config, text_files, provenance, digests) {
        let path = directory.join(name);
        std::fs::write(&path, bytes).map_err(FileError::io("write", &path))?;
    }
    Ok(bytes)
}

/// The files that [`write`] would write with the same arguments, each with its bytes.
///
/// # Errors
/// As [`write`], as far as nothing need be read or written for it.
pub fn predict(
    config: &Config,
    provider: &dyn Provider,
    ranks: &[Vec<Share>],
    text_files: &BTreeMap<String, Vec<u8>>,
    provenance: &Value,
) -> Result<Vec<(String, u64)>, CheckpointError> {
    check_ranks(config, ranks)?;
    let mut files = Vec::new();
    let mut digests = Vec::new();
    for (rank, shares) in ranks.iter().enumerate() {
        let name = weights_file(rank as u32);
        let layout = Layout::new(&metadata(), layout(provider, shares)?, ALIGN)
            .map_err(|what| FileError::Misuse { path: name.clone().into(), what })?;
        files.push((name, layout.bytes()));
        let digest = "0".repeat(DIGEST_LEN);
        digests.push(shares.iter().map(|share| (share.name.clone(), digest.clone())).collect());
    }
    let small = small_files(config, text_files, provenance, digests);
    files.extend(small.into_iter().map(|(name, bytes)| (name, bytes.len() as u64)));
    Ok(files)
}

/// Rank files are plain.
const ALIGN: usize = 1;

/// Hexadecimal digits of a digest.
const DIGEST_LEN: usize = 64;

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

fn check_ranks(config: &Config, ranks: &[Vec<Share>]) -> Result<(), FileError> {
    let (said, found) = (config.mapping.world_size, ranks.len());
    if said == found as u64 {
        return Ok(());
    }
    let what = format!("the config says {said} ranks, and there are {found}");
    Err(FileError::Misuse { path: CONFIG_FILE.into(), what })
}

/// All files but those of the ranks, by name.
fn small_files(
    config: &Config,
    text_files: &BTreeMap<String, Vec<u8>>,
    provenance: &Value,
    digests: Vec<BTreeMap<String, String>>,
) -> BTreeMap<String, Vec<u8>> {
    let record = Record::new(provenance.clone(), config.to_json(), text_files, digests);
    let mut files = text_files.clone();
    files.insert(CONFIG_FILE.to_owned(), config.to_text());
    files.insert(RECORD_FILE.to_owned(), text(&record));
    files
}

/// JSON as a person reads it, in the order of the value, with a line end.
fn text(value: &impl Serialize) -> Vec<u8> {
    // Neither a map with other keys than strings nor a failing writer is in play.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
