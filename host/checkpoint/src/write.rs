//! A checkpoint's files, written into a directory that is there.

use crate::engraft_json::Record;
use crate::rank_file::weights_file;
use crate::{CONFIG_FILE, CheckpointError, Config, RECORD_FILE};
use engraft_files::{FileError, SafetensorsWriter};
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
    let config_path = directory.join(CONFIG_FILE);
    if config.mapping.world_size != ranks.len() as u64 {
        let (said, found) = (config.mapping.world_size, ranks.len());
        let what = format!("the config says {said} ranks, and there are {found}");
        return Err(FileError::Misuse { path: config_path, what }.into());
    }
    let config_text = config.to_text();
    let shares: Vec<&[Share]> = ranks.iter().map(Vec::as_slice).collect();
    let jobs = jobs(provider, &shares)?;
    let facts = [config.to_json().to_string(), provenance.to_string(), format!("{ranks:?}")];
    let facts = facts.each_ref().map(String::as_str);
    let journal = effort.journal(directory, &facts, total(provider, &jobs))?;
    let open =
        if journal.is_some() { SafetensorsWriter::reopen } else { SafetensorsWriter::create };
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut files = Vec::new();
    for (rank, shares) in ranks.iter().enumerate() {
        let path = directory.join(weights_file(rank as u32));
        let tensors = layout(provider, shares)?;
        files.push(open(&path, metadata.clone(), tensors, 1)?);
    }
    execute(provider, &jobs, &files, effort, journal.as_ref())?;

    let mut digests = Vec::new();
    let mut bytes = 0;
    for file in files {
        digests.push(file.digests()?.clone());
        bytes += file.bytes();
        file.finish()?;
    }
    for (name, bytes) in text_files {
        put(&directory.join(name), bytes)?;
    }
    put(&config_path, &config_text)?;
    let record = Record::new(provenance.clone(), config.to_json(), text_files, digests);
    put(&directory.join(RECORD_FILE), &text(&record))?;
    Ok(bytes)
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    std::fs::write(path, bytes).map_err(FileError::io("write", path))
}

/// JSON as a person reads it, in the order of the value, with a line end.
fn text(value: &impl Serialize) -> Vec<u8> {
    // Neither a map with other keys than strings nor a failing writer is in play.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
