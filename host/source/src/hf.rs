//! A HuggingFace directory: `config.json`, weights, and the texts around them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engraft_files::read;
use engraft_ir::DType;
use serde_json::Value;

use crate::source::{Contents, TensorInfo, Weights};
use crate::{SourceError, ignorable};

pub(crate) mod weights;

pub(crate) const CONFIG: &str = "config.json";
/// Texts that go along with a model.
const TEXTS: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// Opens the model in `directory`, which has files of these `names`.
pub(crate) fn open(directory: &Path, names: &BTreeSet<String>) -> Result<Contents, SourceError> {
    open_with(directory, names, |files| weights::open(directory, names, files))
}

/// Whether files of these `names` are weights of this form.
pub(crate) fn has_weights(names: &BTreeSet<String>) -> bool {
    weights::are_among(names)
}

/// What a source has by name, and in which files.
pub(crate) type Found = (BTreeMap<String, TensorInfo>, Weights);

/// The same with weights of another form, whose files are added to the list.
pub(crate) fn open_with(
    directory: &Path,
    names: &BTreeSet<String>,
    weights: impl FnOnce(&mut Vec<PathBuf>) -> Result<Found, SourceError>,
) -> Result<Contents, SourceError> {
    let config_path = directory.join(CONFIG);
    let config = read_json(&config_path)?;
    let architectures = architectures(&config_path, &config)?;
    let mut files = vec![config_path.clone()];
    let (tensors, weights) = weights(&mut files)?;
    let text_files = texts(directory, names, &mut files)?;
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
        notes: Vec::new(),
    })
}

/// The texts that go along with a model; adds them to `files`.
pub(crate) fn texts(
    directory: &Path,
    names: &BTreeSet<String>,
    files: &mut Vec<PathBuf>,
) -> Result<BTreeMap<String, Vec<u8>>, SourceError> {
    let mut texts = BTreeMap::new();
    for name in TEXTS.into_iter().filter(|name| names.contains(*name)) {
        let path = directory.join(name);
        texts.insert(name.to_owned(), read::whole(&path, read::TEXT_LIMIT)?);
        files.push(path);
    }
    Ok(texts)
}

/// A file that is one JSON object.
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
