//! A checkpoint's files, written into a directory that is there and empty.

use crate::engraft_json::record;
use crate::{CONFIG_FILE, CheckpointError, Config, RECORD_FILE, WEIGHTS_FILE};
use engraft_files::{FileError, SafetensorsWriter};
use engraft_weights::{Provider, WeightError};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Writes `config.json`, `rank0.safetensors`, `engraft.json` and `text_files` into `directory`,
/// which should be one that only appears under its final name once all is written.
///
/// All parameters go into the file, a tied one as a copy, since a reader need not know of ties.
/// `progress` hears how many bytes of weights are written, and of how many.
///
/// # Errors
/// Whatever the provider finds wrong, a full disk, an interrupt; and a config that says that the
/// checkpoint is quantised or split, which none is that is written here.
pub fn write(
    directory: &Path,
    config: &Config,
    provider: &dyn Provider,
    text_files: &BTreeMap<String, Vec<u8>>,
    provenance: &Value,
    progress: &dyn Fn(u64, u64),
) -> Result<(), CheckpointError> {
    config.check_supported()?;
    let mut tensors = Vec::new();
    let mut total = 0u64;
    for name in provider.names() {
        let supply =
            provider.get(name).ok_or_else(|| WeightError::Unknown { parameter: name.clone() })?;
        total = total.saturating_add(supply.bytes());
        tensors.push((name.clone(), supply.dtype, supply.shape()));
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = directory.join(WEIGHTS_FILE);
    let mut writer = SafetensorsWriter::create(&path, metadata, tensors, 1)?;
    let mut done = 0;
    progress(done, total);
    for name in provider.names() {
        writer.begin(name)?;
        provider.stream(name, &mut |bytes| {
            writer.write(bytes)?;
            done += bytes.len() as u64;
            progress(done, total);
            Ok(())
        })?;
    }
    let known = writer.digests()?;
    let digests: Map<String, Value> = provider
        .names()
        .iter()
        .filter_map(|name| Some((name.clone(), Value::from(known.get(name)?.as_str()))))
        .collect();
    writer.finish()?;

    for (name, bytes) in text_files {
        put(&directory.join(name), bytes)?;
    }
    put(&directory.join(CONFIG_FILE), &text(&config.to_json()))?;
    let record = record(provenance.clone(), vec![digests]);
    put(&directory.join(RECORD_FILE), &text(&record))?;
    Ok(())
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
