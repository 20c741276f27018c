//! Which files of a HuggingFace directory hold the weights, and what is in them.
//!
//! As that library decides: one file, else the files that an index names; safetensors before
//! PyTorch's. Else all files of a kind, which must be complete if their names number them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use engraft_diagnostic::escape;
use engraft_files::header;
use serde_json::Value;

use super::Found;
use crate::source::{Encoding, TensorInfo, Weights};
use crate::{SourceError, torch};

/// A kind of file for weights.
struct Kind {
    stem: &'static str,
    suffix: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind { stem: "model", suffix: ".safetensors" },
    Kind { stem: "pytorch_model", suffix: ".bin" },
];

impl Kind {
    fn single(&self) -> String {
        format!("{}{}", self.stem, self.suffix)
    }

    fn index(&self) -> String {
        format!("{}.index.json", self.single())
    }

    /// Whether a file holds weights where nothing says which do. Training leaves other files of
    /// PyTorch's, so that those have to be called what a model is called.
    fn may_be(&self, name: &str) -> bool {
        let stem = if self.suffix == ".bin" { self.stem } else { "" };
        name.starts_with(stem) && name.ends_with(self.suffix)
    }
}

/// Which file an index puts each tensor into.
pub(crate) type Index = BTreeMap<String, String>;

/// Whether there are files of weights among these.
pub(super) fn are_among(names: &BTreeSet<String>) -> bool {
    let is = |kind: &Kind| names.iter().any(|n| kind.may_be(n)) || names.contains(&kind.index());
    KINDS.iter().any(is)
}

/// The files that hold the weights.
struct Shards {
    names: Vec<String>,
    /// The index's name and content, where that decides.
    index: Option<(String, Index)>,
}

/// Opens the weights in `directory`, which has files of these `names`; adds them to `files`.
pub(super) fn open(
    directory: &Path,
    names: &BTreeSet<String>,
    files: &mut Vec<PathBuf>,
) -> Result<Found, SourceError> {
    let Shards { names: shards, index } = shards(directory, names)?;
    if let Some((name, _)) = &index {
        files.push(directory.join(name));
    }
    let mut tensors: BTreeMap<String, TensorInfo> = BTreeMap::new();
    let mut weights = Weights::new();
    for (number, shard) in shards.iter().enumerate() {
        let path = directory.join(shard);
        let (file, found) = read(&path, number)?;
        for (name, info) in found {
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
    if let Some((name, index)) = &index {
        for (tensor, shard) in index {
            if tensors.get(tensor).is_none_or(|info| shards[info.file] != *shard) {
                return Err(SourceError::NotInShard {
                    path: directory.join(name),
                    tensor: tensor.clone(),
                    shard: escape(shard),
                });
            }
        }
    }
    Ok((tensors, weights))
}

/// The tensors of one file, safetensors or pickled, which has this `number` among others.
pub(crate) fn read(
    path: &Path,
    number: usize,
) -> Result<(File, BTreeMap<String, TensorInfo>), SourceError> {
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        let (file, archive) = torch::open(path)?;
        let tensors = archive.model(path, number)?;
        return Ok((file, tensors));
    }
    let (file, header) = header::read(path)?;
    let tensors = header.tensors.into_iter().map(|(name, entry)| {
        let info = TensorInfo {
            dtype: entry.dtype,
            stored: entry.dtype.safetensors_name().to_owned(),
            shape: entry.shape,
            file: number,
            start: entry.start,
            end: entry.end,
            encoding: Encoding::Plain,
        };
        (name, info)
    });
    Ok((file, tensors.collect()))
}

/// The files that hold the weights, sorted.
fn shards(directory: &Path, names: &BTreeSet<String>) -> Result<Shards, SourceError> {
    for kind in &KINDS {
        if names.contains(&kind.single()) {
            return Ok(Shards { names: vec![kind.single()], index: None });
        }
        let name = kind.index();
        if names.contains(&name) {
            let index = read_index(&directory.join(&name))?;
            let shards: BTreeSet<String> = index.values().cloned().collect();
            complete(directory, names, &shards)?;
            return Ok(Shards { names: shards.into_iter().collect(), index: Some((name, index)) });
        }
    }
    for kind in &KINDS {
        let shards: BTreeSet<String> =
            names.iter().filter(|name| kind.may_be(name)).cloned().collect();
        if let Some(first) = shards.first() {
            if let Some(expected) = numbered(first, kind.suffix) {
                complete(directory, names, &expected)?;
            }
            return Ok(Shards { names: shards.into_iter().collect(), index: None });
        }
    }
    let pickled = |name: &&String| {
        [".bin", ".pt", ".pth", ".ckpt"].iter().any(|suffix| name.ends_with(suffix))
    };
    let path = directory.to_owned();
    Err(match names.iter().find(pickled) {
        Some(found) => SourceError::OnlyPickled { path, found: escape(found) },
        None => SourceError::NoWeights { path },
    })
}

/// The names of all files of a set, given one that is named like `model-00001-of-00003` and then
/// the suffix.
fn numbered(name: &str, suffix: &str) -> Option<BTreeSet<String>> {
    let stem = name.strip_suffix(suffix)?;
    let (head, all) = stem.rsplit_once("-of-")?;
    let (head, number) = head.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(number) || !digits(all) {
        return None;
    }
    let count: usize = all.parse().ok()?;
    Some((1..=count).map(|n| format!("{head}-{n:05}-of-{all}{suffix}")).collect())
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
    let value = super::read_json(path)?;
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
