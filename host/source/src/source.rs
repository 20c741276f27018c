//! One model on disk, of whatever form.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use engraft_files::FileError;
use engraft_ir::DType;
use serde_json::Value;

use crate::{SourceError, directory};

pub(crate) mod encoding;
pub(crate) use encoding::{Encoding, Piece, Weights};

/// One tensor of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type in which its elements are handed out. Blocks are handed out as `F32`.
    pub dtype: DType,
    /// The type in which the file stores them, as the file's format spells it: `BF16`, `Q4_1`.
    pub stored: String,
    /// Its extents, outermost first.
    pub shape: Vec<u64>,
    /// Which of the source's weight files holds it; of several, the first.
    pub(crate) file: usize,
    /// Its first byte in that file. [`Encoding::Pieces`] say for themselves where they lie.
    pub(crate) start: u64,
    /// As many bytes later as it takes.
    pub(crate) end: u64,
    /// How its elements lie there.
    pub(crate) encoding: Encoding,
}

impl TensorInfo {
    /// The elements of one row of the outermost axis.
    pub(crate) fn row(&self) -> u64 {
        // The product of all extents was found to fit the file when it was opened; where one is
        // zero there may be no such bound on the others.
        self.shape.iter().skip(1).fold(1, |product, extent| product.saturating_mul(*extent))
    }

    /// A tensor in pieces, which are not all empty and are sorted.
    pub(crate) fn of_pieces(dtype: DType, shape: Vec<u64>, pieces: Vec<Piece>) -> TensorInfo {
        let file = pieces.first().map_or(0, |piece| piece.file);
        let elements: u64 = pieces.iter().map(|piece| piece.row * piece.rows).sum();
        TensorInfo {
            dtype,
            stored: dtype.safetensors_name().to_owned(),
            shape,
            file,
            start: 0,
            end: elements * dtype.size() as u64,
            encoding: Encoding::Pieces(pieces),
        }
    }

    /// The bytes that it takes in its file.
    pub fn stored_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// What a form of source brings; [`Source`] is this with its files open.
pub(crate) struct Contents {
    pub(crate) dialect: &'static str,
    pub(crate) config: Value,
    pub(crate) config_path: PathBuf,
    pub(crate) architectures: Vec<String>,
    pub(crate) dtype: DType,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
    pub(crate) text_files: BTreeMap<String, Vec<u8>>,
    /// The files that hold weights, by [`TensorInfo::file`].
    pub(crate) weights: Weights,
    /// Every file that was read.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) is_ignorable: fn(&str) -> bool,
}

/// A model on disk: tensors by name, a config, the texts around it.
pub struct Source {
    path: PathBuf,
    contents: Contents,
}

impl Source {
    /// Opens the model at `path`: a directory or a file, of any form that is read.
    ///
    /// # Errors
    /// [`SourceError`], for whatever can be wrong without looking at a weight.
    pub fn open(path: &Path) -> Result<Source, SourceError> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SourceError::Missing { path: path.to_owned() });
            }
            Err(error) => return Err(FileError::io("open", path)(error).into()),
        };
        let contents =
            if metadata.is_dir() { directory::open(path)? } else { directory::open_file(path)? };
        Ok(Source { path: path.to_owned(), contents })
    }

    /// What names and layouts its tensors have: `hugging-face`, `gguf`, `meta`,
    /// `nemo`, `nemo-old`.
    pub fn dialect(&self) -> &'static str {
        self.contents.dialect
    }

    /// The path that it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its config: a HuggingFace `config.json` as it is; of a GGUF file, the metadata as one flat
    /// object whose keys have dots, without the tokenizer's lists.
    pub fn config(&self) -> &Value {
        &self.contents.config
    }

    /// The file that [`Source::config`] was read from.
    pub fn config_path(&self) -> &Path {
        &self.contents.config_path
    }

    /// The names that a plugin may accept it by: `LlamaForCausalLM`, `gguf:llama`.
    pub fn architectures(&self) -> Vec<String> {
        self.contents.architectures.clone()
    }

    /// The float type that its weights are best kept in, which is what `--dtype auto` means:
    /// what the config says, else that of most bytes; `BF16` for blocks.
    pub fn dtype(&self) -> DType {
        self.contents.dtype
    }

    /// Every tensor by its name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.contents.tensors
    }

    /// `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json` and `chat_template.jinja`, as far as there are such; of a GGUF
    /// file, made from its metadata.
    pub fn text_files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.contents.text_files
    }

    /// Every file that belongs to it, for provenance.
    pub fn files(&self) -> &[PathBuf] {
        &self.contents.files
    }

    /// The file that holds a tensor; the source's own path for a name that it does not have.
    pub fn file_of(&self, name: &str) -> &Path {
        let info = self.contents.tensors.get(name);
        info.and_then(|info| self.contents.weights.get(info.file))
            .map_or(self.path.as_path(), |(path, _)| path.as_path())
    }

    /// Those top-level keys of the config that say nothing about the arithmetic.
    pub fn ignorable_keys(&self) -> Vec<&str> {
        let keys = self.contents.config.as_object().into_iter().flat_map(|config| config.keys());
        keys.map(String::as_str).filter(|key| (self.contents.is_ignorable)(key)).collect()
    }

    /// Appends `rows` of the tensor `name` to `out`: little-endian elements of its `dtype`, a
    /// row being all that one index of the outermost axis selects (a scalar is one row).
    ///
    /// # Errors
    /// What the file system says; [`FileError::Interrupted`]; [`SourceError::NoSuchRows`] for
    /// an unknown tensor or rows that it does not have.
    pub fn read(&self, name: &str, rows: Range<u64>, out: &mut Vec<u8>) -> Result<(), SourceError> {
        let no_such_rows = |what| SourceError::NoSuchRows { path: self.path.clone(), what };
        let Some(info) = self.contents.tensors.get(name) else {
            return Err(no_such_rows(format!("there is no tensor `{name}`")));
        };
        let extent = info.shape.first().copied().unwrap_or(1);
        if rows.start > rows.end || rows.end > extent {
            return Err(no_such_rows(format!("tensor `{name}` has {extent} rows, not {rows:?}")));
        }
        if info.end == info.start || rows.is_empty() {
            return Ok(());
        }
        Ok(encoding::read(&self.contents.weights, info, rows, out)?)
    }
}

#[cfg(test)]
mod tests;
