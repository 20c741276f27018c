//! Meta's own form: `params.json` beside `consolidated.NN.pth`.
//!
//! Several files are what as many devices had of each tensor. Which axis is cut goes by the kind
//! of layer, and the kind by the name, as in the program that reads them: what projects back to
//! the width of the model is cut along its input, every other matrix along its output; the
//! embedding along either. Vectors are whole in every file. The width, which `params.json` says,
//! has to come out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engraft_diagnostic::escape;
use serde_json::Value;

use crate::source::{Contents, Encoding, Piece, TensorInfo, Weights, encoding};
use crate::{SourceError, hf, ignorable, torch};

const PARAMS: &str = "params.json";
const EMBEDDING: &str = "tok_embeddings.weight";
/// Layers that project back, by the ends of their names.
const BACK: [&str; 2] = [".wo.weight", ".w2.weight"];

/// The numbers of a directory's consolidated files, if it is of this form.
fn numbers(names: &BTreeSet<String>) -> Option<Vec<&str>> {
    let number = |name| str::strip_prefix(name, "consolidated.")?.strip_suffix(".pth");
    let numbers: Vec<&str> = names.iter().filter_map(|name| number(name)).collect();
    (names.contains(PARAMS) && !numbers.is_empty()).then_some(numbers)
}

/// Whether a directory that has files of these names is of this form.
pub(crate) fn is(names: &BTreeSet<String>) -> bool {
    numbers(names).is_some()
}

/// Opens the model in `directory`, which has files of these `names`.
pub(crate) fn open(directory: &Path, names: &BTreeSet<String>) -> Result<Contents, SourceError> {
    let config_path = directory.join(PARAMS);
    let mut config = hf::read_json(&config_path)?;
    let mut files = vec![config_path.clone()];
    let (mut weights, mut shards) = (Weights::new(), Vec::new());
    for name in shard_names(directory, names)? {
        let path = directory.join(name);
        let (file, archive) = torch::open(&path)?;
        shards.push(archive.model(&path, weights.len())?);
        files.push(path.clone());
        weights.push((path, file));
    }
    let width = config.get("dim").and_then(Value::as_u64).ok_or_else(|| SourceError::Kind {
        path: config_path.clone(),
        key: "dim".to_owned(),
        expected: "a whole number",
    })?;
    let tensors = join(&weights, shards, width)?;
    // Some files leave it to the tokenizer, and say -1.
    let said = config.get("vocab_size").and_then(Value::as_u64);
    if let (None, Some(table)) = (said, tensors.get(EMBEDDING)) {
        config["vocab_size"] = Value::from(table.shape.first().copied().unwrap_or(0));
    }
    let text_files = hf::texts(directory, names, &mut files)?;
    Ok(Contents {
        dialect: "meta",
        config,
        config_path,
        architectures: vec!["meta:consolidated".to_owned()],
        dtype: hf::most(&tensors),
        tensors,
        text_files,
        weights,
        files,
        is_ignorable: ignorable::meta,
        notes: Vec::new(),
    })
}

/// The names of all consolidated files, in order; none may be missing.
fn shard_names(directory: &Path, names: &BTreeSet<String>) -> Result<Vec<String>, SourceError> {
    let found = numbers(names).unwrap_or_default();
    let last = found.iter().filter_map(|number| number.parse::<u16>().ok()).max().unwrap_or(0);
    let wanted: Vec<String> = (0..=last).map(|n| format!("consolidated.{n:02}.pth")).collect();
    let missing: Vec<String> =
        wanted.iter().filter(|name| !names.contains(*name)).cloned().collect();
    match missing.is_empty() {
        true => Ok(wanted),
        false => Err(SourceError::MissingShards {
            path: directory.to_owned(),
            missing,
            all: wanted.len(),
        }),
    }
}

/// The tensors of all files, each made whole.
fn join(
    weights: &Weights,
    shards: Vec<BTreeMap<String, TensorInfo>>,
    width: u64,
) -> Result<BTreeMap<String, TensorInfo>, SourceError> {
    let path = |file: usize| weights.get(file).map(|(path, _)| path.clone()).unwrap_or_default();
    let mut shards = shards.into_iter();
    let mut first = shards.next().unwrap_or_default();
    let mut others: Vec<BTreeMap<String, TensorInfo>> = shards.collect();
    let mut tensors = BTreeMap::new();
    while let Some((name, info)) = first.pop_first() {
        let mut parts = vec![info];
        for (i, other) in others.iter_mut().enumerate() {
            let part =
                other.remove(&name).ok_or_else(|| not_alike(path(i + 1), &name, "is not"))?;
            if (part.dtype, &part.shape) != (parts[0].dtype, &parts[0].shape) {
                return Err(not_alike(path(i + 1), &name, "is of another type or shape"));
            }
            parts.push(part);
        }
        let whole = match (parts.len(), axis(&name, &parts, width)) {
            (1, _) => parts.remove(0),
            (_, Some(axis)) => side_by_side(&parts, axis)
                .ok_or_else(|| not_alike(path(0), &name, "has elements in another order"))?,
            (_, None) => {
                equal(weights, &parts, &name)?;
                parts.remove(0)
            }
        };
        if whole.shape.len() == 2 && !whole.shape.contains(&width) {
            let what = format!("comes to {:?}, which is not as wide as the model", whole.shape);
            return Err(SourceError::Apart { path: path(0), tensor: escape(&name), what });
        }
        tensors.insert(name, whole);
    }
    let left = others.iter().enumerate().find_map(|(i, other)| Some((i, other.keys().next()?)));
    match left {
        Some((i, name)) => Err(SourceError::Apart {
            path: path(i + 1),
            tensor: escape(name),
            what: "is in this file and not in the first".to_owned(),
        }),
        None => Ok(tensors),
    }
}

fn not_alike(path: PathBuf, name: &str, what: &str) -> SourceError {
    let what = format!("{what} here as in the other files");
    SourceError::Apart { path, tensor: escape(name), what }
}

/// The axis along which a tensor is cut, if it is.
fn axis(name: &str, parts: &[TensorInfo], width: u64) -> Option<usize> {
    let [_, input] = parts.first()?.shape.as_slice() else {
        return None;
    };
    let back = BACK.iter().any(|end| name.ends_with(end));
    let narrow = name == EMBEDDING && *input != width;
    Some(usize::from(back || narrow))
}

/// Parts of the same shape, joined along an axis.
fn side_by_side(parts: &[TensorInfo], axis: usize) -> Option<TensorInfo> {
    let part = parts.first()?;
    if parts.iter().any(|part| part.encoding != Encoding::Plain) {
        return None;
    }
    let mut shape = part.shape.clone();
    shape[axis] = shape[axis].checked_mul(parts.len() as u64)?;
    // What one step of the axes outside of that axis holds, in a part and in all.
    let row: u64 = part.shape[axis..].iter().product();
    let every = row.checked_mul(parts.len() as u64)?;
    let rows = part.shape[..axis].iter().product();
    let pieces = parts.iter().enumerate().map(|(i, part)| Piece {
        file: part.file,
        start: part.start,
        first: row * i as u64,
        row,
        every,
        rows,
    });
    let pieces = if row == 0 || rows == 0 { Vec::new() } else { pieces.collect() };
    Some(TensorInfo::of_pieces(part.dtype, shape, pieces))
}

/// Checks that a tensor is the same in every file.
fn equal(weights: &Weights, parts: &[TensorInfo], name: &str) -> Result<(), SourceError> {
    let content = |info: &TensorInfo| -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        let rows = info.shape.first().copied().unwrap_or(1);
        encoding::read(weights, info, 0..rows, &mut bytes)?;
        Ok(bytes)
    };
    let Some((first, others)) = parts.split_first() else {
        return Ok(());
    };
    let wanted = content(first)?;
    for part in others {
        if content(part)? != wanted {
            return Err(SourceError::Apart {
                path: weights[part.file].0.clone(),
                tensor: escape(name),
                what: "is not cut, and has other values here than in the first file".to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
