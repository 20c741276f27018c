//! GGUF files: metadata, tensors in ggml's types, and a tokenizer, all in one.

mod blocks;
mod error;
mod header;
mod metadata;
mod tokenizer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engraft_files::FileError;
use engraft_ir::DType;
use serde_json::Value;

use crate::source::{Contents, Encoding, TensorInfo};
use crate::{SourceError, hf, ignorable};

pub(crate) use blocks::BlockType;
pub use error::GgufError;

/// Opens the model in the file at `path`.
pub(crate) fn open(path: &Path) -> Result<Contents, SourceError> {
    let mut file = File::open(path).map_err(FileError::io("open", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let mut magic = [0; 4];
    if size < 4 || file.read_exact(&mut magic).is_err() || &magic != b"GGUF" {
        return Err(SourceError::UnknownForm { path: path.to_owned() });
    }
    let broken = |fault| SourceError::Gguf { path: path.to_owned(), fault };
    let header = header::read(&mut file, size).map_err(|error| match error {
        header::Error::Io(error) => FileError::io("read", path)(error).into(),
        header::Error::Fault(fault) => broken(fault),
    })?;
    let text_files = tokenizer::files(&header.metadata).map_err(broken)?;
    let mut config = metadata::config(&header.metadata).map_err(broken)?;
    let architecture = header.metadata.text("general.architecture").map_err(broken)?;
    say_vocabulary(&mut config, architecture, &header.tensors);
    for name in DIVISORS {
        if let Some(info) = header.tensors.get(name).filter(|info| is_short(info)) {
            let mut bytes = vec![0; info.stored_bytes() as usize];
            file.read_exact_at(&mut bytes, info.start).map_err(FileError::io("read", path))?;
            config[name] = metadata::numbers(name, &bytes).map_err(broken)?;
        }
    }
    let dtype = hf::most(&header.tensors);
    Ok(Contents {
        dialect: "gguf",
        config,
        config_path: path.to_owned(),
        architectures: vec![format!("gguf:{architecture}")],
        dtype,
        tensors: header.tensors,
        text_files,
        weights: vec![(path.to_owned(), file)],
        files: vec![path.to_owned()],
        is_ignorable: ignorable::gguf,
        notes: Vec::new(),
    })
}

/// Tensors that are settings, and no weights: what rotary frequencies are divided by. The config
/// has their values.
const DIVISORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// Whether a tensor may be a list of divisors.
fn is_short(info: &TensorInfo) -> bool {
    let plain = info.encoding == Encoding::Plain && info.dtype == DType::F32;
    plain && info.stored_bytes() <= 4 * metadata::LONGEST as u64
}

/// Most files say how many tokens there are only by the rows of the embedding.
fn say_vocabulary(config: &mut Value, architecture: &str, tensors: &BTreeMap<String, TensorInfo>) {
    let key = format!("{architecture}.vocab_size");
    let rows = tensors.get("token_embd.weight").and_then(|info| info.shape.first());
    if let (Some(rows), None) = (rows, config.get(&key)) {
        config[key] = Value::from(*rows);
    }
}

/// The texts of a model by their file names.
type TextFiles = BTreeMap<String, Vec<u8>>;

#[cfg(test)]
pub(crate) mod build;
