//! A HuggingFace directory: `config.json`, safetensors, and the texts around them.
//!
//! Which files hold the weights is decided as that library does: `model.safetensors`, else the
//! files that `model.safetensors.index.json` names, else all safetensors files, which must be
//! complete if their names number them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engraft_diagnostic::escape;
use engraft_files::{FileError, header, read};
use engraft_ir::DType;
use serde_json::Value;

use crate::source::{Contents, Encoding, TensorInfo};
use crate::{SourceError, ignorable};

pub(crate) const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Texts that go along with a model.
const TEXTS: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// Opens the model in `directory`.
pub(crate) fn open(directory: &Path) -> Result<Contents, SourceError> {
    let names = names(directory)?;
    if !names.contains(CONFIG) {
        let gguf = names.iter().find(|name| name.ends_with(".gguf")).cloned();
        return Err(SourceError::NoConfig { path: directory.to_owned(), gguf });
    }
    let config_path = directory.join(CONFIG);
    let config = read_json(&config_path)?;
    let architectures = architectures(&config_path, &config)?;
    let mut files = vec![config_path.clone()];

    let (shards, index) = shards(directory, &names)?;
    if index.is_some() {
        files.push(directory.join(INDEX));
    }
    let mut tensors: BTreeMap<String, TensorInfo> = BTreeMap::new();
    let mut weights = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let path = directory.join(shard);
        let (file, header) = header::read(&path)?;
        for (name, entry) in header.tensors {
            let info = TensorInfo {
                dtype: entry.dtype,
                stored: entry.dtype.safetensors_name().to_owned(),
                shape: entry.shape,
                file: number,
                start: entry.start,
                end: entry.end,
                encoding: Encoding::Plain,
            };
            if let Some(other) = tensors.insert(name.clone(), info) {
                return Err(SourceError::TwoShards {
                    path: directory.to_owned(),
                    tensor: name,
                    first: shards[other.file].clone(),
                    second: shard.clone(),
                });
            }
        }
        files.push(path.clone());
        weights.push((path, file));
    }
    for (tensor, shard) in index.iter().flatten() {
        if tensors.get(tensor).is_none_or(|info| shards[info.file] != *shard) {
            return Err(SourceError::NotInShard {
                path: directory.join(INDEX),
                tensor: tensor.clone(),
                shard: escape(shard),
            });
        }
    }

    let text_files = text_files(directory, &names, &mut files)?;
    let dtype = dtype(&config, &tensors);
    Ok(Contents {
        dialect: "hugging-face",
        config,
        config_path,
        architectures,
        dtype,
        tensors,
        text_files,
        weights,
        files,
        is_ignorable: ignorable::hugging_face,
    })
}

/// The texts that go along with the model in a directory; adds them to the files that were read.
pub(crate) fn text_files(
    directory: &Path,
    names: &BTreeSet<String>,
    files: &mut Vec<PathBuf>,
) -> Result<BTreeMap<String, Vec<u8>>, FileError> {
    let mut texts = BTreeMap::new();
    for name in TEXTS.into_iter().filter(|name| names.contains(*name)) {
        let path = directory.join(name);
        texts.insert(name.to_owned(), read::whole(&path, read::TEXT_LIMIT)?);
        files.push(path);
    }
    Ok(texts)
}

/// The names of the files in a directory.
pub(crate) fn names(directory: &Path) -> Result<BTreeSet<String>, FileError> {
    let listing = std::fs::read_dir(directory).map_err(FileError::io("list", directory))?;
    let mut names = BTreeSet::new();
    for entry in listing {
        let entry = entry.map_err(FileError::io("list", directory))?;
        // A name that is no text is none of those that we look for.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

pub(crate) fn read_json(path: &Path) -> Result<Value, SourceError> {
    let text = read::whole(path, read::TEXT_LIMIT)?;
    let value: Value =
        serde_json::from_slice(&text).map_err(|error| SourceError::json(path, &error))?;
    if value.is_object() {
        return Ok(value);
    }
    Err(SourceError::Json {
        path: path.to_owned(),
        line: 1,
        column: 1,
        reason: "an object is expected".to_owned(),
    })
}

pub(crate) fn architectures(path: &Path, config: &Value) -> Result<Vec<String>, SourceError> {
    let wrong = || SourceError::Kind {
        path: path.to_owned(),
        key: "architectures".to_owned(),
        expected: "a list of names",
    };
    match config.get("architectures") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            list.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// Which file an index puts each tensor into.
pub(crate) type Index = BTreeMap<String, String>;

/// The files that hold the weights, sorted, and the index where that decides.
fn shards(
    directory: &Path,
    names: &BTreeSet<String>,
) -> Result<(Vec<String>, Option<Index>), SourceError> {
    if names.contains(SINGLE) {
        return Ok((vec![SINGLE.to_owned()], None));
    }
    if names.contains(INDEX) {
        let index = read_index(&directory.join(INDEX))?;
        let shards: BTreeSet<String> = index.values().cloned().collect();
        complete(directory, names, &shards)?;
        return Ok((shards.into_iter().collect(), Some(index)));
    }
    let shards: BTreeSet<String> =
        names.iter().filter(|name| name.ends_with(".safetensors")).cloned().collect();
    let Some(first) = shards.first() else {
        let pickled = |name: &&String| {
            [".bin", ".pt", ".pth", ".ckpt"].iter().any(|suffix| name.ends_with(suffix))
        };
        let path = directory.to_owned();
        return Err(match names.iter().find(pickled) {
            Some(found) => SourceError::OnlyPickled { path, found: escape(found) },
            None => SourceError::NoWeights { path },
        });
    };
    if let Some(expected) = numbered(first) {
        complete(directory, names, &expected)?;
    }
    Ok((shards.into_iter().collect(), None))
}

/// The names of all files of a set, given one that is named like `model-00001-of-00003.safetensors`.
fn numbered(name: &str) -> Option<BTreeSet<String>> {
    let stem = name.strip_suffix(".safetensors")?;
    let (head, all) = stem.rsplit_once("-of-")?;
    let (head, number) = head.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(number) || !digits(all) {
        return None;
    }
    let count: usize = all.parse().ok()?;
    Some((1..=count).map(|n| format!("{head}-{n:05}-of-{all}.safetensors")).collect())
}

/// Whether all the files are there.
pub(crate) fn complete(
    directory: &Path,
    names: &BTreeSet<String>,
    expected: &BTreeSet<String>,
) -> Result<(), SourceError> {
    let missing: Vec<String> = expected.difference(names).map(|name| escape(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let path = directory.to_owned();
    Err(SourceError::MissingShards { path, missing, all: expected.len() })
}

pub(crate) fn read_index(path: &Path) -> Result<Index, SourceError> {
    let value = read_json(path)?;
    let wrong = |key: &str, expected| SourceError::Kind {
        path: path.to_owned(),
        key: escape(key),
        expected,
    };
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(wrong("weight_map", "an object of file names"));
    };
    if map.is_empty() {
        return Err(wrong("weight_map", "an object with at least one tensor"));
    }
    let mut index = Index::new();
    for (tensor, shard) in map {
        // A name with a directory in it would lead out of the model.
        let name =
            shard.as_str().filter(|name| PathBuf::from(name).file_name() == Some(name.as_ref()));
        let Some(name) = name else {
            return Err(wrong(&format!("weight_map.{tensor}"), "the name of a file beside it"));
        };
        index.insert(tensor.clone(), name.to_owned());
    }
    Ok(index)
}

/// The type that the config names, else the float type of most bytes.
pub(crate) fn dtype(config: &Value, tensors: &BTreeMap<String, TensorInfo>) -> DType {
    let is_ours = |dtype: &DType| matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    let named = ["torch_dtype", "dtype"]
        .iter()
        .filter_map(|key| config.get(key)?.as_str())
        .map(|name| name.strip_prefix("torch.").unwrap_or(name))
        .find_map(DType::from_config_name)
        .filter(is_ours);
    named.unwrap_or_else(|| most(tensors))
}

/// Which of `F32`, `F16` and `BF16` has most bytes.
pub(crate) fn most(tensors: &BTreeMap<String, TensorInfo>) -> DType {
    let bytes = |dtype: DType| -> u64 {
        let of = |info: &&TensorInfo| info.encoding.kept(info.dtype) == dtype;
        tensors.values().filter(of).map(TensorInfo::stored_bytes).sum()
    };
    // Of equals the last is taken: `F32`, for want of any other.
    [DType::F16, DType::BF16, DType::F32]
        .into_iter()
        .max_by_key(|dtype| bytes(*dtype))
        .unwrap_or(DType::F32)
}

#[cfg(test)]
mod tests;
