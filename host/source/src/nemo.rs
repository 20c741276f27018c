//! NeMo's models: `model_config.yaml` and `model_weights.ckpt`, in a tar archive called `.nemo` or
//! unpacked from one.
//!
//! An archive that is not compressed is read where it lies. Which architecture it is, is said in the
//! config's words for positions, norm and activation; names of tensors are of two ages, each a
//! dialect.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use engraft_files::{FileError, read};
use serde_json::Value;

use crate::source::Contents;
use crate::{SourceError, hf, ignorable, torch};

mod tar;
mod yaml;

const CONFIG: &str = "model_config.yaml";
const WEIGHTS: &str = "model_weights.ckpt";
/// A config is a few kilobytes.
const LONGEST: u64 = 16 << 20;
/// Where the embedding's table is, today and before.
const TABLES: [(&str, &str); 2] = [
    ("nemo", "model.embedding.word_embeddings.weight"),
    ("nemo-old", "model.language_model.embedding.word_embeddings.weight"),
];

/// Whether a directory with files of these `names` is an unpacked archive.
pub(crate) fn is(names: &BTreeSet<String>) -> bool {
    names.contains(CONFIG)
}

/// Opens an unpacked archive.
pub(crate) fn open(directory: &Path, names: &BTreeSet<String>) -> Result<Contents, SourceError> {
    let config_path = directory.join(CONFIG);
    let config = read::whole(&config_path, LONGEST)?;
    if !names.contains(WEIGHTS) {
        return Err(no_weights(directory, names.iter().map(String::as_str)));
    }
    let path = directory.join(WEIGHTS);
    let file = File::open(&path).map_err(FileError::io("open", &path))?;
    let size = file.metadata().map_err(FileError::io("read", &path))?.len();
    let mut files = vec![config_path.clone(), path.clone()];
    let text_files = hf::texts(directory, names, &mut files)?;
    let contents = contents(config_path, &config, path, file, 0..size, files)?;
    Ok(Contents { text_files, ..contents })
}

/// Opens the archive at `path`, if it is one.
pub(crate) fn open_archive(path: &Path, file: File) -> Result<Option<Contents>, SourceError> {
    let mut magic = [0; 2];
    let is_packed = file.read_exact_at(&mut magic, 0).is_ok() && magic == [0x1f, 0x8b];
    let is_nemo = path.extension().is_some_and(|extension| extension == "nemo");
    if is_packed && is_nemo {
        let what = "is a compressed archive; unpack it with `tar -xzf` and give the directory";
        return Err(fail(path, what));
    }
    if !tar::is(&file) {
        return Ok(None);
    }
    let entries = tar::files(&file).map_err(|failure| match failure {
        tar::Failure::Io(error) => FileError::io("read", path)(error).into(),
        tar::Failure::Broken(what) => fail(path, what),
    })?;
    let find = |wanted: &str| {
        let found = entries.iter().rfind(|(name, _)| name == wanted);
        found.map(|(_, range)| range.clone())
    };
    let config = find(CONFIG).ok_or_else(|| fail(path, "has no model_config.yaml"))?;
    let Some(weights) = find(WEIGHTS) else {
        return Err(no_weights(path, entries.iter().map(|(name, _)| name.as_str())));
    };
    if config.end - config.start > LONGEST {
        return Err(fail(path, "has a model_config.yaml that is too long"));
    }
    let mut text = vec![0; (config.end - config.start) as usize];
    file.read_exact_at(&mut text, config.start).map_err(FileError::io("read", path))?;
    let files = vec![path.to_owned()];
    contents(path.join(CONFIG), &text, path.to_owned(), file, weights, files).map(Some)
}

fn fail(path: &Path, what: &str) -> SourceError {
    SourceError::Nemo { path: path.to_owned(), what: what.to_owned() }
}

/// Why there is no one file of weights.
fn no_weights<'a>(path: &Path, mut names: impl Iterator<Item = &'a str>) -> SourceError {
    let is_of = |start: &'static str| move |name: &str| name.starts_with(start);
    let cut = |name: &str| is_of("mp_rank_")(name) || is_of("tp_rank_")(name);
    let is_spread = |name: &str| name.starts_with("model_weights");
    match names.find(|name| cut(name) || is_spread(name)) {
        Some(name) if cut(name) => fail(path, "has weights that are cut over several devices"),
        Some(_) => fail(path, "has a distributed checkpoint, and not one file of weights"),
        None => fail(path, "has no model_weights.ckpt"),
    }
}

fn contents(
    config_path: PathBuf,
    config: &[u8],
    path: PathBuf,
    file: File,
    range: Range<u64>,
    files: Vec<PathBuf>,
) -> Result<Contents, SourceError> {
    let mut config = parsed(&config_path, config)?;
    let archive = torch::open_part(&path, &file, range)?;
    let tensors = archive.model(&path, 0)?;
    let found = TABLES.iter().find_map(|(dialect, name)| Some((*dialect, tensors.get(*name)?)));
    let Some((dialect, table)) = found else {
        return Err(fail(&path, "has no table of embeddings where Megatron's GPT has it"));
    };
    // The file says of the tokenizer how large it is, if at all; the table is padded.
    config["vocab_size"] = Value::from(table.shape.first().copied().unwrap_or(0));
    let word = |key: &str, usual: &str| {
        config.get(key).and_then(Value::as_str).unwrap_or(usual).to_lowercase()
    };
    let architecture = format!(
        "nemo:{}-{}-{}",
        word("position_embedding_type", "learned_absolute"),
        word("normalization", "layernorm"),
        word("activation", "gelu")
    );
    Ok(Contents {
        dialect,
        config,
        config_path,
        architectures: vec![architecture],
        dtype: hf::most(&tensors),
        tensors,
        text_files: Default::default(),
        weights: vec![(path, file)],
        files,
        is_ignorable: ignorable::nemo,
        notes: Vec::new(),
    })
}

/// The config, which is one object.
fn parsed(path: &Path, bytes: &[u8]) -> Result<Value, SourceError> {
    let fault = |line, column, reason| SourceError::Json {
        path: path.to_owned(),
        line,
        column,
        reason: engraft_diagnostic::escape(reason),
    };
    let text = str::from_utf8(bytes).map_err(|_| fault(1, 1, "it is not UTF-8"))?;
    match yaml::value(text) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err(fault(1, 1, "an object is expected")),
        Err(error) => Err(fault(error.line, error.column, &error.reason)),
    }
}

#[cfg(test)]
mod tests;
