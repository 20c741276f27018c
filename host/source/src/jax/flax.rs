//! A HuggingFace directory with Flax's weights: `flax_model.msgpack`, or the files that
//! `flax_model.msgpack.index.json` names.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use engraft_diagnostic::escape;
use engraft_files::FileError;
use engraft_ir::DType;

use super::msgpack::{self, Array};
use super::{Beside, Found, JaxError};
use crate::hf::weights;
use crate::source::Contents;
use crate::source::grid::Grid;
use crate::source::grid::store::{Chunk, Packing, Place, Store};
use crate::{SourceError, hf};

const SINGLE: &str = "flax_model.msgpack";
const INDEX: &str = "flax_model.msgpack.index.json";

/// Opens the model in `directory`, which has files of these names, if its weights are Flax's.
pub(super) fn open(
    directory: &Path,
    names: &BTreeSet<String>,
) -> Result<Option<Contents>, SourceError> {
    let (shards, index) = if names.contains(SINGLE) {
        (vec![SINGLE.to_owned()], None)
    } else if names.contains(INDEX) {
        let index = weights::read_index(&directory.join(INDEX))?;
        let shards: BTreeSet<String> = index.values().cloned().collect();
        weights::complete(directory, names, &shards)?;
        (shards.into_iter().collect(), Some(index))
    } else {
        return Ok(None);
    };
    if !names.contains(hf::CONFIG) {
        return Err(SourceError::NoConfig { path: directory.to_owned(), gguf: None });
    }
    let mut files = Vec::new();
    let mut open = Vec::new();
    let mut tree: Vec<(String, Found)> = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let path = directory.join(shard);
        let file = File::open(&path).map_err(FileError::io("open", &path))?;
        for (name, array) in msgpack::arrays(&file, &path)? {
            let found = found(&name, array, number)
                .map_err(|fault| SourceError::Jax { path: path.clone(), fault })?;
            tree.push((name, found));
        }
        files.push(path.clone());
        open.push((path, file));
    }
    for (tensor, shard) in index.iter().flatten() {
        let here = |(name, found): &(String, Found)| {
            name == tensor && found.files().next().and_then(|file| shards.get(file)) == Some(shard)
        };
        if !tree.iter().any(here) {
            return Err(SourceError::NotInShard {
                path: directory.join(INDEX),
                tensor: tensor.clone(),
                shard: escape(shard),
            });
        }
    }
    let store = Store::new(files.clone());
    if index.is_some() {
        files.push(directory.join(INDEX));
    }
    let beside = Beside { directory, names, files, weights: open };
    super::contents(tree, store, directory, beside).map(Some)
}

/// An array of a file: one chunk, whose bytes may be in several places.
pub(super) fn found(name: &str, array: Array, file: usize) -> Result<Found, JaxError> {
    let Array { kind, shape, pieces } = array;
    let dtype = DType::from_config_name(&kind);
    let bytes: u64 = pieces.iter().map(|(_, length)| length).sum();
    if let Some(dtype) = dtype
        && Grid::chunk_bytes(dtype.size() as u64, &shape) != Some(bytes)
    {
        let what = format!("{bytes} bytes are not {shape:?} elements of {kind}");
        return Err(JaxError::Array { name: name.to_owned(), what });
    }
    let places = pieces.into_iter().map(|(start, length)| Place::File { file, start, length });
    let chunk = Chunk { places: places.collect(), packing: Packing::None };
    let extents = shape.iter().map(|extent| (*extent).max(1)).collect();
    Ok(Found { kind, dtype, extents: shape, chunk: extents, chunks: vec![chunk] })
}
