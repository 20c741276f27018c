//! What JAX's libraries write: Flax's msgpack files, Orbax's checkpoints.
//!
//! Both hold a tree of arrays. How its paths become names is in [`names`]; where the arrays' bytes
//! are is found out when a source is opened, and the bytes are read as a [`Grid`]'s are. Neither
//! says what model it is: a `config.json`, as HuggingFace has it, stands beside the weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engraft_ir::DType;

use crate::source::grid::Grid;
use crate::source::grid::store::{Chunk, Place, Store};
use crate::source::{Contents, Encoding, TensorInfo, Weights};
use crate::{SourceError, hf, ignorable};

mod crc32c;
mod error;
mod flax;
mod msgpack;
mod names;
mod ocdbt;
mod orbax;
mod zarr;

pub use error::JaxError;

/// Opens the model in `directory`, which has files of these `names`, if it is Flax's or Orbax's and has no weights of PyTorch.
pub(crate) fn open(
    directory: &Path,
    names: &BTreeSet<String>,
) -> Result<Option<Contents>, SourceError> {
    let torch = |name: &String| name.ends_with(".safetensors") || name.starts_with("pytorch_model");
    if names.iter().any(torch) {
        return Ok(None);
    }
    match flax::open(directory, names)? {
        None => orbax::open(directory),
        found => Ok(found),
    }
}

/// An array of a tree.
struct Found {
    /// Its type as its file spells it.
    kind: String,
    /// The same, where it is one of ours.
    dtype: Option<DType>,
    extents: Vec<u64>,
    /// The extents of its chunks.
    chunk: Vec<u64>,
    chunks: Vec<Chunk>,
}

impl Found {
    /// Which of the store's files hold its bytes, from the first on.
    fn files(&self) -> impl Iterator<Item = usize> {
        let places = self.chunks.iter().flat_map(|chunk| &chunk.places);
        places.filter_map(|place| match place {
            Place::File { file, .. } => Some(*file),
            Place::Inline(_) => None,
        })
    }
}

/// What stands beside weights.
struct Beside<'a> {
    /// Where `config.json` is.
    directory: &'a Path,
    names: &'a BTreeSet<String>,
    /// Files that were read of the weights.
    files: Vec<PathBuf>,
    /// Those of them that tensors are in, where they are few enough to stay open.
    weights: Weights,
}

/// A model, of its arrays and of what stands beside them.
fn contents(
    tree: Vec<(String, Found)>,
    store: Store,
    at: &Path,
    beside: Beside<'_>,
) -> Result<Contents, SourceError> {
    let fault = |fault| SourceError::Jax { path: at.to_owned(), fault };
    let names::Parameters { parameters, training } = names::parameters(tree).map_err(fault)?;
    let notes = match training.is_empty() {
        true => Vec::new(),
        false => vec![format!("left out, as a state of training: {}", training.join(", "))],
    };
    let (dialect, tensors) = tensors(parameters, &Arc::new(store)).map_err(fault)?;
    let Beside { directory, names, files: weight_files, weights } = beside;
    let config_path = directory.join(hf::CONFIG);
    let config = hf::read_json(&config_path)?;
    let architectures = hf::architectures(&config_path, &config)?;
    let mut files = vec![config_path.clone()];
    files.extend(weight_files);
    let text_files = hf::texts(directory, names, &mut files)?;
    let dtype = hf::dtype(&config, &tensors);
    Ok(Contents {
        dialect,
        config,
        config_path,
        architectures,
        dtype,
        tensors,
        text_files,
        weights,
        files,
        is_ignorable: ignorable::hugging_face,
        notes,
    })
}

/// The tensors of a model, and whose names they have.
fn tensors(
    parameters: BTreeMap<String, Found>,
    store: &Arc<Store>,
) -> Result<(&'static str, BTreeMap<String, TensorInfo>), JaxError> {
    if parameters.is_empty() {
        return Err(JaxError::Empty(""));
    }
    let dialect = names::dialect(parameters.keys());
    let parameters = if dialect == names::JAX { names::bare(parameters)? } else { parameters };
    let mut tensors = BTreeMap::new();
    for (name, found) in parameters {
        let Some(dtype) = found.dtype else {
            return Err(JaxError::Type { name, kind: found.kind });
        };
        let rank = found.extents.len();
        let (name, order) = match dialect {
            names::HUGGING_FACE => names::in_pytorch(&name, rank),
            _ => (name, (0..rank).collect()),
        };
        let file = found.files().next().unwrap_or_default();
        let places = found.chunks.iter().flat_map(|chunk| &chunk.places);
        let bytes = places.map(Place::length).sum();
        let Found { kind, extents, chunk, chunks, .. } = found;
        let size = dtype.size() as u64;
        let grid = Grid { size, extents, chunk, chunks, order, store: store.clone() };
        let info = TensorInfo {
            dtype,
            stored: kind,
            shape: grid.shape(),
            file,
            start: 0,
            end: bytes,
            encoding: Encoding::Grid(Arc::new(grid)),
        };
        if tensors.insert(name.clone(), info).is_some() {
            return Err(JaxError::Twice(name));
        }
    }
    Ok((dialect, tensors))
}

#[cfg(test)]
mod tests;
